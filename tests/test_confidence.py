"""Confidence: the calibrations of the package on answers that they never saw, their files, and what fits them."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cactus_py.backends.base import States, Trace
from cactus_py.errors import ConfigError, InvalidRequestError
from cactus_py.hub.catalog import builtin_folder
from cactus_py.routing import signals
from cactus_py.routing.confidence import BASELINES, LEAST, SUFFIX, Calibration, baseline_value, find
from cactus_py.routing.evaluate import auroc, calibration_error
from cactus_py.routing.records import Record, load_records
from cactus_py.routing.signals import ANSWER_FEATURES, FEATURES, PROMPT_FEATURES, Device, PromptSignals, features

# What SmolLM2 answered on this engine to questions of ten kinds (scripts/router/make_tasks.py --set held-out), 36 of each. No
# calibration in the package was fitted to questions of these kinds.
HELD_OUT = Path(__file__).parent / "data" / "router" / "smollm2.heldout.npz"
MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "default")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return load_records(HELD_OUT)


def prompt_of(record: Record) -> PromptSignals:
    return PromptSignals.of(list(record.item.messages))


def shipped(name: str) -> Calibration:
    return Calibration.load(builtin_folder() / (name + SUFFIX))


def mean_of_groups(records: list[Record], values: list[float]) -> float:
    found = []
    for group in sorted({record.item.group for record in records}):
        inside = [(record.correct, value) for record, value in zip(records, values, strict=True) if record.item.group == group]
        area = auroc([right for right, _ in inside], [value for _, value in inside])
        found += [] if area is None else [area]
    return float(np.mean(found))


def test_on_kinds_of_questions_that_it_never_saw(records: list[Record]) -> None:
    calibration = find("smollm2-135m-instruct")
    assert not calibration.is_default
    ours = [calibration.after(prompt_of(record), record.trace, record.text) for record in records]
    right = [record.correct for record in records]
    best = max(mean_of_groups(records, [baseline_value(name, record.trace) for record in records]) for name in BASELINES)
    assert mean_of_groups(records, ours) > max(0.68, best + 0.04)
    assert auroc(right, ours) > 0.68
    assert calibration_error(right, ours, bins=10, equal="mass") < 0.1
    assert all(0 < value < 1 for value in ours)


def test_later_stages_know_more(records: list[Record]) -> None:
    calibration = find("smollm2-135m-instruct")
    right = [record.correct for record in records]

    def beginning(record: Record, n: int) -> Trace:
        trace = Trace(record.trace.prompt_tokens)
        for i in range(min(n, len(record.trace))):
            trace.add(record.trace.ids[i], record.trace.logprobs[i], record.trace.entropies[i], record.trace.margins[i])
        return trace

    during = [calibration.during(prompt_of(each), beginning(each, 4), each.text[:12]) for each in records]
    after = [calibration.after(prompt_of(each), each.trace, each.text) for each in records]
    assert (auroc(right, after) or 0) > (auroc(right, during) or 0) > 0.5
    for each in records[:20]:
        assert 0 < calibration.before(prompt_of(each)) < 1
        empty = calibration.during(prompt_of(each), Trace(5), "")
        assert empty == calibration.before(prompt_of(each)), "nothing of the answer is there: only the prompt tells"


@pytest.mark.parametrize("name", MODELS)
def test_what_the_package_brings(name: str, records: list[Record]) -> None:
    calibration = shipped(name)
    assert "AUROC" in calibration.note and not calibration.uses_states
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert 0 <= calibration.threshold_for_share(share) <= 1
    shares = [calibration.threshold_for_share(share / 20) for share in range(21)]
    assert shares == sorted(shares)
    qualities = [calibration.threshold_for_quality(quality / 20) for quality in range(21)]
    assert qualities == sorted(qualities)
    for baseline in BASELINES:
        assert 0 <= calibration.baseline(baseline, records[0].trace) <= 1
    assert (builtin_folder() / (name + SUFFIX)).stat().st_size < 200_000


def test_a_model_without_its_own_gets_the_default_and_is_told(tmp_path: Path) -> None:
    for name in ("gemma-3-270m", "some file.gguf", "../../etc/passwd", "x" * 5000):
        found = find(name, tmp_path)
        assert found.is_default and "default calibration" in found.note
    assert find("smollm2").model == find("smollm2-135m-instruct").model, "an alias of the catalog"


def test_a_users_own_comes_first(tmp_path: Path) -> None:
    document = shipped("default").document()
    document |= {"model": "gemma-3-270m", "note": "mine", "is_default": False, "sha256": "ab" * 32}
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / ("gemma-3-270m" + SUFFIX)).write_text(json.dumps(document))
    assert find("gemma-3-270m", tmp_path).note == "mine"
    other = find("gemma-3-270m", tmp_path, sha256="cd" * 32)
    assert other.is_default and "another file" in other.note


def test_saved_and_loaded_it_is_the_same(tmp_path: Path, records: list[Record]) -> None:
    calibration = shipped("smollm2-135m-instruct")
    calibration.save(tmp_path / "deep" / "copy.json")
    again = Calibration.load(tmp_path / "deep" / "copy.json")
    for record in records[:30]:
        signals = prompt_of(record)
        assert again.after(signals, record.trace, record.text) == calibration.after(signals, record.trace, record.text)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.clear(),
        lambda d: d.update(format="other"),
        lambda d: d.update(version=99),
        lambda d: d.update(signals=99),
        lambda d: d["heads"].pop("after"),
        lambda d: d["heads"]["after"].update(members=[]),
        lambda d: d["heads"]["after"]["curve"].update(x=[1.0, 0.0], y=[0.1, 0.2]),
        lambda d: d["heads"]["after"]["curve"].update(y=["a"]),
        lambda d: d["heads"]["after"].update(scores=[float("nan")] * 3),
        lambda d: d["heads"]["after"]["members"][0].update(features=[10**9]),
        lambda d: d["heads"]["after"]["members"][0].update(kind="oracle"),
        lambda d: d["baselines"].pop("margin"),
        lambda d: d.update(model=7),
    ],
)
def test_damaged_files_are_told_in_a_sentence(damage: Any, tmp_path: Path) -> None:
    document = shipped("default").document()
    damage(document)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        Calibration.load(path)
    assert "\n" not in str(caught.value) and "bad.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 100])
def test_files_that_are_no_calibration(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        Calibration.load(path)


def test_trees_with_a_loop_end(tmp_path: Path) -> None:
    document = shipped("default").document()
    members = [member for member in document["heads"]["after"]["members"] if member["kind"] == "trees"]
    assert members
    members[0]["left"] = [0] * len(members[0]["left"])
    (tmp_path / "loop.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError):
        Calibration.load(tmp_path / "loop.json")


def test_an_answer_that_breaks_its_form_is_not_right(records: list[Record]) -> None:
    calibration, record = find("smollm2"), records[0]
    assert calibration.after(prompt_of(record), record.trace, record.text, valid=False) == LEAST
    kept = calibration.after(prompt_of(record), record.trace, record.text, valid=True)
    assert kept == calibration.after(prompt_of(record), record.trace, record.text)


def test_states_of_another_size_do_no_harm(records: list[Record]) -> None:
    calibration, record = find("smollm2"), records[0]
    states = States(*(np.zeros(7, np.float32) for _ in range(3)))
    assert 0 < calibration.after(prompt_of(record), record.trace, record.text, states=states) < 1


# ---- signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "?" * 5000,
        "a, " * 20_000,
        "1" * 50_000,
        "\x00\ud800",
        "（" * 999,
        "{" * 9999,
        "or " * 9999,
        "x,y;" * 9999,
        "- a\n" * 9999,
    ],
)
def test_any_text_has_signals(text: str) -> None:
    signals = PromptSignals.of([{"role": "user", "content": text}])
    assert len(signals.values) == len(PROMPT_FEATURES) and all(map(math.isfinite, signals.values))
    trace = Trace(3)
    for value in (0.0, -100.0, float("nan"), float("-inf")):
        trace.add(1, value, abs(value), value)
    vector = features(signals, trace, text)
    assert vector.shape == (len(FEATURES),) and np.isfinite(vector).all()
    assert len(FEATURES) == len(PROMPT_FEATURES) + len(ANSWER_FEATURES) == len(set(FEATURES))


def value_of(name: str, prompt: str, text: str = "", tokens: int = 1) -> float:
    trace = Trace(10)
    for _ in range(tokens):
        trace.add(1, -0.1, 0.2, 3.0)
    trace.finish_reason = "stop"
    return float(features(PromptSignals.of(prompt), trace, text)[FEATURES.index(name)])


@pytest.mark.parametrize(
    ("name", "prompt", "text", "expected"),
    [
        ("asks_number", "How many days has May?", "", 1.0),
        ("asks_number", "Who wrote Hamlet?", "", 0.0),
        ("numbers", "Add 3, 44 and 5.", "", math.log1p(3)),
        ("longest_number", "Is 12345 odd?", "", 5.0),
        ("lacks_number", "How many days has May?", "Many.", 1.0),
        ("lacks_number", "How many days has May?", "31", 0.0),
        ("is_option", "Is iron a metal or a gas? Answer metal or gas.", "metal", 1.0),
        ("fulfilled", "Sort these numbers in ascending order: 9, 3, 5", "3, 5, 9", 1.0),
        ("fulfilled", "Sort these numbers in ascending order: 9, 3, 5", "9, 5, 3", 0.0),
        ("violated", "Write this word in capital letters: tree", "tree", 1.0),
    ],
)
def test_signals_say_what_they_are_called(name: str, prompt: str, text: str, expected: float) -> None:
    assert value_of(name, prompt, text) == pytest.approx(expected)


def test_the_device_tells_what_it_can() -> None:
    device = Device.now()
    assert device.load is None or device.load >= 0
    assert device.free_bytes is None or device.free_bytes > 0
    assert device.battery is None or 0 <= device.battery <= 1


# ---- fitting -------------------------------------------------------------------------------------------------------------


def test_fitting_is_repeatable_and_learns(records: list[Record]) -> None:
    pytest.importorskip("sklearn")
    from cactus_py.routing.calibrate import calibrate

    _, report = calibrate(records, "smollm2-135m-instruct")
    assert report.items == len(records) and report.pooled_auroc is not None and report.pooled_auroc > 0.6
    assert report.ece < 0.15
    few = records[::3]  # too few for heads of their own: the default's are adjusted
    first, second = calibrate(few, "m")[0], calibrate(few, "m")[0]
    assert first.document() == second.document() and not first.is_default


@pytest.mark.parametrize("which", ["few", "right", "wrong"])
def test_too_little_to_fit_is_said(which: str, records: list[Record]) -> None:
    pytest.importorskip("sklearn")
    from cactus_py.routing.calibrate import calibrate

    some = {"few": records[:10], "right": [r for r in records if r.correct], "wrong": [r for r in records if not r.correct]}[
        which
    ]
    with pytest.raises(InvalidRequestError) as caught:
        calibrate(some, "m")
    assert "\n" not in str(caught.value)


HOSTILE = (
    *("\n" * 6000, " " * 6000, "= " + " " * 5990 + "x", "1" + " " * 5990, ";" + " " * 5990 + "x", "! is " * 1200, "a" * 6000),
    *(
        "1" * 6000,
        "1," * 3000,
        "a, " * 2000,
        "a or " * 1500,
        "a-" * 3000,
        "a/" * 3000,
        '"a' * 3000,
        "A. x\n" * 1200,
        "{ " * 3000,
    ),
    *(
        "Which: a,\t, b?",
        "Sort: ,\t,\t",
        "Which one: x, \x0b, y",
        "\ud800, \ud800?",
        "\u0663, \u0664, 5.",
        "```json\n```",
        "",
        "\0",
    ),
)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_no_text_makes_signals_slow_or_fails(text: str) -> None:
    trace = Trace(10)
    for _ in range(50):
        trace.add(5, -0.5, 0.5, 2.0)
    begin = time.process_time()
    for prompt in (PromptSignals.of(text), PromptSignals.of("Sort the list a, b, c in reverse. Give JSON only. " + text)):
        assert np.isfinite(features(prompt, trace, text)).all()
    assert time.process_time() - begin < 0.3  # 0.01 here; a pattern that reads white space again and again took a second


def test_lists_are_found_as_the_pattern_finds_them() -> None:
    pieces = ["a", "bc ", ",", ", ", ";", ":", ".", "\n", "?", " ", "x" * 59, "y" * 61]
    rng = random.Random(3)
    for _ in range(3000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(30)))
        assert signals._lists_of(text) == signals._LIST.findall(text), text


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("asks_number", "how many|what year|which year|the digit|5 = ?|3 plus 4|the remainder|a sum|total|largest|divided by"),
        ("asks_word", "one word|word only|only the name|name only"),
        ("asks_only", "only|nothing else|just|exactly|no explanation|without"),
        ("asks_yes_no", "yes or no|yes/no|true or false|is it so?|well. does it?"),
        ("asks_letter", "letters"),
        ("asks_json", "json"),
        ("asks_list", "sorted|order|alphabetically|reversed|comma-separated|list|ascending|descending"),
        ("asks_copy", "repeat|copy|write|echo|capital letters|upper case|lowercase|spell"),
        ("asks_translation", "translate|in latin|french word|dutch for|in english"),
        ("asks_opposite", "opposite|antonym|synonym|plural|singular|past tense|comparative|form of"),
        ("asks_who_where", "who|where|when|which city|capital of|capital city of"),
        ("negation", "not|except|never|isn't|odd one out|does not|doesn"),
    ],
)
def test_the_keys_of_a_pattern_keep_nothing_from_it(name: str, texts: str) -> None:
    assert signals._KEYS.keys() == signals._ASKS.keys()
    for text in texts.split("|"):
        assert signals._ASKS[name].search(text) is not None, text
        assert signals._asks(name, text), text

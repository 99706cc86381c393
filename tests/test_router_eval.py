"""Measuring a router: the metrics against scikit-learn, cases by hand and RouteLLM's way of computing, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from cactus_py import cli
from cactus_py.backends.base import Trace
from cactus_py.errors import InvalidRequestError
from cactus_py.routing.confidence import Calibration
from cactus_py.routing.evaluate import (
    BASELINES,
    BEFORE,
    CONFIDENCE,
    ORACLE,
    RANDOM,
    Sample,
    Signal,
    auroc,
    brier,
    calibration_error,
    calibration_floor,
    cross_validated,
    curve,
    evaluate,
    folds,
    line_of,
    reliability,
    roc,
    sample_of,
    wilson,
)
from cactus_py.routing.records import Item, Record, load_records, save_records
from cactus_py.routing.signals import FEATURES, VERSION
from cactus_py.routing.tables import markdown


def answers(n: int, digits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences of so many digits, hence with ties, and whether each answer is right, as probably as they say."""
    draw = np.random.default_rng(seed)
    confidence = np.round(draw.random(n), digits)
    return (draw.random(n) < confidence).astype(float), confidence


# ---- against scikit-learn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "digits"), [(10, 1), (333, 1), (1000, 2), (4000, 8)])
def test_auroc_brier_and_roc_agree_with_scikit_learn(n: int, digits: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    correct, confidence = answers(n, digits, seed=n)
    weights = np.random.default_rng(1).random(n)
    assert auroc(correct, confidence) == pytest.approx(metrics.roc_auc_score(correct, confidence), abs=1e-12)
    expected = metrics.roc_auc_score(correct, confidence, sample_weight=weights)
    assert auroc(correct, confidence, weights) == pytest.approx(expected, abs=1e-12)
    assert brier(correct, confidence) == pytest.approx(metrics.brier_score_loss(correct, confidence), abs=1e-12)
    wrong, right, _ = metrics.roc_curve(correct, confidence, drop_intermediate=False)
    for ours, theirs in zip(roc(correct, confidence), (wrong, right), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


# ---- by hand --------------------------------------------------------------------------------------------------------------


def test_auroc_by_counting_pairs() -> None:
    # right ones at 3 and 2, wrong ones at 2 and 1: of four pairs three are in order and one is tied
    assert auroc([1, 1, 0, 0], [3, 2, 2, 1]) == 3.5 / 4
    assert auroc([1, 0], [0.5, 0.5]) == 0.5
    assert auroc([1, 1], [0.1, 0.9]) is None and auroc([0, 0], [0.1, 0.9]) is None


def test_bins_of_equal_width_and_mass() -> None:
    confidence, correct = [0.0, 0.1, 0.11, 0.2, 0.9, 1.0], [0, 0, 1, 0, 1, 1]
    tenths = reliability(correct, confidence)
    assert [(b.items, b.accuracy) for b in tenths] == [(2, 0.0), (2, 0.5), (1, 1.0), (1, 1.0)]  # 0 and 0.1 are in the first
    assert tenths[1].confidence == pytest.approx(0.155)
    # |0.1 - 0| + |0.31 - 1| + |0.9 - 1| + 0, over six answers
    assert calibration_error(correct, confidence) == pytest.approx((0.1 + 0.69 + 0.1) / 6)
    halves = reliability(correct, confidence, bins=2, equal="mass")
    assert [(b.items, b.accuracy) for b in halves] == [(3, 1 / 3), (3, 2 / 3)]
    # |0.21 - 1| + |2.1 - 2|
    assert calibration_error(correct, confidence, bins=2, equal="mass") == pytest.approx((0.79 + 0.1) / 6)
    tied = reliability([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.7], bins=4, equal="mass")
    assert [b.items for b in tied] == [3, 1], "equal confidences share a bin"


def test_wilson_interval_by_the_book() -> None:
    # 10 of 20, 95 %: worked out with the closed form by hand, (0.5 ± 0.2192 …/…) = 0.2993 … 0.7007
    assert wilson(10, 20) == pytest.approx((0.29930, 0.70070), abs=1e-5)
    low, high = wilson(0, 10)
    assert low == 0.0 and high == pytest.approx(1.959964**2 / (10 + 1.959964**2), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_perfect_forecast_stays_near_its_floor() -> None:
    correct, confidence = answers(5000, 3, seed=3)
    floor = calibration_floor(confidence)
    assert 0.005 < floor < 0.03
    assert calibration_error(correct, confidence) < 2 * floor
    assert calibration_error(correct, confidence**2) > 5 * floor


def test_the_curve_by_hand() -> None:
    # Four answers, the local model right in the last two, the cloud in all but the third. Sent in the order of their scores:
    # gains of 1, 1, -1, 0.
    line = curve([0, 0, 1, 1], [1, 1, 0, 1], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(line.shares, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(line.accuracy, [0.5, 0.75, 1.0, 0.75, 0.75])
    assert (line.local, line.cloud) == (0.5, 0.75)
    assert line.at(0.125) == pytest.approx(0.625)
    assert line.recovered(line.at(0.5)) == pytest.approx(2.0), "sending only what helps recovers more than all of the gap"
    # area: 0.25 * (0.625 + 0.875 + 0.875 + 0.75) = 0.78125, less 0.5, of a gap of 0.25
    assert line.apgr() == pytest.approx(1.125)
    assert line.calls_for(0.5) == pytest.approx(0.125) and line.calls_for(1.0) == pytest.approx(0.25)


def test_ties_are_sent_in_expectation() -> None:
    draw = np.random.default_rng(5)
    correct, cloud, score = draw.integers(2, size=40), draw.integers(2, size=40), draw.integers(4, size=40).astype(float)
    expected = np.zeros(41)
    for seed in range(3000):  # the same line from orders that are really drawn
        order = np.lexsort((np.random.default_rng(seed).random(40), score))
        expected += np.concatenate(([0.0], np.cumsum((cloud - correct)[order]))) / 40
    line = curve(correct, cloud, score)
    np.testing.assert_allclose([line.at(share) for share in np.arange(41) / 40], correct.mean() + expected / 3000, atol=0.005)


def test_where_the_cloud_is_not_better_there_is_no_gap() -> None:
    line = curve([1, 0], [0, 1], [0.1, 0.9])
    assert line.apgr() is None and line.calls_for(0.5) is None and line.recovered(0.7) is None


def test_agrees_with_routellm_on_fine_grids() -> None:
    """RouteLLM evaluates thresholds at quantiles of the score, joins them by lines, and reads APGR and CPT off those. With one
    quantile per answer that is our curve; with ten, as it is by default, it is near."""
    draw = np.random.default_rng(11)
    n = 2000
    hard = draw.random(n)
    weak, strong = (draw.random(n) > hard).astype(float), (draw.random(n) > hard / 3).astype(float)
    win = np.clip(hard + draw.normal(0, 0.3, n), 0, 1)
    ours = curve(weak, strong, -win)
    for quantiles, tolerance in ((n, 0.002), (10, 0.02)):
        shares, accuracy = [0.0], [weak.mean()]
        for threshold in np.quantile(win, np.linspace(1, 0, quantiles + 1))[1:]:
            sent = win >= threshold
            shares.append(sent.mean())
            accuracy.append(np.where(sent, strong, weak).mean())
        area = sum((b - a) * (y + z) / 2 for a, b, y, z in zip(shares, shares[1:], accuracy, accuracy[1:], strict=False))
        gap = strong.mean() - weak.mean()
        assert ours.apgr() == pytest.approx((area - weak.mean()) / gap, abs=tolerance)
        for part in (0.5, 0.8):
            first = next(i for i, value in enumerate(accuracy) if value >= weak.mean() + part * gap)
            step = (weak.mean() + part * gap - accuracy[first - 1]) / (accuracy[first] - accuracy[first - 1])
            theirs = shares[first - 1] + step * (shares[first] - shares[first - 1])
            assert ours.calls_for(part) == pytest.approx(theirs, abs=2 * tolerance)


# ---- a whole evaluation ---------------------------------------------------------------------------------------------------


def sample(n: int = 1200, n_groups: int = 6) -> Sample:
    """A confidence that is exactly calibrated, and baselines that see it through noise."""
    correct, confidence = answers(n, 6, seed=7)
    draw = np.random.default_rng(8)
    noisy = {name: Signal(confidence + draw.normal(0, 0.5, n), np.full(n, correct.mean())) for name in BASELINES}
    return Sample(
        correct=correct,
        cloud=np.ones(n),
        groups=tuple(f"family {i % n_groups}" for i in range(n)),
        signals={CONFIDENCE: Signal(confidence, confidence), **noisy},
        n_assumed=n,
        sent={"share 0.2": confidence < np.quantile(confidence, 0.2)},
        model="m",
    )


def test_evaluation_of_a_known_router() -> None:
    found = evaluate(sample(), resamples=300)
    ours = found.routers[CONFIDENCE]
    assert ours.auroc is not None and ours.auroc_interval is not None
    assert ours.auroc_interval[0] < 5 / 6 < ours.auroc_interval[1], "a uniform and calibrated confidence has 5/6"
    assert ours.apgr == pytest.approx(2 / 3, abs=0.03)  # the integral of 1 - (1 - s)^2
    assert ours.calls_for["0.5"] == pytest.approx(1 - 0.5**0.5, abs=0.03)
    assert ours.calls_for["0.8"] == pytest.approx(1 - 0.2**0.5, abs=0.04)
    assert ours.ece is not None and ours.ece_floor is not None and ours.ece < 2 * ours.ece_floor
    chance = found.routers[RANDOM]
    assert (chance.apgr, chance.calls_for["0.5"], chance.calls_for["0.8"]) == pytest.approx((0.5, 0.5, 0.8))
    best = found.routers[ORACLE]
    assert best.apgr is not None and best.apgr > ours.apgr
    gain = found.gains["entropy"]
    assert gain.better_in == gain.of == 6 and gain.interval is not None and 0 < gain.interval[0] < gain.mean
    assert found.best_baseline() in BASELINES
    operating = found.operating["share 0.2"]
    assert operating.sent == pytest.approx(0.2, abs=0.01)
    assert operating.accuracy == pytest.approx(ours.accuracy_at["0.2"], abs=0.01)
    assert operating.kept is not None and operating.kept > found.local
    assert found.groups["family 0"].items == 200 and found.groups_undefined == 0


def test_the_mean_over_groups_is_not_the_pooled_figure() -> None:
    """A router that only knows which family an answer is of: useful when pooled, useless within each family."""
    correct = np.array([1.0] * 9 + [0.0] + [0.0] * 9 + [1.0])
    family = np.array([0.9] * 10 + [0.1] * 10)
    found = evaluate(
        Sample(correct, np.ones(20), ("easy",) * 10 + ("hard",) * 10, {CONFIDENCE: Signal(family, family)}), resamples=0
    )
    assert found.routers[CONFIDENCE].auroc == pytest.approx(0.9)
    assert found.routers[CONFIDENCE].mean_auroc == 0.5
    assert found.routers[CONFIDENCE].auroc_interval is None
    assert found.groups["easy"].auroc == {CONFIDENCE: 0.5} and found.groups["hard"].cloud == 1.0


def test_bootstrap_interval_covers() -> None:
    """Of 95 % intervals for a figure that is known, most hold it. 5/6 as above."""
    held = 0
    for seed in range(40):
        correct, confidence = answers(300, 6, seed=100 + seed)
        made = Sample(correct, np.ones(300), ("g",) * 300, {CONFIDENCE: Signal(confidence)})
        interval = evaluate(made, resamples=200).routers[CONFIDENCE].auroc_interval
        assert interval is not None
        held += interval[0] <= 5 / 6 <= interval[1]
    assert held >= 34


def test_same_seed_same_figures() -> None:
    assert evaluate(sample(400), resamples=50) == evaluate(sample(400), resamples=50)


def test_lines_of_the_two_landmarks() -> None:
    made = sample(100)
    assert line_of(made, RANDOM).apgr() == pytest.approx(0.5)
    ideal = line_of(made, ORACLE)
    assert ideal.at(1 - made.correct.mean()) == pytest.approx(1.0), "the oracle sends what is wrong, and no more"


# ---- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: auroc([], []), "not empty"),
        (lambda: auroc([1, 0], [0.5, float("nan")]), "not finite"),
        (lambda: auroc([1, 0, 1], [0.5, 0.1]), "correct has 3 numbers, but there are 2 answers"),
        (lambda: auroc([1, 2], [0.5, 0.1]), "something else than true and false"),
        (lambda: brier([1, 0], [0.5, 1.5]), "outside of 0 to 1"),
        (lambda: reliability([1, 0], [0.5, 0.5], bins=0), "at least one bin"),
        (lambda: reliability([1, 0], [0.5, 0.5], equal="size"), '"width" or in "mass"'),
        (lambda: curve([1, 0], [1, -1], [0.5, 0.5]), "cloud holds a number outside"),
        (lambda: Sample(np.zeros(0), np.zeros(0), (), {}), "no answers"),
        (lambda: Sample(np.zeros(2), np.zeros(1), ("a", "b"), {}), "cloud has 1 numbers, but there are 2"),
    ],
)
def test_bad_arguments_are_refused(call: object, sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        call()  # type: ignore[operator]


# ---- from records, and the command ----------------------------------------------------------------------------------------


def record(number: int, group: str, sure: float, correct: bool, cloud: bool | None = None) -> Record:
    """An answer of three tokens whose log-probabilities and so on follow from how sure the model was, 0 to 1."""
    item = Item(
        id=f"{group}/{number}",
        group=group,
        messages=({"role": "user", "content": f"What is {number} + {number % 7}?"},),
        answers=(str(number + number % 7),),
        match="number",
        cloud_correct=cloud,
    )
    trace = Trace(prompt_tokens=12)
    for token in range(3):
        trace.add(token + 5, -2 * (1 - sure) - 0.01 * token, 2.5 * (1 - sure), 6 * sure)
    trace.finish_reason = "stop"
    return Record(item, str(number + number % 7 if correct else 999_999), trace, None, correct, 5.0)


def records(n: int = 240, cloud: bool | None = None) -> list[Record]:
    """Answers of four groups, right as probably as the model was sure."""
    draw = np.random.default_rng(17)
    made = []
    for i in range(n):
        sure = float(draw.random())
        made.append(record(i, f"sums {i % 4}", sure, bool(draw.random() < sure), cloud))
    return made


def by_margin() -> Calibration:
    """A calibration by hand: the confidence is a sixth of the mean margin, which is how sure `record` was."""
    place = FEATURES.index("all_margin")
    sure, line = np.linspace(0.01, 0.99, 99), {"kept": [0.5, 0.6, 0.75, 0.95], "scores": [0.0, 0.25, 0.5, 0.75]}
    curve = {"x": (6 * sure).tolist(), "y": sure.tolist()}
    one = {"low": [-1e9], "high": [1e9], "mean": [0.0], "scale": [1.0], "weights": [1.0], "bias": 0.0}

    def head(feature: int) -> dict[str, Any]:
        return {"members": [{"kind": "linear", "weight": 1.0, "features": [feature], **one}], "curve": curve, **line}

    return Calibration(
        {
            "format": "cactus-py calibration",
            "version": 1,
            "signals": VERSION,
            "model": "tiny",
            "sha256": None,
            "is_default": False,
            "note": "worked out by hand",
            "uses_states": False,
            "heads": {"before": head(0), "during": head(place), "after": head(place), "states": None},
            "baselines": {
                "mean_logprob": {"x": [-2.0, 0.0], "y": [0.0, 1.0]},
                "entropy": {"x": [-2.5, 0.0], "y": [0.0, 1.0]},
                "margin": {"x": [0.0, 6.0], "y": [0.0, 1.0]},
            },
        }
    )


def test_sample_of_records() -> None:
    made = sample_of(records(cloud=None), by_margin(), assume_cloud=0.9)
    assert made.n_assumed == 240 and set(made.cloud) == {0.9} and made.model == "tiny" and made.note == "worked out by hand"
    ours, margin = made.signals[CONFIDENCE], made.signals["margin"]
    assert ours.probability is not None and margin.probability is not None
    np.testing.assert_allclose(ours.probability, np.clip(margin.rank / 6, 0.01, 0.99), atol=1e-3)
    np.testing.assert_allclose(margin.probability, margin.rank / 6, atol=0.0051)  # nothing is surer than 0.995
    np.testing.assert_array_equal(made.sent["quality 0.7"], ours.probability < 0.5)
    np.testing.assert_array_equal(made.sent["share 0.5"], ours.probability < by_margin().threshold_for_share(0.5))
    known = sample_of([*records(40, cloud=True), record(999, "sums 0", 0.5, True, False)], by_margin(), assume_cloud=0.3)
    assert known.n_assumed == 0 and known.cloud.tolist() == [1.0] * 40 + [0.0]


def test_samples_that_cannot_be() -> None:
    with pytest.raises(InvalidRequestError, match="no answers"):
        sample_of([], by_margin())
    with pytest.raises(InvalidRequestError, match="from 0 to 1, not 2"):
        sample_of(records(4), by_margin(), assume_cloud=2)
    with pytest.raises(InvalidRequestError, match="2 calibrations cannot rate 4 answers"):
        sample_of(records(4), [by_margin()] * 2)


def test_folds_keep_groups_together() -> None:
    made = records(40)
    parts = folds(made, 3)
    assert sorted(i for part in parts for i in part) == list(range(40))
    in_parts = [{made[i].item.group for i in part} for part in parts]
    assert [sorted(names) for names in in_parts] == [["sums 0", "sums 3"], ["sums 1"], ["sums 2"]]
    assert len(folds(made, 10)) == 4, "never more parts than groups"
    one_group = [one for one in made if one.item.group == "sums 0"]
    assert [len(part) for part in folds(one_group, 3)] == [4, 3, 3]
    with pytest.raises(InvalidRequestError, match="two folds or more"):
        folds(made, 1)


def test_cross_validation_never_shows_what_it_rates() -> None:
    made = records(40)
    seen: list[set[str]] = []

    def train(part: list[Record]) -> Calibration:
        seen.append({one.item.group for one in part})
        return by_margin()

    rated = cross_validated(made, 4, train)
    assert len(rated) == 40 and len({id(one) for one in rated}) == 4
    assert [{"sums 0", "sums 1", "sums 2", "sums 3"} - names for names in seen] == [{f"sums {i}"} for i in range(4)]
    by_fold = {id(rated[i]): made[i].item.group for i in range(40)}
    assert sorted(by_fold.values()) == [f"sums {i}" for i in range(4)]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`cactus-py router WORDS` in this process: (exit status, stdout, stderr)."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main(["router", *words])
        assert isinstance(stop.value.code, int)
        return (stop.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Records, and a calibration."""
    save_records(tmp_path / "r.npz", records())
    by_margin().save(tmp_path / "c.json")
    return str(tmp_path / "r.npz"), str(tmp_path / "c.json")


def test_eval_prints_tables(run: Run, files: tuple[str, str]) -> None:
    status, out, _ = run("eval", files[0], "--calibration", files[1], "--resamples", "50")
    assert status == 0
    assert "240 answers in 4 groups" in out and "Calibration: worked out by hand." in out
    assert "No answers of a cloud were recorded: it is assumed to be right with a probability of 1." in out
    for words in ("mean log-probability", "random", "oracle", "calls for 80 % of the gap", "sums 3", "send 20 %"):
        assert words in out


def test_eval_as_json(run: Run, files: tuple[str, str]) -> None:
    words = ("eval", files[0], "-c", files[1], "--resamples", "20", "--groups", "sums 0,sums 2", "--json")
    status, out, _ = run(*words, "--assume-cloud", "0.8", "--limit", "50")
    assert status == 0
    found = json.loads(out)
    assert found["items"] == 100 and sorted(found["groups"]) == ["sums 0", "sums 2"]
    assert found["cloud"] == pytest.approx(0.8) and found["assumed"] == 100 and found["files"] == []
    assert set(found["routers"]) == {CONFIDENCE, BEFORE, *BASELINES, RANDOM, ORACLE}
    ours = found["routers"][CONFIDENCE]
    assert 0.7 < ours["auroc"] < 0.95 and ours["auroc_interval"][0] < ours["auroc"] < ours["auroc_interval"][1]
    assert found["routers"][RANDOM]["apgr"] == pytest.approx(0.5) and found["routers"][RANDOM]["ece"] is None
    assert set(ours["calls_for"]) == {"0.5", "0.8"} and sum(one["items"] for one in ours["bins"]) == 100
    assert found["gains"]["margin"]["of"] == 2


def test_eval_writes_plots_and_a_page(run: Run, files: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "plots"
    status, out, _ = run("eval", files[0], "-c", files[1], "--resamples", "0", "--plots", str(folder))
    assert status == 0 and str(folder / "share.svg") in out
    for name in ("share", "reliability", "roc"):
        picture = folder / f"{name}.svg"
        assert picture.stat().st_size < 60_000
        root = ElementTree.parse(picture).getroot()
        assert root.tag.endswith("svg")
        assert "confidence" in "".join(root.itertext())
    page = (folder / "evaluation.md").read_text(encoding="utf-8")
    assert "![ROC](roc.svg)" in page and "| oracle |" in page
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1, "every row has every column"
    first = (folder / "roc.svg").read_bytes()
    run("eval", files[0], "-c", files[1], "--resamples", "0", "--plots", str(folder))
    assert (folder / "roc.svg").read_bytes() == first, "the same figures make the same file"


def test_plots_without_matplotlib(run: Run, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run("eval", files[0], "-c", files[1], "--plots", str(tmp_path / "p"))
    assert status == 1 and 'pip install "cactus-py[router]"' in err and not (tmp_path / "p").exists()


def test_names_cannot_break_a_page() -> None:
    made = [record(i, "a | b\n<script>", i / 8, i % 2 == 0) for i in range(8)]
    page = markdown(evaluate(sample_of(made, by_margin()), resamples=0))
    assert "a \\| b &lt;script>" in page and "<script" not in page


def test_calibrate_then_cross_validate(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    save_records(tmp_path / "r.npz", records(160))
    target = tmp_path / "made.json"
    status, out, err = run(
        "calibrate", str(tmp_path / "r.npz"), "--model", "tiny", "-o", str(target), "--hold-out", "sums 1", "--json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["path"] == str(target) and found["held_out"]["items"] == 40 and list(found["held_out"]["groups"]) == ["sums 1"]
    assert Calibration.load(target).model == "tiny"
    status, out, err = run("eval", str(tmp_path / "r.npz"), "--cross-validate", "2", "--json", "--resamples", "0")
    assert status == 0, err
    assert json.loads(out)["routers"][CONFIDENCE]["auroc"] > 0.7
    status, _, err = run("eval", str(tmp_path / "r.npz"), "--cross-validate", "2", "-c", str(target))
    assert status == 2


def test_calibrate_without_scikit_learn(run: Run, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cactus_py.cli._router.find_spec", lambda name: None)
    status, _, err = run("calibrate", files[0])
    assert status == 1 and 'the "router" extra' in err


def test_show(run: Run, files: tuple[str, str]) -> None:
    status, out, _ = run("show", "tiny", "-c", files[1], "--json")
    found = json.loads(out)
    assert status == 0 and found["measured_on"] == "worked out by hand" and found["hidden_states"] == "no"
    assert found["thresholds_for_quality"]["0.9"]["after"] == 0.75 and set(found["thresholds_for_share"]["0.2"]) == {
        "before",
        "during",
        "after",
    }
    status, out, _ = run("show", "tiny", "-c", files[1])
    assert status == 0 and "keep what is right in 90 %" in out and "worked out by hand" in out


def test_show_says_that_it_is_the_default(run: Run) -> None:
    status, out, _ = run("show", "some-model")
    assert status == 0 and "default" in out and "none of its own" in out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no items"),
        (b"{}\n", "line 1"),
        (b'{"prompt": "x", "answers": []}\n', "line 1: answers should be a list of texts"),
        (b"[" * 100_000, "line 1: no JSON"),
    ],
)
def test_hostile_data(run: Run, tmp_path: Path, files: tuple[str, str], content: bytes, sentence: str) -> None:
    (tmp_path / "d.jsonl").write_bytes(content)
    status, out, err = run("eval", str(tmp_path / "d.jsonl"), "-c", files[1])
    assert status == 1 and sentence in err and not out and err.count("\n") == 1


def test_hostile_arguments(run: Run, tmp_path: Path, files: tuple[str, str]) -> None:
    for words, sentence in (
        (("eval", str(tmp_path / "none.npz"), "-c", files[1]), "cannot be read"),
        (("eval", files[1], "-c", files[0]), "damaged"),
        (("eval", files[0], "-c", files[1], "--groups", "sums 9"), 'no group "sums 9" in the data; there are: sums 0, sums 1'),
        (("explain", "  ", "-c", files[1]), "the prompt is empty"),
    ):
        status, out, err = run(*words)
        assert status == 1 and sentence in err and not out, (words, err)
    (tmp_path / "cut.npz").write_bytes(Path(files[0]).read_bytes()[:500])
    status, _, err = run("eval", str(tmp_path / "cut.npz"), "-c", files[1])
    assert status == 1 and "damaged" in err
    status, _, err = run("eval", files[0], "-c", files[1], "--plots", files[0] + "/p")
    assert status == 1 and "cannot be written" in err


def test_answers_are_asked_once(run: Run, smollm2_path: Path, tmp_path: Path, files: tuple[str, str]) -> None:
    data, kept = tmp_path / "d.jsonl", tmp_path / "kept.npz"
    rows = [{"id": f"{i}", "group": "sums", "prompt": f"{i}+1?", "answers": [str(i + 1)], "match": "number"} for i in range(3)]
    data.write_text("\n".join(json.dumps({**row, "max_tokens": 8}) for row in rows))
    words = ("eval", str(data), "-m", str(smollm2_path), "-c", files[1], "--records", str(kept), "--json", "--resamples", "0")
    status, out, err = run(*words)
    assert status == 0, err
    first = json.loads(out)
    assert first["items"] == 3 and len(load_records(kept)) == 3
    written = kept.stat().st_mtime_ns
    assert run(*words)[1] == out and kept.stat().st_mtime_ns == written, "nothing is asked again"
    status, out, err = run("explain", "What is 2 + 2?", "-m", str(smollm2_path), "-c", files[1], "-n", "8", "--json")
    assert status == 0, err
    told = json.loads(out)
    assert told["tokens"] <= 8 and 0 < told["confidence"]["after"] < 1 and told["signals"]["mean_logprob"] <= 0

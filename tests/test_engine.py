"""The engine's requests: sampling against numpy, text and stop strings, batching, cancelling, limits, leaks.

A golden model of 1.5 MB stands in for a real one: what is tested here does not depend on what a model has learnt. Expected
tokens are worked out in numpy from `Model.logits`, which test_zoo.py holds against transformers.
"""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cactus_py.engine import Model, Token, kernels_available
from cactus_py.errors import ContextLengthError, EngineError, InvalidRequestError, ModelFileError

EOS = 1
CONTEXT = 256
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
ENDLESS: dict[str, Any] = {"max_tokens": 10**6, "context_policy": "shift", "sampling": GREEDY}


@pytest.fixture(scope="module")
def path(zoo: Path) -> Path:
    """A llama of two layers: 512 tokens, a context of 256."""
    return zoo / "llama" / "llama.f32.gguf"


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    """One model for the tests that leave it as it was."""
    with closing(Model.load(path, threads=2)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def prompt(zoo: Path) -> list[int]:
    """The golden prompt: 47 tokens."""
    ids: list[int] = json.loads((zoo / "llama" / "llama.json").read_text(encoding="utf-8"))["prompt_ids"]
    return ids


def run(model: Model, ids: Sequence[int], n: int, sampling: dict[str, Any] | None = None, **options: Any) -> list[Token]:
    """All events of a request of `n` tokens."""
    with model.generate(ids, max_tokens=n, sampling=GREEDY | (sampling or {}), **options) as generation:
        return list(generation)


def ids_of(events: list[Token]) -> list[int]:
    """The tokens among the events."""
    return [event.id for event in events if event.id >= 0]


def text_of(events: list[Token]) -> str:
    """The text that the events add up to."""
    return "".join(event.text for event in events)


def log_softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """In double, over the last axis."""
    x = scores.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


# ---- what is reported of a token ----


def test_greedy_tokens_and_what_is_said_of_them(model: Model, prompt: list[int]) -> None:
    """Every token is the best one, and its logprob, entropy, margin and alternatives are those of the scores."""
    events = run(model, prompt, 40, {"top_logprobs": 5})
    tokens = ids_of(events)
    assert len(tokens) == 40 and events[-1].finish_reason == "length"
    assert all(event.finish_reason is None for event in events[:-1])
    scores = model.logits(prompt + tokens)[len(prompt) - 1 : -1]
    logprobs = log_softmax(scores)
    for event, row, logs in zip(events, scores, logprobs, strict=True):
        best = np.lexsort((np.arange(len(row)), -row))[:5]
        assert event.id == best[0] == row.argmax()
        assert event.logprob == pytest.approx(logs[event.id], abs=2e-6)
        assert event.entropy == pytest.approx(-(np.exp(logs) * logs).sum(), abs=2e-5)
        assert event.margin == pytest.approx(float(row[best[0]] - row[best[1]]), abs=1e-6)
        assert [token for token, _ in event.top] == best.tolist()
        assert [logprob for _, logprob in event.top] == pytest.approx(logs[best].tolist(), abs=2e-6)


@pytest.mark.parametrize("n_top", [0, 1, 20])
def test_number_of_alternatives(model: Model, prompt: list[int], n_top: int) -> None:
    """As many as asked for, best first."""
    for event in run(model, prompt, 3, {"top_logprobs": n_top}):
        values = [logprob for _, logprob in event.top]
        assert len(values) == n_top and values == sorted(values, reverse=True)


def test_reports_are_of_the_models_own_distribution(model: Model, prompt: list[int]) -> None:
    """Temperature, penalties and bias choose another token; what is reported stays the model's opinion."""
    plain = run(model, prompt, 1, {"top_logprobs": 3})[0]
    changed = {"temperature": 1.5, "top_k": 1, "repetition_penalty": 1.3, "logit_bias": {plain.id: -50.0}, "top_logprobs": 3}
    other = run(model, prompt, 1, changed)[0]
    assert other.id != plain.id
    assert (other.entropy, other.margin, other.top) == (plain.entropy, plain.margin, plain.top)
    assert other.logprob == pytest.approx(log_softmax(model.logits(prompt)[-1])[other.id], abs=2e-6)


def test_logprobs_are_those_of_the_scores(model: Model, prompt: list[int]) -> None:
    """`logprobs` never stores all scores, and says the same."""
    ours = model.logprobs(prompt)
    wanted = log_softmax(model.logits(prompt))[np.arange(len(prompt) - 1), prompt[1:]]
    assert ours.dtype == np.float32 and ours.shape == (len(prompt) - 1,)
    assert np.abs(ours - wanted).max() < 1e-5
    assert model.logprobs(prompt[:1]).shape == (0,)


# ---- choosing ----

PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -0.5, "presence_penalty": -1.0},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.4, "penalty_last_n": 20},
    {"repetition_penalty": 1.5, "penalty_last_n": 1},
    {"repetition_penalty": 1.5, "penalty_last_n": 0},
    {"repetition_penalty": 1.1, "logit_bias": {7: 3.0, 300: -2.0, 45: 2.5}},
    {"logit_bias": {19: 1e6}},
]


def adjusted(scores: NDArray[np.float32], history: list[int], sampling: dict[str, Any]) -> NDArray[np.float32]:
    """Scores after penalties (each distinct token of the look-back once) and bias, in float32 as documented."""
    x: NDArray[np.float32] = scores.astype(np.float32).copy()
    last_n = sampling.get("penalty_last_n", -1)
    seen = history if last_n < 0 else history[len(history) - min(last_n, len(history)) :]
    for token in set(seen):
        factor = np.float32(sampling.get("repetition_penalty", 1.0))
        x[token] = x[token] / factor if x[token] > 0 else x[token] * factor
        x[token] -= np.float32(seen.count(token)) * np.float32(sampling.get("frequency_penalty", 0.0))
        x[token] -= np.float32(sampling.get("presence_penalty", 0.0))
    for token, bias in sampling.get("logit_bias", {}).items():
        x[token] += np.float32(bias)
    if sampling.get("ignore_eos"):
        x[EOS] = -np.inf
    return x


@pytest.mark.parametrize("sampling", PENALTIES, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items() if k != "logit_bias"))
def test_penalties_and_bias(model: Model, prompt: list[int], sampling: dict[str, Any]) -> None:
    """Each token is the best after penalties and bias, recomputed from the scores of everything before it."""
    tokens = ids_of(run(model, prompt, 24, sampling))
    scores = model.logits(prompt + tokens)
    for i, token in enumerate(tokens):
        at = len(prompt) + i
        expected = adjusted(scores[at - 1], (prompt + tokens)[:at], GREEDY | sampling)
        second, best = np.partition(expected, -2)[-2:]
        assert token == expected.argmax() or best - second < 1e-4, i


def expected_distribution(scores: NDArray[np.float32], sampling: dict[str, Any]) -> NDArray[np.float64]:
    """Probabilities after temperature, then top_k, top_p and min_p, each on what the one before it left."""
    x = scores.astype(np.float64) / sampling["temperature"]
    order = np.argsort(-x, kind="stable")
    p = np.exp(x - x.max())
    kept = np.zeros(len(p), bool)
    kept[order[: sampling.get("top_k", 0) or len(p)]] = True
    p[~kept] = 0.0
    if "top_p" in sampling:
        sums = np.cumsum(p[order]) / p.sum()
        p[order[np.searchsorted(sums, sampling["top_p"]) + 1 :]] = 0.0
    p[p < sampling.get("min_p", 0.0) * p.max()] = 0.0
    probabilities: NDArray[np.float64] = p / p.sum()
    return probabilities


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.3, "top_p": 0.6},
        {"temperature": 1.2, "min_p": 0.2},
        {"temperature": 1.5, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
    ],
    ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()),
)
def test_draws_follow_the_distribution(model: Model, prompt: list[int], sampling: dict[str, Any]) -> None:
    """Over many seeds each token comes as often as it should (chi-square), and none that was cut off ever comes."""
    n_draws = 2000
    p = expected_distribution(model.logits(prompt[:8])[-1], sampling)
    pending = [model.generate(prompt[:8], max_tokens=1, sampling=sampling | {"seed": seed}) for seed in range(n_draws)]
    counts = np.zeros(len(p))
    for generation in pending:
        with generation:
            counts[next(generation).id] += 1
    assert counts[p == 0].sum() == 0
    common = p * n_draws >= 5
    observed = [*counts[common], counts[~common].sum()]
    expected = [*(p[common] * n_draws), p[~common].sum() * n_draws]
    chi2 = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 0)
    freedom = max(1, len(observed) - 1)
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom) + 4, (chi2, freedom)


def test_seeds(model: Model, prompt: list[int]) -> None:
    """The same seed gives the same events; others give others; any integer is a seed."""
    hot = {"temperature": 1.2, "top_logprobs": 2}
    first = run(model, prompt, 30, hot | {"seed": 11})
    assert run(model, prompt, 30, hot | {"seed": 11}) == first
    others = {tuple(ids_of(run(model, prompt, 30, hot | {"seed": seed}))) for seed in (0, 12, -1, 2**63, 2**64 + 13)}
    assert len(others) == 5 and tuple(ids_of(first)) not in others


def test_top_k_of_one_is_greedy(model: Model, prompt: list[int]) -> None:
    """However hot."""
    greedy = ids_of(run(model, prompt, 20))
    assert ids_of(run(model, prompt, 20, {"temperature": 5.0, "top_k": 1, "seed": 3})) == greedy
    assert ids_of(run(model, prompt, 20, {"temperature": 1.0, "top_p": 1e-6, "seed": 3})) == greedy


# ---- text, end tokens, stop strings ----


def ascii_only(model: Model) -> dict[str, Any]:
    """A bias under which every token is printable ASCII, so that the text is easy to cut."""
    kept = {i for i in range(model.info.vocabulary) if (t := model.detokenize([i])).isascii() and t.isprintable() and t}
    return {"logit_bias": {i: -1000.0 for i in range(model.info.vocabulary) if i not in kept}}


def test_text_is_what_the_tokens_say(model: Model, prompt: list[int]) -> None:
    """Pieces add up to the decoded tokens, and no piece ends inside a character."""
    for sampling in ({}, {"temperature": 2.0, "seed": 5}, {"temperature": 3.0, "seed": 6}):
        events = run(model, prompt, 60, sampling)
        assert text_of(events) == model.detokenize(ids_of(events))


def test_end_token_ends_the_text(model: Model, prompt: list[int]) -> None:
    """The end token is reported, adds no text, and is impossible under ignore_eos."""
    events = run(model, prompt, 50, {"ignore_eos": False, "logit_bias": {EOS: 1000.0}})
    assert [event.id for event in events] == [EOS]
    assert events[0].finish_reason == "stop" and events[0].text == ""
    forced = run(model, prompt, 50, {"ignore_eos": True, "logit_bias": {EOS: 1000.0}})
    assert len(ids_of(forced)) == 50 and EOS not in ids_of(forced)
    hot = run(model, prompt, 50, {"ignore_eos": True, "temperature": 50.0, "seed": 1, "logit_bias": {EOS: 1000.0}})
    assert EOS not in ids_of(hot)


@pytest.mark.parametrize("start", [0, 1, 5, 17, 30])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_stop_string_cuts_the_text(model: Model, prompt: list[int], start: int, length: int) -> None:
    """Whatever part of the text is the stop string, the text ends right before its first occurrence."""
    sampling = ascii_only(model) | {"temperature": 0.9, "seed": 4}
    text = text_of(run(model, prompt, 60, sampling))
    stop = text[start : start + length]
    events = run(model, prompt, 60, sampling, stop=[stop])
    assert text_of(events) == text[: text.index(stop)]
    assert events[-1].finish_reason == "stop"


def test_stop_strings_that_do_not_come_hold_nothing_back(model: Model, prompt: list[int]) -> None:
    """Text that might have begun a stop string is delivered in the end; with several, the first to come counts."""
    sampling = ascii_only(model) | {"temperature": 0.9, "seed": 4}
    text = text_of(run(model, prompt, 60, sampling))
    for stops in (["\u2603 never"], [text[-4:] + "~~~", text[10:14] + "~~"], "~~~~~"):
        events = run(model, prompt, 60, sampling, stop=stops)
        assert text_of(events) == text and events[-1].finish_reason == "length"
    early, late = text[8:11], text[24:29]
    events = run(model, prompt, 60, sampling, stop=[late, early, "~~~"])
    assert text_of(events) == text[: min(text.index(early), text.index(late))]


def test_stop_may_be_a_plain_string(model: Model, prompt: list[int]) -> None:
    """One string need not be in a list."""
    sampling = ascii_only(model)
    text = text_of(run(model, prompt, 30, sampling))
    assert text_of(run(model, prompt, 30, sampling, stop=text[4:7])) == text[: text.index(text[4:7])]


# ---- many at once ----


def mixed_requests(prompt: list[int]) -> list[tuple[list[int], int, dict[str, Any]]]:
    """Requests that differ in everything: prompt, length, way of choosing."""
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 0.8, "top_p": 0.9, "seed": 2},
        {"repetition_penalty": 1.2},
        {"temperature": 1.5, "top_k": 20, "seed": 3},
        {"frequency_penalty": 0.5, "top_logprobs": 4},
        {"temperature": 1.0, "min_p": 0.1},
    ]
    return [(prompt[: 1 + (i * 11) % len(prompt)] * (1 + i % 3), 10 + 7 * (i % 8), ways[i % len(ways)]) for i in range(24)]


def run_at_once(model: Model, requests: list[tuple[list[int], int, dict[str, Any]]]) -> list[list[Token]]:
    """Each request from a thread of its own, all released together."""
    gate = threading.Barrier(len(requests))

    def one(request: tuple[list[int], int, dict[str, Any]]) -> list[Token]:
        gate.wait()
        return run(model, *request)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(one, requests))


def test_requests_at_once_equal_requests_alone(model: Model, prompt: list[int]) -> None:
    """Token for token, and to the bit in every number reported."""
    requests = mixed_requests(prompt)
    alone = [run(model, *request) for request in requests]
    for _ in range(3):
        assert run_at_once(model, requests) == alone


def test_more_requests_than_run_together(model: Model, prompt: list[int]) -> None:
    """150 at once: those that must wait are served as well."""
    requests = [(prompt[: 5 + i % 9], 4, {"temperature": 1.0, "seed": i}) for i in range(150)]
    alone = [run(model, *request) for request in requests]
    generations = [model.generate(ids, max_tokens=n, sampling=GREEDY | way) for ids, n, way in requests]
    assert [list(generation) for generation in generations] == alone


def test_scarce_memory_changes_nothing(path: Path, model: Model, prompt: list[int]) -> None:
    """With room for one long sequence only, requests give way to each other and still say the same."""
    requests = mixed_requests(prompt)
    alone = [run(model, *request) for request in requests]
    page = model.memory().kv_page_bytes
    with closing(Model.load(path, threads=2, kv_memory=8 * page)) as tight:
        assert tight.memory().kv_pages == 8
        assert run_at_once(tight, requests) == alone
        assert pages_in_use_in_the_end(tight) == 0


def test_scores_may_be_asked_for_meanwhile(model: Model, prompt: list[int]) -> None:
    """`logits` takes its turn between the steps of running requests and disturbs none."""
    wanted = model.logits(prompt)
    alone = run(model, prompt, 120, {"temperature": 1.0, "seed": 9})
    generation = model.generate(prompt, max_tokens=120, sampling=GREEDY | {"temperature": 1.0, "seed": 9})
    for _ in range(10):
        assert np.array_equal(model.logits(prompt), wanted)
    assert list(generation) == alone


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}, {"batch": 1}, {"batch": 7}, {"context": 128}], ids=str)
def test_settings_do_not_change_tokens(path: Path, model: Model, prompt: list[int], options: dict[str, Any]) -> None:
    """Threads, step size and context are about speed and memory, not about the answer."""
    requests = [r for r in mixed_requests(prompt) if len(r[0]) + r[1] < 128]
    alone = [run(model, *request) for request in requests]
    with closing(Model.load(path, **({"threads": 2} | options))) as other:
        assert [run(other, *request) for request in requests] == alone
        assert run_at_once(other, requests) == alone


def test_kernel_sets_generate_the_same(path: Path, model: Model, prompt: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by argument or by environment."""
    alone = run(model, prompt, 40, {"temperature": 1.0, "seed": 2})
    for name in kernels_available():
        with closing(Model.load(path, threads=2, kernels=name)) as other:
            assert other.info.kernels == name
            assert run(other, prompt, 40, {"temperature": 1.0, "seed": 2}) == alone
    monkeypatch.setenv("CACTUS_PY_KERNELS", "scalar")
    with closing(Model.load(path)) as other:
        assert other.info.kernels == "scalar"


# ---- ends before the end ----


def test_cancel(model: Model, prompt: list[int]) -> None:
    """Ends at the next token; the last event says so; a second cancel does nothing."""
    generation = model.generate(prompt, **ENDLESS)
    events = [next(generation), next(generation)]
    generation.cancel()
    generation.cancel()
    events += list(generation)
    assert events[-1].finish_reason == "cancelled"
    assert events[:2] == run(model, prompt, 3)[:2]
    assert generation.stats.generated_tokens == len(ids_of(events))
    with pytest.raises(StopIteration):
        next(generation)
    generation.close()
    assert generation.stats.generated_tokens == len(ids_of(events))


def test_cancel_from_another_thread(model: Model, prompt: list[int]) -> None:
    """While the consumer waits for a token."""
    generation = model.generate(prompt, **ENDLESS)
    timer = threading.Timer(0.02, generation.cancel)
    timer.start()
    reasons = [event.finish_reason for event in generation]
    timer.join()
    assert reasons[-1] == "cancelled"
    assert run(model, prompt, 5)[-1].finish_reason == "length"


def test_cancelled_requests_leave_the_others_alone(model: Model, prompt: list[int]) -> None:
    """Half of the batch goes; the rest says what it would have said."""
    requests = mixed_requests(prompt)
    alone = [run(model, *request) for request in requests]
    generations = [model.generate(ids, max_tokens=n, sampling=GREEDY | way) for ids, n, way in requests]
    for generation in generations[::2]:
        generation.cancel()
    for i, generation in enumerate(generations):
        events = list(generation)
        if i % 2:
            assert events == alone[i]
        else:
            assert ids_of(events) == ids_of(alone[i])[: len(ids_of(events))]
            assert events[-1].finish_reason in ("cancelled", alone[i][-1].finish_reason)


def test_dropped_generations_free_their_memory(model: Model, prompt: list[int]) -> None:
    """Breaking out of the loop is enough: soon no page is in use."""
    for _ in range(30):
        for event in model.generate(prompt, **ENDLESS):
            if event.id >= 0:
                break
    gc.collect()
    assert pages_in_use_in_the_end(model) == 0


def pages_in_use_in_the_end(model: Model) -> int:
    """Pages of keys and values in use; waits a while for none, since a request gives them back behind its last event."""
    deadline = time.monotonic() + 10
    while model.memory().kv_pages_used and time.monotonic() < deadline:
        time.sleep(0.01)
    return model.memory().kv_pages_used


def test_close_while_requests_run(path: Path, prompt: list[int]) -> None:
    """Consumers get a last event that says cancelled; nothing hangs; later calls fail with one sentence."""
    model = Model.load(path, threads=2)
    generations = [model.generate(prompt, **ENDLESS) for _ in range(20)]
    with ThreadPoolExecutor(len(generations)) as pool:
        results = [pool.submit(list, generation) for generation in generations]
        time.sleep(0.05)
        model.close()
        assert {result.result(timeout=30)[-1].finish_reason for result in results} == {"cancelled"}
    model.close()
    calls: list[Callable[[], Any]] = [
        lambda: model.generate(prompt, max_tokens=1),
        lambda: model.logits(prompt),
        lambda: model.logprobs(prompt),
        lambda: model.tokenize("x"),
        lambda: model.info,
        lambda: model.memory(),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="closed"):
            call()
    for generation in generations:
        generation.close()


def test_close_while_scores_are_computed(path: Path, prompt: list[int]) -> None:
    """`close` waits for callers inside `logits`, or they are told; either way it ends."""
    model = Model.load(path, threads=1, kernels="scalar")
    wanted = model.logits(prompt * 5)

    def ask() -> bool:
        for _ in range(50):
            try:
                assert np.array_equal(model.logits(prompt * 5), wanted)
            except Exception as error:
                assert type(error).__name__ in ("EngineError", "RequestCancelledError"), error
                return True
        return False

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        time.sleep(0.05)
        model.close()
        assert all(result.result(timeout=30) for result in asking)


def test_waiting_with_a_limit(model: Model, prompt: list[int]) -> None:
    """`wait` gives up after its time and loses nothing."""
    alone = run(model, prompt, 30)
    generation = model.generate(prompt, max_tokens=30, sampling=GREEDY)
    events: list[Token] = []
    with pytest.raises(StopIteration):
        while True:
            event = generation.wait(0.0)
            if event is not None:
                events.append(event)
    assert events == alone


# ---- context ----


def test_prompt_longer_than_the_context(model: Model, prompt: list[int]) -> None:
    """Refused before anything is computed, with both numbers in the sentence."""
    long = (prompt * 10)[: CONTEXT + 1]
    for call in (lambda: model.generate(long, max_tokens=1), lambda: model.logits(long), lambda: model.logprobs(long)):
        with pytest.raises(ContextLengthError, match=f"{CONTEXT + 1}.*{CONTEXT}"):
            call()
    assert model.logits(long[:CONTEXT]).shape == (CONTEXT, model.info.vocabulary)


def test_generation_ends_where_the_context_does(model: Model, prompt: list[int]) -> None:
    """With "length": every position is used once, and the last scores give one more token."""
    for n_prompt in (47, 255, 256):
        ids = (prompt * 10)[:n_prompt]
        with model.generate(ids, sampling=GREEDY) as generation:
            events = list(generation)
        assert events[-1].finish_reason == "length"
        assert len(ids_of(events)) == CONTEXT - n_prompt + 1


def test_shift_keeps_the_front_and_the_newest(path: Path, model: Model, prompt: list[int]) -> None:
    """Past the end of the context half of what may go is dropped; each token is the best one for what then remains."""
    n_context, keep = 64, 5
    with closing(Model.load(path, threads=2, context=n_context)) as small:
        events = run(small, prompt, 150, context_policy="shift", keep=keep)
    assert len(ids_of(events)) == 150 and events[-1].finish_reason == "length"
    window = list(prompt)
    n_shifts = 0
    for token in ids_of(events):
        scores = model.logits(window)[-1]
        scores[EOS] = -np.inf
        assert token == scores.argmax()
        window.append(token)
        if len(window) > n_context:
            window = prompt[:keep] + window[-((n_context - keep) // 2) :]
            n_shifts += 1
    assert n_shifts >= 4


@pytest.mark.parametrize("keep", [0, 1, 16, 32, 60, 63])
def test_shift_of_a_prompt_that_is_too_long(path: Path, model: Model, prompt: list[int], keep: int) -> None:
    """The front and the newest part of the prompt are read; the statistics say how many tokens that were."""
    n_context = 64
    ids = (prompt * 4)[:150]
    with closing(Model.load(path, threads=2, context=n_context)) as small:
        generation = small.generate(ids, max_tokens=100, sampling=GREEDY, context_policy="shift", keep=keep)
        events = list(generation)
        n_read = generation.stats.prompt_tokens
    assert len(ids_of(events)) == 100
    assert keep < n_read <= n_context
    scores = model.logits(ids[:keep] + ids[len(ids) - (n_read - keep) :])[-1]
    scores[EOS] = -np.inf
    assert events[0].id == scores.argmax()


def test_keep_must_leave_room(path: Path, prompt: list[int]) -> None:
    """What must never be dropped cannot fill the context."""
    message = r"n_keep is 64; it must leave room in the context of 64"
    with closing(Model.load(path, threads=2, context=64)) as small, pytest.raises(InvalidRequestError, match=message):
        small.generate(prompt, context_policy="shift", keep=64)


# ---- what is refused ----

BAD_SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 2**40}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_p": math.nan}, "top_p"),
    ({"min_p": -0.1}, "min_p"),
    ({"min_p": 1.1}, "min_p"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ({"repetition_penalty": -1.0}, "repetition_penalty"),
    ({"repetition_penalty": math.inf}, "repetition_penalty"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"penalty_last_n": -2}, "penalty_last_n"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": -1}, "top_logprobs"),
    ({"seed": "x"}, "seed"),
    ({"logit_bias": {512: 1.0}}, "logit_bias"),
    ({"logit_bias": {-1: 1.0}}, "logit_bias"),
    ({"logit_bias": {3: math.nan}}, "logit_bias"),
    ({"logit_bias": {3: math.inf}}, "logit_bias"),
    ({"logit_bias": [3, 4]}, "logit_bias"),
    ({"tempurature": 1.0}, "tempurature"),
]


@pytest.mark.parametrize(("sampling", "named"), BAD_SAMPLING, ids=str)
def test_sampling_values_out_of_range(model: Model, prompt: list[int], sampling: dict[str, Any], named: str) -> None:
    """Refused at once, in a sentence that names the field."""
    with pytest.raises(InvalidRequestError, match=named):
        model.generate(prompt, max_tokens=1, sampling=sampling)


BAD_REQUESTS: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "no tokens"),
    ([0, 512], {}, "512 at position 1"),
    ([-1], {}, "-1 at position 0"),
    ([2**31], {}, "32 bits"),
    ([1, "a"], {}, "integers"),
    ([1, 2], {"max_tokens": 0}, "max_tokens"),
    ([1, 2], {"max_tokens": -5}, "max_tokens"),
    ([1, 2], {"max_tokens": 2**40}, "max_tokens"),
    ([1, 2], {"stop": [""]}, "stop"),
    ([1, 2], {"stop": ["a\0b"]}, "stop"),
    ([1, 2], {"stop": [3]}, "stop"),
    ([1, 2], {"context_policy": "truncate"}, "context_policy"),
    ([1, 2], {"keep": -1}, "keep"),
    ([1, 2], {"speculation": -1}, "speculation is -1"),
    ([1, 2], {"speculation": 17}, "speculation is 17"),
    ([1, 2], {"speculation": "x"}, "speculation"),
]


@pytest.mark.parametrize(("ids", "options", "named"), BAD_REQUESTS, ids=str)
def test_requests_that_make_no_sense(model: Model, ids: Any, options: dict[str, Any], named: str) -> None:
    """Refused at once, in a sentence that names what is wrong."""
    with pytest.raises(InvalidRequestError, match=named):
        model.generate(ids, **({"max_tokens": 1} | options))


@pytest.mark.parametrize(("ids", "named"), [([], "no tokens"), ([5, 600], "600 at position 1"), ([-7], "-7 at position 0")])
def test_scores_of_tokens_that_do_not_exist(model: Model, ids: list[int], named: str) -> None:
    """The same for the calls that only score."""
    for call in (model.logits, model.logprobs):
        with pytest.raises(InvalidRequestError, match=named):
            call(ids)
    with pytest.raises(InvalidRequestError):
        model.logits([1, 2, 3], chunk=-1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threads": 0}, "threads"),
        ({"threads": 100000}, "threads"),
        ({"context": 0}, "context"),
        ({"context": CONTEXT + 1}, "context"),
        ({"batch": 0}, "batch"),
        ({"batch": 10**6}, "batch"),
        ({"kv_type": "q4"}, "kv_type"),
        ({"kv_memory": 0}, "kv_memory"),
        ({"kv_memory": 1}, "kv_memory"),
        ({"kernels": "sse9"}, "sse9"),
    ],
    ids=str,
)
def test_settings_out_of_range(path: Path, options: dict[str, Any], named: str) -> None:
    """A model is not opened with them."""
    with pytest.raises(InvalidRequestError, match=named):
        Model.load(path, **options)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """Missing, a folder, unreadable names: each says which."""
    for name, path in {"missing.gguf": tmp_path / "missing.gguf", tmp_path.name: tmp_path, "dev": Path("/dev/null")}.items():
        with pytest.raises(ModelFileError, match=name):
            Model.load(path)
    with pytest.raises(ModelFileError):
        Model.load("a\0b.gguf")


def test_a_bias_that_forbids_everything(model: Model, prompt: list[int]) -> None:
    """Large negative biases on all tokens still leave a best one; the engine goes on working."""
    everything = {"logit_bias": {i: -1e6 for i in range(512)}}
    assert len(ids_of(run(model, prompt, 3, everything))) == 3
    assert len(ids_of(run(model, prompt, 3, everything | {"temperature": 1.0}))) == 3


# ---- speculation ----

FEW = {"logit_bias": dict.fromkeys((40, 77, 101), 900.0)}  # so few tokens that the text repeats itself
DRAFTED: list[dict[str, Any]] = [
    FEW,
    FEW | {"temperature": 8.0, "top_p": 0.8, "seed": 7},
    FEW | {"temperature": 3.0, "top_k": 2, "seed": 8, "top_logprobs": 3},
    FEW | {"repetition_penalty": 1.01, "penalty_last_n": 30},
    FEW | {"frequency_penalty": 0.2, "presence_penalty": 0.5},
]


@pytest.mark.parametrize("sampling", DRAFTED, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items() if k != "logit_bias"))
@pytest.mark.parametrize("speculation", [1, 4, 16])
def test_drafts_change_nothing(model: Model, prompt: list[int], sampling: dict[str, Any], speculation: int) -> None:
    """Every event is the same to the bit, and drafts were both taken and refused."""
    plain = run(model, prompt, 150, sampling)
    generation = model.generate(prompt, max_tokens=150, sampling=GREEDY | sampling, speculation=speculation)
    assert list(generation) == plain
    stats = generation.stats
    assert stats.generated_tokens == 150 and 0 < stats.accepted_tokens <= stats.drafted_tokens


def test_drafts_of_requests_at_once(model: Model, prompt: list[int]) -> None:
    """With others in the batch, whether they speculate or not."""
    requests = [(ids, n, way | FEW) for ids, n, way in mixed_requests(prompt)]
    alone = [run(model, *request) for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        futures = [pool.submit(run, model, *request, speculation=16 * (i % 4 != 0)) for i, request in enumerate(requests)]
        assert [future.result() for future in futures] == alone


@pytest.mark.parametrize("policy", ["error", "shift"])
def test_drafts_where_the_context_ends(path: Path, prompt: list[int], policy: Any) -> None:
    """A context that ends inside a draft ends the text, or is shifted, where it is without one."""
    with closing(Model.load(path, threads=2, context=64)) as small:
        for n in range(40, 48):
            options = {"context_policy": policy, "keep": n % 9}
            expected = run(small, prompt[:n], 150, FEW, **options)
            generation = small.generate(prompt[:n], max_tokens=150, sampling=GREEDY | FEW, speculation=16, **options)
            assert list(generation) == expected and generation.stats.accepted_tokens > 0


def test_no_drafts_unless_asked_for(model: Model, prompt: list[int]) -> None:
    """Off by default at this level."""
    with model.generate(prompt, max_tokens=60, sampling=GREEDY | FEW) as generation:
        assert len(list(generation)) == 60
        assert generation.stats.drafted_tokens == generation.stats.accepted_tokens == 0


# ---- statistics and leaks ----


def test_stats(model: Model, prompt: list[int]) -> None:
    """Counts are right and times are times."""
    start = time.perf_counter()
    generation = model.generate(prompt, max_tokens=25, sampling=GREEDY)
    events = list(generation)
    elapsed_ms = (time.perf_counter() - start) * 1e3
    stats = generation.stats
    assert stats.prompt_tokens == len(prompt) and stats.generated_tokens == len(ids_of(events)) == 25
    assert 0 <= stats.cached_tokens < len(prompt)
    assert stats.queue_ms >= 0 and stats.prompt_ms > 0 and stats.decode_ms > 0
    assert stats.queue_ms + stats.prompt_ms + stats.decode_ms <= elapsed_ms + 1
    generation.close()
    assert generation.stats == stats


def open_files() -> set[str]:
    """What this process has open."""
    return {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink() and entry.exists()}


def n_threads() -> int:
    """Threads of this process, by the kernel's count."""
    return len(list(Path("/proc/self/task").iterdir()))


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_models_leave_nothing_behind(zoo: Path, prompt: list[int], tmp_path: Path) -> None:
    """Opened and closed many times, requests cut off, files refused between: no file, thread or memory stays."""
    path, broken = tmp_path / "model.gguf", tmp_path / "broken.gguf"
    path.write_bytes((zoo / "llama" / "llama.f32.gguf").read_bytes())
    broken.write_bytes(path.read_bytes()[:200_000])

    def once() -> None:
        model = Model.load(path, threads=2)
        generation = model.generate(prompt, max_tokens=200, sampling=GREEDY)
        next(generation)
        abandoned = model.generate(prompt, max_tokens=100, sampling={"temperature": 1.0, "repetition_penalty": 1.1})
        model.logits(prompt[:3])
        model.close()
        del generation, abandoned
        with pytest.raises(Exception, match=r"broken\.gguf"):
            Model.load(broken)

    for _ in range(5):
        once()
    gc.collect()
    files, threads, memory = open_files(), n_threads(), anonymous_bytes()
    for _ in range(60):
        once()
    gc.collect()
    assert open_files() == files
    assert n_threads() == threads
    assert anonymous_bytes() - memory < 3_000_000
    assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")


@linux
def test_requests_leave_nothing_behind(model: Model, prompt: list[int]) -> None:
    """Thousands of requests, finished, cancelled and refused, in bounded memory."""
    sampling = {"temperature": 1.0, "top_logprobs": 3, "repetition_penalty": 1.1, "logit_bias": {3: 1.0}}

    def many(n: int) -> None:
        for i in range(n):
            generation = model.generate(prompt[:6], max_tokens=3, sampling=sampling | {"seed": i}, stop=["~~"])
            if i % 3:
                list(generation)
            if i % 5 == 0:
                with pytest.raises(InvalidRequestError):
                    model.generate(prompt, max_tokens=3, sampling=sampling | {"top_p": 7.0}, stop=["~~"])

    many(300)
    gc.collect()
    memory = anonymous_bytes()
    many(3000)
    gc.collect()
    assert anonymous_bytes() - memory < 3_000_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_copy_that_a_fork_made(path: Path) -> None:
    """It has the generation's locks as they were, and nobody who would open them: it must not take any."""
    program = """
import os, sys, warnings
from cactus_py.engine import Model
from cactus_py.errors import EngineError
warnings.simplefilter("ignore")
model = Model.load(sys.argv[1], threads=2)
generation = model.generate([1, 2, 3], max_tokens=200, sampling={"ignore_eos": True})
next(generation)
with generation._lock, generation._cancel_lock:  # as another thread may hold them
    child = os.fork()
    if child == 0:
        for ask in (lambda: next(generation), generation.wait_end, lambda: generation.wait(0), lambda: model.generate([1])):
            try:
                ask()
            except EngineError as error:
                assert "forked" in str(error)
            else:
                os._exit(1)
        generation.close()
        del generation
        model.close()
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert len(list(generation)) == 199
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

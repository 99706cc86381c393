"""What the server counts: spans, label bounds, both forms of output. Expected numbers are worked out by hand."""

from __future__ import annotations

import asyncio
import itertools
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("prometheus_client", reason="the server extra is not installed")

from prometheus_client.parser import text_string_to_metric_families

from cactus_py import errors
from cactus_py.serving import metrics as module
from cactus_py.serving.metrics import ERROR_KINDS, MAX_KINDS, MAX_MODELS, Metrics, kind_of
from cactus_py.types import CompletionUsage, Timings
from cactus_py.types.common import CompletionTokensDetails, PromptTokensDetails

CHAT, PATH = "chat", "/v1/chat/completions"


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def engine(**numbers: int) -> SimpleNamespace:
    """An activity, 0 where nothing is said."""
    fields = {field: 0 for field, *_ in module._ENGINE}
    return SimpleNamespace(**{**fields, **numbers})


def samples(metrics: Metrics, activity: dict[str, SimpleNamespace] | None = None) -> dict[tuple[str, ...], float]:
    """All samples of /metrics: (name, label values in the order of their names) -> value."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(metrics.render(activity).decode()):
        for sample in family.samples:
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def below(found: dict[tuple[str, ...], float], name: str, bound: str, *labels: str) -> float:
    """The bucket `bound` of a histogram whose only other label sorts after `le`."""
    return found[(f"{name}_bucket", bound, *labels)]


def test_a_streamed_request(clock: Clock) -> None:
    metrics = Metrics(["small"])
    span = metrics.begin(PATH, "small")
    assert samples(metrics)["cactus_requests_open", CHAT] == 1
    clock.now += 0.2
    span.tokens(1)
    clock.now += 0.03
    span.tokens(3)  # 10 ms each
    clock.now += 0.02
    span.tokens(1)
    usage = CompletionUsage(
        prompt_tokens=40,
        completion_tokens=5,
        total_tokens=45,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=32),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=2),
    )
    span.end(200, usage=usage, timings=Timings(queue_ms=3), route="local", confidence=0.75)
    span.end(500, error_kind="internal")  # too late: has no effect
    span.tokens(7)

    found = samples(metrics)
    assert found["cactus_requests_open", CHAT] == 0
    assert found["cactus_requests_total", CHAT, "small", "200"] == 1
    assert ("cactus_requests_total", CHAT, "small", "500") not in found
    kinds = ("prompt", "cached", "generated", "reasoning")
    assert [found["cactus_tokens_total", kind, "small"] for kind in kinds] == [40, 32, 5, 2]
    first, gap = "cactus_time_to_first_token_seconds", "cactus_time_between_tokens_seconds"
    assert (below(found, first, "0.15", "small"), below(found, first, "0.25", "small")) == (0, 1)
    assert found[f"{gap}_count", "small"] == 4
    assert found[f"{gap}_sum", "small"] == pytest.approx(0.05)
    assert (below(found, gap, "0.0065", "small"), below(found, gap, "0.015", "small")) == (0, 3)
    assert found["cactus_queue_time_seconds_sum", "small"] == pytest.approx(0.003)
    assert found["cactus_routed_requests_total", "small", "local"] == 1
    assert (below(found, "cactus_confidence", "0.7", "small"), below(found, "cactus_confidence", "0.8", "small")) == (0, 1)
    assert found["cactus_request_duration_seconds_sum", CHAT, "small"] == pytest.approx(0.25)
    assert found["cactus_errors_total", "internal"] == 0


def test_a_request_that_is_answered_whole(clock: Clock) -> None:
    """It reports no token while it runs; its timings say what a stream would have shown."""
    metrics = Metrics(["small"])
    span = metrics.begin(CHAT, "small")
    clock.now += 1
    usage = CompletionUsage(prompt_tokens=10, completion_tokens=11, total_tokens=21)
    span.end(200, usage=usage, timings=Timings(queue_ms=20, prompt_ms=80, decode_ms=500), route="local")
    found = samples(metrics)
    assert found["cactus_time_to_first_token_seconds_sum", "small"] == pytest.approx(0.1)
    assert found["cactus_time_between_tokens_seconds_count", "small"] == 10
    assert found["cactus_time_between_tokens_seconds_sum", "small"] == pytest.approx(0.5)
    assert found["cactus_tokens_total", "generated", "small"] == 11


def test_answers_made_at_once_share_the_time(clock: Clock) -> None:
    metrics = Metrics(["small"])
    span = metrics.begin(CHAT, "small", choices=4)
    span.tokens(4)
    clock.now += 0.04
    span.tokens(4)  # one more for each of 4 answers: each waited 40 ms
    span.end(200)
    assert samples(metrics)["cactus_time_between_tokens_seconds_sum", "small"] == pytest.approx(0.16)


def test_failures(clock: Clock) -> None:
    metrics = Metrics(["small"])
    metrics.begin(CHAT, "small").end(429, error_kind="overloaded" if "overloaded" in ERROR_KINDS else "rate_limit")
    with pytest.raises(errors.ContextLengthError), metrics.begin(CHAT, "small"):
        raise errors.ContextLengthError("too long")
    with pytest.raises(asyncio.CancelledError), metrics.begin(CHAT, "small"):
        raise asyncio.CancelledError
    with metrics.begin(CHAT, "small"):
        pass  # nobody said how it ended
    found = samples(metrics)
    assert found["cactus_errors_total", "context_length"] == 1
    assert found["cactus_errors_total", "client_closed"] == 1
    assert found["cactus_errors_total", "internal"] == 1
    assert [found["cactus_requests_total", CHAT, "small", status] for status in ("429", "499", "500")] == [1, 1, 2]
    assert found["cactus_requests_open", CHAT] == 0
    assert ("cactus_request_duration_seconds_count", CHAT, "small") not in found


def test_kinds_of_errors() -> None:
    class Private(errors.ChecksumError):
        pass

    assert kind_of(errors.InvalidRequestError("x")) == "invalid_request"
    assert kind_of(errors.OutOfMemoryError("x")) == "out_of_memory"
    assert kind_of(Private("x")) == "checksum"
    assert kind_of(ZeroDivisionError()) == "internal"
    assert kind_of(errors.CactusError("x")) == "internal"
    assert {kind_of(getattr(errors, name)("x", "y")) for name in ("MissingExtraError", "InvalidRequestError")} <= ERROR_KINDS


def test_requests_cannot_make_labels() -> None:
    metrics = Metrics(["small"])
    for i in range(50):
        metrics.begin(f"/v1/{i}", f"model-{i}").end(600 + i, error_kind=f"Kind {i}", route=f"route-{i}", confidence=2.0 + i)
    found = samples(metrics)
    assert found["cactus_requests_total", "other", "other", "other"] == 50
    assert found["cactus_errors_total", "other"] == 50
    assert not [key for key in found if any(part.startswith(("model-", "/v1/1", "Kind", "route-")) for part in key[1:])]
    for i in range(100):
        metrics.begin(CHAT).end(400, error_kind=f"more_{i}")
    assert len([key for key in samples(metrics) if key[0] == "cactus_errors_total"]) == MAX_KINDS
    metrics.know(f"known-{i}" for i in range(2 * MAX_MODELS))
    metrics.begin(CHAT, "known-150").end(200)
    named = {key[1] for key in samples(metrics) if key[0] == "cactus_queue_time_seconds_count"}
    assert len(named) == MAX_MODELS and "known-150" not in named


def test_requests_that_name_no_model() -> None:
    metrics = Metrics()
    metrics.begin("/v1/models").end(200)
    found = samples(metrics)
    assert found["cactus_requests_total", "models", "none", "200"] == 1
    assert not [key for key in found if key[0].startswith("cactus_time_to_first")]  # nothing was timed


def test_the_model_that_answers_is_the_label() -> None:
    metrics = Metrics()
    span = metrics.begin(CHAT, "somebody/else")
    span.serves("small@1f2e")
    span.tokens(2)
    span.end(200)
    found = samples(metrics)
    assert found["cactus_requests_total", CHAT, "small@1f2e", "200"] == 1
    assert found["cactus_tokens_total", "generated", "small@1f2e"] == 2


def test_engines() -> None:
    metrics = Metrics()
    activity = {"small": engine(running=3, waiting=2, kv_pages=64, kv_pages_used=40, kv_pages_cached=9, cached_tokens=512)}
    found = samples(metrics, activity)
    assert found["cactus_engine_requests_running", "small"] == 3
    assert found["cactus_engine_requests_waiting", "small"] == 2
    pages = ("cactus_kv_pages", "cactus_kv_pages_used", "cactus_kv_pages_cached")
    assert [found[name, "small"] for name in pages] == [64, 40, 9]
    assert found["cactus_prefix_hit_tokens_total", "small"] == 512
    assert found["cactus_models_loaded",] == 1
    assert ("cactus_kv_pages", "small") not in samples(metrics)  # unloaded


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(["small"]), Metrics(["small"])
    one.begin(CHAT, "small").end(200)
    assert ("cactus_requests_total", CHAT, "small", "200") not in samples(other)


def test_threads_lose_nothing() -> None:
    metrics = Metrics(["small"])

    def work() -> None:
        for _ in range(200):
            span = metrics.begin(CHAT, "small")
            span.tokens(1)
            span.tokens(2)
            span.end(200, confidence=1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        metrics.render()
    for thread in threads:
        thread.join()
    found = samples(metrics)
    assert found["cactus_tokens_total", "generated", "small"] == 2400
    assert found["cactus_confidence_count", "small"] == 800
    assert found["cactus_time_between_tokens_seconds_count", "small"] == 1600


def test_stats(clock: Clock) -> None:
    metrics = Metrics(["small"], build={"kernels": "scalar"})
    assert metrics.stats()["latency_s"]["request"] == {"p50": None, "p95": None, "p99": None}
    for i in range(100):  # 90 take 20 ms, 10 take 3 s
        span = metrics.begin(CHAT, "small")
        clock.now += 0.02 if i < 90 else 3.0
        span.end(200 if i else 404, route="cloud")
    metrics.begin(CHAT, "small")
    stats = metrics.stats({"small": engine(generated_tokens=77, running=1)})
    assert stats["requests"] == {"open": 1, "finished": 100, "failed": 1}
    assert stats["routes"] == {"local": 0, "cloud": 100}
    assert stats["engines"]["small"]["generated_tokens"] == 77
    assert stats["build"]["kernels"] == "scalar"
    assert stats["uptime_s"] == pytest.approx(0.02 * 90 + 30)
    p = stats["latency_s"]["request"]
    assert 0.015 < p["p50"] <= 0.025 and 2.5 < p["p95"] < p["p99"] <= 4.0
    assert set(stats["memory"]) == {"resident_bytes", "private_bytes"}


def test_the_cloud() -> None:
    metrics = Metrics(["small", "big"])
    span = metrics.begin(CHAT, "small")
    span.serves("big")
    span.end(200, route="cloud", reasons=("low_confidence", "a stranger's"), cost_usd=0.002)
    failed = ("low_confidence", "cloud_timeout")
    metrics.begin(CHAT, "small").end(200, route="local", confidence=0.4, reasons=failed, cloud_failures={"timeout"})
    metrics.begin(CHAT, "small").end(504, cloud_failures={"timeout", "no kind"}, error_kind="cloud")
    places = [SimpleNamespace(host="a.example", state=state, running=1) for state in ("closed", "open", "half_open")]
    text = metrics.render(cloud=[*places, SimpleNamespace(host="b.example", state="closed", running=0)]).decode()
    for line in (
        'cactus_handovers_total{reason="low_confidence"} 1.0',
        'cactus_handovers_total{reason="other"} 1.0',
        'cactus_kept_local_total{reason="cloud_timeout"} 1.0',
        'cactus_cloud_failures_total{kind="timeout"} 2.0',
        "cactus_cloud_cost_dollars_total 0.002",
        'cactus_cloud_breaker{host="a.example",state="open"} 1.0',
        'cactus_cloud_breaker{host="a.example",state="closed"} 0.0',
        'cactus_cloud_breaker{host="b.example",state="closed"} 1.0',
        'cactus_cloud_requests_running{host="a.example"} 3.0',
        'cactus_routed_requests_total{model="big",route="cloud"} 1.0',
    ):
        assert line in text.splitlines(), line
    assert "stranger" not in text and "no kind" not in text
    cloud = metrics.stats(cloud=places)["cloud"]
    assert cloud == {"failures": {"timeout": 2}, "cost_usd": 0.002, "breakers": {"a.example": "open"}}


@pytest.mark.parametrize("seconds", [0.001, 0.0033, 0.017, 0.05, 0.9, 7.0, 33.0, 200.0, 600.0])
def test_percentiles_are_near_the_truth(clock: Clock, seconds: float) -> None:
    """All requests take the same time: what comes out of the buckets may be off by one of their widths, a factor of 1.67."""
    assert max(b / a for a, b in itertools.pairwise(module.SECONDS)) < 1.67
    metrics = Metrics(["small"])
    for _ in range(100):
        span = metrics.begin(CHAT, "small")
        clock.now += seconds
        span.end(200)
    p = metrics.stats()["latency_s"]["request"]
    assert all(seconds / 1.67 <= p[name] <= seconds * 1.67 for name in ("p50", "p95", "p99"))

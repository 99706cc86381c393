"""What the server counts and times: in Prometheus' text format for /metrics, and as JSON for the page.

The request side is written by spans, one per request; the engine side is read from the loaded models when somebody asks. All
values are cumulative since the server started (engine: since its model was loaded), times in seconds. Label values come from
fixed sets, or from names that the server itself vouches for, never from a request: a stranger cannot make time series.
"""

from __future__ import annotations

import platform
import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, get_args

from .. import errors
from ..errors import CactusError, MissingExtraError

try:
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
except ImportError:
    raise MissingExtraError("the server", "server") from None

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..types import CompletionUsage, Timings

__all__ = ["CONTENT_TYPE", "ENDPOINTS", "ERROR_KINDS", "Activity", "Metrics", "Span", "kind_of"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/audio/transcriptions": "transcriptions",
    "/v1/audio/translations": "translations",
    "/v1/models": "models",
}
"""Values of the label `endpoint` by path; everything else is "other"."""

OTHER = "other"
NONE = "none"
"""The model of requests that name none, such as those for the list of models."""
MAX_MODELS = 100
"""Names of models that become labels; those after them are "other"."""
MAX_KINDS = 64
"""Likewise kinds of errors."""


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Error")).lower()


ERROR_KINDS = frozenset(_snake(name) for name in errors.__all__ if name != "CactusError") | {
    "client_closed",  # the client went away before its answer was complete
    "internal",  # a defect of the server
    "method_not_allowed",
    "not_found",
    "permission",  # a good key that may not do this
    "rate_limit",
    "too_large",  # the body is longer than the server reads
    "unauthorized",  # no key, or a wrong one
    "unavailable",  # starting or shutting down
}
"""Values of the label `kind` of errors that are there from the start, as 0: the classes of the error tree (InvalidRequestError
is invalid_request), and what only a server knows. The server may have further ones."""
CLOUD_KINDS = frozenset[str](get_args(errors.CloudError.Kind))
"""Values of the label `kind` of failures of the cloud."""
REASONS = frozenset(
    {
        "audit_failed",  # the log of what leaves could not be written
        "budget",
        "high_confidence",
        "local_feature",  # only the device understands what was asked
        "local_refused",  # the device could not answer
        "low_confidence",
        "no_confidence",
        "no_time",
        "policy",
        "privacy",
        "redaction",
        "route",  # the request said where
        "share",
        *(f"cloud_{kind}" for kind in CLOUD_KINDS),
    }
)
"""Values of the label `reason`: the codes of the router's reasons. Others are "other"."""
_STATES = ("closed", "half_open", "open")  # of a circuit breaker, from good to bad
_KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")

_RAMP = (1.0, 1.5, 2.5, 4.0, 6.5)
SECONDS = (
    *(0.0004, 0.00065),
    *(round(step * 10.0**power, 9) for power in range(-3, 2) for step in _RAMP),
    *(100.0, 150.0, 250.0, 400.0, 600.0),
)
"""Bounds of all latencies, 0.4 ms to 10 minutes. Each is at most 1.67 times the one before: a quantile that is read from them
is less than that factor from the truth."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Bounds of confidences."""

# One row per number of the engine: field of the activity, name of the metric, whether it only grows, what it says.
_ENGINE = (
    ("running", "cactus_engine_requests_running", False, "Sequences that the engine computes now."),
    ("waiting", "cactus_engine_requests_waiting", False, "Sequences in the engine's queue."),
    ("kv_pages", "cactus_kv_pages", False, "Pages of key and value memory in all."),
    ("kv_pages_used", "cactus_kv_pages_used", False, "Pages that running sequences hold."),
    ("kv_pages_cached", "cactus_kv_pages_cached", False, "Pages kept for prefixes that may come again; free when needed."),
    ("prompt_tokens", "cactus_engine_prompt_tokens_total", True, "Tokens of prompts, those found in memory included."),
    ("cached_tokens", "cactus_prefix_hit_tokens_total", True, "Tokens of prompts that were found in memory."),
    ("generated_tokens", "cactus_engine_generated_tokens_total", True, "Tokens generated."),
    ("drafted_tokens", "cactus_drafted_tokens_total", True, "Tokens computed ahead of their turn."),
    ("accepted_tokens", "cactus_accepted_tokens_total", True, "Drafted tokens that were then chosen."),
    ("preemptions", "cactus_preemptions_total", True, "Sequences put off because key and value memory was short."),
    ("evicted_pages", "cactus_evicted_pages_total", True, "Pages of kept prefixes that were given up for others."),
)

_PERCENTILES = (50, 95, 99)


class Activity(Protocol):
    """What an engine says about itself. Pages and requests are of now, the rest is cumulative since the model was loaded."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_pages(self) -> int: ...
    @property
    def kv_pages_used(self) -> int: ...
    @property
    def kv_pages_cached(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def drafted_tokens(self) -> int: ...
    @property
    def accepted_tokens(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def evicted_pages(self) -> int: ...


class Place(Protocol):
    """An endpoint of the cloud, as `backends.cloud.EndpointHealth` tells of it."""

    @property
    def host(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def running(self) -> int: ...


def kind_of(error: BaseException) -> str:
    """The `error_kind` of an exception: the nearest class of the error tree, "internal" for one that is not in it."""
    for kind in type(error).__mro__:
        if kind is not CactusError and issubclass(kind, CactusError) and kind.__name__ in errors.__all__:
            return _snake(kind.__name__)
    return "internal"


class _Histogram:
    """Counts per bucket. prometheus-client's own takes one value at a time; here a batch of equal ones costs as much as one."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, n: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += n
        self.total += value * n

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        cumulative, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            cumulative += count
            rows.append((bound, float(cumulative)))
        return rows


def _percentiles(histograms: Iterable[_Histogram]) -> dict[str, float | None]:
    """p50, p95, p99 of histograms of latencies together, read as Prometheus' histogram_quantile does; None: no values."""
    counts = [sum(column) for column in zip(*(h.counts for h in histograms), strict=True)]
    total = sum(counts)
    if not total:
        return {f"p{percent}": None for percent in _PERCENTILES}
    found: dict[str, float | None] = {}
    for percent in _PERCENTILES:
        rank, below = percent / 100 * total, 0
        for i, count in enumerate(counts):
            if count and below + count >= rank:
                low, high = (SECONDS[i - 1] if i else 0.0), SECONDS[min(i, len(SECONDS) - 1)]
                found[f"p{percent}"] = low + (high - low) * (rank - below) / count if i < len(SECONDS) else high
                break
            below += count
    return found


class _ByModel:
    """Everything that is kept per model."""

    __slots__ = ("cached", "confidence", "first", "gap", "generated", "prompt", "queue", "reasoning", "routes")

    def __init__(self) -> None:
        self.prompt = self.cached = self.generated = self.reasoning = 0
        self.first = _Histogram()
        self.gap = _Histogram()
        self.queue = _Histogram()
        self.confidence = _Histogram(SHARES)
        self.routes = {"local": 0, "cloud": 0}


class Metrics:
    """The numbers of one server. Safe to share between threads.

    models: names that may become labels from the start, as configured aliases. build: further labels of cactus_build_info,
    as the kernel set.
    """

    def __init__(self, models: Iterable[str] = (), *, build: Mapping[str, str] | None = None) -> None:
        from .. import __version__

        self.build = {"version": __version__, "python": platform.python_version(), **(build or {})}
        self._lock = threading.Lock()
        self._rendering = threading.Lock()
        self._started = monotonic()
        self._models = {NONE: _ByModel(), OTHER: _ByModel()}
        self._requests: dict[tuple[str, str, int], int] = {}
        self._durations: dict[tuple[str, str], _Histogram] = {}
        self._open: dict[str, int] = dict.fromkeys((*ENDPOINTS.values(), OTHER), 0)
        self._errors: dict[str, int] = dict.fromkeys((*sorted(ERROR_KINDS), OTHER), 0)
        self._reasons = {(route, reason): 0 for route in ("local", "cloud") for reason in (*sorted(REASONS), OTHER)}
        self._cloud_failures: dict[str, int] = dict.fromkeys(sorted(CLOUD_KINDS), 0)
        self._cloud_cost_usd = 0.0
        self._activity: Mapping[str, Activity] = {}
        self._cloud: Sequence[Place] = ()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Families(self))
        ProcessCollector(registry=self.registry)
        self.know(models)

    def know(self, models: Iterable[str]) -> None:
        """Names of models that exist: from here on they are labels. Only names that the server vouches for belong here."""
        with self._lock:
            for name in models:
                if name not in self._models and len(self._models) < MAX_MODELS + 2:
                    self._models[name] = _ByModel()

    def begin(self, endpoint: str, model: str | None = None, *, choices: int = 1) -> Span:
        """A request has come. endpoint: its path or its label, of ENDPOINTS. model: as the request names it, which is a label
        only if it is known; `Span.serves` says later which one answers. choices: answers that are made at the same time."""
        label = ENDPOINTS.get(endpoint, endpoint)
        return Span(self, label if label in self._open else OTHER, model, max(1, choices))

    def render(self, activity: Mapping[str, Activity] | None = None, cloud: Sequence[Place] = ()) -> bytes:
        """The body of /metrics, of CONTENT_TYPE. activity: the loaded models by name. cloud: its endpoints."""
        with self._rendering:
            self._activity, self._cloud = activity or {}, cloud
            self.know(self._activity)
            return generate_latest(self.registry)

    def stats(self, activity: Mapping[str, Activity] | None = None, cloud: Sequence[Place] = ()) -> dict[str, Any]:
        """The same in short, for programs that do not read Prometheus: totals to take differences of, percentiles, engines."""
        with self._lock:
            models = list(self._models.values())
            answer: dict[str, Any] = {
                "uptime_s": monotonic() - self._started,
                "build": dict(self.build),
                "requests": {
                    "open": sum(self._open.values()),
                    "finished": sum(self._requests.values()),
                    "failed": sum(n for (_, _, status), n in self._requests.items() if status >= 400),
                },
                "errors": {kind: n for kind, n in self._errors.items() if n},
                "tokens": {
                    "prompt": sum(model.prompt for model in models),
                    "cached": sum(model.cached for model in models),
                    "generated": sum(model.generated for model in models),
                    "reasoning": sum(model.reasoning for model in models),
                },
                "routes": {route: sum(model.routes[route] for model in models) for route in ("local", "cloud")},
                "cloud": {
                    "failures": {kind: n for kind, n in self._cloud_failures.items() if n},
                    "cost_usd": self._cloud_cost_usd,
                    "breakers": _breakers(cloud),
                },
                "latency_s": {
                    "first_token": _percentiles([_Histogram(), *(model.first for model in models)]),
                    "between_tokens": _percentiles([_Histogram(), *(model.gap for model in models)]),
                    "queue": _percentiles([_Histogram(), *(model.queue for model in models)]),
                    "request": _percentiles([_Histogram(), *self._durations.values()]),
                },
            }
        answer["engines"] = {
            name: {field: getattr(engine, field) for field, *_ in _ENGINE} for name, engine in (activity or {}).items()
        }
        answer["memory"] = _memory()
        return answer

    def _by_model(self, name: str | None) -> tuple[str, _ByModel]:
        """The label and the numbers of a model. With the lock held."""
        label = NONE if name is None else name if name in self._models else OTHER
        return label, self._models[label]


class Span:
    """One request. A context manager, so that no way out is forgotten: what leaves it without `end` counts as a failure."""

    __slots__ = ("_choices", "_ended", "_endpoint", "_first", "_last", "_metrics", "_model", "_name", "_started", "_tokens")

    def __init__(self, metrics: Metrics, endpoint: str, model: str | None, choices: int) -> None:
        self._metrics = metrics
        self._endpoint = endpoint
        self._choices = choices
        self._tokens = 0
        self._first = False
        self._ended = False
        self._started = self._last = monotonic()
        with metrics._lock:
            self._name, self._model = metrics._by_model(model)
            metrics._open[endpoint] += 1

    def serves(self, model: str) -> None:
        """Which model answers, by the name that the server knows it by: an alias, a version and a default are resolved."""
        self._metrics.know((model,))
        with self._metrics._lock:
            self._name, self._model = self._metrics._by_model(model)

    def first_token(self) -> None:
        """The first token, or the first piece of another answer, is there. `tokens` says so too."""
        if not self._first and not self._ended:
            self._first = True
            self._last = monotonic()
            with self._metrics._lock:
                self._model.first.add(self._last - self._started)

    def tokens(self, n: int) -> None:
        """n more tokens were generated, all choices together, and go out in one write: one call for each write."""
        if n <= 0 or self._ended:
            return
        now = monotonic()
        with self._metrics._lock:
            model = self._model
            model.generated += n
            if self._tokens:
                model.gap.add((now - self._last) * self._choices / n, n)
            elif not self._first:
                self._first = True
                model.first.add(now - self._started)
        self._tokens += n
        self._last = now

    def end(
        self,
        status: int,
        *,
        usage: CompletionUsage | None = None,
        timings: Timings | None = None,
        route: str | None = None,
        confidence: float | None = None,
        reasons: Iterable[str] = (),
        cloud_failures: Iterable[str] = (),
        cost_usd: float | None = None,
        error_kind: str | None = None,
    ) -> None:
        """The request is over, as HTTP `status` (499: the client went away). Later calls have no effect. error_kind: a word
        that the server chose, such as those of ERROR_KINDS, never one of the request's. reasons: codes of the router's reasons
        for the route. cloud_failures: kinds of CloudError that the request met with, on its way to whatever answer.

        Durations are those of requests that succeeded. Of an answer that was sent whole, and so reported no tokens, `timings`
        tell the times of the tokens.
        """
        if self._ended:
            return
        self._ended = True
        duration = monotonic() - self._started
        metrics = self._metrics
        with metrics._lock:
            model = self._model
            metrics._open[self._endpoint] -= 1
            code = status if 100 <= status <= 599 else 0
            key = (self._endpoint, self._name, code)
            metrics._requests[key] = metrics._requests.get(key, 0) + 1
            if error_kind is not None:
                is_kind = error_kind in metrics._errors or (_KIND.fullmatch(error_kind) and len(metrics._errors) < MAX_KINDS)
                kind = error_kind if is_kind else OTHER
                metrics._errors[kind] = metrics._errors.get(kind, 0) + 1
            if status < 400:
                durations = metrics._durations.setdefault((self._endpoint, self._name), _Histogram())
                durations.add(duration)
            if usage is not None:
                model.prompt += max(0, usage.prompt_tokens)
                model.generated += max(0, usage.completion_tokens - self._tokens)
                if usage.prompt_tokens_details is not None:
                    model.cached += max(0, usage.prompt_tokens_details.cached_tokens)
                if usage.completion_tokens_details is not None:
                    model.reasoning += max(0, usage.completion_tokens_details.reasoning_tokens)
            if timings is not None:
                model.queue.add(timings.queue_ms / 1000)
                if not self._first and usage is not None and usage.completion_tokens > 0:
                    model.first.add((timings.queue_ms + timings.prompt_ms) / 1000)
                    gaps = usage.completion_tokens - self._choices
                    if gaps > 0:
                        model.gap.add(timings.decode_ms / 1000 * self._choices / gaps, gaps)
            if route in model.routes:
                model.routes[route] += 1
                for reason in {reason if reason in REASONS else OTHER for reason in reasons}:
                    metrics._reasons[route, reason] += 1
            for kind in cloud_failures:
                if kind in metrics._cloud_failures:
                    metrics._cloud_failures[kind] += 1
            if cost_usd is not None and cost_usd > 0:
                metrics._cloud_cost_usd += cost_usd
            if confidence is not None and 0 <= confidence <= 1:
                model.confidence.add(confidence)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if value is None or isinstance(value, Exception):
            self.end(500, error_kind="internal" if value is None else kind_of(value))
        else:  # cancelled, or the interpreter is going down
            self.end(499, error_kind="client_closed")


class _Families:
    """Writes what `Metrics` holds as metric families, when asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        with metrics._lock:
            yield from list(self._requests())  # made as a whole: nobody waits for a slow reader
        yield from self._engines(metrics._activity)
        yield from self._endpoints(metrics._cloud)
        private = _memory()["private_bytes"]
        if private is not None:
            name, text = "cactus_process_private_memory_bytes", "Memory of the process that is not backed by a file."
            yield GaugeMetricFamily(name, text, value=private)
        build = GaugeMetricFamily("cactus_build_info", "Always 1; what runs is in the labels.", labels=list(metrics.build))
        build.add_metric(list(metrics.build.values()), 1)
        yield build
        yield GaugeMetricFamily("cactus_uptime_seconds", "Time since the server started.", value=monotonic() - metrics._started)

    def _requests(self) -> Iterator[Metric]:
        metrics, models = self._metrics, self._metrics._models

        requests = CounterMetricFamily("cactus_requests_total", "Requests that ended.", labels=["endpoint", "model", "status"])
        for (endpoint, name, status), n in sorted(metrics._requests.items()):
            requests.add_metric([endpoint, name, str(status) if status else OTHER], n)
        yield requests

        running = GaugeMetricFamily("cactus_requests_open", "Requests that did not end yet.", labels=["endpoint"])
        for endpoint, n in metrics._open.items():
            running.add_metric([endpoint], n)
        yield running

        failures = CounterMetricFamily("cactus_errors_total", "Requests that failed.", labels=["kind"])
        for kind, n in metrics._errors.items():
            failures.add_metric([kind], n)
        yield failures

        tokens = CounterMetricFamily(
            "cactus_tokens_total",
            "Tokens read and written. Kinds overlap as OpenAI's do: prompt contains cached, generated contains reasoning.",
            labels=["model", "kind"],
        )
        routed = CounterMetricFamily(
            "cactus_routed_requests_total", "Answers by where they were made.", labels=["model", "route"]
        )
        for name, model in models.items():
            for kind in ("prompt", "cached", "generated", "reasoning"):
                tokens.add_metric([name, kind], getattr(model, kind))
            for route, n in model.routes.items():
                routed.add_metric([name, route], n)
        yield tokens
        yield routed

        handed = CounterMetricFamily(
            "cactus_handovers_total", "Answers of the cloud, by what led there; one may have several.", labels=["reason"]
        )
        kept = CounterMetricFamily(
            "cactus_kept_local_total", "Answers of the device, by why they stayed; one may have several.", labels=["reason"]
        )
        for (route, reason), n in metrics._reasons.items():
            (handed if route == "cloud" else kept).add_metric([reason], n)
        yield handed
        yield kept
        failed = CounterMetricFamily("cactus_cloud_failures_total", "Requests that the cloud failed.", labels=["kind"])
        for kind, n in metrics._cloud_failures.items():
            failed.add_metric([kind], n)
        yield failed
        text = "What answers of the cloud cost, where the price is known."
        yield CounterMetricFamily("cactus_cloud_cost_dollars_total", text, value=metrics._cloud_cost_usd)

        for field, name, text in (
            ("first", "cactus_time_to_first_token_seconds", "Time from a request's arrival to its first token."),
            ("gap", "cactus_time_between_tokens_seconds", "Time between two tokens of an answer."),
            ("queue", "cactus_queue_time_seconds", "Time that a request waited before the engine began with it."),
            ("confidence", "cactus_confidence", "Calibrated probability that an answer is right."),
        ):
            histogram = HistogramMetricFamily(name, text, labels=["model"])
            for label, model in models.items():
                one: _Histogram = getattr(model, field)
                if label not in (NONE, OTHER) or any(one.counts):
                    histogram.add_metric([label], one.buckets(), one.total)
            yield histogram

        text = "Time from a request's arrival to the end of its answer; requests that succeeded."
        durations = HistogramMetricFamily("cactus_request_duration_seconds", text, labels=["endpoint", "model"])
        for (endpoint, label), one in sorted(metrics._durations.items()):
            durations.add_metric([endpoint, label], one.buckets(), one.total)
        yield durations

    def _engines(self, activity: Mapping[str, Activity]) -> Iterator[Metric]:
        for field, name, grows, text in _ENGINE:
            family: CounterMetricFamily | GaugeMetricFamily
            family = (CounterMetricFamily if grows else GaugeMetricFamily)(name, text, labels=["model"])
            for label, engine in activity.items():
                family.add_metric([label], getattr(engine, field))
            yield family
        yield GaugeMetricFamily("cactus_models_loaded", "Models in memory.", value=len(activity))

    def _endpoints(self, cloud: Sequence[Place]) -> Iterator[Metric]:
        text = "State of the circuit breaker of a cloud's host: 1 for the one it is in."
        breakers = GaugeMetricFamily("cactus_cloud_breaker", text, labels=["host", "state"])
        for host, state in _breakers(cloud).items():
            for each in _STATES:
                breakers.add_metric([host, each], float(each == state))
        yield breakers
        running = GaugeMetricFamily("cactus_cloud_requests_running", "Requests under way to a cloud's host.", labels=["host"])
        for host in _breakers(cloud):
            running.add_metric([host], sum(place.running for place in cloud if place.host == host))
        yield running


def _breakers(cloud: Sequence[Place]) -> dict[str, str]:
    """State by host; of several endpoints on one host the worst."""
    found: dict[str, str] = {}
    for place in cloud:
        found[place.host] = max(found.get(place.host, "closed"), place.state, key=_STATES.index)
    return found


def _memory() -> dict[str, int | None]:
    """Resident memory in bytes, and of it what no file backs; None where the system does not tell (it does on Linux)."""
    found: dict[str, int] = {}
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name in ("VmRSS", "RssAnon"):
                    found[name] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return {"resident_bytes": found.get("VmRSS"), "private_bytes": found.get("RssAnon")}

"""Replies that begin on the device and may end in the cloud.

`Hybrid` belongs to a client. For each request it finds out what may leave the device, asks the policy, and returns a reply: one
of the local backend that is judged when it ends (`JudgedReply`), or one that may be handed over (`HybridReply`). The rules:

- Nothing leaves the device unless a cloud is configured, and privacy, budget and share allow it.
- Whoever reads the reply sees one answer. What was shown of it is taken back only where that can be said (whole replies, and
  streams that asked for handoff="restart"); otherwise text is held back until it is certain, or kept as the beginning.
- A cloud that fails costs the user nothing but time: the local answer is what they get, with the reason. Only a request that
  asked for route="cloud" gets the cloud's error, and a stream that breaks where nothing can be taken back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from ..backends.base import Delta, EmbeddingReply, Reply, ReplyStats, SpokenText, TraceKind
from ..errors import (
    CactusError,
    CloudError,
    ConfigError,
    ContextLengthError,
    DownloadError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
    RequestCancelledError,
    RequestTimeoutError,
    StoreError,
    UnsupportedModelError,
)
from ..types import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from .audit import AuditLog
from .budget import Ledger, Targets
from .decision import Decision
from .judge import Answer, RequestJudge
from .policies import Policy, policy_named
from .privacy import Privacy, Redactor, Restorer

if TYPE_CHECKING:  # numpy and httpx are imported when they are needed
    from ..backends.cloud import CloudBackend
    from ..config import RouterSettings, Settings
    from ..types import RouteDecision, TranscriptionRequest, TranslationRequest
    from .confidence import Calibration

__all__ = ["Hybrid", "HybridReply", "JudgedReply"]

Request = ChatCompletionRequest | CompletionRequest
StartLocal = Callable[[Any, TraceKind], Reply]

_CHECKPOINTS = (4, 8, 16, 32, 64)  # tokens after which early_exit looks; then every 64
_REMEMBERED = 32  # replies per route, for estimates of latency
_GUESSED_TOKENS = 256  # of an answer without a limit, for estimates of cost
_LOW_BATTERY, _HIGH_LOAD, _LOW_MEMORY = 0.15, 2.0, 256 << 20
_CLOUD_PART = 0.6  # of a request's time, if the device has not answered yet and might have to
_CONTINUE = "Go on with your answer exactly where it stops. Repeat nothing of it, and do not comment on this."
_REFUSALS = (ContextLengthError, UnsupportedModelError, OverloadedError, OutOfMemoryError, DownloadError)


class _KeptLocal(CactusError):
    """Why a request was not sent after all. Its text is a reason."""


# ---- local replies -----------------------------------------------------------------------------------------------------


class JudgedReply(Reply):
    """A local reply, which nothing can take to the cloud: passed on as it is, and judged when it ends."""

    route: Literal["local", "cloud"] = "local"

    def __init__(self, hybrid: Hybrid, local: Reply, judge: RequestJudge, decision: Decision) -> None:
        self._hybrid = hybrid
        self._local = local
        self._judge = judge
        self._verdict: Decision | None = None
        self._decision = decision
        self._began = time.monotonic()
        self._answers = [Answer(trace=trace) for trace in local.traces]
        self._n_open = len(self._answers)
        self.model, self.backend, self.route = local.model, local.backend, local.route
        self.traces = local.traces

    @property
    def pace(self) -> object:  # type: ignore[override]
        return self._local.pace

    def _judged(self) -> Decision | None:
        """Final once the reply has ended; None before that."""
        if self._verdict is None and self._answers and self._n_open == 0:
            self._judge.answers = self._answers
            confidence = self._judge.after()
            self._verdict = replace(self._decision, confidence=confidence, calibration=self._judge.calibration)
            self._hybrid.took("local", self._began)
        return self._verdict

    @property
    def decision(self) -> RouteDecision | None:  # type: ignore[override]
        verdict = self._judged()
        return None if verdict is None else verdict.on_wire()

    @property
    def confidence(self) -> float | None:  # type: ignore[override]
        verdict = self._judged()
        return None if verdict is None else verdict.confidence

    def _note(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            if delta.index < len(self._answers):
                self._answers[delta.index].add(delta)
                self._n_open -= delta.finish_reason is not None

    def __next__(self) -> Delta:
        delta = next(self._local)
        self._note([delta])
        return delta

    def read(self) -> list[Delta]:
        deltas = self._local.read()
        self._note(deltas)
        return deltas

    def poll(self, wait_seconds: float) -> list[Delta] | None:
        deltas = self._local.poll(wait_seconds)
        self._note(deltas or ())
        return deltas

    def rest(self) -> list[Delta]:
        deltas = self._local.rest()
        self._note(deltas)
        return deltas

    def cancel(self) -> None:
        self._local.cancel()

    def close(self) -> None:
        self._local.close()

    @property
    def stats(self) -> ReplyStats:
        return self._local.stats


# ---- replies of the cloud ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Passage:
    """One request on its way out: what was set aside for it, and how its answer is to be read."""

    id: str
    estimated_usd: float | None
    restorer: Restorer
    taken: bool = False  # from the share of requests that may be handed over
    closed: bool = False


class _Batched(Reply):
    """A reply that comes in batches."""

    def __init__(self) -> None:
        self._queue: deque[Delta] = deque()

    def _more(self) -> list[Delta]:
        """The next batch; an empty one after the end."""
        raise NotImplementedError

    def open(self) -> None:
        try:
            self._queue.extend(self._more())
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Delta:
        while not self._queue:
            found = self._more()
            if not found:
                raise StopIteration
            self._queue.extend(found)
        return self._queue.popleft()

    def read(self) -> list[Delta]:
        if not self._queue:
            return self._more()
        found = list(self._queue)
        self._queue.clear()
        return found


class _CloudPart(_Batched):
    """A reply of the cloud with what was redacted put back. Settles its account when it ends, however it does."""

    route: Literal["local", "cloud"] = "cloud"

    def __init__(self, hybrid: Hybrid, reply: Reply, passage: _Passage) -> None:
        super().__init__()
        self._hybrid = hybrid
        self._reply = reply
        self._passage = passage
        self._began = time.monotonic()
        self._texts: dict[tuple[int, bool], Restorer] = {}
        self._calls: dict[tuple[int, int], Restorer] = {}
        self._outcome = "cancelled"
        self.demanded: Decision | None = None  # of a request that asked for the cloud, whose whole reply this is

    @property
    def model(self) -> str:  # type: ignore[override]
        return self._reply.model

    @property
    def backend(self) -> str:  # type: ignore[override]
        return self._reply.backend

    @property
    def cost_usd(self) -> float | None:  # type: ignore[override]
        return self._reply.cost_usd

    @property
    def decision(self) -> RouteDecision | None:  # type: ignore[override]
        return None if self.demanded is None else replace(self.demanded, cost_usd=self.cost_usd).on_wire()

    def _more(self) -> list[Delta]:
        try:
            deltas = self._reply.read()
        except CloudError as error:
            self._outcome = error.kind
            raise
        except RequestTimeoutError:
            self._outcome = "timeout"
            raise
        if not deltas:
            self._outcome = "ok"
            self._hybrid.took("cloud", self._began)
        return [restored for delta in deltas for restored in self._restored(delta)] if self._passage.restorer else deltas

    def _restored(self, delta: Delta) -> Iterator[Delta]:
        """The delta with everything in its place; what a restorer still holds comes in front of the answer's end."""
        if delta.tool_call is not None:
            call = delta.tool_call
            key = (delta.index, call.index)
            restorer = self._calls.setdefault(key, self._passage.restorer.fork(json=True))
            yield replace(delta, tool_call=replace(call, arguments=restorer.push(call.arguments)))
            return
        text = delta.text
        if text:
            text = self._texts.setdefault((delta.index, delta.reasoning), self._passage.restorer.fork()).push(text)
        if delta.finish_reason is None:
            yield replace(delta, text=text)
            return
        for (index, reasoning), restorer in self._texts.items():
            rest = restorer.finish() if index == delta.index else ""
            if rest and reasoning == delta.reasoning:
                text += rest
            elif rest:
                yield Delta(index, rest, reasoning=reasoning)
        for (index, position), restorer in self._calls.items():
            rest = restorer.finish() if index == delta.index else ""
            if rest:
                from ..prompting.calls import ToolCallDelta

                yield Delta(index, "", tool_call=ToolCallDelta(position, arguments=rest))
        yield replace(delta, text=text)

    def cancel(self) -> None:
        self._reply.cancel()

    def close(self) -> None:
        self._reply.close()
        self._hybrid.settle(self._passage, self._outcome, self._reply)

    @property
    def stats(self) -> ReplyStats:
        return self._reply.stats


class _Joiner:
    """Puts the cloud's continuation behind a text that was shown: what it repeats of that text is left out."""

    def __init__(self, shown: str) -> None:
        self._shown = shown.rstrip()
        self._gap = shown[len(self._shown) :]
        self._held = ""
        self._settled = not self._shown

    def push(self, piece: str) -> str:
        if self._settled:
            return piece
        self._held += piece
        text = self._held.lstrip()
        if self._shown.startswith(text) or not text:  # it may be about to say everything again
            return ""
        return self.finish()

    def finish(self) -> str:
        """What is held, without what was there already."""
        held, self._held, self._settled = self._held, "", True
        text = held.lstrip()
        if text.startswith(self._shown):
            return text[len(self._shown) :]
        longest = min(len(self._shown), len(text))
        for n in range(longest, 7, -1):  # shorter ones happen by chance
            if self._shown.endswith(text[:n]):
                return text[n:]
        if self._gap:  # the space between was shown already
            return text
        return held


# ---- a reply that may be handed over -----------------------------------------------------------------------------------


class HybridReply(_Batched):
    """One answer, of whichever side the policy chooses."""

    def __init__(
        self, hybrid: Hybrid, request: Request, start: StartLocal, policy: Policy, judge: RequestJudge, decision: Decision
    ) -> None:
        super().__init__()
        self._hybrid = hybrid
        self._request = request
        self._start = start
        self._policy = policy
        self._judge = judge
        self._decision = decision
        self._began = time.monotonic()
        self._deadline = None if request.timeout is None else self._began + request.timeout
        self._lock = threading.Lock()
        self._cancelled = False
        self._local: Reply | None = None
        self._cloud: _CloudPart | None = None
        self._source: Reply | None = None  # whose answer it is
        self._answers: list[Answer] = []
        self._kept: list[Delta] = []  # everything of the local answer, for as long as it may be wanted again
        self._shown = False  # whether the reader has seen anything
        self._tried_cloud = False
        self._shown_tokens = 0  # of a local beginning that was kept
        self._done = False
        handoff = request.handoff or hybrid.settings.handoff
        self._handoff: Literal["restart", "continue"] = (
            ("continue" if request.stream else "restart") if handoff == "auto" else handoff
        )
        self._replaceable = not request.stream or self._handoff == "restart"
        self._batches = self._run()

    def open(self) -> None:
        try:
            self._queue.extend(next(self._batches, ()))
        except BaseException:
            self.close()
            raise

    # ---- what is known of it ----

    @property
    def model(self) -> str:  # type: ignore[override]
        return "" if self._source is None else self._source.model

    @property
    def backend(self) -> str:  # type: ignore[override]
        return "" if self._source is None else self._source.backend

    @property
    def route(self) -> Literal["local", "cloud"]:  # type: ignore[override]
        return "local" if self._source is None else self._source.route

    @property
    def cost_usd(self) -> float | None:  # type: ignore[override]
        return None if self._cloud is None or self._source is not self._cloud else self._cloud.cost_usd

    @property
    def decision(self) -> RouteDecision | None:  # type: ignore[override]
        return replace(self._decision, route=self.route, cost_usd=self.cost_usd).on_wire()

    @property
    def confidence(self) -> float | None:  # type: ignore[override]
        """That of the local answer; nothing has judged one of the cloud."""
        return self._decision.confidence if self.route == "local" else None

    @property
    def stats(self) -> ReplyStats:
        if self._source is None:
            return ReplyStats()
        stats = self._source.stats
        if self._shown_tokens:
            return replace(stats, completion_tokens=stats.completion_tokens + self._shown_tokens)
        return stats

    # ---- reading ----

    def _more(self) -> list[Delta]:
        if self._done:
            return []
        try:
            for batch in self._batches:
                if batch:
                    return batch
        except BaseException:
            self.close()
            raise
        self._done = True
        return []

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            parts = [self._local, self._cloud]
        for part in parts:
            if part is not None:
                part.cancel()

    def close(self) -> None:
        self._done = True
        for part in (self._local, self._cloud):
            if part is not None:
                part.close()
        self._judge.report()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def _check(self) -> None:
        if self._cancelled:
            raise RequestCancelledError("the request was cancelled")

    def _left(self) -> float | None:
        """Seconds that the request still has."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    # ---- making ----

    def _run(self) -> Iterator[list[Delta]]:
        if self._decision.route == "cloud" and (yield from self._from_cloud(_CLOUD_PART)):
            return
        yield from self._from_device()

    def _from_device(self) -> Iterator[list[Delta]]:
        """The local answer, and whatever the policy makes of it."""
        self._check()
        can_leave = not self._tried_cloud
        kind: TraceKind = "states" if self._hybrid.settings.states and self._judge.wants_states else "tokens"
        left = self._left()
        request = self._request if left is None else self._request.model_copy(update={"timeout": max(left, 1e-3)})
        try:
            local = self._start(request, kind)
        except (*_REFUSALS, InvalidRequestError) as error:
            if not can_leave or (not isinstance(error, _REFUSALS) and not _has_media(self._request)):
                raise
            self._decision = self._decision.because(f"local_refused: {_said(error)}")
            if (yield from self._from_cloud(1.0)):
                return
            raise error from None
        with self._lock:
            self._local = local
        if self._cancelled:
            local.cancel()
        self._source = local
        yield []  # it has begun
        yield from self._watched(local, can_leave)
        self._hybrid.took("local", self._began)

    def _watched(self, local: Reply, can_leave: bool) -> Iterator[list[Delta]]:
        policy, judge = self._policy, self._judge
        self._answers = judge.answers = [Answer(trace=trace) for trace in local.traces]
        judges = can_leave and policy.holds and bool(self._answers)
        watches = can_leave and policy.watches and bool(self._answers)
        continuable = _can_continue(self._request)
        ends: list[Delta] = []  # how the answers end, which nobody learns before the last judgement
        holding = judges and not self._replaceable and not (watches and continuable)
        first_look = watches and not holding  # the first tokens wait for it
        checkpoints = iter(_checkpoints())
        look_at = next(checkpoints)
        keep_all = can_leave
        held: list[Delta] = []
        while deltas := local.read():
            for delta in deltas:
                if delta.index < len(self._answers):
                    self._answers[delta.index].add(delta)
            if self._answers:
                ends += [Delta(d.index, "", (), d.finish_reason) for d in deltas if d.finish_reason is not None]
                deltas = [replace(d, finish_reason=None) for d in deltas]
                deltas = [d for d in deltas if d.text or d.tokens or d.tool_call is not None]
            if keep_all:
                self._kept += deltas
            n_open = len(self._answers) - len(ends)
            if watches and n_open and min(len(answer.trace or ()) for answer in self._answers) >= look_at:
                while min(len(answer.trace or ()) for answer in self._answers) >= look_at:
                    look_at = next(checkpoints)
                decision = policy.watch(judge)
                first_look = False
                if decision.route == "cloud":
                    self._adopt(decision)
                    held += deltas
                    if (yield from self._handed_over(continuable)):
                        return
                    watches = judges = False  # the cloud is not there: nothing is left to decide
                    holding = False
                    deltas, held = held, []
            if holding or first_look:
                held += deltas
                continue
            yield from self._show(held + deltas)
            held = []
        if judges and ends:
            if self._replaceable or holding or not self._shown:
                decision = policy.end(judge)
            else:  # it was shown for good; its confidence is worth knowing
                decision = replace(policy.end(judge), route="local")
            self._adopt(decision)
            if decision.route == "cloud" and (yield from self._from_cloud(1.0)):
                return
        elif self._answers:
            confidence = judge.after()
            self._decision = replace(self._decision, confidence=confidence, calibration=judge.calibration)
        yield from self._show(held)
        yield from self._show(ends)

    def _adopt(self, decision: Decision) -> None:
        """Makes what the policy found the decision; earlier reasons stay."""
        self._decision = replace(
            decision,
            reasons=(*self._decision.reasons, *decision.reasons),
            estimated_latency_ms=self._hybrid.latency_ms(decision.route),
        )

    def _show(self, deltas: list[Delta]) -> Iterator[list[Delta]]:
        if deltas:
            self._shown = True
            yield deltas

    def _handed_over(self, continuable: bool) -> Generator[list[Delta], None, bool]:
        """While the local answer is made; whether the cloud answered."""
        shown = self._answers[0].text if self._shown and self._answers else ""
        if self._replaceable or not shown:
            return (yield from self._from_cloud(1.0))  # what was shown beside text, as reasoning, stands
        assert continuable, "what cannot be continued is held back"
        return (yield from self._from_cloud(1.0, shown))

    def _from_cloud(self, part: float, shown: str = "") -> Generator[list[Delta], None, bool]:
        """The cloud's answer, in the place of the local one or, if some of that was `shown`, behind it. Whether there was one:
        if not, the reason is noted, and nothing was said."""
        self._check()
        self._tried_cloud = True
        request = self._request
        if shown:
            n_shown = 0 if self._local is None else self._local.stats.completion_tokens
            request = continued(request, shown, n_shown)
        left = self._left()
        if left is not None and left <= 0.05:
            self._decision = self._decision.because("no_time: the request's time is too short for the cloud", route="local")
            return False
        if left is not None:
            request = request.model_copy(update={"timeout": left * part})
        joiner = _Joiner(shown)
        said = False
        ends: list[Delta] = []  # nobody learns that an answer is whole before all of them are: the cloud may yet break off
        cloud: _CloudPart | None = None
        try:
            cloud = self._hybrid.open_cloud(request, self._decision, self)
            with self._lock:
                self._cloud = cloud
            self._check()
            while deltas := cloud.read():
                if not said:
                    said = True
                    deltas = self._taken_over(cloud, shown) + deltas
                if shown:
                    deltas = [joined for delta in deltas for joined in _joined(joiner, delta)]
                ends += [Delta(d.index, "", (), d.finish_reason) for d in deltas if d.finish_reason is not None]
                deltas = [replace(d, finish_reason=None) if d.finish_reason is not None else d for d in deltas]
                yield from self._show([d for d in deltas if d.text or d.tokens or d.tool_call is not None or d.replaces])
            if not said:
                raise CloudError("the cloud's answer was empty", "invalid")
        except (CloudError, _KeptLocal, RequestTimeoutError, StoreError, ConfigError) as error:
            if cloud is not None:
                cloud.close()
            self._check()
            if isinstance(error, RequestTimeoutError) and said and (self._left() or 1) <= 0:
                raise
            self._decision = self._decision.because(_why_local(error), route="local")
            if not said:
                self._source = self._local
                return False
            if not self._replaceable:
                raise
            yield from self._taken_back()
            return True
        cloud.close()
        yield from self._show(ends)
        return True

    def _taken_over(self, cloud: _CloudPart, shown: str) -> list[Delta]:
        """What is said when the cloud's answer begins: the local one is void, or goes on."""
        self._source = cloud
        local = self._local
        if local is None:
            return []
        local.cancel()
        if shown:
            self._shown_tokens = local.stats.completion_tokens
            self._decision = replace(self._decision, handoff="continue")
            return []
        if self._shown and not self._replaceable:  # reasoning was shown, which stands
            self._shown_tokens = local.stats.completion_tokens
            self._decision = replace(self._decision, handoff="continue")
            return []
        self._decision = replace(self._decision, handoff="restart")
        return self._void() if self._shown else []

    def _void(self) -> list[Delta]:
        n_prompts = len(self._request.prompts) if isinstance(self._request, CompletionRequest) else 1
        return [Delta(index, "", replaces=True) for index in range(n_prompts * (self._request.n or 1))]

    def _taken_back(self) -> Iterator[list[Delta]]:
        """The cloud broke off in the middle: the local answer after all."""
        yield self._void()
        if self._local is not None and self._answers and all(a.finish_reason is not None for a in self._answers):
            self._source = self._local
            yield from self._show(self._kept)
            yield [Delta(index, "", (), answer.finish_reason) for index, answer in enumerate(self._answers)]
            return
        if self._local is not None:
            self._local.close()
        yield from self._from_device()


def _joined(joiner: _Joiner, delta: Delta) -> Iterator[Delta]:
    """The delta behind a text that was shown."""
    if delta.reasoning or delta.tool_call is not None:
        yield delta
        return
    text = joiner.push(delta.text) if delta.text else ""
    if delta.finish_reason is not None:
        text += joiner.finish()
    yield replace(delta, text=text)


def _checkpoints() -> Iterator[int]:
    yield from _CHECKPOINTS
    at = _CHECKPOINTS[-1]
    while True:
        at += 64
        yield at


def _can_continue(request: Request) -> bool:
    """Whether somebody else can go on with an answer that has begun: one plain text."""
    if not isinstance(request, ChatCompletionRequest) or (request.n or 1) > 1 or request.logprobs:
        return False
    form = request.response_format
    guided = (request.guided_json, request.guided_regex, request.guided_choice, request.guided_grammar)
    return not (request.tools or request.functions or (form is not None and form.type != "text") or any(guided))


def continued(request: Request, shown: str, n_shown: int = 0) -> Request:
    """The request to go on behind a text, whose tokens count towards the limit."""
    assert isinstance(request, ChatCompletionRequest)
    dumped: dict[str, Any] = {"messages": [m.model_dump(exclude_none=True) for m in request.messages]}
    dumped["messages"] += [{"role": "assistant", "content": shown}, {"role": "user", "content": _CONTINUE}]
    messages = ChatCompletionRequest.model_validate(dumped).messages
    update: dict[str, Any] = {"messages": messages}
    for name in ("max_tokens", "max_completion_tokens"):
        limit = getattr(request, name)
        if limit is not None:
            update[name] = max(1, limit - n_shown)
    return request.model_copy(update=update)


def _has_media(request: Request) -> bool:
    if not isinstance(request, ChatCompletionRequest):
        return False
    parts = [part for message in request.messages if isinstance(message.content, list) for part in message.content]
    return any(getattr(part, "type", "text") not in ("text", "refusal") for part in parts)


def _said(error: Exception) -> str:
    return str(error).split("\n")[0][:300]


def _why_local(error: Exception) -> str:
    if isinstance(error, _KeptLocal):
        return str(error)
    if isinstance(error, CloudError):
        return f"cloud_{error.kind}: {_said(error)}"
    if isinstance(error, StoreError):
        return f"audit_failed: {_said(error)}"
    if isinstance(error, ConfigError):
        return f"budget: {_said(error)}"
    return "cloud_timeout: the cloud did not answer in time"


# ---- what a client has of all this -------------------------------------------------------------------------------------


class Hybrid:
    """The router's judgement for one client. Safe to share between threads."""

    def __init__(self, settings: Settings, home: Path, cloud: CloudBackend | None) -> None:
        """home: where models and the ledger live. cloud: None if none is configured.

        Raises ConfigError for settings that contradict each other, MissingExtraError for what they need and is not there.
        """
        self.settings: RouterSettings = settings.router
        self.cloud = cloud
        self._home = home
        self._policy = policy_named(self.settings.policy)
        self._privacy = Privacy(self.settings)
        self._redactor = Redactor(self.settings.redact)
        self._audit = None if self.settings.audit_log is None else AuditLog(self.settings.audit_log)
        limit = self.settings.max_cost_per_day
        self._ledger = None if limit is None else Ledger(home / "router" / "ledger.json", limit)
        self.targets = Targets(self.settings, self._ledger)
        self._lock = threading.Lock()
        self._calibrations: dict[str, Calibration | None] = {}
        self._latencies: dict[str, deque[float]] = {"local": deque(maxlen=_REMEMBERED), "cloud": deque(maxlen=_REMEMBERED)}
        self.last_problem: str | None = None  # with a calibration; for `doctor`

    def close(self) -> None:
        if self.cloud is not None:
            self.cloud.close()
        if self._audit is not None:
            self._audit.close()

    # ---- requests ----

    def generate(self, request: Request, model: str, start: StartLocal) -> Reply:
        """The reply to a request. model: what the name in it means here. start: makes the local reply."""
        judge = RequestJudge(request, self.calibration(model), self.targets, model)
        if request.route == "cloud":
            return self._only_cloud(request)
        kept = self._stays(request)
        if kept is not None:
            local = start(request, self._trace_kind(judge))
            return JudgedReply(self, local, judge, Decision(self._policy.name, "local", reasons=kept))
        self.targets.begin()
        if self._ledger is not None:
            self._ledger.count()
        judge.strain = self._strain()
        decision = self._policy.begin(judge)
        decision = replace(decision, estimated_latency_ms=self.latency_ms(decision.route))
        return HybridReply(self, request, start, self._policy, judge, decision)

    def _trace_kind(self, judge: RequestJudge) -> TraceKind:
        return "states" if self.settings.states and judge.wants_states else "tokens"

    def _stays(self, request: Any) -> tuple[str, ...] | None:
        """Why a request is answered on the device, whatever the policy would say; None if it may leave."""
        if request.route == "local":
            return ("route: the request asks for the device",)
        if self.cloud is None:
            return ()
        kept = self._privacy.keeps_local(request)
        if kept is not None:
            return (f"privacy: {kept}",)
        if self._policy.name == "local_only":
            return ("policy: no request leaves the device",)
        kept = self._redactor.cannot_redact(request)
        if kept is not None:
            return (f"redaction: {kept}",)
        what = _only_here(request)
        return None if what is None else (f"local_feature: {what}",)

    def _only_cloud(self, request: Request) -> Reply:
        decision = self.demand_cloud(request)
        cloud = self.open_cloud(request, decision, None)
        cloud.demanded = decision
        return cloud

    def demand_cloud(self, request: Any) -> Decision:
        """Whether a request that asks for route="cloud" can have it. Raises what stands in the way."""
        if request.privacy == "local_only":
            raise InvalidRequestError('route="cloud" contradicts privacy="local_only"', "route")
        if self.cloud is None:
            raise ConfigError(
                'route="cloud" needs a cloud, and this client has none: set CACTUS_PY_CLOUD_MODEL (and OPENAI_BASE_URL, '
                'OPENAI_API_KEY), or use route="local" or route="auto"'
            )
        kept = self._privacy.keeps_local(request) or self._redactor.cannot_redact(request) or _only_here(request)
        if kept is not None:
            raise InvalidRequestError(f'route="cloud" is not possible: {kept}', "route")
        return Decision("route", "cloud", reasons=("route: the request asks for the cloud",))

    def embed(self, request: EmbeddingRequest, cancelled: Callable[[], bool] | None) -> EmbeddingReply:
        """Embeddings by the cloud."""
        sent, passage = self._leave_demanded(request)
        assert self.cloud is not None
        found: EmbeddingReply = self._passed(passage, lambda cloud: cloud.embed(sent, cancelled))
        return found

    def transcribe(self, request: TranscriptionRequest | TranslationRequest, audio: bytes) -> SpokenText:
        """Speech, written down by the cloud."""
        sent, passage = self._leave_demanded(request, len(audio))
        found: SpokenText = self._passed(passage, lambda cloud: cloud.transcribe(sent, audio))
        return found

    def _leave_demanded(self, request: Any, audio_bytes: int = 0) -> tuple[Any, _Passage]:
        """As `_leave`, for who wants no other answer. Raises CloudError if the request must not be sent."""
        try:
            return self._leave(request, self.demand_cloud(request), audio_bytes)
        except _KeptLocal as error:
            raise CloudError(str(error).partition(": ")[2], "refused") from None

    def _passed(self, passage: _Passage, ask: Callable[[CloudBackend], Any]) -> Any:
        assert self.cloud is not None
        outcome = "cancelled"
        try:
            found = ask(self.cloud)
            outcome = "ok"
            return found
        except CloudError as error:
            outcome = error.kind
            raise
        finally:
            self.settle(passage, outcome, None)

    # ---- the way out ----

    def open_cloud(self, request: Request, decision: Decision, reader: HybridReply | None) -> _CloudPart:
        """Sends a request. Raises CloudError if there is no answer, _KeptLocal (with a reader, else CloudError) if it must not
        be sent."""
        assert self.cloud is not None
        try:
            sent, passage = self._leave(request, decision)
        except _KeptLocal as error:
            if reader is None:
                raise CloudError(str(error).partition(": ")[2], "refused") from None
            raise
        try:
            ask = self.cloud.chat if isinstance(sent, ChatCompletionRequest) else self.cloud.complete
            reply = ask(sent, wait=False)
        except BaseException as error:
            outcome = error.kind if isinstance(error, CloudError) else "timeout" if isinstance(error, TimeoutError) else "error"
            self.settle(passage, outcome, None)
            raise
        return _CloudPart(self, reply, passage)

    def _leave(self, request: Any, decision: Decision, audio_bytes: int = 0) -> tuple[Any, _Passage]:
        """The request as it may leave, accounted for in every book. Raises _KeptLocal if it may not."""
        assert self.cloud is not None
        demanded = decision.policy == "route"
        if not demanded and not self.targets.take():
            raise _KeptLocal("share: max_cloud_share is used up for now")
        estimated = self.cloud.estimate_cost(_length(request), getattr(request, "token_limit", None) or _GUESSED_TOKENS)
        try:
            if self._ledger is not None:
                if estimated is None:
                    raise _KeptLocal("budget: max_cost_per_day is set, and the price of the cloud's model is not known")
                try:
                    reserved = self._ledger.reserve(estimated)
                except ConfigError as error:  # what was spent is not known, so that nothing more may be
                    raise _KeptLocal(f"budget: {_said(error)}") from None
                if not reserved:
                    raise _KeptLocal("budget: max_cost_per_day is spent")
            try:
                sent, restorer = self._redactor.redact(request)
                passage = _Passage(uuid4().hex, estimated, restorer, taken=not demanded)
                if self._audit is not None:
                    self._audit.leaves(
                        passage.id,
                        sent,
                        replace(decision, estimated_cost_usd=estimated).on_wire(),
                        [(endpoint.base_url, endpoint.model) for endpoint in self.cloud.cloud.endpoints],
                        bytes_sent=len(sent.model_dump_json(exclude_none=True).encode("utf-8", "replace")),
                        audio_bytes=audio_bytes,
                        redacted=restorer.counts,
                    )
            except BaseException:
                if self._ledger is not None and estimated is not None:
                    with suppress(ConfigError):
                        self._ledger.settle(estimated, 0.0)
                raise
        except BaseException as error:
            if not demanded:
                self.targets.give_back()
            if isinstance(error, InvalidRequestError) and not demanded:
                raise _KeptLocal(f"redaction: {_said(error)}") from None
            raise
        return sent, passage

    def settle(self, passage: _Passage, outcome: str, reply: Reply | None) -> None:
        """The end of a passage: what it really cost, and how it went."""
        with self._lock:
            if passage.closed:
                return
            passage.closed = True
        cost = None if reply is None else reply.cost_usd
        if outcome not in ("ok", "cancelled") and (reply is None or not reply.stats.completion_tokens):
            cost = 0.0  # who refuses or cannot be reached charges nothing
        if self._ledger is not None and passage.estimated_usd is not None:
            spent = cost if cost is not None else (passage.estimated_usd if outcome in ("ok", "cancelled") else 0.0)
            with suppress(ConfigError):  # the answer is there; the reservation then stands until midnight
                self._ledger.settle(passage.estimated_usd, spent)
        if self._audit is not None:
            model = None if reply is None else reply.model
            self._audit.returned(passage.id, outcome, model=model, cost_usd=cost)
        if passage.taken and outcome not in ("ok", "cancelled"):
            self.targets.give_back()

    # ---- what is known ----

    def calibration(self, model: str) -> Calibration | None:
        """A model's calibration, or the default; None if neither can be read, which is not worth a failed request."""
        with self._lock:
            if model in self._calibrations:
                return self._calibrations[model]
        from .confidence import find

        found: Calibration | None = None
        try:
            found = find(model, self._home)
        except CactusError as error:
            self.last_problem = str(error)
        with self._lock:
            self._calibrations[model] = found
        return found

    def took(self, route: str, began: float) -> None:
        """One answer more, and how long it took."""
        self._latencies[route].append(1000 * (time.monotonic() - began))

    def latency_ms(self, route: str) -> float | None:
        """What an answer took of late; None without one."""
        known = list(self._latencies[route])
        return median(known) if known else None

    def _strain(self) -> float:
        """What thresholds rise by at the moment."""
        if not self.settings.strain:
            return 0.0
        from .signals import Device

        device = Device.now()
        low_battery = bool(device.on_battery) and device.battery is not None and device.battery < _LOW_BATTERY
        loaded = device.load is not None and device.load > _HIGH_LOAD
        short = device.free_bytes is not None and device.free_bytes < _LOW_MEMORY
        return self.settings.strain if low_battery or loaded or short else 0.0


def _only_here(request: Any) -> str | None:
    """What of a request only the device understands."""
    if getattr(request, "logit_bias", None):
        return "logit_bias names tokens of the local model"
    if any(getattr(request, name, None) for name in ("guided_regex", "guided_grammar")):
        return "a regular expression or grammar is enforced on the device only"
    form = getattr(request, "response_format", None)
    if form is not None and form.type in ("regex", "grammar"):
        return "a regular expression or grammar is enforced on the device only"
    if isinstance(request, CompletionRequest) and any(not isinstance(prompt, str) for prompt in request.prompts):
        return "the prompt is given as tokens of the local model"
    if isinstance(request, CompletionRequest) and (request.echo or request.max_tokens == 0):
        return "the prompt itself is asked about"
    return None


def _length(request: Any) -> int:
    """About how many tokens a request has."""
    return 1 + len(request.model_dump_json(include={"messages", "prompt", "input", "tools"}, exclude_none=True)) // 4

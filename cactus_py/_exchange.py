"""One request and its reply, written once for every client: started on a backend, and put, `Delta` by `Delta`, into the
objects of the wire format. Everything here blocks; `_drive` decides in which thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar
from uuid import uuid4

from .backends.base import Delta, FinishReason, Reply, TokenInfo
from .errors import RequestCancelledError
from .prompting.calls import ToolCallDelta
from .types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionRequest,
    Choice,
    ChoiceDelta,
    ChoiceDeltaFunctionCall,
    ChoiceDeltaToolCall,
    ChoiceLogprobs,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionTokensDetails,
    CompletionUsage,
    FunctionCall,
    GenerationRequest,
    PromptTokensDetails,
    Timings,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)

__all__ = ["CHAT", "COMPLETION", "Exchange", "Kind", "Work"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Ended(Protocol):
    """What a backend returns: something that can be ended."""

    def cancel(self) -> None: ...
    def close(self) -> None: ...


Started = TypeVar("Started", bound=_Ended)


class Work(Generic[Started, Result, Item]):
    """One request and its reply. Everything here blocks; only `cancel` may be called from other threads.

    `open` starts the reply; then either `result` or the iteration over wire objects consumes it.
    """

    def __init__(
        self,
        start: Callable[[], Started],
        begin: Callable[[Work[Any, Any, Any]], None],
        end: Callable[[Work[Any, Any, Any]], None],
    ) -> None:
        """`start` makes the reply; `begin` and `end` tell the client that it runs, and that it does no more."""
        self._start = start
        self._begin = begin
        self._end = end
        self._reply: Started | None = None
        self._lock = threading.Lock()
        self._cancelled = False

    @property
    def reply(self) -> Started:
        """The backend's reply."""
        assert self._reply is not None, "open() comes first"
        return self._reply

    def open(self) -> None:
        """Starts the reply. Raises whatever is wrong with the request, before a token is computed."""
        reply = self._start()
        with self._lock:
            self._reply = reply
            cancelled = self._cancelled
        self._begin(self)
        if cancelled:
            self.close()
            raise RequestCancelledError("the request was cancelled")

    def result(self) -> Result:
        """The finished reply, as one object."""
        raise NotImplementedError

    def items(self) -> Iterator[Item]:
        """The reply as wire objects, piece by piece."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Ends the reply, now or as soon as it starts."""
        with self._lock:
            self._cancelled = True
            reply = self._reply
        if reply is not None:
            reply.cancel()

    def close(self) -> None:
        """Ends the reply and frees what it holds. For the consumer."""
        if self._reply is not None:
            self._reply.close()
        self._end(self)


class Exchange(Work[Reply, Result, Item]):
    """Work whose reply are generated tokens."""

    def __init__(
        self,
        request: GenerationRequest,
        kind: Kind[Result, Item],
        start: Callable[[], Reply],
        begin: Callable[[Work[Any, Any, Any]], None],
        end: Callable[[Work[Any, Any, Any]], None],
    ) -> None:
        super().__init__(start, begin, end)
        self.request = request
        self.kind = kind
        self._frame: _Frame | None = None

    @property
    def n_answers(self) -> int:
        """How many answers the reply will have."""
        return _n_answers(self.request)

    @property
    def frame(self) -> _Frame:
        """What all wire objects of the reply have in common."""
        assert self._frame is not None, "open() comes first"
        return self._frame

    def open(self) -> None:
        super().open()
        try:
            self.reply.open()
        except BaseException:
            self.close()
            raise
        self._frame = _Frame(self.reply, self.n_answers)

    def result(self) -> Result:
        """The finished reply, as one object."""
        assert self._reply is not None and self._frame is not None, "open() comes first"
        try:
            answers: dict[int, _Gathered] = {}
            for delta in self._reply.rest():
                answers.setdefault(delta.index, _Gathered()).add(delta)
            return self.kind.whole(self._frame, self.request, sorted(answers.items()))
        finally:
            self.close()

    def items(self) -> Iterator[Item]:
        """The reply as wire objects, piece by piece."""
        assert self._reply is not None and self._frame is not None, "open() comes first"
        try:
            frame, kind, request = self._frame, self.kind, self.request
            while deltas := self._reply.read():
                for delta in deltas:
                    frame.n_open -= delta.finish_reason is not None
                    yield from kind.pieces(frame, request, delta, is_last=frame.n_open == 0)
            if request.stream_options is not None and request.stream_options.include_usage:
                yield kind.usage(frame)
        finally:
            self.close()

    def batches(self) -> Iterator[list[Delta]]:
        """The reply as the backend makes it, for one who writes the wire format: whatever is there, in one go."""
        assert self._reply is not None, "open() comes first"
        try:
            while deltas := self._reply.read():
                yield deltas
        finally:
            self.close()


def _n_answers(request: GenerationRequest) -> int:
    prompts = len(request.prompts) if isinstance(request, CompletionRequest) else 1
    return prompts * (request.n or 1)


class _Gathered:
    """All that came of one answer."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.tokens: list[TokenInfo] = []
        self.thought_tokens: list[TokenInfo] = []
        self.calls: dict[int, tuple[str, str, list[str]]] = {}  # id, name and pieces of the arguments
        self.finish_reason: FinishReason = "stop"

    def add(self, delta: Delta) -> None:
        if delta.replaces:
            self.__init__()  # type: ignore[misc]
        if delta.reasoning:
            self.thoughts.append(delta.text)
            self.thought_tokens += delta.tokens
        else:
            self.texts.append(delta.text)
            self.tokens += delta.tokens
        call = delta.tool_call
        if call is not None:
            self.calls.setdefault(call.index, (call.id or "", call.name or "", []))[2].append(call.arguments)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason


class _Frame:
    """What all wire objects of one reply have in common."""

    def __init__(self, reply: Reply, n_answers: int) -> None:
        self._reply = reply
        self._n_answers = n_answers
        self.n_open = n_answers  # answers that have not ended
        self._key = uuid4().hex
        self._created = int(time.time())
        self.begun: set[int] = set()  # answers whose role was announced
        self.offsets: dict[int, int] = {}  # characters of an answer that were already covered by tokens

    def head(self, prefix: str) -> dict[str, Any]:
        """Fields for a reply or a chunk."""
        reply = self._reply
        return {
            "id": f"{prefix}-{self._key}",
            "created": self._created,
            "model": reply.model,
            "route": reply.route,
            "backend": reply.backend,
        }

    def verdict(self) -> dict[str, Any]:
        """What the router found, once the answers have ended."""
        return {"confidence": self._reply.confidence, "decision": self._reply.decision}

    def usage(self) -> CompletionUsage:
        stats = self._reply.stats
        return CompletionUsage(
            prompt_tokens=stats.prompt_tokens,
            completion_tokens=stats.completion_tokens,
            total_tokens=stats.prompt_tokens + stats.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=stats.cached_tokens),
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=stats.reasoning_tokens),
        )

    def timings(self) -> Timings:
        stats = self._reply.stats
        read = stats.prompt_tokens - stats.cached_tokens
        decoded = max(0, stats.completion_tokens - self._n_answers)  # the first token of each comes with the prompt
        return Timings(
            queue_ms=stats.queue_ms,
            prompt_ms=stats.prompt_ms,
            decode_ms=stats.decode_ms,
            prompt_tok_s=1000 * read / stats.prompt_ms if stats.prompt_ms > 0 else None,
            decode_tok_s=1000 * decoded / stats.decode_ms if stats.decode_ms > 0 else None,
            drafted_tokens=stats.drafted_tokens,
            accepted_tokens=stats.accepted_tokens,
        )


class Kind(Generic[Result, Item]):
    """How deltas become the wire objects of one endpoint."""

    def whole(self, frame: _Frame, request: Any, answers: Sequence[tuple[int, _Gathered]]) -> Result:
        raise NotImplementedError

    def pieces(self, frame: _Frame, request: Any, delta: Delta, *, is_last: bool) -> Iterator[Item]:
        raise NotImplementedError

    def usage(self, frame: _Frame) -> Item:
        raise NotImplementedError


class _ChatKind(Kind[ChatCompletion, ChatCompletionChunk]):
    def whole(self, frame: _Frame, request: ChatCompletionRequest, answers: Sequence[tuple[int, _Gathered]]) -> ChatCompletion:
        choices = [
            Choice(
                index=index,
                message=self._message(request, answer),
                logprobs=self._logprobs(request, answer.tokens, answer.thought_tokens),
                finish_reason=_ending(request, answer.finish_reason),
            )
            for index, answer in answers
        ]
        return ChatCompletion(
            **frame.head("chatcmpl"), **frame.verdict(), choices=choices, usage=frame.usage(), timings=frame.timings()
        )

    @staticmethod
    def _message(request: ChatCompletionRequest, answer: _Gathered) -> ChatCompletionMessage:
        text: str | None = "".join(answer.texts)
        message = ChatCompletionMessage(content=text, reasoning_content="".join(answer.thoughts) or None)
        if answer.calls:
            functions = [(key, FunctionCall(name=name, arguments="".join(parts))) for key, name, parts in answer.calls.values()]
            message.content = text or None
            if request.functions:
                message.function_call = functions[0][1]
            else:
                message.tool_calls = [ToolCall(id=key, function=function) for key, function in functions]
        return message

    def pieces(
        self, frame: _Frame, request: ChatCompletionRequest, delta: Delta, *, is_last: bool
    ) -> Iterator[ChatCompletionChunk]:
        head = frame.head("chatcmpl")
        if delta.replaces and delta.index in frame.begun:
            void = ChunkChoice(index=delta.index, delta=ChoiceDelta(content=""))
            yield ChatCompletionChunk(**head, choices=[void], replaces=True)
        if delta.index not in frame.begun:
            frame.begun.add(delta.index)
            opening = ChoiceDelta(role="assistant", content=None if delta.tool_call is not None else "")
            yield ChatCompletionChunk(**head, choices=[ChunkChoice(index=delta.index, delta=opening)])
        if delta.text or delta.tokens or delta.tool_call is not None:
            if delta.tool_call is not None:
                added, logprobs = self._called(request, delta.tool_call), self._logprobs(request, delta.tokens)
            elif delta.reasoning:
                added, logprobs = ChoiceDelta(reasoning_content=delta.text), self._logprobs(request, (), delta.tokens)
            else:
                added, logprobs = ChoiceDelta(content=delta.text), self._logprobs(request, delta.tokens)
            choice = ChunkChoice(index=delta.index, delta=added, logprobs=logprobs)
            yield ChatCompletionChunk(**head, choices=[choice])
        if delta.finish_reason is not None:
            ending = _ending(request, delta.finish_reason)
            choice = ChunkChoice(index=delta.index, delta=ChoiceDelta(), finish_reason=ending)
            last = {**frame.verdict(), "timings": frame.timings()} if is_last else {}
            yield ChatCompletionChunk(**head, choices=[choice], **last)

    @staticmethod
    def _called(request: ChatCompletionRequest, call: ToolCallDelta) -> ChoiceDelta:
        function = ChoiceDeltaFunctionCall(name=call.name, arguments=call.arguments)
        if request.functions:
            return ChoiceDelta(function_call=function)
        kind: Literal["function"] | None = None if call.id is None else "function"
        return ChoiceDelta(tool_calls=[ChoiceDeltaToolCall(index=call.index, id=call.id, type=kind, function=function)])

    def usage(self, frame: _Frame) -> ChatCompletionChunk:
        return ChatCompletionChunk(**frame.head("chatcmpl"), choices=[], usage=frame.usage())

    @staticmethod
    def _logprobs(
        request: ChatCompletionRequest, tokens: Sequence[TokenInfo], thought: Sequence[TokenInfo] = ()
    ) -> ChoiceLogprobs | None:
        if not request.logprobs:
            return None

        def top(info: TokenInfo) -> TopLogprob:
            return TopLogprob(token=info.token, bytes=list(info.raw), logprob=info.logprob or 0.0)

        def entries(infos: Sequence[TokenInfo]) -> list[TokenLogprob]:
            return [
                TokenLogprob(
                    token=info.token,
                    bytes=list(info.raw),
                    logprob=info.logprob or 0.0,
                    top_logprobs=[top(other) for other in info.top],
                )
                for info in infos
            ]

        return ChoiceLogprobs(content=entries(tokens), reasoning_content=entries(thought) if thought else None)


def _ending(
    request: ChatCompletionRequest, reason: FinishReason
) -> Literal["stop", "length", "tool_calls", "content_filter", "function_call"]:
    """Why an answer ended, in the words of the request: `functions` are what tools were called before."""
    return "function_call" if reason == "tool_calls" and request.functions else reason


class _CompletionKind(Kind[Completion, Completion]):
    def whole(self, frame: _Frame, request: CompletionRequest, answers: Sequence[tuple[int, _Gathered]]) -> Completion:
        choices = [
            CompletionChoice(
                index=index,
                text="".join(answer.texts),
                logprobs=self._logprobs(frame, request, index, answer.tokens),
                finish_reason="stop" if answer.finish_reason == "tool_calls" else answer.finish_reason,
            )
            for index, answer in answers
        ]
        return Completion(
            **frame.head("cmpl"), **frame.verdict(), choices=choices, usage=frame.usage(), timings=frame.timings()
        )

    def pieces(self, frame: _Frame, request: CompletionRequest, delta: Delta, *, is_last: bool) -> Iterator[Completion]:
        if delta.replaces:
            void = CompletionChoice(index=delta.index, text="")
            frame.offsets.pop(delta.index, None)
            yield Completion(**frame.head("cmpl"), choices=[void], replaces=True)
        if not (delta.text or delta.tokens or delta.finish_reason):
            return
        choice = CompletionChoice(
            index=delta.index,
            text=delta.text,
            logprobs=self._logprobs(frame, request, delta.index, delta.tokens),
            finish_reason="stop" if delta.finish_reason == "tool_calls" else delta.finish_reason,
        )
        last = {**frame.verdict(), "timings": frame.timings()} if is_last else {}
        yield Completion(**frame.head("cmpl"), choices=[choice], **last)

    def usage(self, frame: _Frame) -> Completion:
        return Completion(**frame.head("cmpl"), choices=[], usage=frame.usage())

    @staticmethod
    def _logprobs(
        frame: _Frame, request: CompletionRequest, index: int, tokens: Sequence[TokenInfo]
    ) -> CompletionLogprobs | None:
        if request.logprobs is None:
            return None
        offset = frame.offsets.get(index, 0)
        logprobs = CompletionLogprobs(top_logprobs=[] if request.logprobs else None)
        for info in tokens:
            logprobs.tokens.append(_spelled(info))
            logprobs.token_logprobs.append(info.logprob)
            logprobs.text_offset.append(offset)
            if logprobs.top_logprobs is not None:
                top = {_spelled(other): other.logprob or 0.0 for other in info.top}
                if info.logprob is not None:
                    top.setdefault(_spelled(info), info.logprob)
                logprobs.top_logprobs.append(top if info.logprob is not None else None)
            if not info.hidden:
                offset += sum(byte & 0xC0 != 0x80 for byte in info.raw)  # a character begins with any byte but a continuation
        frame.offsets[index] = offset
        return logprobs


def _spelled(info: TokenInfo) -> str:
    """A token as this endpoint names it: by its text, or, where its bytes are no text, by those, so that names differ."""
    try:
        return info.raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in info.raw)


CHAT = _ChatKind()
COMPLETION = _CompletionKind()

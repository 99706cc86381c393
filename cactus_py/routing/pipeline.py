"""Several models one after the other, as one model: `[pipelines.NAME] steps = [...]` in the configuration.

Two kinds of step are known. A transcribe step, which can only be the first, turns the sound in the conversation's user
messages into text. A chat step answers the conversation, and its answer is the user's message for the next step; its `system`
text goes in front. The last step obeys the request (number of answers, limits, tools, log-probabilities, streaming); those
before it give one answer each, sampled as the request says, and what they think is not passed on.

A reply's cost is the sum of its steps; cancelling and time-outs reach whichever step is at work. Steps before the last run
while the reply is read, so what is wrong with them may come as an error of its first piece.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..backends.base import Delta, Reply, ReplyStats, SpokenText
from ..errors import ConfigError, InvalidRequestError, RequestCancelledError, RequestTimeoutError
from ..types.chat import ChatCompletionRequest, SystemMessage, TextPart, UserMessage

if TYPE_CHECKING:
    from ..config import PipelineSettings, StepSettings

__all__ = ["Pipeline"]

Started = TypeVar("Started", Reply, SpokenText)
StartChat = Callable[[ChatCompletionRequest], Reply]
StartText = Callable[["StepSettings", bytes, "float | None"], SpokenText]  # of an audio file, within seconds


class Pipeline:
    """A named pipeline. Raises ConfigError if its steps cannot follow each other."""

    def __init__(self, name: str, settings: PipelineSettings) -> None:
        self.name = name
        self.steps = tuple(settings.steps)
        for position, step in enumerate(self.steps):
            if step.task == "transcribe" and position > 0:
                raise ConfigError(f'step {position + 1} of the pipeline "{name}" transcribes; only the first one can')
            if step.task == "transcribe" and len(self.steps) == 1:
                raise ConfigError(f'the pipeline "{name}" only transcribes; a chat model must follow')

    def chat(self, request: ChatCompletionRequest, *, hears: bool, start: StartChat, transcribe: StartText) -> Reply:
        """The reply of the last step. hears: whether the first step transcribes. Raises what is wrong with the request, as far
        as the first step sees it."""
        if hears and len(self.steps) == 1:
            raise InvalidRequestError(f'the pipeline "{self.name}" only transcribes; a chat model must follow', "model")
        return _PipelineReply(self.name, self.steps, request, hears, start, transcribe)


class _PipelineReply(Reply):
    """Runs the steps while it is read. Its model is the one whose answer is read, once that has begun."""

    def __init__(
        self,
        name: str,
        steps: Sequence[StepSettings],
        request: ChatCompletionRequest,
        hears: bool,
        start: StartChat,
        transcribe: StartText,
    ) -> None:
        self.model = name
        self.backend = "pipeline"
        self.route: Literal["local", "cloud"] = "local"
        self._steps = steps
        self._request = request
        self._start = start
        self._transcribe = transcribe
        self._deadline = None if request.timeout is None else time.monotonic() + request.timeout
        self._lock = threading.Lock()  # guards the two below
        self._current: Reply | SpokenText | None = None
        self._cancelled = False
        self._spent = ReplyStats()  # by the steps that ended
        self._work: Iterator[Delta]
        if hears:
            sounds = _sounds(request)  # damaged sound is refused before anything runs
            self._work = self._heard(sounds)
        else:
            self._work = self._answered(0, self._begin(0, request))

    # ---- steps ----

    def _heard(self, sounds: dict[tuple[int, int], bytes]) -> Iterator[Delta]:
        texts: dict[tuple[int, int], str] = {}
        for place, sound in sounds.items():
            try:
                spoken = self._at_work(self._transcribe(self._steps[0], sound, self._seconds_left()))
                texts[place] = "".join(piece.segment.text for piece in spoken).strip()
            except InvalidRequestError as error:
                if error.param != "file":
                    raise
                i, j = place
                param = f"messages[{i}].content[{j}].input_audio"
                raise InvalidRequestError(f"{param}: {error}", param) from error
            self._end()
        request = self._request.model_copy(update={"messages": _with_texts(self._request.messages, texts)})
        yield from self._answered(1, self._begin(1, request))

    def _answered(self, first: int, reply: Reply) -> Iterator[Delta]:
        """The answer of the last step, to which those from `first` on lead. `reply` is that of the first."""
        for position in range(first, len(self._steps)):
            if position == len(self._steps) - 1:
                self.model, self.backend, self.route = reply.model, reply.backend, reply.route
                yield from reply
                self._end()
                return
            text = "".join(delta.text for delta in reply if not delta.reasoning)
            self._end()
            message = UserMessage(role="user", content=text)
            reply = self._begin(position + 1, self._request.model_copy(update={"messages": [message]}))

    def _begin(self, position: int, request: ChatCompletionRequest) -> Reply:
        """Starts a chat step on a conversation."""
        step = self._steps[position]
        changes: dict[str, Any] = {"model": step.model, "timeout": self._seconds_left()}
        if step.temperature is not None:
            changes["temperature"] = step.temperature
        if step.system is not None:
            changes["messages"] = _instructed(request.messages, step.system)
        if position < len(self._steps) - 1:
            changes |= dict.fromkeys(_OF_THE_LAST_STEP) | {"max_tokens": step.max_tokens}
        return self._at_work(self._start(request.model_copy(update=changes)))

    def _at_work(self, started: Started) -> Started:
        """Makes it what cancelling reaches."""
        with self._lock:
            self._current = started
            cancelled = self._cancelled
        if cancelled:
            started.cancel()
        return started

    def _end(self) -> None:
        """Closes the step that is at work, and adds up what it cost."""
        with self._lock:
            ended, self._current = self._current, None
        if ended is not None:
            ended.close()
        if isinstance(ended, Reply):
            self._spent = _sum(self._spent, ended.stats)

    def _seconds_left(self) -> float | None:
        """For the next step. Raises RequestTimeoutError if there are none, RequestCancelledError if nobody wants it."""
        with self._lock:
            if self._cancelled:
                raise RequestCancelledError("the request was cancelled, or its client was closed")
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RequestTimeoutError("the request was not answered within its timeout; allow more time or fewer tokens")
        return left

    # ---- as a reply ----

    def __next__(self) -> Delta:
        try:
            return next(self._work)
        except BaseException:  # StopIteration included
            self._end()
            raise

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            reply = self._current
        if reply is not None:
            reply.cancel()

    def close(self) -> None:
        with self._lock:
            self._cancelled = True
        self._end()
        self._work = iter(())

    @property
    def stats(self) -> ReplyStats:
        with self._lock:
            current = self._current
        return _sum(self._spent, current.stats) if isinstance(current, Reply) else self._spent


# What a request asks of the answer that its sender sees, and of no other.
_OF_THE_LAST_STEP = (
    "n",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "logit_bias",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
    "stream_options",
)


def _sum(one: ReplyStats, other: ReplyStats) -> ReplyStats:
    return ReplyStats(**{field.name: getattr(one, field.name) + getattr(other, field.name) for field in fields(ReplyStats)})


def _instructed(messages: Sequence[Any], system: str) -> list[Any]:
    """The conversation with instructions in front; of what it begins with itself they become the beginning, as most templates
    take one system message."""
    first = messages[0]
    if first.role not in ("system", "developer"):
        return [SystemMessage(role="system", content=system), *messages]
    content = first.content
    joined = f"{system}\n\n{content}" if isinstance(content, str) else [TextPart(text=system), *content]
    return [first.model_copy(update={"content": joined}), *messages[1:]]


def _sounds(request: ChatCompletionRequest) -> dict[tuple[int, int], bytes]:
    """Audio files in the user's messages, by message and part. Raises InvalidRequestError for what is no base64."""
    found: dict[tuple[int, int], bytes] = {}
    for i, message in enumerate(request.messages):
        if message.role != "user" or isinstance(message.content, str):
            continue
        for j, part in enumerate(message.content):
            if part.type != "input_audio":
                continue
            param = f"messages[{i}].content[{j}].input_audio.data"
            try:
                sound = base64.b64decode(part.input_audio.data, validate=True)
            except (binascii.Error, ValueError):
                raise InvalidRequestError(f"{param} is not base64", param) from None
            if not sound:
                raise InvalidRequestError(f"{param} is empty", param)
            found[i, j] = sound
    return found


def _with_texts(messages: Sequence[Any], texts: dict[tuple[int, int], str]) -> list[Any]:
    """The conversation with text in place of sound."""
    changed = []
    for i, message in enumerate(messages):
        if any(place[0] == i for place in texts):
            parts = [TextPart(text=texts[i, j]) if (i, j) in texts else part for j, part in enumerate(message.content)]
            message = message.model_copy(update={"content": parts})
        changed.append(message)
    return changed

"""Replies as bytes: JSON as OpenAI writes it, and the events of a stream.

OpenAI leaves out what has no value, but for some fields that are then null, and `usage` in the chunks of a stream that will
end with it. A stream is made of `data: {…}` events, each followed by an empty line, and ends with `data: [DONE]`.

The chunk that says "one more piece of text" is nearly all that a stream consists of. Its JSON is put together from a head and a
tail that never change and the escaped text; every other chunk is a wire object that is dumped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from .._exchange import CHAT, Exchange
from ..backends.base import Delta
from ..types import (
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    ChunkChoice,
    CompletionChoice,
    CompletionLogprobs,
    TokenLogprob,
    TopLogprob,
)

try:  # what json.dumps uses; the public function would first have to look at the kind of value
    from _json import encode_basestring as _quoted
except ImportError:  # an interpreter without the C module
    from json.encoder import py_encode_basestring as _quoted

__all__ = ["DONE", "EventWriter", "dumps", "error_event", "jsonable"]

DONE = b"data: [DONE]\n\n"

_NULL: dict[type, frozenset[str]] = {  # fields that are there even without a value
    ChatCompletionMessage: frozenset({"content", "refusal"}),
    Choice: frozenset({"logprobs"}),
    ChunkChoice: frozenset({"logprobs", "finish_reason"}),
    CompletionChoice: frozenset({"logprobs", "finish_reason"}),
    CompletionLogprobs: frozenset({"top_logprobs"}),
    TokenLogprob: frozenset({"bytes"}),
    TopLogprob: frozenset({"bytes"}),
}
_NONE: frozenset[str] = frozenset()


def jsonable(value: Any) -> Any:
    """A wire object as what JSON can hold, without what has no value."""
    if isinstance(value, BaseModel):
        keep = _NULL.get(type(value), _NONE)
        fields = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        return {name: jsonable(item) for name, item in fields.items() if item is not None or name in keep}
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], (float, int)):  # numbers only, and often many
            return value
        return [jsonable(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    return value


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8. Lone surrogates, which no text of a model holds, become question marks."""
    return json.dumps(jsonable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def error_event(body: Mapping[str, Any]) -> bytes:
    """The event that tells of a failure once the stream has begun."""
    return b"data: " + dumps(body) + b"\n\n"


class EventWriter:
    """Writes the events of one reply."""

    def __init__(self, exchange: Exchange[Any, Any]) -> None:
        """`exchange` was opened."""
        self._exchange, self._reply = exchange, exchange.reply
        request = exchange.request
        self._frame, self._kind, self._request = exchange.frame, exchange.kind, request
        self._with_usage = request.stream_options is not None and request.stream_options.include_usage
        self._plain = getattr(request, "logprobs", None) in (
            None,
            False,
        )  # no chunk but the last of an answer says more than text
        self._is_chat = exchange.kind is CHAT
        self._route = self._reply.route
        self._opened: dict[
            tuple[int, bool], tuple[str, str]
        ] = {}  # of an answer, or of its reasoning: before and after the text

    def write(self, deltas: Sequence[Delta]) -> bytes:
        """The events of these deltas."""
        parts: list[str] = []
        for delta in deltas:
            if self._reply.route != self._route:  # what was laid by says where answers come from
                self._route = self._reply.route
                self._opened.clear()
            says_more = delta.finish_reason is not None or delta.replaces or delta.tool_call is not None
            if self._plain and not delta.tokens and not says_more:
                if not delta.text:
                    if not self._is_chat or delta.index in self._frame.begun:
                        continue
                elif (around := self._opened.get((delta.index, delta.reasoning))) is not None:
                    parts += (around[0], _quoted(delta.text), around[1])
                    continue
                elif not self._is_chat or delta.index in self._frame.begun:
                    before, after = self._around(delta)
                    self._opened[delta.index, delta.reasoning] = before, after
                    parts += (before, _quoted(delta.text), after)
                    continue
            parts += self.objects(delta)
        return "".join(parts).encode("utf-8", "replace")

    @property
    def pace(self) -> object:
        """What the reply keeps step with; None if it needs a thread of its own."""
        return self._reply.pace

    def poll(self, wait_seconds: float) -> tuple[list[tuple[int, bytes]], bool]:
        """The next events and how many tokens they bring, if there are some within a time; and whether they are the last."""
        try:
            deltas = self._reply.poll(wait_seconds)
            if deltas is None:
                return [], False
            if deltas:
                data = self.write(deltas)
                return ([(len(deltas), data)] if data else []), False
        except BaseException:
            self._exchange.close()
            raise
        self._exchange.close()
        return [(0, self.end())], True

    def objects(self, delta: Delta) -> list[str]:
        """The events of a delta by way of wire objects: what `write` does for those that are not plain."""
        self._frame.note(delta)
        is_last = self._frame.n_open == 0
        return [self._event(chunk) for chunk in self._kind.pieces(self._frame, self._request, delta, is_last=is_last)]

    def end(self) -> bytes:
        """What follows the last delta."""
        usage = self._event(self._kind.usage(self._frame)).encode() if self._with_usage else b""
        return usage + DONE

    def _event(self, chunk: BaseModel) -> str:
        fields: dict[str, Any] = jsonable(chunk)
        if self._with_usage and "usage" not in fields:
            fields["usage"] = None
        if isinstance(chunk, ChatCompletionChunk):
            for choice in fields["choices"]:
                if "role" in choice["delta"]:
                    choice["delta"].setdefault("refusal", None)
        return f"data: {json.dumps(fields, ensure_ascii=False, separators=(',', ':'), allow_nan=False)}\n\n"

    def _around(self, delta: Delta) -> tuple[str, str]:
        """What stands before and after the text in the event of a plain delta, found by writing one."""
        mark = "\x00\x01\x00"  # escaped as nothing else in an event is
        chunk = next(
            iter(
                self._kind.pieces(
                    self._frame, self._request, Delta(delta.index, mark, (), None, delta.reasoning), is_last=False
                )
            )
        )
        before, after = self._event(chunk).split(_quoted(mark))
        return before, after

"""Requests as the JSON that OpenAI's protocol has for them, and its replies as `Delta`s.

What is sent holds OpenAI's fields only. What comes is hostile: whatever breaks the protocol raises ValueError with a few words
that repeat nothing of it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from pydantic import ValidationError

from ..errors import CloudError, InvalidRequestError
from ..prompting.calls import ToolCallDelta
from ..types import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    TranscriptionRequest,
    TranscriptionSegment,
    TranscriptionWord,
    TranslationRequest,
)
from ..types.audio import LANGUAGES
from .base import Delta, FinishReason, SpokenSegment, TokenInfo
from .prices import tokens_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ChatReader",
    "CompletionReader",
    "Reader",
    "chat_body",
    "completion_body",
    "embedding_body",
    "parsed",
    "speech_form",
    "spoken",
    "vectors",
]

_MAX_PICTURE_BYTES = 20 << 20
_MAX_CALLS = 128
_COMMON = ("temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "user")
_CHAT = (
    "logprobs",
    "top_logprobs",
    "tool_choice",
    "parallel_tool_calls",
    "function_call",
    "prediction",
    "reasoning_effort",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
)
_COMPLETION = ("max_tokens", "logprobs", "suffix", "best_of")
_ENDINGS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


# ---- requests ----------------------------------------------------------------------------------------------------------


def chat_body(request: ChatCompletionRequest, model: str, *, is_openai: bool) -> dict[str, Any]:
    """The JSON of a chat request. Raises CloudError "refused" for what only a local model can do, and InvalidRequestError for
    a picture that cannot be read."""
    if request.audio is not None or "audio" in (request.modalities or ()):
        raise CloudError("spoken answers are not passed on from a cloud; ask for text", "refused")
    messages = [_message(message, i, is_openai) for i, message in enumerate(request.messages)]
    body = {"model": model, "messages": messages, **_head(request), **_given(request, _CHAT)}
    if (
        request.token_limit is not None
    ):  # newer models of OpenAI refuse the old name, most other servers do not know the new one
        body["max_completion_tokens" if is_openai else "max_tokens"] = request.token_limit
    for name in ("tools", "functions"):
        items = getattr(request, name)
        if items is not None:
            body[name] = [item.model_dump(exclude_none=True) for item in items]
    return body


def completion_body(request: CompletionRequest, model: str) -> dict[str, Any]:
    """The JSON of a plain completion."""
    if request.route != "cloud" and any(not isinstance(prompt, str) for prompt in request.prompts):
        raise CloudError("prompts of token ids mean nothing to another model", "refused")
    body = {"model": model, "prompt": request.prompt, **_head(request), **_given(request, _COMPLETION)}
    if request.echo:
        body["echo"] = True
    return body


def embedding_body(request: EmbeddingRequest, model: str) -> dict[str, Any]:
    """The JSON of a request for embeddings."""
    if request.route != "cloud" and not isinstance(request.inputs[0], str):
        raise CloudError("texts of token ids mean nothing to another model", "refused")
    return {"model": model, "input": request.inputs, "encoding_format": "float", **_given(request, ("dimensions", "user"))}


def _given(request: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names if getattr(request, name) is not None}


def _head(request: GenerationRequest) -> dict[str, Any]:
    head = {"stream": True, "stream_options": {"include_usage": True}, **_given(request, _COMMON)}
    if request.logit_bias is not None and request.route == "cloud":  # else the ids are those of the local model
        head["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    form = _form(request)
    if form is not None:
        head["response_format"] = form
    return head


def _form(request: GenerationRequest) -> dict[str, Any] | None:
    """What form the answer shall have, as far as OpenAI has a word for it."""
    asked = request.response_format
    kind = asked.type if asked is not None else "text"
    for name in ("guided_regex", "guided_choice", "guided_grammar"):
        if getattr(request, name) is not None:
            kind = name  # type: ignore[assignment]
    if kind not in ("text", "json_object", "json_schema"):
        raise CloudError(f"only a local model can be held to {kind.removeprefix('guided_')}", "refused")
    if request.guided_json is not None:
        try:
            schema = json.loads(request.guided_json) if isinstance(request.guided_json, str) else request.guided_json
        except (ValueError, RecursionError):
            raise InvalidRequestError("guided_json is not valid JSON", "guided_json") from None
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if asked is None or asked.type == "text":
        return None
    form: dict[str, Any] = {"type": asked.type}
    if asked.json_schema is not None:
        form["json_schema"] = {"name": "answer", **asked.json_schema.model_dump(by_alias=True, exclude_none=True)}
    return form


def _message(message: Any, position: int, is_openai: bool) -> dict[str, Any]:
    found: dict[str, Any] = message.model_dump(exclude_none=True)
    if found["role"] == "function":
        found.setdefault("content", None)  # must be there, even without a value
    if found["role"] == "developer" and not is_openai:
        found["role"] = "system"
    for name in ("reasoning_content", "annotations"):  # parts of replies, which requests may not hold everywhere
        found.pop(name, None)
    content = found.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if part.get("type") == "image_url":
            where = f"messages[{position}].content[{number}].image_url"
            part["image_url"]["url"] = _picture(part["image_url"]["url"], where)
    return found


def _picture(url: str, where: str) -> str:
    """A URL of a picture that the cloud can read: a local file becomes a data: URL."""
    if url[:5].lower() == "data:" or url[:8].lower().startswith(("http://", "https://")):
        return url
    path = Path(unquote(urlsplit(url).path) if url[:7].lower() == "file://" else url)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PICTURE_BYTES + 1)
    except (OSError, ValueError):
        raise InvalidRequestError(f"{where} is neither a URL nor a file that can be read", where) from None
    kind = (
        "png" if data.startswith(b"\x89PNG\r\n\x1a\n")
        else "jpeg" if data.startswith(b"\xff\xd8\xff")
        else "gif" if data.startswith((b"GIF87a", b"GIF89a"))
        else "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP"
        else None
    )  # fmt: skip
    if kind is None or len(data) > _MAX_PICTURE_BYTES:
        limit = _MAX_PICTURE_BYTES >> 20
        raise InvalidRequestError(f"{where} should be a PNG, JPEG, GIF or WebP picture of at most {limit} MiB", where)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# ---- replies -----------------------------------------------------------------------------------------------------------


def parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("what is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("JSON that is no object")
    return value


def _clean(value: Any) -> str:
    """A text; lone surrogates, which JSON can spell, become U+FFFD."""
    if value is None:
        return ""
    if isinstance(value, list):  # parts, as some servers have them
        return "".join(_clean(part.get("text")) for part in value if isinstance(part, dict))
    if not isinstance(value, str):
        raise ValueError("a text that is none")
    try:
        value.encode("utf-8")
        return value
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else 0


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} that is no object")
    return value


def _token(text: Any, logprob: Any, data: Any = None, top: tuple[TokenInfo, ...] = ()) -> TokenInfo:
    spelled = _clean(text)
    raw = spelled.encode("utf-8")
    if isinstance(data, list) and all(type(byte) is int and 0 <= byte < 256 for byte in data):
        raw = bytes(data)
    if logprob is not None and (
        isinstance(logprob, bool) or not isinstance(logprob, (int, float)) or not math.isfinite(logprob)
    ):
        raise ValueError("a log-probability that is no number")
    return TokenInfo(-1, raw, None if logprob is None else float(logprob), top)  # ids of the cloud's tokenizer are not told


class Reader:
    """Reads the chunks of one reply, or all of it as one object. `usage`: tokens of prompt, of them cached, of the answers,
    of them thought; None as long as the server said nothing."""

    def __init__(self, n_answers: int, want_logprobs: bool) -> None:
        self.usage: tuple[int, int, int, int] | None = None
        self.n_tokens = 0  # of answers, estimated
        self._n_answers = n_answers
        self._want_logprobs = want_logprobs
        self._ended: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every answer has ended."""
        return len(self._ended) == self._n_answers

    @property
    def missing(self) -> int:
        return self._n_answers - len(self._ended)

    def read(self, reply: Mapping[str, Any]) -> list[Delta]:
        """What a chunk or a whole reply adds."""
        usage = reply.get("usage")
        if isinstance(usage, dict):
            details = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
            cached, thought = (item if isinstance(item, dict) else {} for item in details)
            self.usage = (
                _count(usage.get("prompt_tokens")),
                _count(cached.get("cached_tokens")),
                _count(usage.get("completion_tokens")),
                _count(thought.get("reasoning_tokens")),
            )
        choices = reply.get("choices")
        if choices is None:
            choices = []
        if not isinstance(choices, list):
            raise ValueError("choices that are no list")
        deltas: list[Delta] = []
        for choice in choices:
            choice = _object(choice, "a choice")
            index = choice.get("index", 0)
            if type(index) is not int or not 0 <= index < self._n_answers:
                raise ValueError("an answer that was not asked for")
            if index in self._ended:
                continue
            found = self._added(index, choice)
            for delta in found:
                added = delta.text + (delta.tool_call.arguments if delta.tool_call is not None else "")
                self.n_tokens += tokens_in(added)
            deltas += found
            reason = choice.get("finish_reason")
            if reason is not None:
                if not isinstance(reason, str):
                    raise ValueError("a finish_reason that is no text")
                self._ended.add(index)
                deltas.append(Delta(index, "", finish_reason=_ENDINGS.get(reason, "stop")))
        return deltas

    def _added(self, index: int, choice: Mapping[str, Any]) -> list[Delta]:
        raise NotImplementedError


class ChatReader(Reader):
    def __init__(self, n_answers: int, want_logprobs: bool) -> None:
        super().__init__(n_answers, want_logprobs)
        self._calls: set[tuple[int, int]] = set()  # that have begun

    def _added(self, index: int, choice: Mapping[str, Any]) -> list[Delta]:
        added = choice.get("delta", choice.get("message"))
        added = {} if added is None else _object(added, "a delta")
        deltas: list[Delta] = []
        thought = _clean(added.get("reasoning_content", added.get("reasoning")))
        tokens, thought_tokens = self._tokens(choice.get("logprobs"))
        if thought or thought_tokens:
            deltas.append(Delta(index, thought, thought_tokens, reasoning=True))
        text = _clean(added.get("content")) + _clean(added.get("refusal"))
        if text or tokens:
            deltas.append(Delta(index, text, tokens))
        calls = added.get("tool_calls")
        if calls is None and added.get("function_call") is not None:
            calls = [{"index": 0, "function": added["function_call"]}]
        if calls is not None and not isinstance(calls, list):
            raise ValueError("tool_calls that are no list")
        for position, call in enumerate(calls or ()):
            deltas.append(Delta(index, "", tool_call=self._call(index, position, _object(call, "a tool call"))))
        return deltas

    def _call(self, answer: int, position: int, call: Mapping[str, Any]) -> ToolCallDelta:
        index = call.get("index")
        index = position if index is None else index
        if type(index) is not int or not 0 <= index < _MAX_CALLS:
            raise ValueError("a tool call of an impossible index")
        function = call.get("function")
        function = {} if function is None else _object(function, "a function")
        arguments = function.get("arguments")
        arguments = json.dumps(arguments) if isinstance(arguments, dict) else _clean(arguments)
        if (answer, index) in self._calls:
            return ToolCallDelta(index, arguments=arguments)
        name = _clean(function.get("name"))
        if not name:
            raise ValueError("a tool call without a name")
        self._calls.add((answer, index))
        return ToolCallDelta(index, _clean(call.get("id")) or f"call_{uuid4().hex[:24]}", name, arguments)

    def _tokens(self, logprobs: Any) -> tuple[tuple[TokenInfo, ...], tuple[TokenInfo, ...]]:
        if not self._want_logprobs or logprobs is None:
            return (), ()
        logprobs = _object(logprobs, "logprobs")
        content, thought = ((logprobs.get(name) or []) for name in ("content", "reasoning_content"))
        return self._infos(content), self._infos(thought)

    @staticmethod
    def _infos(entries: Any) -> tuple[TokenInfo, ...]:
        found = []
        for entry in _list(entries, "logprobs"):
            entry = _object(entry, "a log-probability")
            others = (_object(other, "an alternative") for other in _list(entry.get("top_logprobs") or [], "alternatives"))
            top = tuple(_token(other.get("token"), other.get("logprob"), other.get("bytes")) for other in others)
            found.append(_token(entry.get("token"), entry.get("logprob"), entry.get("bytes"), top))
        return tuple(found)


class CompletionReader(Reader):
    def _added(self, index: int, choice: Mapping[str, Any]) -> list[Delta]:
        tokens: tuple[TokenInfo, ...] = ()
        logprobs = choice.get("logprobs")
        if self._want_logprobs and logprobs is not None:
            logprobs = _object(logprobs, "logprobs")
            texts = _list(logprobs.get("tokens") or [], "tokens")
            values = _list(logprobs.get("token_logprobs") or [], "log-probabilities")
            tops = _list(logprobs.get("top_logprobs") or [None] * len(texts), "alternatives")
            if not len(texts) == len(values) == len(tops):
                raise ValueError("log-probabilities of another number than tokens")
            tokens = tuple(
                _token(text, value, _spelled_bytes(text), self._top(top))
                for text, value, top in zip(texts, values, tops, strict=True)
            )
        text = _clean(choice.get("text"))
        return [Delta(index, text, tokens)] if text or tokens else []

    @staticmethod
    def _top(top: Any) -> tuple[TokenInfo, ...]:
        items = {} if top is None else _object(top, "alternatives")
        return tuple(_token(text, value, _spelled_bytes(text)) for text, value in items.items())


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} that are no list")
    return value


def _spelled_bytes(text: Any) -> list[int] | None:
    r"""A token that is no text of its own is written as bytes:\xe2\x82"""
    if not isinstance(text, str) or not text.startswith("bytes:\\x"):
        return None
    try:
        return [int(part, 16) for part in text[len("bytes:\\x") :].split("\\x")]
    except ValueError:
        return None


def vectors(reply: Mapping[str, Any], n_texts: int) -> tuple[NDArray[np.float32], int]:
    """The vectors of a reply, made to length 1, and the tokens read for them. Raises ValueError."""
    import numpy as np

    data = _list(reply.get("data"), "embeddings")
    if len(data) != n_texts:
        raise ValueError("another number of vectors than texts")
    rows: list[Any] = [None] * n_texts
    for position, item in enumerate(data):
        item = _object(item, "an embedding")
        index = item.get("index", position)
        if type(index) is not int or not 0 <= index < n_texts or rows[index] is not None:
            raise ValueError("a vector of no text")
        values = item.get("embedding")
        try:
            if isinstance(values, str):
                row = np.frombuffer(base64.b64decode(values, validate=True), "<f4").astype(np.float32)
            else:
                row = np.asarray(values, np.float32)
        except (ValueError, TypeError, OverflowError):
            raise ValueError("a vector that is none") from None
        if row.ndim != 1 or not len(row) or not np.isfinite(row).all():
            raise ValueError("a vector that is none")
        rows[index] = row
    if len({len(row) for row in rows}) != 1:
        raise ValueError("vectors of different lengths")
    found = np.stack(rows)
    lengths = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
    found = (found / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    usage = reply.get("usage")
    return found, _count(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0


# ---- speech ------------------------------------------------------------------------------------------------------------

_MAGIC = ((b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1aE\xdf\xa3", "webm"), (b"ID3", "mp3"), (b"\xff", "mp3"))


def speech_form(request: TranscriptionRequest | TranslationRequest, model: str, audio: bytes) -> dict[str, Any]:
    """The multipart form of a file of sound. Servers tell its format by the ending of its name."""
    ending = next((name for magic, name in _MAGIC if audio.startswith(magic)), "m4a" if audio[4:8] == b"ftyp" else "wav")
    detailed = request.response_format in ("verbose_json", "srt", "vtt") or "whisper" in model
    data: dict[str, Any] = {"model": model, "response_format": "verbose_json" if detailed else "json"}
    for name in ("prompt", "temperature", "language", "chunking_strategy"):
        value = getattr(request, name, None)
        if value is not None:
            data[name] = str(value)
    wanted = getattr(request, "timestamp_granularities", None)
    if wanted:
        data["timestamp_granularities[]"] = list(dict.fromkeys([*wanted, "segment"]))
    return {"data": data, "files": {"file": (f"audio.{ending}", audio)}}


def _number(value: Any) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if good else 0.0


def spoken(reply: Mapping[str, Any]) -> tuple[str, float, list[SpokenSegment]]:
    """Language, seconds and segments of a reply. Raises ValueError."""
    text = reply.get("text")
    if not isinstance(text, str):
        raise ValueError("a transcription without a text")
    usage = reply.get("usage")
    duration_s = _number(reply.get("duration")) or _number(usage.get("seconds") if isinstance(usage, dict) else 0)
    told = str(reply.get("language") or "en").lower()
    language = next((code for code, name in LANGUAGES.items() if told in (code, name)), "en")
    raw = reply.get("segments")
    found: list[TranscriptionSegment] = []
    blank = {"seek": 0, "tokens": [], "temperature": 0.0, "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0}
    for i, segment in enumerate(raw if isinstance(raw, list) else ()):
        try:
            found.append(TranscriptionSegment.model_validate({"id": i, **blank, **segment}))
        except (ValidationError, TypeError):
            raise ValueError("a segment that is none") from None
    if not found:
        found = [TranscriptionSegment.model_validate({"id": 0, "start": 0.0, "end": duration_s, "text": text, **blank})]
    words = []
    for word in reply.get("words") or ():
        try:
            words.append(TranscriptionWord.model_validate(word))
        except ValidationError:
            raise ValueError("a word that is none") from None
    segments = []
    for i, segment in enumerate(found):
        until = found[i + 1].start if i + 1 < len(found) else math.inf
        since = segment.start if i else -math.inf
        segments.append(SpokenSegment(segment, tuple(word for word in words if since <= word.start < until)))
    return language, duration_s, segments

"""`client.audio`: speech as text, in OpenAI's five formats and as a stream of events."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar, overload

from ._drive import Driver
from ._exchange import Work
from .backends.base import SpokenSegment, SpokenText
from .errors import InvalidRequestError
from .types import (
    DurationUsage,
    Transcription,
    TranscriptionRequest,
    TranscriptionStreamEvent,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
    Translation,
    TranslationRequest,
    TranslationVerbose,
)
from .types.audio import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

__all__ = ["Audio", "AudioFile", "SpeechWork", "read_audio"]

# What OpenAI's client takes: bytes, a path object, an open file, or one of these behind a name (and before a media type).
Content = bytes | bytearray | memoryview | os.PathLike[str] | IO[bytes]
AudioFile = Content | tuple[Any, ...]

_Json = TypeVar("_Json", covariant=True)
_Verbose = TypeVar("_Verbose", covariant=True)
_English = TypeVar("_English", covariant=True)
_EnglishVerbose = TypeVar("_EnglishVerbose", covariant=True)
_Text = TypeVar("_Text", covariant=True)
_Streamed = TypeVar("_Streamed", covariant=True)


def read_audio(file: Any) -> bytes:
    """The bytes of a file in any form that OpenAI's client takes. Raises InvalidRequestError."""
    content = file
    if isinstance(file, tuple):
        if len(file) < 2:
            raise InvalidRequestError("file, as a tuple, should be (name, content)", "file")
        content = file[1]
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, os.PathLike):
        try:
            return Path(content).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidRequestError(f"the audio file {os.fspath(content)} cannot be read: {reason}", "file") from error
    if callable(getattr(content, "read", None)):
        try:
            read = content.read()
        except (OSError, ValueError) as error:
            raise InvalidRequestError(f"the audio file cannot be read: {error}", "file") from error
        if isinstance(read, bytes):
            return read
        raise InvalidRequestError("the audio file should be opened in binary mode", "file")
    kind = type(content).__name__
    hint = "; put the path of a file into pathlib.Path()" if isinstance(content, str) else ""
    raise InvalidRequestError(f"file should be bytes, a path object or an open file, not {kind}{hint}", "file")


class SpeechWork(Work[SpokenText, Any, TranscriptionStreamEvent]):
    """Work whose reply is a text from speech."""

    def __init__(
        self,
        request: TranscriptionRequest | TranslationRequest,
        start: Callable[[], SpokenText],
        begin: Callable[[Work[Any, Any, Any]], None],
        end: Callable[[Work[Any, Any, Any]], None],
    ) -> None:
        super().__init__(start, begin, end)
        self._request = request

    def result(self) -> Any:
        assert self._reply is not None, "open() comes first"
        try:
            return _formatted(self._request, self._reply, list(self._reply))
        finally:
            self.close()

    def items(self) -> Iterator[TranscriptionStreamEvent]:
        assert self._reply is not None, "open() comes first"
        reply = self._reply
        try:
            said, held = "", ""
            for spoken in reply:
                text = held + spoken.segment.text
                text = text if said else text.lstrip()
                delta = text.rstrip()
                held = text[len(delta) :]  # blanks at the end are none if nothing follows
                if delta:
                    said += delta
                    yield TranscriptionTextDeltaEvent(delta=delta)
            yield TranscriptionTextDoneEvent(text=said, duration=reply.duration_s, **_head(reply))
        finally:
            self.close()


def _head(reply: SpokenText) -> dict[str, Any]:
    return {"model": reply.model, "route": reply.route, "backend": reply.backend}


def _formatted(request: TranscriptionRequest | TranslationRequest, reply: SpokenText, spoken: Sequence[SpokenSegment]) -> Any:
    """The reply in the format that was asked for."""
    text = "".join(each.segment.text for each in spoken).strip()
    if request.response_format == "text":
        return text + "\n"
    if request.response_format == "srt":
        blocks = (
            f"{i}\n{_clock(each.segment.start, ',')} --> {_clock(each.segment.end, ',')}\n{_line(each)}\n\n"
            for i, each in enumerate(spoken, 1)
        )
        return "".join(blocks)
    if request.response_format == "vtt":
        blocks = (
            f"{_clock(each.segment.start, '.')} --> {_clock(each.segment.end, '.')}\n{_line(each)}\n\n" for each in spoken
        )
        return "WEBVTT\n\n" + "".join(blocks)
    head = _head(reply)
    segments = [each.segment for each in spoken]
    if isinstance(request, TranslationRequest):
        if request.response_format == "json":
            return Translation(text=text, **head)
        return TranslationVerbose(duration=reply.duration_s, text=text, segments=segments, **head)
    usage = DurationUsage(seconds=math.ceil(reply.duration_s))
    if request.response_format == "json":
        return Transcription(text=text, usage=usage, **head)
    wanted = request.timestamp_granularities or ["segment"]
    return TranscriptionVerbose(
        language=LANGUAGES.get(reply.language, reply.language),
        duration=reply.duration_s,
        text=text,
        segments=segments if "segment" in wanted else None,
        words=[word for each in spoken for word in each.words] if "word" in wanted else None,
        usage=usage,
        **head,
    )


def _line(spoken: SpokenSegment) -> str:
    """A subtitle's text: without the arrow that would begin another one."""
    return " ".join(spoken.segment.text.split()).replace("-->", "->")


def _clock(seconds: float, point: str) -> str:
    """12.3456 -> "00:00:12,346" """
    ms = round(max(0.0, seconds) * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"


# ---- resources ---------------------------------------------------------------------------------------------------------


class _Core(Protocol):
    def transcribe(self, file: Any, fields: Mapping[str, Any]) -> SpeechWork: ...
    def translate(self, file: Any, fields: Mapping[str, Any]) -> SpeechWork: ...


class SpeechOptions(TypedDict, total=False):
    """Options of both. See `cactus_py.types.SpeechRequest` for ranges and meaning."""

    prompt: str | None
    temperature: float | None
    route: Literal["auto", "local", "cloud"]
    privacy: Literal["local_only"] | None
    timeout: float | None


class TranscriptionOptions(SpeechOptions, total=False):
    """Options of transcriptions."""

    language: str | None
    timestamp_granularities: Sequence[Literal["word", "segment"]] | None
    chunking_strategy: Literal["auto"] | None
    include: Sequence[str] | None


class Transcriptions(Generic[_Json, _Verbose, _Text, _Streamed]):
    """`client.audio.transcriptions`"""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self._core = core
        self._driver = driver

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: Literal["json"] = ...,
        stream: Literal[False] = ...,
        **options: Unpack[TranscriptionOptions],
    ) -> _Json: ...

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: Literal["verbose_json"],
        stream: Literal[False] = ...,
        **options: Unpack[TranscriptionOptions],
    ) -> _Verbose: ...

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: Literal["text", "srt", "vtt"],
        stream: Literal[False] = ...,
        **options: Unpack[TranscriptionOptions],
    ) -> _Text: ...

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: Literal["json", "text"] = ...,
        stream: Literal[True],
        **options: Unpack[TranscriptionOptions],
    ) -> _Streamed: ...

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: str = ...,
        stream: bool = ...,
        **options: Unpack[TranscriptionOptions],
    ) -> _Json | _Verbose | _Text | _Streamed: ...

    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = None,
        response_format: str = "json",
        stream: bool = False,
        **options: Unpack[TranscriptionOptions],
    ) -> Any:
        """Writes down the speech of an audio file, in its own language.

        Raises InvalidRequestError for a file that is damaged, without sound or too long (`param` is "file"), and for a language
        that the model does not know; MissingExtraError without the extra `whisper`; else as chat does.
        """
        fields = {"model": model, "response_format": response_format, "stream": stream, **options}
        return (self._driver.stream if stream else self._driver.whole)(lambda: self._core.transcribe(file, fields))


class Translations(Generic[_English, _EnglishVerbose, _Text]):
    """`client.audio.translations`"""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self._core = core
        self._driver = driver

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: Literal["json"] = ...,
        **options: Unpack[SpeechOptions],
    ) -> _English: ...

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: Literal["verbose_json"],
        **options: Unpack[SpeechOptions],
    ) -> _EnglishVerbose: ...

    @overload
    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = ...,
        response_format: Literal["text", "srt", "vtt"],
        **options: Unpack[SpeechOptions],
    ) -> _Text: ...

    @overload
    def create(
        self, *, file: AudioFile, model: str | None = ..., response_format: str = ..., **options: Unpack[SpeechOptions]
    ) -> _English | _EnglishVerbose | _Text: ...

    def create(
        self,
        *,
        file: AudioFile,
        model: str | None = None,
        response_format: str = "json",
        **options: Unpack[SpeechOptions],
    ) -> Any:
        """Writes down the speech of an audio file in English, whatever language it is in. Needs a multilingual model. Raises as
        transcriptions do."""
        fields = {"model": model, "response_format": response_format, **options}
        return self._driver.whole(lambda: self._core.translate(file, fields))


class Audio(Generic[_Json, _Verbose, _English, _EnglishVerbose, _Text, _Streamed]):
    """`client.audio`"""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self.transcriptions: Transcriptions[_Json, _Verbose, _Text, _Streamed] = Transcriptions(core, driver)
        self.translations: Translations[_English, _EnglishVerbose, _Text] = Translations(core, driver)

"""POST /v1/audio/transcriptions and /v1/audio/translations: speech in, text out.

The audio itself is no field of the requests here: it travels beside them, as bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..errors import InvalidRequestError
from ._base import RequestModel, ResponseModel
from .common import StrictBool, StrictFloat, StrictStr, _check_unicode, none_is_false

__all__ = [
    "LANGUAGES",
    "DurationUsage",
    "SpeechRequest",
    "Transcription",
    "TranscriptionRequest",
    "TranscriptionSegment",
    "TranscriptionStreamEvent",
    "TranscriptionTextDeltaEvent",
    "TranscriptionTextDoneEvent",
    "TranscriptionVerbose",
    "TranscriptionWord",
    "Translation",
    "TranslationRequest",
    "TranslationVerbose",
]

# The languages that Whisper was trained on: ISO 639-1 codes, and 639-3 for the two that have none (haw, yue).
_NAMES = """
af:afrikaans am:amharic ar:arabic as:assamese az:azerbaijani ba:bashkir be:belarusian bg:bulgarian bn:bengali
bo:tibetan br:breton bs:bosnian ca:catalan cs:czech cy:welsh da:danish de:german el:greek en:english es:spanish
et:estonian eu:basque fa:persian fi:finnish fo:faroese fr:french gl:galician gu:gujarati ha:hausa haw:hawaiian
he:hebrew hi:hindi hr:croatian ht:haitian_creole hu:hungarian hy:armenian id:indonesian is:icelandic it:italian
ja:japanese jw:javanese ka:georgian kk:kazakh km:khmer kn:kannada ko:korean la:latin lb:luxembourgish ln:lingala
lo:lao lt:lithuanian lv:latvian mg:malagasy mi:maori mk:macedonian ml:malayalam mn:mongolian mr:marathi ms:malay
mt:maltese my:myanmar ne:nepali nl:dutch nn:nynorsk no:norwegian oc:occitan pa:punjabi pl:polish ps:pashto
pt:portuguese ro:romanian ru:russian sa:sanskrit sd:sindhi si:sinhala sk:slovak sl:slovenian sn:shona so:somali
sq:albanian sr:serbian su:sundanese sv:swedish sw:swahili ta:tamil te:telugu tg:tajik th:thai tk:turkmen tl:tagalog
tr:turkish tt:tatar uk:ukrainian ur:urdu uz:uzbek vi:vietnamese yi:yiddish yo:yoruba yue:cantonese zh:chinese
"""
LANGUAGES = {code: name.replace("_", " ") for code, _, name in (pair.partition(":") for pair in _NAMES.split())}
_STANDARD = {"jv": "jw"}  # what ISO 639-1 calls a language that Whisper calls otherwise


class SpeechRequest(RequestModel):
    """What transcriptions and translations have in common. The fields down to `temperature` are OpenAI's; the rest are ours."""

    model: Annotated[StrictStr, Field(min_length=1)] | None = None
    prompt: StrictStr | None = None  # a text that came before, or words to expect
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[StrictFloat, Field(ge=0, le=1)] | None = None  # 0: raised by itself where the text seems wrong

    route: Literal["auto", "local", "cloud"] = "auto"
    privacy: Literal["local_only"] | None = None
    timeout: Annotated[StrictFloat, Field(gt=0)] | None = None  # seconds, once the model is loaded

    @field_validator("response_format", mode="before")
    @classmethod
    def _json_unless_said(cls, value: Any) -> Any:
        return "json" if value is None else value

    @field_validator("prompt")
    @classmethod
    def _prompt_is_text(cls, value: str | None) -> str | None:
        return None if value is None else _check_unicode(value)


class TranscriptionRequest(SpeechRequest):
    """Speech as text in its own language. `chunking_strategy="auto"` leaves out what holds no voice."""

    language: StrictStr | None = None
    timestamp_granularities: list[Literal["word", "segment"]] = Field(default_factory=list)
    stream: Annotated[StrictBool, BeforeValidator(none_is_false)] = False
    chunking_strategy: Literal["auto"] | None = None
    include: list[StrictStr] = Field(default_factory=list)

    @field_validator("timestamp_granularities", "include", mode="before")
    @classmethod
    def _none_of_them(cls, value: Any) -> Any:
        return [] if value is None else list(value) if isinstance(value, tuple) else value

    @field_validator("language")
    @classmethod
    def _language_is_known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        code = value.strip().lower()
        code = _STANDARD.get(code, code)
        if code not in LANGUAGES:
            near = next((known for known, name in LANGUAGES.items() if name == code), None)
            hint = f'; did you mean "{near}"?' if near else ""
            raise ValueError(
                f'it should be the ISO 639-1 code of a language that Whisper knows, as "en", not "{value[:40]}"{hint}'
            )
        return code

    @model_validator(mode="after")
    def _goes_together(self) -> TranscriptionRequest:
        if self.timestamp_granularities and self.response_format != "verbose_json":
            message = 'timestamp_granularities is only possible with response_format="verbose_json"'
            raise InvalidRequestError(message, "timestamp_granularities")
        if self.stream and self.response_format not in ("json", "text"):
            message = (
                f'a stream has events of its own; response_format="{self.response_format}" is not possible with stream=True'
            )
            raise InvalidRequestError(message, "response_format")
        if self.include:
            raise InvalidRequestError(f'include "{self.include[0][:40]}" is not supported by local models', "include")
        return self


class TranslationRequest(SpeechRequest):
    """Speech in any language as English text."""


class DurationUsage(ResponseModel):
    """What a request is billed by elsewhere: the seconds of audio, rounded up."""

    type: Literal["duration"] = "duration"
    seconds: float


class _Spoken(ResponseModel):
    """What every reply here says beyond OpenAI's fields."""

    model: str | None = None
    route: Literal["local", "cloud"] | None = None
    backend: str | None = None


class Transcription(_Spoken):
    """response_format "json"."""

    text: str
    usage: DurationUsage | None = None


class TranscriptionSegment(ResponseModel):
    """A stretch of speech, as the model cut it. Times in seconds; `seek` in hundredths of one, where its window begins."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class TranscriptionWord(ResponseModel):
    """A word and when it was said, in seconds."""

    word: str
    start: float
    end: float


class TranscriptionVerbose(_Spoken):
    """response_format "verbose_json". `language` is a name ("english"); `segments` and `words` are there if asked for."""

    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    text: str
    segments: list[TranscriptionSegment] | None = None
    words: list[TranscriptionWord] | None = None
    usage: DurationUsage | None = None


class Translation(_Spoken):
    """response_format "json"."""

    text: str


class TranslationVerbose(_Spoken):
    """response_format "verbose_json"."""

    task: Literal["translate"] = "translate"
    language: str = "english"
    duration: float
    text: str
    segments: list[TranscriptionSegment] | None = None


class TranscriptionTextDeltaEvent(ResponseModel):
    """Text that was added."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str


class TranscriptionTextDoneEvent(_Spoken):
    """The whole text: what the deltas add up to. `duration`, ours, are the seconds of audio."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str
    duration: float | None = None


TranscriptionStreamEvent = TranscriptionTextDeltaEvent | TranscriptionTextDoneEvent

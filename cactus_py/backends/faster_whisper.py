"""The backend over faster-whisper (the extra `whisper`): Whisper models in CTranslate2's format, which write down speech.

A model computes in windows of 30 seconds; between two of them a request can be cancelled or run out of time. Weights are
computed as int8, with beams of 5, and where a text seems wrong (too improbable, or repeating itself) the window is tried again
at a higher temperature: the library's own defaults. A model folder is read by the library's own code: the care that our engine
takes with files from strangers ends where this backend begins.
"""

from __future__ import annotations

import importlib.util
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .. import hub
from ..errors import (
    BackendError,
    CactusError,
    InvalidRequestError,
    MissingExtraError,
    ModelFileError,
    ModelFormatError,
    OutOfMemoryError,
    RequestCancelledError,
    RequestTimeoutError,
)
from ..media import audio as sound
from ..types import ModelCard, TranscriptionRequest, TranscriptionSegment, TranscriptionWord, TranslationRequest
from .base import BackendOptions, SpokenSegment, SpokenText

if TYPE_CHECKING:
    from ..types import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
    from .base import TraceKind

__all__ = ["EXTRA", "FasterWhisperBackend", "installed", "version"]

EXTRA = "whisper"
_CLOSED = "the request was cancelled because its client was closed"


def installed() -> bool:
    """Whether faster-whisper is there. It is not imported."""
    return importlib.util.find_spec("faster_whisper") is not None


def version() -> str:
    """Version of faster-whisper, which is loaded to tell, with all that it needs. Raises what its parts raise."""
    import faster_whisper  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return str(faster_whisper.__version__)


class FasterWhisperBackend:
    """Loads each model once, when it is first asked for, and keeps it until closed. It answers nothing but speech."""

    name: ClassVar[str] = "faster_whisper"

    def __init__(self, options: BackendOptions) -> None:
        self.options = options
        self._store = hub.Store(None if options.home is None else Path(options.home))
        self._lock = threading.Lock()  # guards the two collections and the flag
        self._load_lock = threading.Lock()  # one model is found, fetched and read at a time
        self._models: dict[Path, _Whisper] = {}
        self._running: weakref.WeakSet[_Transcript] = weakref.WeakSet()
        self._closed = False

    # ---- requests ----

    def transcribe(self, request: TranscriptionRequest | TranslationRequest, audio: bytes) -> SpokenText:
        """Raises InvalidRequestError about the file (`param` is "file"), the language or the model; MissingExtraError."""
        model = self._model(request.model)
        deadline = None if request.timeout is None else time.monotonic() + request.timeout
        model.check(request)
        samples = sound.decode(audio, self.options.max_audio_s)
        transcript = _Transcript(model, request, samples, deadline)
        with self._lock:
            self._running.add(transcript)
            closed = self._closed
        if closed:
            transcript.cancel()
        return transcript

    def chat(self, request: ChatCompletionRequest, trace: TraceKind = "none") -> NoReturn:
        raise InvalidRequestError("the backend faster_whisper writes down speech, and holds no conversation", "model")

    def complete(self, request: CompletionRequest, trace: TraceKind = "none") -> NoReturn:
        raise InvalidRequestError("the backend faster_whisper writes down speech, and continues no text", "model")

    def embed(self, request: EmbeddingRequest, cancelled: Callable[[], bool] | None = None) -> NoReturn:
        raise InvalidRequestError("the backend faster_whisper writes down speech, and makes no embeddings", "model")

    # ---- models ----

    def models(self) -> list[ModelCard]:
        catalog = hub.Catalog.load(self._store.home)
        cards = []
        for model in hub.installed(self._store):
            entry = catalog.get(model.name)
            if model.path.is_dir():
                aliases = [] if entry is None else list(entry.aliases)
                cards.append(ModelCard(id=model.name, created=int(model.path.stat().st_mtime), aliases=aliases))
        return cards

    def warm_up(self, model: str | None = None) -> None:
        self._model(model)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
            self._models.clear()  # each is freed when the last text that uses it has ended
        for transcript in running:
            transcript.cancel()

    def _model(self, name: str | None) -> _Whisper:
        catalog = hub.Catalog.load(self._store.home)
        asked = name or self._default(catalog)
        entry = catalog.get(asked)
        if entry is not None and not entry.transcribes:
            known = ", ".join(other.name for other in catalog if other.transcribes)
            raise InvalidRequestError(f'"{asked}" does not write down speech; models that do are: {known}', "model")
        if not installed():
            raise MissingExtraError("writing down speech", EXTRA)
        with self._load_lock:
            path = Path(hub.resolve(asked, store=self._store, progress=self.options.progress)).resolve()
            if not path.is_dir():
                raise InvalidRequestError(
                    f'"{asked}" is no folder of CTranslate2, the only speech models that run here', "model"
                )
            with self._lock:
                self._refuse_closed()
                found = self._models.get(path)
            if found is None:
                found = _Whisper(entry.name if entry else Path(asked).name, path, self.options.threads)
                with self._lock:
                    self._refuse_closed()
                    self._models[path] = found
            return found

    def _default(self, catalog: hub.Catalog) -> str:
        """The client's own model if it is one of speech, else the one that is set for that."""
        own = self.options.model
        entry = catalog.get(own)
        if (entry is not None and entry.transcribes) or hub.is_model_folder(own):
            return own
        return self.options.transcription_model or own

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RequestCancelledError(_CLOSED)


class _Whisper:
    """A loaded model."""

    def __init__(self, name: str, path: Path, threads: int | None) -> None:
        from ..engine import default_threads

        self.name = name
        if not (path / "tokenizer.json").is_file():  # the library would fetch one from a hub
            raise ModelFileError(f"The model folder {path} holds no tokenizer.json.")
        self._local = threading.local()  # what a thread must look at between two windows
        n_threads = threads or default_threads()
        try:
            watched = _watched_class(self._local)
            self._model = watched(str(path), device="cpu", compute_type="int8", cpu_threads=n_threads, local_files_only=True)
        except MemoryError as error:
            raise OutOfMemoryError(f"There is not enough memory for the model {name}.") from error
        except Exception as error:  # the library raises whatever its parts do
            raise ModelFormatError(f"The model folder {path} cannot be loaded: {str(error)[:200]}") from error

    def check(self, request: TranscriptionRequest | TranslationRequest) -> None:
        """Raises InvalidRequestError for a language that the model does not know."""
        if self._model.model.is_multilingual:
            known = self._model.supported_languages
            if isinstance(request, TranscriptionRequest) and request.language is not None and request.language not in known:
                raise InvalidRequestError(f'the model {self.name} does not know the language "{request.language}"', "language")
        elif isinstance(request, TranslationRequest):
            message = f"the model {self.name} knows English only, and translates nothing; name a multilingual one"
            raise InvalidRequestError(message, "model")
        elif request.language not in (None, "en"):
            message = f'the model {self.name} knows English only, not "{request.language}"; name a multilingual one'
            raise InvalidRequestError(message, "language")

    def run(
        self, request: TranscriptionRequest | TranslationRequest, samples: Any, look: Callable[[], None]
    ) -> tuple[str, Iterator[Any]]:
        """The code of the language, and the library's segments as they are made. `look` is called before each window, and ends
        the work by raising."""
        options: dict[str, Any] = {"initial_prompt": request.prompt or None}
        if request.temperature:
            options["temperature"] = request.temperature
        if isinstance(request, TranslationRequest):
            options["task"] = "translate"
        else:
            options["language"] = request.language
            options["word_timestamps"] = "word" in request.timestamp_granularities
            options["vad_filter"] = request.chunking_strategy == "auto"
        self._local.look = look
        try:
            segments, info = self._model.transcribe(samples, **options)
        finally:
            self._local.look = None
        return str(info.language), self._watched(iter(segments), look)

    def _watched(self, segments: Iterator[Any], look: Callable[[], None]) -> Iterator[Any]:
        while True:
            self._local.look = look
            try:
                segment = next(segments)
            except StopIteration:
                return
            finally:
                self._local.look = None
            yield segment


def _watched_class(local: threading.local) -> Any:
    """The library's model, which calls `local.look` of the running thread before it computes a window."""
    from faster_whisper import WhisperModel  # type: ignore[import-not-found,import-untyped,unused-ignore]

    class Watched(WhisperModel):  # type: ignore[misc, unused-ignore]
        def encode(self, features: Any) -> Any:
            look = getattr(local, "look", None)
            if look is not None:
                look()
            return super().encode(features)

    return Watched


class _Transcript(SpokenText):
    """One text. The work is done where it is iterated."""

    backend = "faster_whisper"
    route = "local"

    def __init__(
        self, model: _Whisper, request: TranscriptionRequest | TranslationRequest, samples: Any, deadline: float | None
    ) -> None:
        self.model = model.name
        self.duration_s = len(samples) / sound.SAMPLE_RATE
        self._cancelled = threading.Event()
        self._timeout = request.timeout
        self._deadline = deadline
        self._n_segments = 0
        with _failures():
            self.language, self._segments = model.run(request, samples, self._look)

    def __next__(self) -> SpokenSegment:
        self._look()
        with _failures():
            segment = next(self._segments)
        number, self._n_segments = self._n_segments, self._n_segments + 1
        words = [TranscriptionWord(word=w.word.strip(), start=float(w.start), end=float(w.end)) for w in segment.words or ()]
        return SpokenSegment(
            TranscriptionSegment(
                id=number,
                seek=int(segment.seek),
                start=float(segment.start),
                end=float(segment.end),
                text=segment.text,
                tokens=list(segment.tokens),
                temperature=float(segment.temperature),
                avg_logprob=float(segment.avg_logprob),
                compression_ratio=float(segment.compression_ratio),
                no_speech_prob=float(segment.no_speech_prob),
            ),
            tuple(words),
        )

    def _look(self) -> None:
        """Raises if the text is to end."""
        if self._cancelled.is_set():
            raise RequestCancelledError("the request was cancelled")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise RequestTimeoutError(f"the text was not finished within {self._timeout:g} seconds")

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self._cancelled.set()
        self._segments = iter(())  # and with that the samples


class _failures:
    """Turns what the library raises into errors of ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, MemoryError) and not isinstance(error, CactusError):
            raise OutOfMemoryError("there is not enough memory to write down this audio") from error
        if isinstance(error, Exception) and not isinstance(error, (CactusError, StopIteration)):
            raise BackendError(f"faster-whisper failed: {type(error).__name__}: {str(error)[:200]}") from error

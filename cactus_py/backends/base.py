"""What a backend is: something that turns a checked request into a reply, piece by piece.

A backend blocks: it is called from threads, several at a time, and knows nothing of event loops, HTTP or wire formats. What
it yields are `Delta`s; the client makes OpenAI's objects of them, once for all backends.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..engine import EngineActivity
    from ..prompting.calls import ToolCallDelta
    from ..types import (
        ChatCompletionRequest,
        CompletionRequest,
        EmbeddingRequest,
        ModelCard,
        RouteDecision,
        TranscriptionRequest,
        TranscriptionSegment,
        TranscriptionWord,
        TranslationRequest,
    )

__all__ = [
    "Backend",
    "BackendOptions",
    "Delta",
    "EmbeddingReply",
    "FinishReason",
    "LoadedInfo",
    "Reply",
    "ReplyStats",
    "SpokenSegment",
    "SpokenText",
    "States",
    "TokenInfo",
    "Trace",
    "TraceKind",
]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
TraceKind = Literal["none", "tokens", "states"]


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One token of a reply. `raw` are its exact bytes, which may be less than a character; `logprob` is None for the first
    token of an echoed prompt; `top` are the likeliest alternatives, best first; `entropy` in nats, `margin` in logits. A
    `hidden` token is no part of the text, as the one that begins every prompt."""

    id: int
    raw: bytes
    logprob: float | None
    top: tuple[TokenInfo, ...] = ()
    entropy: float | None = None
    margin: float | None = None
    hidden: bool = False

    @property
    def token(self) -> str:
        """The token as text; bytes that are no characters of their own become U+FFFD."""
        return self.raw.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event adds to the answer `index`: text (whole characters), tokens (only if the request wants
    log-probabilities), and, on the answer's last event, why it ended. `reasoning`: the text is what the model thought, not
    what it answers. `tool_call`: what is added to a call; there is no text then. `replaces`: the answer begins anew, and
    all that came of it before is void."""

    index: int
    text: str
    tokens: tuple[TokenInfo, ...] = ()
    finish_reason: FinishReason | None = None
    reasoning: bool = False
    tool_call: ToolCallDelta | None = None
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class ReplyStats:
    """What a reply cost, all answers together; times are those of the slowest, in wall-clock milliseconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0  # of them, those that were thought
    queue_ms: float = 0.0
    prompt_ms: float = 0.0
    decode_ms: float = 0.0
    drafted_tokens: int = 0  # computed ahead of their turn
    accepted_tokens: int = 0  # of them, those that were then chosen
    dropped_messages: int = 0  # left out by context_policy="shift"


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states of the last layer, after its norm, as the output matrix reads them: float32 [d_model] each. The state that
    a token was chosen from belongs to that token."""

    prompt: NDArray[np.float32]  # of the prompt's last token, which has seen all of it: the first token was chosen from it
    mean: NDArray[np.float32]  # over the answer's tokens so far
    last: NDArray[np.float32]  # of the answer's last token so far


class Trace:
    """What a local backend notices of one answer while it is made: a number per token, in order. Grows; for one reader."""

    __slots__ = ("entropies", "finish_reason", "ids", "logprobs", "margins", "prompt_tokens", "read_states")

    def __init__(self, prompt_tokens: int, read_states: Callable[[], States | None] | None = None) -> None:
        self.prompt_tokens = prompt_tokens
        self.ids = array("i")
        self.logprobs = array("f")  # of the chosen token, in the model's own distribution (temperature 1)
        self.entropies = array("f")  # of that distribution, in nats
        self.margins = array("f")  # between its two best scores, in logits
        self.finish_reason: FinishReason | None = None
        self.read_states = read_states  # None: nobody asked for them, or the engine has none

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, token: int, logprob: float, entropy: float, margin: float) -> None:
        """One token more. The one that ends the answer counts, too."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        self.margins.append(margin)


class Reply(ABC):
    """A reply that is being made: an iterator of Delta, for one consumer.

    Iteration raises RequestCancelledError if the reply was cancelled, RequestTimeoutError if its time ran out. `close` belongs
    to the consumer; `cancel` may be called by anyone, at any time.
    """

    model: str
    backend: str
    route: Literal["local", "cloud"]

    traces: Sequence[Trace] = ()
    """What was noticed of each answer, by its index; empty where nobody asked, or the backend notices nothing."""
    cost_usd: float | None = None
    """What the reply cost so far, where it costs money and the price is known."""
    confidence: float | None = None
    """The calibrated probability that the answer is right, once it is whole; the router knows it."""
    decision: RouteDecision | None = None
    """Where the answer was made, and why; the router's, too."""

    def __iter__(self) -> Reply:
        return self

    def open(self) -> None:  # noqa: B027  most have nothing to do here
        """Gets as far as knowing that there will be an answer, where that takes more than making the reply. Comes first, once;
        it may wait, and `cancel` ends that, too."""

    @abstractmethod
    def __next__(self) -> Delta:
        """The next event; waits for it."""

    def read(self) -> list[Delta]:
        """Every event that is there, waiting for the first of them; none after the end."""
        delta = next(self, None)
        return [] if delta is None else [delta]

    pace: object | None = None
    """What else keeps step with this reply: those of one pace can be read by one thread, with `poll`. None: it cannot."""

    def poll(self, wait_seconds: float) -> list[Delta] | None:
        """As `read`, but None if nothing comes within a time. Only for replies that have a `pace`."""
        raise NotImplementedError

    def rest(self) -> list[Delta]:
        """Every event that is still to come, for one who wants none of them before the end."""
        return list(self)

    @abstractmethod
    def cancel(self) -> None:
        """Ends the reply as soon as possible."""

    @abstractmethod
    def close(self) -> None:
        """Ends the reply and frees what it holds. The stats stay."""

    @property
    @abstractmethod
    def stats(self) -> ReplyStats:
        """Cost so far; final after the last event."""

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class EmbeddingReply:
    """Vectors of length 1, float32 [number of texts, dimensions], and the tokens that were read for them."""

    model: str
    backend: str
    route: Literal["local", "cloud"]
    vectors: NDArray[np.float32]
    prompt_tokens: int

    def cancel(self) -> None:
        """Nothing is under way any more."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class SpokenSegment:
    """A stretch of speech, and its words if they were asked for."""

    segment: TranscriptionSegment
    words: tuple[TranscriptionWord, ...] = ()


class SpokenText(ABC):
    """A text that is being written down from speech: an iterator of SpokenSegment, for one consumer; else as `Reply`."""

    model: str
    backend: str
    route: Literal["local", "cloud"]
    language: str  # its code, as "en"
    duration_s: float

    def __iter__(self) -> SpokenText:
        return self

    @abstractmethod
    def __next__(self) -> SpokenSegment:
        """The next segment; waits for it."""

    @abstractmethod
    def cancel(self) -> None:
        """Ends the text as soon as possible: after the window of 30 seconds that is being computed."""

    @abstractmethod
    def close(self) -> None:
        """Ends the text and frees what it holds."""


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """A model that is loaded. `private_bytes`: scratch space, and the most that keys and values may take; `file_bytes` are
    mapped. `n_users`: replies and calls under way; without any, `idle_s` seconds have passed since the last."""

    name: str
    path: Path
    backend: str
    private_bytes: int
    file_bytes: int
    n_users: int
    idle_s: float


@dataclass(frozen=True)
class BackendOptions:
    """What a client tells a backend when it makes one. None leaves the choice to the backend."""

    model: str
    home: str | os.PathLike[str] | None = None
    threads: int | None = None
    context: int | None = None
    kv_type: Literal["auto", "f16", "f32", "i8"] = "auto"
    kv_memory_bytes: int | None = None
    batch: int | None = None
    kernels: str | None = None
    speculation: int = 0
    transcription_model: str | None = None  # for speech, where `model` does not transcribe
    embedding_model: str | None = None  # for embeddings, where `model` generates text
    max_audio_s: float | None = None
    memory_limit_bytes: int | None = None
    memory_counts_files: bool = False
    idle_seconds: float = 0
    prefix_cache: Path | None = None
    max_waiting: int | None = None
    progress: Callable[[str, int, int | None], None] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """A class of this shape, named in the entry point group `cactus_py.backends`, is a backend."""

    name: ClassVar[str]

    def __init__(self, options: BackendOptions) -> None: ...

    def chat(self, request: ChatCompletionRequest, trace: TraceKind = "none") -> Reply:
        """Starts a reply to a conversation. Raises before any token is computed if the request cannot be served. trace: what
        the reply should notice of its answers (`Reply.traces`)."""
        ...

    def complete(self, request: CompletionRequest, trace: TraceKind = "none") -> Reply:
        """Starts a continuation of plain prompts; answer `i * n + j` is the j-th of prompt i."""
        ...

    def embed(self, request: EmbeddingRequest, cancelled: Callable[[], bool] | None = None) -> EmbeddingReply:
        """The vectors of texts, all of them computed. With `dimensions` the first so many numbers, made to length 1 again.
        cancelled: asked now and then whether anybody still wants them; raises RequestCancelledError if not."""
        ...

    def transcribe(self, request: TranscriptionRequest | TranslationRequest, audio: bytes) -> SpokenText:
        """Starts to write down the speech of an audio file. Raises before that if the request or the file cannot be served."""
        ...

    def models(self) -> list[ModelCard]:
        """What can be asked for without a download."""
        ...

    def warm_up(self, model: str | None = None) -> None:
        """Loads a model now instead of with the first request."""
        ...

    def loaded(self) -> list[LoadedInfo]:
        """What is loaded now, by name."""
        ...

    def activity(self) -> dict[str, EngineActivity]:
        """What our engine does for each loaded model, by name."""
        ...

    def unload(self, model: str, timeout_s: float | None = None) -> bool:
        """Closes a model once nobody uses it; whether it was loaded. Raises RequestTimeoutError if that takes too long."""
        ...

    def close(self) -> None:
        """Cancels all replies and frees all models. Everything that is called afterwards raises RequestCancelledError."""
        ...

"""`Client` and `AsyncClient`: OpenAI-shaped resources over a backend.

The resources are written once. What differs between the two clients is what drives them (`_drive`): the caller's thread, or a
thread per request that hands its results to the event loop. So each method here returns either a value or something to be
awaited, and the types of the clients' attributes say which.

Sampling defaults are OpenAI's: temperature 1, top_p 1, no limit on tokens but the context. Small models often do better with
less, say temperature=0.2. Without a seed every request is drawn anew; answer i of several uses seed + i.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, overload

from ._audio import Audio, SpeechWork, read_audio
from ._drive import AsyncDriver, AsyncStream, Driver, Stream, SyncDriver
from ._embeddings import Embeddings, EmbeddingWork
from ._exchange import CHAT, COMPLETION, Exchange, Work
from .backends import create
from .backends.base import Backend, BackendOptions, SpokenText
from .config import Settings, changed, load_settings
from .errors import RequestCancelledError
from .hub.store import Store
from .routing import Hybrid, Router
from .routing.router import routes
from .types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    EmbeddingRequest,
    EmbeddingResponse,
    GenerationRequest,
    ModelCard,
    ModelList,
    SpeechRequest,
    Transcription,
    TranscriptionRequest,
    TranscriptionStreamEvent,
    TranscriptionVerbose,
    Translation,
    TranslationRequest,
    TranslationVerbose,
    parse_request,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .backends.cloud import CloudBackend

__all__ = ["AsyncClient", "AsyncStream", "Client", "Stream"]

Message = Mapping[str, Any] | Any  # a dict, or a message object of ours or of the openai package
ProgressCallback = Callable[[str, int, "int | None"], None]

Whole = TypeVar("Whole", covariant=True)
Streamed = TypeVar("Streamed", covariant=True)
Listed = TypeVar("Listed", covariant=True)
Found = TypeVar("Found", covariant=True)


class GenerationOptions(TypedDict, total=False):
    """Options of chat and of plain completions. See `cactus_py.types.GenerationRequest` for ranges and meaning."""

    stream_options: Mapping[str, Any] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    n: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[Any, float] | None
    response_format: Mapping[str, Any] | None
    guided_json: Mapping[str, Any] | str | None
    guided_regex: str | None
    guided_choice: Sequence[str] | None
    guided_grammar: str | None
    context_policy: Literal["error", "shift"]
    user: str | None
    route: Literal["auto", "local", "cloud"]
    privacy: Literal["local_only"] | None
    handoff: Literal["restart", "continue"] | None
    timeout: float | None


class ChatOptions(GenerationOptions, total=False):
    """Options of chat completions; the ones that no local backend serves yet are refused with a sentence that says so.

    What a model thinks before it answers comes as `reasoning_content` beside `content`, in messages and in the deltas of
    streams, where the model marks it; reasoning_format="none" leaves the text as the model wrote it, markers included.
    `reasoning_effort` ("none" to "xhigh") and `chat_template_kwargs` reach the model's chat template, and are refused where it
    does not read them.
    """

    max_tokens: int | None
    max_completion_tokens: int | None
    logprobs: bool | None
    top_logprobs: int | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None
    reasoning_format: Literal["auto", "none"]
    chat_template_kwargs: Mapping[str, Any] | None
    metadata: Mapping[str, str] | None


class CompletionOptions(GenerationOptions, total=False):
    """Options of plain completions."""

    max_tokens: int | None
    echo: bool
    logprobs: int | None
    suffix: str | None
    best_of: int | None


class ClientOptions(TypedDict, total=False):
    """What a client can be told when it is made. The first block overrides the settings of the same name (`cactus_py.config`);
    the second those of the router, short for fields of `router`.

    `config`: settings to start from, instead of the environment and the file. `kv_memory_bytes`: kv_memory, by its older name.
    `batch`: tokens computed in one step at most. `progress`: called with (phase, bytes done, bytes in all or None)
    while a model is fetched.
    """

    threads: int | None
    context: int | None
    kv_type: Literal["auto", "f16", "f32", "i8"] | None
    kernels: str | None
    speculation: int | None
    backend: str | None
    home: str | os.PathLike[str] | None
    kv_memory: int | str | None
    memory_limit: int | str | None
    memory_counts_files: bool | None
    idle_seconds: float | None
    prefix_cache: str | os.PathLike[str] | None
    max_queue: int | None
    aliases: Mapping[str, str | Mapping[str, float]] | None
    pipelines: Mapping[str, Any] | None
    cloud_model: str | None
    cloud: Mapping[str, Any] | None
    router: Mapping[str, Any] | None

    policy: Literal["local_only", "cloud_only", "local_first", "predictive", "early_exit"] | None
    threshold: float | None
    max_cloud_share: float | None
    max_cost_per_day: float | None
    min_quality: float | None
    handoff: Literal["auto", "restart", "continue"] | None
    privacy: Literal["local_only"] | None
    redact: Sequence[str] | None
    audit_log: str | os.PathLike[str] | None

    config: Settings | None
    kv_memory_bytes: int | None
    batch: int | None
    progress: ProgressCallback | None


_NO_SETTINGS = {"config", "kv_memory_bytes", "batch", "progress"}
_OF_ROUTER = frozenset(
    ("policy", "threshold", "max_cloud_share", "max_cost_per_day", "min_quality", "handoff", "privacy", "redact", "audit_log")
)


def _cloud(settings: Settings) -> CloudBackend | None:
    """The cloud that the settings describe; None without one."""
    if settings.cloud_model is None and not settings.cloud.endpoints:
        return None
    from .backends.cloud import CloudBackend

    return CloudBackend.from_settings(settings)


# ---- what both clients are made of -------------------------------------------------------------------------------------


class _Core:
    """Settings, the backend, and the replies that are under way. Safe to share between threads."""

    def __init__(self, model: str | os.PathLike[str] | None, **options: Unpack[ClientOptions]) -> None:
        unknown = set(options) - set(ClientOptions.__annotations__)
        if unknown:
            known = ", ".join(ClientOptions.__annotations__)
            raise TypeError(f"a client has no option {sorted(unknown)[0]!r}; there are: {known}")
        given: dict[str, Any] = {name: value for name, value in options.items() if name not in _NO_SETTINGS}
        if model is not None:
            given["model"] = os.fspath(model)
        given = {name: value for name, value in given.items() if value is not None}
        routed = {name: given.pop(name) for name in list(given) if name in _OF_ROUTER}
        config = options.get("config")
        if routed:
            set_before: dict[str, Any] = {} if config is None else config.router.model_dump(exclude_unset=True)
            table: Any = given.get("router") or {}
            given["router"] = {**set_before, **table, **routed}
        self.settings = load_settings(given) if config is None else changed(config, given)
        self._routes = routes(self.settings)
        self._hybrid = Hybrid(self.settings, Store(self.settings.home).home, _cloud(self.settings))
        self._options = BackendOptions(
            model=self.settings.model,
            home=self.settings.home,
            threads=self.settings.threads,
            context=self.settings.context,
            kv_type=self.settings.kv_type,
            kv_memory_bytes=options.get("kv_memory_bytes") or self.settings.kv_memory,
            batch=options.get("batch"),
            kernels=self.settings.kernels,
            speculation=self.settings.speculation,
            transcription_model=self.settings.transcription_model,
            embedding_model=self.settings.embedding_model,
            max_audio_s=self.settings.max_audio_s,
            memory_limit_bytes=self.settings.memory_limit,
            memory_counts_files=self.settings.memory_counts_files,
            idle_seconds=self.settings.idle_seconds,
            prefix_cache=self.settings.prefix_cache,
            max_waiting=self.settings.max_queue,
            progress=options.get("progress"),
        )
        self._lock = threading.RLock()  # a stream that the garbage collector finds may be closed anywhere, even inside
        self._backend: Backend | None = None
        self._running: dict[int, weakref.ref[Work[Any, Any, Any]]] = {}
        self._router: tuple[Backend, Router] | None = None
        self._closed = False

    @property
    def backend(self) -> Backend:
        """The backend, made when first needed."""
        with self._lock:
            if self._closed:
                raise RequestCancelledError("the client was closed; make a new one")
            if self._backend is None:
                self._backend = create(self.settings.backend, self._options)
            return self._backend

    @property
    def router(self) -> Router:
        """What takes names to models of the backend."""
        backend = self.backend
        with self._lock:
            if self._router is None or self._router[0] is not backend:
                self._router = backend, Router(backend, self.settings, *self._routes, self._hybrid)
            return self._router[1]

    def _routed(self, request: GenerationRequest | SpeechRequest | EmbeddingRequest) -> Router:
        """What serves a request. Refuses a route that cannot be taken."""
        if request.route == "cloud":
            self._hybrid.demand_cloud(request)
        return self.router

    def _begin(self, exchange: Work[Any, Any, Any]) -> None:
        with self._lock:
            self._running[id(exchange)] = weakref.ref(exchange)
            closed = self._closed
        if closed:
            exchange.cancel()

    def _end(self, exchange: Work[Any, Any, Any]) -> None:
        with self._lock:
            self._running.pop(id(exchange), None)

    def models(self) -> ModelList:
        return ModelList(data=self.router.models())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            backend, self._backend = self._backend, None
            self._router = None
            running = [reference() for reference in list(self._running.values())]
        for exchange in running:
            if exchange is not None:
                exchange.cancel()
        self._hybrid.close()
        if backend is not None:
            backend.close()

    def chat(self, fields: Mapping[str, Any]) -> Exchange[ChatCompletion, ChatCompletionChunk]:
        request = parse_request(ChatCompletionRequest, fields)
        return Exchange(request, CHAT, lambda: self._routed(request).chat(request), self._begin, self._end)

    def complete(self, fields: Mapping[str, Any]) -> Exchange[Completion, Completion]:
        request = parse_request(CompletionRequest, fields)
        return Exchange(request, COMPLETION, lambda: self._routed(request).complete(request), self._begin, self._end)

    def embed(self, fields: Mapping[str, Any]) -> EmbeddingWork:
        request = parse_request(EmbeddingRequest, fields)
        return EmbeddingWork(request, lambda cancelled: self._routed(request).embed(request, cancelled), self._begin, self._end)

    def transcribe(self, file: Any, fields: Mapping[str, Any]) -> SpeechWork:
        request = parse_request(TranscriptionRequest, fields)
        return self._speech(file, request)

    def translate(self, file: Any, fields: Mapping[str, Any]) -> SpeechWork:
        request = parse_request(TranslationRequest, fields)
        return self._speech(file, request)

    def _speech(self, file: Any, request: TranscriptionRequest | TranslationRequest) -> SpeechWork:
        def start() -> SpokenText:
            return self._routed(request).transcribe(request, read_audio(file))

        return SpeechWork(request, start, self._begin, self._end)


def _conversation(prompt: str | Sequence[Message], system: str | None) -> Sequence[Message]:
    """The messages behind the short form `client.chat("…")`."""
    messages: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system is None or isinstance(messages, (bytes, Mapping)) or not isinstance(messages, Iterable):
        return messages  # what holds no messages is refused later, by its name
    return [{"role": "system", "content": system}, *messages]


# ---- resources ---------------------------------------------------------------------------------------------------------


class ChatCompletions(Generic[Whole, Streamed]):
    """`client.chat.completions`"""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self._core = core
        self._driver = driver

    @overload
    def create(
        self,
        *,
        messages: Sequence[Message],
        model: str | None = ...,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> Whole: ...

    @overload
    def create(
        self, *, messages: Sequence[Message], model: str | None = ..., stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Streamed: ...

    @overload
    def create(
        self, *, messages: Sequence[Message], model: str | None = ..., stream: bool, **options: Unpack[ChatOptions]
    ) -> Whole | Streamed: ...

    def create(
        self, *, messages: Sequence[Message], model: str | None = None, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> Any:
        """Continues a conversation.

        Raises InvalidRequestError (its `param` names the field) or ContextLengthError before any work, TemplateError if the
        model's template refuses the messages, RequestTimeoutError after `timeout` seconds, RequestCancelledError if the client
        is closed meanwhile, and what loading the model raises.
        """
        fields = {"messages": messages, "model": model, "stream": stream, **options}
        return (self._driver.stream if stream else self._driver.whole)(lambda: self._core.chat(fields))


class Chat(Generic[Whole, Streamed]):
    """`client.chat`: call it with a text, or use `client.chat.completions.create`."""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self.completions: ChatCompletions[Whole, Streamed] = ChatCompletions(core, driver)

    @overload
    def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = ...,
        model: str | None = ...,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> Whole: ...

    @overload
    def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = ...,
        model: str | None = ...,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> Streamed: ...

    def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        model: str | None = None,
        stream: bool = False,
        **options: Unpack[ChatOptions],
    ) -> Any:
        """Answers a text or a list of messages; `system` puts instructions in front."""
        return self.completions.create(messages=_conversation(prompt, system), model=model, stream=stream, **options)


class Completions(Generic[Whole, Streamed]):
    """`client.completions`: plain continuation, without a chat template. Special tokens in a text prompt are recognised."""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self._core = core
        self._driver = driver

    @overload
    def create(
        self, *, prompt: Any, model: str | None = ..., stream: Literal[False] = ..., **options: Unpack[CompletionOptions]
    ) -> Whole: ...

    @overload
    def create(
        self, *, prompt: Any, model: str | None = ..., stream: Literal[True], **options: Unpack[CompletionOptions]
    ) -> Streamed: ...

    @overload
    def create(
        self, *, prompt: Any, model: str | None = ..., stream: bool, **options: Unpack[CompletionOptions]
    ) -> Whole | Streamed: ...

    def create(
        self, *, prompt: Any, model: str | None = None, stream: bool = False, **options: Unpack[CompletionOptions]
    ) -> Any:
        """Continues `prompt`: a string, token ids, or a list of either. Raises as chat does."""
        fields = {"prompt": prompt, "model": model, "stream": stream, **options}
        return (self._driver.stream if stream else self._driver.whole)(lambda: self._core.complete(fields))


class Models(Generic[Listed, Found]):
    """`client.models`: what is on this machine."""

    def __init__(self, core: _Core, driver: Driver) -> None:
        self._core = core
        self._driver = driver

    def list(self) -> Listed:
        """Models that are loaded or installed."""
        listed: Listed = self._driver.call(self._core.models)
        return listed

    def retrieve(self, model: str) -> Found:
        """One of them. Raises UnknownModelError."""
        found: Found = self._driver.call(lambda: self._core.router.find(model))
        return found

    def loaded(self) -> Any:
        """What is loaded now, by name: a list of `backends.base.LoadedInfo`."""
        return self._driver.call(lambda: self._core.router.loaded())

    def unload(self, model: str, *, timeout: float | None = None) -> Any:
        """Closes what a name leads to once nobody uses it; whether it was loaded. The next request loads it again.

        Raises RequestTimeoutError if it is still in use after `timeout` seconds, UnknownModelError.
        """
        return self._driver.call(lambda: self._core.router.unload(model, timeout))


# ---- clients -----------------------------------------------------------------------------------------------------------


class Client:
    """Models on this machine behind OpenAI's interface. May be shared between threads; requests then run as one batch.

    Nothing is loaded until it is needed: a model is found, fetched if it is not here, and mapped with the first request that
    asks for it, once per client. Close the client, or use it in a `with` block, to free what it holds; replies that are under
    way then end with RequestCancelledError.
    """

    chat: Chat[ChatCompletion, Stream[ChatCompletionChunk]]
    completions: Completions[Completion, Stream[Completion]]
    embeddings: Embeddings[EmbeddingResponse]
    audio: Audio[Transcription, TranscriptionVerbose, Translation, TranslationVerbose, str, Stream[TranscriptionStreamEvent]]
    models: Models[ModelList, ModelCard]

    def __init__(self, model: str | os.PathLike[str] | None = None, **options: Unpack[ClientOptions]) -> None:
        """model: a name of the catalog, an installed model or the path of a GGUF file, for requests that name none. options:
        see ClientOptions. Raises ConfigError.
        """
        self._core = _Core(model, **options)
        driver = SyncDriver()
        self.chat = Chat(self._core, driver)
        self.completions = Completions(self._core, driver)
        self.embeddings = Embeddings(self._core, driver)
        self.audio = Audio(self._core, driver)
        self.models = Models(self._core, driver)

    @property
    def settings(self) -> Settings:
        """What this client was set up with."""
        return self._core.settings

    def warm_up(self, model: str | None = None) -> None:
        """Loads a model now, so that the first request does not wait for it."""
        self._core.router.warm_up(model)

    def close(self) -> None:
        """Cancels every reply and frees every model. Calling it again does nothing."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio: the same arguments and resources, awaited. Streams are awaited first, then iterated."""

    chat: Chat[Coroutine[Any, Any, ChatCompletion], Coroutine[Any, Any, AsyncStream[ChatCompletionChunk]]]
    completions: Completions[Coroutine[Any, Any, Completion], Coroutine[Any, Any, AsyncStream[Completion]]]
    embeddings: Embeddings[Coroutine[Any, Any, EmbeddingResponse]]
    audio: Audio[
        Coroutine[Any, Any, Transcription],
        Coroutine[Any, Any, TranscriptionVerbose],
        Coroutine[Any, Any, Translation],
        Coroutine[Any, Any, TranslationVerbose],
        Coroutine[Any, Any, str],
        Coroutine[Any, Any, AsyncStream[TranscriptionStreamEvent]],
    ]
    models: Models[Coroutine[Any, Any, ModelList], Coroutine[Any, Any, ModelCard]]

    def __init__(self, model: str | os.PathLike[str] | None = None, **options: Unpack[ClientOptions]) -> None:
        """As `Client`; a `progress` callback is called in another thread."""
        self._core = _Core(model, **options)
        self._driver = AsyncDriver()
        self.chat = Chat(self._core, self._driver)
        self.completions = Completions(self._core, self._driver)
        self.embeddings = Embeddings(self._core, self._driver)
        self.audio = Audio(self._core, self._driver)
        self.models = Models(self._core, self._driver)

    @property
    def settings(self) -> Settings:
        """What this client was set up with."""
        return self._core.settings

    async def warm_up(self, model: str | None = None) -> None:
        """Loads a model now, so that the first request does not wait for it."""
        await self._driver.call(lambda: self._core.router.warm_up(model))

    async def close(self) -> None:
        """Cancels every reply and frees every model. Calling it again does nothing."""
        await self._driver.call(self._core.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

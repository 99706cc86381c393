"""The backend over our own engine: models in this process, templates from their files, requests that run as one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from secrets import randbits
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import hub
from ..engine import EngineActivity, Generation, Model, Token
from ..errors import InvalidRequestError, RequestCancelledError, RequestTimeoutError, UnknownModelError, UnsupportedModelError
from ..prompting.calls import CallParser, CallSeparator
from ..prompting.context import FittedPrompt, fit_messages, fit_tokens
from ..prompting.encode import PromptEncoder
from ..prompting.messages import template_messages
from ..prompting.reasoning import Format, Markers, Separator, Spelled, detect, separator
from ..prompting.structured import Constraint, Grammar, Structured, json_rule, lark_grammar, reasoning_prefix, request_grammar
from ..prompting.template import ChatTemplate
from ..prompting.tools import Format as ToolFormat
from ..prompting.tools import Offer, grammar, offer
from ..prompting.tools import detect as detect_tools
from ..types import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    ModelCard,
    TranscriptionRequest,
    TranslationRequest,
)
from .base import (
    BackendOptions,
    Delta,
    EmbeddingReply,
    FinishReason,
    LoadedInfo,
    Reply,
    ReplyStats,
    SpokenText,
    States,
    TokenInfo,
    Trace,
    TraceKind,
)
from .pool import CLOSED, Lease, Pool
from .prefixes import PrefixFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .faster_whisper import FasterWhisperBackend
    from .llama_cpp import LlamaGeneration, LlamaModel

__all__ = ["NativeBackend"]

_SAVE_SECONDS = 300  # between two looks at whether an idle model has prefixes to save
_WAIT_SECONDS = 0.2  # longest wait in C without a look at time-outs and Ctrl-C
_TURN_SECONDS = 0.01  # the same while several answers are waited for in turn
_MAX_ECHO_LOGITS_BYTES = 1 << 30
_PROMPT_END_TOKENS = 48  # enough of a prompt to see whether it begins the reasoning
_TOO_LATE = "the request was not answered within its timeout; allow more time or fewer tokens"


class NativeBackend:
    """Loads each model when it is first asked for, and keeps it until it is idle for too long, must make room, or is closed."""

    name: ClassVar[str] = "native"

    def __init__(self, options: BackendOptions) -> None:
        self.options = options
        self._store = hub.Store(None if options.home is None else Path(options.home))
        self._lock = threading.Lock()  # guards the three dicts
        self._paths: dict[str, Path] = {}  # what was asked for; while that is loaded, nobody looks again
        self._names: dict[Path, str] = {}  # what replies call it
        self._stems: dict[str, Path] = {}  # such names of files: a request may use them, too
        counts_files = options.memory_counts_files
        self._pool: Pool[Path, _LoadedModel] = Pool(
            size_of=lambda loaded: loaded.private_bytes + (loaded.file_bytes if counts_files else 0),
            close=_LoadedModel.close,
            limit_bytes=options.memory_limit_bytes,
            idle_seconds=options.idle_seconds,
            tend=None if options.prefix_cache is None else _LoadedModel.save_prefixes,
            tend_seconds=_SAVE_SECONDS,
        )
        self._speech: FasterWhisperBackend | None = None

    # ---- models ----

    def warm_up(self, model: str | None = None) -> None:
        if self._is_speech(model or self.options.model):
            self._transcriber().warm_up(model)
        else:
            self._model(model)

    def models(self) -> list[ModelCard]:
        opened = self._by_path
        with self._lock:
            found = dict(self._stems)  # files stay known when they had to make room
        found |= {loaded.name: loaded.path for loaded in opened.values()}
        for installed in hub.installed(self._store):
            found.setdefault(installed.name, installed.path)
        catalog = hub.Catalog.load(self._store.home)
        return [self._card(name, path, catalog.get(name), opened.get(path.resolve())) for name, path in sorted(found.items())]

    def _card(self, name: str, path: Path, entry: hub.CatalogEntry | None, loaded: _LoadedModel | None) -> ModelCard:
        facts: dict[str, Any] = {} if entry is None else {"context": entry.context, "quantisation": entry.quantisation}
        architecture = None if entry is None else entry.architecture
        if loaded is not None:
            facts, architecture = loaded.facts, loaded.architecture
        return ModelCard(
            id=name,
            created=_modified_at(path),
            owned_by="local",
            aliases=[] if entry is None else list(entry.aliases),
            capabilities=hub.capabilities(architecture),
            sha256=hub.known_sha256(path, self._store),
            loaded=loaded is not None,
            **facts,
        )

    def loaded(self) -> list[LoadedInfo]:
        found = []
        for path, loaded in self._by_path.items():
            users, idle_s = self._pool.users(path)
            sizes = loaded.private_bytes, loaded.file_bytes
            found.append(LoadedInfo(loaded.name, path, loaded.backend, *sizes, n_users=users, idle_s=idle_s))
        return sorted(found, key=lambda info: info.name)

    def activity(self) -> dict[str, EngineActivity]:
        return {loaded.name: found for loaded in self._by_path.values() if (found := loaded.activity()) is not None}

    def unload(self, model: str, timeout_s: float | None = None) -> bool:
        self._pool.check_open()
        path = self._known_path(model)
        if path is None:
            try:
                path = Path(hub.resolve(model, pull=False, store=self._store)).resolve()
            except UnknownModelError:
                if hub.Catalog.load(self._store.home).get(model) is None:
                    raise
                return False  # a model of the catalog that is not here
        return self._pool.unload(path, what=model, timeout_s=timeout_s)

    def close(self) -> None:
        with self._lock:
            speech, self._speech = self._speech, None
        self._pool.close()
        if speech is not None:
            speech.close()

    @property
    def _by_path(self) -> dict[Path, _LoadedModel]:
        """What is loaded."""
        return self._pool.open()

    def _is_speech(self, name: str) -> bool:
        """Whether a model writes down speech: the catalog says so, or it is a folder of CTranslate2."""
        entry = hub.Catalog.load(self._store.home).get(hub.split_pin(name)[0])
        return hub.is_model_folder(name) if entry is None else entry.transcribes

    def _transcriber(self) -> FasterWhisperBackend:
        """What runs models of speech, made when first needed."""
        from .faster_whisper import FasterWhisperBackend

        self._pool.check_open()
        with self._lock:
            if self._speech is None:
                self._speech = FasterWhisperBackend(self.options)
            return self._speech

    def _model(self, name: str | None) -> _LoadedModel:
        """A model, loaded now. It may be unloaded again at any time: for work with it take `_lease`."""
        with self._lease(name) as loaded:
            return loaded

    def _lease(self, name: str | None, timeout_s: float | None = None) -> Lease[_LoadedModel]:
        """A model that stays loaded until it is given back. timeout_s: longest wait for room."""
        asked = name or self.options.model
        self._pool.check_open()
        path = self._known_path(asked)
        if path is None:
            if self._is_speech(asked):
                message = f'"{asked}" writes down speech and answers no text; use client.audio.transcriptions.create with it'
                raise InvalidRequestError(message, "model")
            path = Path(hub.resolve(asked, store=self._store, progress=self.options.progress)).resolve()
            with self._lock:
                self._paths[asked] = path
        called = self._name_for(asked, path)

        def load() -> _LoadedModel:
            model = self._load(path)
            loaded = _LoadedModel(called, path, model, self.options.speculation)
            if self.options.prefix_cache is not None and isinstance(model, Model):
                loaded.prefixes = PrefixFile(Path(self.options.prefix_cache).expanduser(), model, path, self._store)
                loaded.prefixes.load()
            return loaded

        return self._pool.lease(path, load, what=called, timeout_s=timeout_s)

    def _known_path(self, asked: str) -> Path | None:
        """The file that a name meant before: as long as it is loaded, or if only this backend knows the name."""
        opened = self._by_path
        with self._lock:
            path = self._paths.get(asked)
            return path if path in opened else self._stems.get(asked)

    def _name_for(self, asked: str, path: Path) -> str:
        """What replies call a model: its catalog name, or a file's stem (a path says too much about this machine). A stem
        that means another model already is made longer."""
        with self._lock:
            if path in self._names:
                return self._names[path]
            catalog = hub.Catalog.load(self._store.home)
            asked, _ = hub.split_pin(asked)
            if not Path(asked).expanduser().is_file():
                entry = catalog.get(asked)
                name = asked if entry is None else entry.name
            else:
                taken = set(self._names.values())
                names = (path.stem, path.name, f"{path.parent.name}/{path.name}", str(path))
                name = next(name for name in names if name not in taken and catalog.get(name) is None)
                self._stems[name] = path
            self._names[path] = name
            return name

    def _load(self, path: Path) -> Model | LlamaModel:
        """Opens a file. What it returns has the shape of `Model`; backends over other engines override this."""
        options = self.options
        return Model.load(
            path,
            threads=options.threads,
            context=options.context,
            kv_type=options.kv_type,
            kv_memory=options.kv_memory_bytes,
            batch=options.batch,
            kernels=options.kernels,
            max_waiting=options.max_waiting,
        )

    # ---- requests ----

    def _replied(self, request: GenerationRequest, start: Callable[[_LoadedModel, float | None], _NativeReply]) -> _NativeReply:
        """The reply that `start` makes of a loaded model and a deadline. It keeps the model until it is closed."""
        lease = self._lease(request.model, request.timeout)
        try:
            reply = start(lease.value, _deadline(request, lease.waited_s))
        except BaseException:
            lease.release()
            raise
        reply.lease = lease
        return reply

    def chat(self, request: ChatCompletionRequest, trace: TraceKind = "none") -> Reply:
        _refuse_unsupported(request)
        offered = offer(request)
        form = request_grammar(request)
        messages = template_messages(request.messages)
        start = partial(self._chat, request, messages, offered, form, trace == "states")
        return self._replied(request, lambda loaded, deadline: start(loaded, deadline).traced(trace))

    def _chat(
        self,
        request: ChatCompletionRequest,
        messages: list[dict[str, Any]],
        offered: Offer | None,
        form: Grammar | None,
        pool_states: bool,
        loaded: _LoadedModel,
        deadline: float | None,
    ) -> _NativeReply:
        loaded.refuse_encoder()
        with loaded.in_use() as model:
            prompt = fit_messages(
                partial(
                    loaded.encoder.encode,
                    tools=None if offered is None else offered.definitions,
                    variables=loaded.variables(request),
                ),
                messages,
                context_tokens=model.context,
                policy=request.context_policy,
                max_tokens=request.token_limit,
            )
            n_top = (request.top_logprobs or 0) if request.logprobs else None
            stop = (*(request.stop or ()), *loaded.encoder.template.stop)
            markers = [loaded.separate(request, prompt.ids, stop, offered) for _ in range(request.n or 1)]
            constraints = loaded.constraints(request, prompt, loaded.call_grammar(offered, form), reasons=True)
            answers = loaded.start(
                request, prompt, n_top, first_index=0, stop=stop, constraints=constraints, pool_states=pool_states
            )
            for answer, taker in zip(answers, markers, strict=True):
                answer.markers = taker
                answer.marks = loaded.marks(offered)
        return _NativeReply(loaded, answers, with_tokens=bool(request.logprobs), deadline=deadline, prompts=[prompt])

    def complete(self, request: CompletionRequest, trace: TraceKind = "none") -> Reply:
        n = request.n or 1
        if request.suffix is not None:
            raise InvalidRequestError("suffix is not supported: local models only continue text at its end", "suffix")
        if request.best_of is not None and request.best_of != n:
            raise InvalidRequestError("best_of is not supported; ask for n answers and choose among them", "best_of")
        grammar = request_grammar(request)
        start = partial(self._complete, request, n, grammar, trace == "states")
        return self._replied(request, lambda loaded, deadline: start(loaded, deadline).traced(trace))

    def _complete(
        self,
        request: CompletionRequest,
        n: int,
        grammar: Grammar | None,
        pool_states: bool,
        loaded: _LoadedModel,
        deadline: float | None,
    ) -> _NativeReply:
        loaded.refuse_encoder()
        answers: list[_Answer] = []
        prompts: list[FittedPrompt] = []
        try:
            with loaded.in_use() as model:
                for given in request.prompts:
                    ids = loaded.prompt_ids(given)
                    prompts.append(
                        fit_tokens(
                            ids,
                            context_tokens=model.context,
                            policy=request.context_policy,
                            keep_tokens=int(ids[0] == model.tokenizer.info.bos_id),
                            max_tokens=request.max_tokens,
                            n_reply=0 if request.max_tokens == 0 else 1,
                        )
                    )
                constraints = [loaded.constraints(request, prompt, grammar) for prompt in prompts]
                for position, prompt in enumerate(prompts):
                    echo = loaded.echo(request, request.prompts[position], prompt.ids) if request.echo else None
                    answers += loaded.start(
                        request,
                        prompt,
                        request.logprobs,
                        first_index=position * n,
                        echo=echo,
                        constraints=constraints[position],
                        pool_states=pool_states,
                    )
        except BaseException:
            for answer in answers:
                answer.close()
            raise
        return _NativeReply(loaded, answers, with_tokens=request.logprobs is not None, deadline=deadline, prompts=prompts)

    def embed(self, request: EmbeddingRequest, cancelled: Callable[[], bool] | None = None) -> EmbeddingReply:
        lease = self._lease(request.model or self._embedding_model(), request.timeout)
        deadline = _deadline(request, lease.waited_s)

        def check() -> None:
            self._pool.check_open()
            if cancelled is not None and cancelled():
                raise RequestCancelledError("the request was cancelled")
            if deadline is not None and time.monotonic() >= deadline:
                raise RequestTimeoutError(_TOO_LATE)

        with lease as loaded, loaded.in_use() as model:
            if not isinstance(model, Model):
                message = f'"{loaded.name}" runs on llama.cpp here, which makes no embeddings for this client'
                raise UnsupportedModelError(message)
            info = model.info
            if request.dimensions is not None and request.dimensions > info.d_model:
                message = f"dimensions should be at most {info.d_model}, which the vectors of this model have"
                raise InvalidRequestError(f"{message}, not {request.dimensions}", "dimensions")
            sequences = model.embedding_ids(request.inputs, truncate=request.truncate)
            vectors = model.embed_ids(sequences, check=check)
        if request.dimensions is not None and request.dimensions < vectors.shape[1]:
            vectors = _shortened(vectors, request.dimensions)
        return EmbeddingReply(loaded.name, loaded.backend, "local", vectors, sum(map(len, sequences)))

    def _embedding_model(self) -> str:
        """The client's own model if it is an encoder, else the one that is set for embeddings."""
        own = self.options.model
        entry = hub.Catalog.load(self._store.home).get(own)
        if self.options.embedding_model is None or (entry is not None and entry.architecture in _encoders()):
            return own
        if entry is None and not self._is_speech(own) and not self._model(own).generates:
            return own
        return self.options.embedding_model

    def transcribe(self, request: TranscriptionRequest | TranslationRequest, audio: bytes) -> SpokenText:
        return self._transcriber().transcribe(request, audio)


def _encoders() -> set[str]:
    """Architectures that make embeddings and no text."""
    from ..engine import architectures

    return {each.name for each in architectures() if each.summary.startswith("encoder")}


def _shortened(vectors: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The first n numbers of each row, made to length 1 again where they are not all 0."""
    import numpy as np

    kept = vectors[:, :n].astype(np.float64)
    lengths = np.sqrt((kept**2).sum(axis=1, keepdims=True))
    shortened: NDArray[np.float32] = (kept / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return shortened


class _LoadedModel:
    """A model, its template, and a count of those who use it: it is closed only when nobody does."""

    def __init__(self, name: str, path: Path, model: Model | LlamaModel, speculation: int) -> None:
        self.name = name
        self.backend = "native" if isinstance(model, Model) else "llama_cpp"
        self.path = path
        self.private_bytes, self.file_bytes = _sizes(model)
        self.architecture, self.facts = _facts(model)
        self._model = model
        self._speculation = speculation
        self.prefixes: PrefixFile | None = None
        self._idle = threading.Condition()
        self._n_users = 0
        self._closed = False
        self._token_bytes: dict[int, bytes] = {}
        self._encoder_lock = threading.Lock()
        self._encoder: PromptEncoder | None = None
        self._format: Format | None = None
        self._marks: dict[int, str] = {}  # control tokens that belong to the format
        self._tool_format: ToolFormat | None = None
        self._tool_marks: dict[int, str] = {}  # the same, of the format of calls
        self._structured: Structured | None = None

    @contextmanager
    def in_use(self) -> Iterator[Model | LlamaModel]:
        """The model, which stays open until the block ends. Raises RequestCancelledError if it was closed."""
        with self._idle:
            if self._closed:
                raise RequestCancelledError(CLOSED)
            self._n_users += 1
        try:
            yield self._model
        finally:
            with self._idle:
                self._n_users -= 1
                self._idle.notify_all()

    def save_prefixes(self) -> None:
        """Keeps what was read for the next process, if there is a place for it."""
        if self.prefixes is not None:
            self.prefixes.save()

    def close(self) -> None:
        self.save_prefixes()
        with self._idle:
            self._closed = True
            while self._n_users:
                self._idle.wait()
        self._model.close()

    def activity(self) -> EngineActivity | None:
        """What its engine does; None if that is not ours, or the model was closed meanwhile."""
        try:
            with self.in_use() as model:
                return model.activity() if isinstance(model, Model) else None
        except RequestCancelledError:
            return None

    @property
    def encoder(self) -> PromptEncoder:
        """Call inside `in_use`."""
        with self._encoder_lock:
            if self._encoder is None:
                tokenizer = self._model.tokenizer
                info = tokenizer.info
                ids = {"bos_token": info.bos_id, "eos_token": info.eos_id, "unk_token": info.unk_id, "pad_token": info.pad_id}
                tokens = {key: self.bytes_of(i).decode("utf-8", "replace") for key, i in ids.items() if i is not None}
                special = {
                    self.bytes_of(i).decode("utf-8", "replace"): i for i in tokenizer.ids_with("control", "user_defined", "end")
                }
                find = partial(
                    ChatTemplate.from_metadata, self._model.metadata, tokens=tokens, add_bos=info.add_bos, vocabulary=special
                )
                template, tool_template = find(), find(name="tool_use")
                self._format = detect(template.source + tool_template.source, special)
                self._tool_format = detect_tools(template.source + tool_template.source, special)

                def control(markers: Sequence[str]) -> dict[int, str]:
                    marks = {special[text]: text for text in markers if text in special}
                    return {i: text for i, text in marks.items() if "control" in tokenizer.attributes(i)}

                if self._format is not None:
                    self._marks = control(self._format.markers)
                self._tool_marks = control(self._tool_format.markers)
                self._encoder = PromptEncoder(template, tokenizer, tool_template=tool_template, form=self._tool_format)
            return self._encoder

    def variables(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """What the request tells the template besides messages. Raises InvalidRequestError for what it does not read. Call
        inside `in_use`."""
        known = self.encoder.variables
        variables = dict(request.chat_template_kwargs or {})
        for name in variables:
            if name not in known:
                message = f'chat_template_kwargs has "{name}", which the chat template of this model does not read'
                raise InvalidRequestError(message, "chat_template_kwargs")
        effort = request.reasoning_effort
        if effort is not None:
            thinks = effort != "none"
            level = {"none": "low", "minimal": "low", "xhigh": "high"}.get(effort, effort)
            switches = {"reasoning_effort": level, "enable_thinking": thinks, "thinking": thinks}
            if known.isdisjoint(switches):
                message = "reasoning_effort is not supported: the chat template of this model has no switch for reasoning"
                raise InvalidRequestError(message, "reasoning_effort")
            variables = {**{name: value for name, value in switches.items() if name in known}, **variables}
        return variables

    def separate(
        self, request: ChatCompletionRequest, ids: list[int], stop: Sequence[str], offered: Offer | None
    ) -> Markers | None:
        """What takes reasoning and calls out of one answer to this prompt; None if there can be neither. Call inside
        `in_use`."""
        _ = self.encoder  # which finds the formats
        if self._format is None and offered is None:
            return None
        inner: Separator = Spelled()
        if self._format is not None and request.reasoning_format != "none":
            inner = separator(self._format, self._prompt_end(ids))
        if offered is None or self._tool_format is None:
            return Markers(inner, stop)
        parser = CallParser(self._tool_format, offered.schemas, single=offered.single)
        return Markers(CallSeparator(inner, parser, tuple(self._marks.values())), stop)

    @property
    def structured(self) -> Structured:
        """What makes grammars of this model's vocabulary. Raises MissingExtraError. Call inside `in_use`."""
        with self._encoder_lock:
            if self._structured is None:
                if not isinstance(self._model, Model):
                    message = "structured output is not supported: llama.cpp runs this model, and has no masks here"
                    raise InvalidRequestError(message, "response_format")
                self._structured = Structured(self._model.tokenizer)
            return self._structured

    def call_grammar(self, offered: Offer | None, asked: Grammar | None) -> Grammar | None:
        """The form of an answer that may or must call: `asked` is that of one that does not. Raises InvalidRequestError. Call
        inside `in_use`."""
        _ = self.encoder  # which finds the format of calls
        form = self._tool_format
        if offered is None or form is None:
            return asked
        if asked is not None and not offered.required and not asked.is_json:
            return asked  # which leaves no room for calls
        if not offered.needs_grammar(form) and asked is None:
            return None
        answer = None if asked is None or offered.required else f"%json {asked.text}"
        structured = self.structured
        text = grammar(form, offered, literal=structured.literal, json_rule=partial(json_rule, param="tools"), answer=answer)
        return lark_grammar(text, param="tools")

    def constraints(
        self, request: GenerationRequest, prompt: FittedPrompt, grammar: Grammar | None, *, reasons: bool = False
    ) -> list[Constraint] | None:
        """One constraint for each of the `n` answers; None if they are free. `reasons`: the model may think before it answers
        in the form that was asked for. Raises InvalidRequestError. Call inside `in_use`."""
        limit: int | None = getattr(request, "token_limit", None)
        if grammar is None or limit == 0:
            return None
        _ = self.encoder  # which finds the format of the reasoning
        structured, prefix = self.structured, None
        if reasons and self._format is not None:
            prefix = reasoning_prefix(self._format, self._prompt_end(prompt.ids), structured.marker)
        room = self._model.context if request.context_policy == "shift" else self._model.context - len(prompt.ids)
        budget = room if limit is None else min(room, limit)
        return [structured.constraint(grammar, budget=budget, prefix=prefix) for _ in range(request.n or 1)]

    def _prompt_end(self, ids: Sequence[int]) -> str:
        return b"".join(self.bytes_of(i) for i in ids[-_PROMPT_END_TOKENS:]).decode("utf-8", "replace")

    @cached_property
    def generates(self) -> bool:
        """Whether it makes text; encoders only make embeddings."""
        with self.in_use() as model:
            return not isinstance(model, Model) or model.info.generates

    def refuse_encoder(self) -> None:
        """Raises UnsupportedModelError if the model makes no text."""
        if not self.generates:
            message = f'"{self.name}" makes embeddings and generates no text; use client.embeddings.create with it'
            raise UnsupportedModelError(message)

    @cached_property
    def n_vocab(self) -> int:
        return self._model.tokenizer.info.n_vocab

    def bytes_of(self, token_id: int) -> bytes:
        """Exact bytes of a token. Call inside `in_use`."""
        found = self._token_bytes.get(token_id)
        if found is None:
            found = self._token_bytes[token_id] = self._model.tokenizer.token_bytes(token_id)
        return found

    def info_of(self, token: Token) -> TokenInfo | None:
        """What is reported of a token; None for an event without one, and for the token that ends an answer."""
        if token.id < 0:
            return None
        with self.in_use() as model:
            if token.finish_reason == "stop" and not token.text and "end" in model.tokenizer.attributes(token.id):
                return None
            top = tuple(TokenInfo(other, self.bytes_of(other), logprob) for other, logprob in token.top)
            return TokenInfo(token.id, self.bytes_of(token.id), token.logprob, top, token.entropy, token.margin)

    def text_of(self, token: Token) -> str:
        """What a token stands for in the text: nothing if it is a control token."""
        with self.in_use() as model:
            if model.tokenizer.attributes(token.id) & {"control", "end"}:
                return ""
            return self.bytes_of(token.id).decode("utf-8", "replace")

    def prompt_ids(self, prompt: str | list[int]) -> list[int]:
        """Ids of a plain prompt. Special tokens in it are recognised: whoever writes a raw prompt speaks for the model."""
        if isinstance(prompt, str):
            ids = self._model.tokenize(prompt, add_special=True, parse_special=True)
            if not ids:
                raise InvalidRequestError("the prompt is empty, and this model has no token to begin a text with", "prompt")
            return ids
        if not prompt:
            raise InvalidRequestError("the prompt holds no token", "prompt")
        for token in prompt:
            if token >= self.n_vocab:
                raise InvalidRequestError(f"the prompt holds token {token}, but the model has only {self.n_vocab}", "prompt")
        return prompt

    def marks(self, offered: Offer | None) -> dict[int, str]:
        """Control tokens that mark reasoning or, where tools are on offer, calls: how they are spelled."""
        return self._marks if offered is None else {**self._tool_marks, **self._marks}

    def start(
        self,
        request: GenerationRequest,
        prompt: FittedPrompt,
        n_top: int | None,
        first_index: int,
        echo: Delta | None = None,
        stop: Sequence[str] = (),
        constraints: Sequence[Constraint] | None = None,
        pool_states: bool = False,
    ) -> list[_Answer]:
        """Submits the `n` answers to one prompt; they run side by side, in one batch."""
        sampling = self._sampling(request, n_top)
        seed = request.seed if request.seed is not None else randbits(64)
        limit: int | None = getattr(request, "token_limit", None)
        answers: list[_Answer] = []
        try:
            for offset in range(request.n or 1):
                generation: Generation | LlamaGeneration | None = None
                if limit != 0:
                    generation = self._model.generate(
                        prompt.ids,
                        max_tokens=limit,
                        sampling={**sampling, "seed": (seed + offset) % 2**64},
                        stop=stop or request.stop or (),
                        context_policy=request.context_policy,
                        keep=prompt.keep_tokens if request.context_policy == "shift" else 0,
                        speculation=self._speculation,
                        **({} if constraints is None else {"constrained": True}),
                        **({"pool_states": True} if pool_states and isinstance(self._model, Model) else {}),
                    )
                answers.append(_Answer(first_index + offset, generation, echo, constraints[offset] if constraints else None))
        except BaseException:
            for answer in answers:
                answer.close()
            raise
        return answers

    def _sampling(self, request: GenerationRequest, n_top: int | None) -> dict[str, Any]:
        for token in request.logit_bias or ():
            if token >= self.n_vocab:
                message = f"logit_bias names token {token}, but the model has only {self.n_vocab}"
                raise InvalidRequestError(message, "logit_bias")
        sampling: dict[str, Any] = {
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
            "penalty_last_n": -1,  # OpenAI's penalties look at the whole text so far
            "logit_bias": request.logit_bias,
            "top_logprobs": n_top,
        }
        return {name: value for name, value in sampling.items() if value is not None}

    def echo(self, request: CompletionRequest, given: str | list[int], ids: list[int]) -> Delta:
        """The prompt as the first event of its own answer, with its log-probabilities if the request wants them."""
        raw = b"".join(self.bytes_of(token) for token in ids)
        hidden = isinstance(given, str) and self._begins_unasked(given, ids)
        text = (raw[len(self.bytes_of(ids[0])) :] if hidden else raw).decode("utf-8", "replace")
        if request.logprobs is None:
            return Delta(0, text)
        if request.logprobs == 0:
            scores = [float(value) for value in self._model.logprobs(ids)] if len(ids) > 1 else []
            tops: Sequence[tuple[TokenInfo, ...]] = [()] * len(scores)
        else:
            scores, tops = self._score(ids, request.logprobs)
        tokens = [TokenInfo(ids[0], self.bytes_of(ids[0]), None, hidden=hidden)]
        tokens += [TokenInfo(i, self.bytes_of(i), score, top) for i, score, top in zip(ids[1:], scores, tops, strict=True)]
        return Delta(0, text, tuple(tokens))

    def _begins_unasked(self, given: str, ids: list[int]) -> bool:
        """Whether the tokenizer put a token in front that the text does not spell."""
        info = self._model.tokenizer.info
        return ids[0] == info.bos_id and not given.encode("utf-8", "replace").startswith(self.bytes_of(ids[0]))

    def _score(self, ids: list[int], n_top: int) -> tuple[list[float], list[tuple[TokenInfo, ...]]]:
        """For every token but the first: its log-probability and the likeliest alternatives."""
        import numpy as np

        n_bytes = 4 * len(ids) * self.n_vocab
        if n_bytes > _MAX_ECHO_LOGITS_BYTES:
            raise InvalidRequestError(
                f"alternatives for a prompt of {len(ids)} tokens need {n_bytes >> 20} MiB; use logprobs=0 or a shorter prompt",
                "logprobs",
            )
        scores = [float(value) for value in self._model.logprobs(ids)] if len(ids) > 1 else []
        tops: list[tuple[TokenInfo, ...]] = []
        for row, token, score in zip(self._model.logits(ids)[:-1], ids[1:], scores, strict=True):
            total = float(row[token]) - score  # the engine's own sum: the same bits with alternatives and without
            best = np.argpartition(row, -n_top)[-n_top:] if n_top < len(row) else np.arange(len(row))
            best = best[np.argsort(row[best])[::-1]]
            likely = [(int(i), score if i == token else float(row[i]) - total) for i in best]
            tops.append(tuple(TokenInfo(i, self.bytes_of(i), value) for i, value in likely))
        return scores, tops


class _Answer:
    """One of the answers of a reply: what is echoed first, and the generation that follows, if any."""

    def __init__(
        self,
        index: int,
        generation: Generation | LlamaGeneration | None,
        echo: Delta | None,
        constraint: Constraint | None = None,
    ) -> None:
        self.index = index
        self.generation = generation
        self.echo = echo
        self.constraint = constraint
        self.markers: Markers | None = None  # takes its reasoning and its calls out, if there may be any
        self.marks: Mapping[int, str] = {}  # control tokens that these look at
        self.trace: Trace | None = None
        self._lock = threading.Lock()  # cancelling, from any thread, must not meet closing
        self._allow()

    @property
    def shares_a_thread(self) -> bool:
        """Whether reading its events takes no time to speak of, and waits for none but the engine."""
        return self.constraint is None and (self.generation is None or isinstance(self.generation, Generation))

    def follow(self, token: Token) -> Token:
        """Tells the constraint of a token, and the engine at once what may come after it; computing goes on meanwhile. An
        answer that is whole when its limit is reached has not been cut."""
        constraint = self.constraint
        if constraint is None or token.id < 0 or token.finish_reason not in (None, "length"):
            return token
        constraint.accept(token.id)
        if token.finish_reason is None:
            self._allow()
        elif constraint.complete:
            return replace(token, finish_reason="stop")
        return token

    def _allow(self) -> None:
        if self.constraint is not None and isinstance(self.generation, Generation):
            self.generation.set_mask(self.constraint.mask())

    def cancel(self) -> None:
        with self._lock:
            if self.generation is not None:
                self.generation.cancel()

    def close(self) -> None:
        with self._lock:
            if self.generation is not None:
                self.generation.close()


class _NativeReply(Reply):
    """The answers to one request, merged in the order in which their tokens come."""

    route: Literal["local", "cloud"] = "local"

    def __init__(
        self,
        loaded: _LoadedModel,
        answers: list[_Answer],
        *,
        with_tokens: bool,
        deadline: float | None,
        prompts: list[FittedPrompt],
    ) -> None:
        self.model = loaded.name
        self.backend = loaded.backend
        self._loaded = loaded
        self._answers = answers
        self._open = list(answers)
        self._ready: deque[Delta] = deque()  # pieces of an event after its first
        self._with_tokens = with_tokens
        self._deadline = deadline
        self._prompts = prompts
        self.lease: Lease[_LoadedModel] | None = None  # given back when the reply is closed
        self._closed = False
        self._failure: Exception | None = None
        self.pace = loaded if all(answer.shares_a_thread for answer in answers) else None
        self._final_stats: ReplyStats | None = None

    def traced(self, kind: TraceKind) -> _NativeReply:
        """Itself, which notices from now on what was asked for."""
        if kind != "none":
            for answer, prompt in zip(self._answers, self._prompt_of_each(), strict=True):
                answer.trace = Trace(len(prompt.ids))
                if kind == "states" and isinstance(answer.generation, Generation):
                    answer.trace.read_states = partial(_read_states, answer.generation)
            self.traces = [answer.trace for answer in self._answers if answer.trace is not None]
        return self

    def _prompt_of_each(self) -> list[FittedPrompt]:
        """The prompt of each answer."""
        n = len(self._answers) // len(self._prompts)
        return [prompt for prompt in self._prompts for _ in range(n)]

    def __next__(self) -> Delta:
        while not self._closed:
            if self._ready:
                return self._ready.popleft()
            if not self._open:
                break
            self._check_time()
            try:
                self._poll()
            except BaseException:
                self.close()
                raise
        raise StopIteration

    def read(self) -> list[Delta]:
        while (found := self.poll(_WAIT_SECONDS)) is None:
            pass
        return found

    def poll(self, wait_seconds: float) -> list[Delta] | None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        found = list(self._ready)
        self._ready.clear()
        if self._closed or not self._open:
            return found
        self._check_time()
        try:
            if len(self._open) == 1:
                if self._advance(wait_seconds, found):
                    self._sweep(found)
            elif not self._sweep(found) and wait_seconds > 0 and self._advance(min(wait_seconds, _TURN_SECONDS), found):
                self._sweep(found)
        except Exception as error:
            self.close()
            if not found:
                raise
            self._failure = error  # for the next call: what came before it counts
        return found if found or not self._open else None

    def _sweep(self, found: list[Delta]) -> bool:
        """Takes every event that is there, of all answers; whether there was one."""
        n_idle, n_events = 0, 0
        while n_idle < len(self._open):
            if self._advance(0.0, found):
                n_idle, n_events = 0, n_events + 1
            else:
                n_idle += 1
        return n_events > 0

    def _advance(self, wait_seconds: float, found: list[Delta]) -> bool:
        """Takes the next event of the answer whose turn it is; whether there was one."""
        answer = self._open.pop(0)
        deltas = self._take(answer, wait_seconds)
        if not deltas or deltas[-1].finish_reason is None:
            self._open.append(answer)
        found += deltas or ()
        return deltas is not None

    def rest(self) -> list[Delta]:
        for answer in self._open:
            if answer.shares_a_thread and isinstance(answer.generation, Generation):
                while not answer.generation.wait_end(self._remaining(_WAIT_SECONDS)):
                    self._check_time()
        return list(self)

    def _poll(self) -> None:
        """Makes the next event of any answer ready, or lets a while pass without one. All answers come out of one batch, so
        their events come together: one that has none is passed over, and waited for only when none has."""
        patience = [0.0] * len(self._open) + [_TURN_SECONDS] if len(self._open) > 1 else [_WAIT_SECONDS]
        found: list[Delta] = []
        for wait_seconds in patience:
            if self._advance(wait_seconds, found):
                break
        self._ready += found

    def _take(self, answer: _Answer, wait_seconds: float) -> list[Delta] | None:
        """What the next event of one answer adds; None if there is no event yet."""
        if answer.echo is not None:
            echo, answer.echo = answer.echo, None
            end: FinishReason | None = "length" if answer.generation is None else None
            return [Delta(answer.index, echo.text, echo.tokens, end)]
        if answer.generation is None:
            return [Delta(answer.index, "", (), "length")]
        try:
            token = answer.generation.wait(self._remaining(wait_seconds))
        except StopIteration:  # closed under our hands
            raise RequestCancelledError("the request was cancelled") from None
        if token is None:
            return None
        token = answer.follow(token)
        finish = token.finish_reason
        if answer.trace is not None:
            if token.id >= 0:
                answer.trace.add(token.id, token.logprob, token.entropy, token.margin)
            answer.trace.finish_reason = finish if finish in ("stop", "length") else None
        if finish == "cancelled":
            raise RequestCancelledError("the request was cancelled, or its client was closed")
        if finish == "timeout":
            raise RequestTimeoutError(_TOO_LATE)
        info = self._loaded.info_of(token) if self._with_tokens else None
        infos = () if info is None else (info,)
        if answer.markers is None:
            return [Delta(answer.index, token.text, infos, finish)]
        deltas = self._separated(answer, answer.markers, token, infos)
        if finish is None:
            return deltas
        called = isinstance(answer.markers.separator, CallSeparator) and answer.markers.separator.n_calls > 0
        return [*deltas, Delta(answer.index, "", (), "tool_calls" if called and finish == "stop" else finish)]

    def _separated(self, answer: _Answer, markers: Markers, token: Token, infos: tuple[TokenInfo, ...]) -> list[Delta]:
        """The event's text, taken apart into reasoning, content and calls."""
        mark = answer.marks.get(token.id)
        generated = self._loaded.text_of(token) if markers.needs_text and mark is None and token.id >= 0 else ""
        pieces = markers.push(token.text, mark, generated, infos, n_tokens=int(token.id >= 0))
        if token.finish_reason is not None:
            if isinstance(markers.separator, CallSeparator):
                markers.separator.complete = token.finish_reason == "stop"
            pieces += markers.finish()
        return [Delta(answer.index, piece.text, piece.tokens, None, piece.reasoning, piece.call) for piece in pieces]

    def _remaining(self, wait_seconds: float) -> float:
        if self._deadline is None:
            return wait_seconds
        return max(0.0, min(wait_seconds, self._deadline - time.monotonic()))

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.close()
            raise RequestTimeoutError(_TOO_LATE)

    def cancel(self) -> None:
        for answer in self._answers:
            answer.cancel()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                for answer in self._answers:
                    answer.close()
                self._final_stats = self._read_stats()
            finally:
                if self.lease is not None:
                    self.lease.release()

    @property
    def stats(self) -> ReplyStats:
        return self._final_stats or self._read_stats()

    def _read_stats(self) -> ReplyStats:
        every = [answer.generation.stats for answer in self._answers if answer.generation is not None]
        return ReplyStats(
            prompt_tokens=sum(len(prompt.ids) for prompt in self._prompts),
            cached_tokens=max((stats.cached_tokens for stats in every), default=0) if len(self._prompts) == 1 else 0,
            completion_tokens=sum(stats.generated_tokens for stats in every),
            reasoning_tokens=sum(a.markers.separator.reasoning_tokens for a in self._answers if a.markers is not None),
            queue_ms=max((stats.queue_ms for stats in every), default=0.0),
            prompt_ms=max((stats.prompt_ms for stats in every), default=0.0),
            decode_ms=max((stats.decode_ms for stats in every), default=0.0),
            drafted_tokens=sum(stats.drafted_tokens for stats in every),
            accepted_tokens=sum(stats.accepted_tokens for stats in every),
            dropped_messages=sum(prompt.dropped_messages for prompt in self._prompts),
        )

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


def _read_states(generation: Generation) -> States | None:
    states = generation.states()
    return None if states is None else States(states.prompt, states.mean, states.last)


def _deadline(request: GenerationRequest | EmbeddingRequest, waited_s: float = 0.0) -> float | None:
    return None if request.timeout is None else time.monotonic() + request.timeout - waited_s


def _facts(model: Model | LlamaModel) -> tuple[str | None, dict[str, Any]]:
    """A model's architecture, and what its card says of it."""
    if isinstance(model, Model):
        info = model.info
        return info.architecture, {"context": info.context, "quantisation": info.quantisation}
    return model.metadata.get("general.architecture"), {"context": model.context}


def _sizes(model: Model | LlamaModel) -> tuple[int, int]:
    """Bytes of memory that a model may take for itself, and of its file."""
    if isinstance(model, Model):
        memory = model.memory()
        return memory.scratch_bytes + memory.kv_pages * memory.kv_page_bytes, memory.file_bytes
    return model.private_bytes, model.file_bytes


def _modified_at(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0


def _refuse_unsupported(request: ChatCompletionRequest) -> None:
    """One sentence about the first thing that a request asks for and this backend does not do."""
    wants = (
        ("modalities", "audio" in (request.modalities or ()), "speech output"),
        ("audio", request.audio is not None, "speech output"),
        ("prediction", request.prediction is not None, "predicted output"),
    )
    for param, wanted, what in wants:
        if wanted:
            raise InvalidRequestError(f"{param} is not supported: local models have no {what} in this version", param)

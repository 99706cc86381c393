"""A loaded model: scores, generation, and what is known about it."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from cactus_py.errors import CactusError, EngineError, InvalidRequestError

from . import _ffi, _status
from .tokenizer import Tokenizer, TokenizerInfo, id_array, path_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled", "timeout"]
ContextPolicy = Literal["error", "shift"]
Pooling = Literal["mean", "cls", "last"]

_KV_TYPES = {"auto": 0, "f16": 1, "f32": 2, "i8": 3}
_FINISH: dict[int, FinishReason | None] = {0: None, 1: "stop", 2: "length", 3: "cancelled", 4: "timeout"}
_POLICIES = {"error": 0, "shift": 1}
_POOLINGS: dict[str | None, int] = {None: 0, "mean": 1, "cls": 2, "last": 3}
_POOLING_NAMES: dict[int, Pooling | None] = {0: None, 1: "mean", 2: "cls", 3: "last"}
_EMBED_TOKENS = 8192  # of one call of C; Ctrl-C is seen between two
_POLL_MS = 200  # how long a wait may keep the interpreter from seeing Ctrl-C


@dataclass(frozen=True, slots=True)
class Token:
    """One event of a generation.

    `text` is what the event adds to the answer: whole characters, possibly none. `logprob` (natural log), `entropy` (nats) and
    `margin` (best score minus second best) belong to the model's own distribution, before temperature, penalties and bias;
    `top` holds (id, logprob) of the best alternatives. `finish_reason` is set on the last event: "stop" (an end token, whose
    id is reported with empty text, or a stop string), "length", "cancelled" or "timeout". Where `id` is -1, there is no token.
    """

    id: int
    text: str
    logprob: float
    entropy: float
    margin: float
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What one generation cost. Durations are wall-clock milliseconds."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_ms: float
    prompt_ms: float
    decode_ms: float
    drafted_tokens: int = 0
    """tokens computed ahead of their turn by speculation"""
    accepted_tokens: int = 0
    """of them, those that were then chosen"""


@dataclass(frozen=True, slots=True, eq=False)
class GenerationStates:
    """The states that a generation's tokens so far were chosen from: of the last layer, behind its norm, as the output matrix
    reads them, float32 [d_model] each. Their bits do not depend on what is computed beside them."""

    prompt: NDArray[np.float32]
    """of the prompt's last token, which the first token was chosen from"""
    mean: NDArray[np.float32]
    """over all tokens, the one that ended the generation included"""
    last: NDArray[np.float32]
    """of the newest token"""
    tokens: int
    """how many there are"""


@dataclass(frozen=True, slots=True)
class EngineActivity:
    """What an engine does now, and what it has done since the model was loaded."""

    running: int
    """requests that are being computed"""
    waiting: int
    """requests that have not begun"""
    kv_pages: int
    """pages that there may be for keys and values"""
    kv_pages_used: int
    """of them, those that running requests use"""
    kv_pages_cached: int
    """prefixes that no request uses now, kept for the next one"""
    prompt_tokens: int
    cached_tokens: int
    """of the prompts' tokens, those that were found in memory"""
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    """times that a request gave its memory to an older one and was read again"""
    evicted_pages: int
    """pages of prefixes that went because memory was wanted"""


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Memory of a loaded model in bytes. `file_bytes` is mapped, shared and evictable; the rest is private."""

    file_bytes: int
    scratch_bytes: int
    kv_touched_bytes: int
    kv_page_bytes: int
    kv_page_tokens: int
    kv_pages: int
    kv_pages_used: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file says of itself, and how it is run."""

    architecture: str
    name: str
    parameters: int
    context: int
    """longest sequence in tokens that this model object takes"""
    trained_context: int
    quantisation: str
    """tensor type that holds most of the weights"""
    layers: int
    d_model: int
    heads: int
    kv_heads: int
    d_head: int
    vocabulary: int
    tensors: int
    tokenizer: TokenizerInfo
    memory: MemoryInfo
    threads: int
    kernels: str
    kv_type: str
    generates: bool = True
    """whether it makes text; encoders only make embeddings"""
    pooling: Pooling | None = None
    """how it makes one vector of a text's tokens; None: it makes no embeddings"""


_SAMPLING_FIELDS = {
    "temperature": float,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "top_k": int,
    "penalty_last_n": int,
    "seed": int,
    "top_logprobs": int,
    "ignore_eos": bool,
}


def _number(name: str, value: Any, kind: type) -> Any:
    """A sampling value in its C type's range. Raises InvalidRequestError naming the field."""
    try:
        if kind is float:
            number = float(value)
            if math.isnan(number):
                raise ValueError
            return number
        if kind is bool:
            return int(bool(value))
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        number = int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(
            f"{name} is {value!r}; it must be {'a number' if kind is float else 'an integer'}", name
        ) from error
    if name == "seed":
        return number % 2**64
    if not -(2**31) <= number < 2**31:
        raise InvalidRequestError(f"{name} is {value!r}; it is out of range", name)
    return number


def _fill_sampling(raw: Any, sampling: Mapping[str, Any], keep: list[Any]) -> None:
    """Copies a sampling mapping into a ``cactus_sampling``; arrays that it points to go into `keep`."""
    ffi, _ = _ffi.load()
    if not isinstance(sampling, Mapping):
        raise InvalidRequestError("sampling must map names to values", "sampling")
    for name, value in sampling.items():
        if value is None:
            continue
        if name == "logit_bias":
            if not isinstance(value, Mapping):
                raise InvalidRequestError("logit_bias must map token ids to numbers")
            ids, n = id_array(list(value.keys()))
            values = ffi.new("float[]", [_number("logit_bias", v, float) for v in value.values()])
            keep += [ids, values]
            raw.bias_ids, raw.bias_values, raw.n_bias = ids, values, n
        elif name in _SAMPLING_FIELDS:
            setattr(raw, "n_top_logprobs" if name == "top_logprobs" else name, _number(name, value, _SAMPLING_FIELDS[name]))
        else:
            known = ", ".join(sorted([*_SAMPLING_FIELDS, "logit_bias"]))
            raise InvalidRequestError(f"sampling has no field {name!r}; there are: {known}")


class _NotCopied:
    """For objects that own memory of the library: a copy would free it a second time."""

    def __copy__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__copy__()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied")


class Generation(_NotCopied):
    """A running generation: an iterator of :class:`Token` that ends after the event with a ``finish_reason``.

    Closing it (also by leaving a ``with`` block, or dropping it) cancels what is still to come. `cancel` may be called from any
    thread; the last event then has ``finish_reason == "cancelled"``.
    """

    def __init__(self, model: Model, handle: Any, d_model: int = 0) -> None:
        self._model = model
        self._handle = handle
        self._d_model = d_model  # of the states that it keeps; 0: none
        self._lock = threading.Lock()  # held while C uses the handle, so that close does not free it under a wait
        self._cancel_lock = threading.Lock()  # the same for cancel, which must not wait for a wait
        self._finished = False
        self._failure: CactusError | None = None
        self._stats: GenerationStats | None = None
        self._states: GenerationStates | None = None  # once it is closed

    def wait(self, timeout_s: float | None = None) -> Token | None:
        """The next event, or None when `timeout_s` passed without one (0 or less: do not wait; None: no limit).

        Raises StopIteration after the last event, and the engine's error when the generation failed.
        """
        ffi, lib = _ffi.load()
        if timeout_s is None or timeout_s == math.inf:  # in slices, so that the interpreter sees signals
            while (token := self.wait(_POLL_MS / 1000)) is None:
                pass
            return token
        if math.isnan(timeout_s):
            raise InvalidRequestError("a timeout must be a number of seconds")
        self._refuse_copy()
        milliseconds = max(0, min(int(timeout_s * 1000), 2**31 - 1))
        raw, error = ffi.new("cactus_token *"), _status.new_error()
        with self._lock:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._finished or self._handle is None:
                raise StopIteration
            status = lib.cactus_request_next(self._handle, milliseconds, raw, error)
            if status == _status.TIMEOUT:
                return None
            if status == _status.FINISHED:
                self._finished = True
                raise StopIteration
            if status != _status.OK:
                self._finished = True
                _status.check(status, error)
            token = Token(
                id=raw.id,
                text=bytes(ffi.buffer(raw.text, raw.n_text_bytes)).decode("utf-8", "replace") if raw.n_text_bytes else "",
                logprob=raw.logprob,
                entropy=raw.entropy,
                margin=raw.margin,
                top=tuple((raw.top_ids[i], raw.top_logprobs[i]) for i in range(raw.n_top)),
                finish_reason=_FINISH[raw.finish],
            )
            if token.finish_reason is not None:
                self._finished = True
            return token

    def drain(self, timeout_s: float | None = None) -> list[Token]:
        """All events that are there; if there is none, the next one. Empty when `timeout_s` passed, or after the last event.

        Raises the engine's error when the generation failed.
        """
        tokens: list[Token] = []
        try:
            while (token := self.wait(0 if tokens else timeout_s)) is not None:
                tokens.append(token)
        except StopIteration:
            pass
        except CactusError as error:
            if not tokens:
                raise
            self._failure = error  # for the next call: what came before it counts
        return tokens

    def wait_end(self, timeout_s: float | None = None) -> bool:
        """Waits until the generation has ended, without being woken for every token; its events can be fetched afterwards.
        False when `timeout_s` passed first.
        """
        _, lib = _ffi.load()
        self._refuse_copy()
        left = math.inf if timeout_s is None else timeout_s
        while True:
            error = _status.new_error()
            slice_ms = max(0, min(math.ceil(left * 1000), _POLL_MS)) if left < math.inf else _POLL_MS
            with self._lock:
                if self._finished or self._handle is None:
                    return True
                status = lib.cactus_request_wait(self._handle, slice_ms, error)
            if status == _status.OK:
                return True
            if status != _status.TIMEOUT:
                _status.check(status, error)
            left -= slice_ms / 1000
            if left <= 0:
                return False

    def set_mask(self, mask: NDArray[Any] | None) -> None:
        """Says which tokens may come next in a `constrained` generation: 32-bit integers [vocabulary / 32, rounded up],
        bit i % 32 of element i // 32 allows token i; None allows all. One for each token: the first at any time, the next once
        the token was delivered. Its scores are computed meanwhile, and nothing else waits. May be called from any thread.
        """
        ffi, lib = _ffi.load()
        words, n = ffi.NULL, 0
        if mask is not None:
            if mask.ndim != 1 or mask.dtype.itemsize != 4 or not mask.flags.c_contiguous:
                raise InvalidRequestError("a mask is a contiguous array of 32-bit integers")
            words, n = ffi.cast("uint32_t const *", mask.ctypes.data), mask.size
        error = _status.new_error()
        with self._cancel_lock:
            if self._handle is not None:
                _status.check(lib.cactus_request_set_mask(self._handle, words, n, error), error)

    def _refuse_copy(self) -> None:
        if self._model._is_foreign():
            raise EngineError("the generation was started before this process forked; start it in the child process")

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Token:
        token = self.wait()
        assert token is not None  # without a time-out there is always one
        return token

    @property
    def stats(self) -> GenerationStats:
        """Cost so far; final once the last event was delivered."""
        ffi, lib = _ffi.load()
        with self._lock:
            if self._handle is None:
                if self._stats is None:
                    raise EngineError("the generation was closed")
                return self._stats
            return self._read_stats(ffi, lib)

    def _read_stats(self, ffi: Any, lib: Any) -> GenerationStats:
        raw, error = ffi.new("cactus_request_stats *"), _status.new_error()
        raw.struct_size = ffi.sizeof("cactus_request_stats")
        _status.check(lib.cactus_request_get_stats(self._handle, raw, error), error)
        return GenerationStats(
            raw.n_prompt,
            raw.n_prompt_cached,
            raw.n_generated,
            raw.queue_ms,
            raw.prompt_ms,
            raw.decode_ms,
            raw.n_drafted,
            raw.n_accepted,
        )

    def states(self) -> GenerationStates | None:
        """Its hidden states so far, also after it was closed; None before the first token, or without `pool_states`. They may
        be of more tokens than were fetched. May be called from any thread."""
        self._refuse_copy()
        with self._cancel_lock:
            return self._states if self._handle is None else self._read_states()

    def _read_states(self) -> GenerationStates | None:
        if self._d_model == 0:
            return None
        import numpy as np

        ffi, lib = _ffi.load()
        rows = np.empty((3, self._d_model), dtype=np.float32)
        prompt, mean, last = (ffi.cast("float *", row.ctypes.data) for row in rows)
        n, error = ffi.new("int32_t *"), _status.new_error()
        _status.check(lib.cactus_request_states(self._handle, prompt, mean, last, self._d_model, n, error), error)
        return GenerationStates(rows[0], rows[1], rows[2], n[0]) if n[0] > 0 else None

    def cancel(self) -> None:
        """Ends the generation at the next token boundary."""
        _, lib = _ffi.load()
        with self._cancel_lock:
            if self._handle is not None:
                lib.cactus_request_cancel(self._handle)

    def close(self) -> None:
        """Cancels what is still to come and frees the request. Stats and states stay readable."""
        ffi, lib = _ffi.load()
        if self._model._is_foreign():  # its locks are as they were at the fork, and nobody will ever open them
            self._handle, self._finished = None, True
            return
        self.cancel()
        with self._lock, self._cancel_lock:
            if self._handle is not None:
                self._stats = self._read_stats(ffi, lib)
                self._states = self._read_states()
                lib.cactus_request_free(self._handle)
                self._handle = None
            self._finished = True

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


class Model(_NotCopied):
    """A model file, mapped and ready to compute. Safe to share between threads: requests run as one batch.

    Weights stay in the file's pages; several models of one file share them.
    """

    def __init__(self, model: Any, engine: Any, path: str) -> None:
        self._model = model
        self._engine = engine
        self._path = path
        self._pid = os.getpid()
        self._idle = threading.Condition()
        self._n_calls = 0
        self._tokenizer = Tokenizer(_ffi.load()[1].cactus_model_tokenizer(model), self._in_use)
        self._metadata: Mapping[str, str] | None = None
        self._d_model = 0  # once somebody asked for states

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int | None = None,
        kv_type: Literal["auto", "f16", "f32", "i8"] = "auto",
        kv_memory: int | None = None,
        batch: int | None = None,
        kernels: str | None = None,
        max_waiting: int | None = None,
        share_prefixes: bool = True,
    ) -> Model:
        """Maps a GGUF file (of a split model the first part) and starts an engine for it.

        threads: None for all CPUs this process may use. context: longest sequence in tokens, None for the trained length.
        kv_type: keys and values as "f16", "f32" or "i8" (8 bits and a scale for each 32 elements, 9/16 of f16's memory); "auto"
        is f16, and f32 for models with float weights. kv_memory: bytes for the keys and values of all sequences together.
        batch: tokens computed in one step at most, None for 512. kernels: name of a kernel set, None for the environment's
        CACTUS_PY_KERNELS or the best. max_waiting: requests that may wait for their turn; one more raises OverloadedError; None
        for no limit. share_prefixes: prompts that begin like earlier ones find what was computed for those, as long as there is
        memory for it.

        Raises ModelFileError, ModelFormatError, UnsupportedModelError, InvalidRequestError or OutOfMemoryError.
        """
        ffi, lib = _ffi.load()
        if not isinstance(kv_type, str) or kv_type not in _KV_TYPES:
            raise InvalidRequestError(f"kv_type is {kv_type!r}; it must be one of {', '.join(_KV_TYPES)}")
        model_out, engine_out, error = ffi.new("cactus_model **"), ffi.new("cactus_engine **"), _status.new_error()
        params = ffi.new("cactus_engine_params *")
        params.struct_size = ffi.sizeof("cactus_engine_params")
        for name, value in (("threads", threads), ("context", context), ("batch", batch)):
            if value is not None:
                number = _number(name, value, int)
                if number <= 0:
                    raise InvalidRequestError(f"{name} is {value}; it must be positive")
                setattr(params, f"n_{name}", number)
        if kv_memory is not None:
            if isinstance(kv_memory, bool) or not isinstance(kv_memory, (int, float)) or not 0 < kv_memory < 2**63:
                raise InvalidRequestError(f"kv_memory is {kv_memory!r}; it must be a positive number of bytes", "kv_memory")
            params.kv_memory_bytes = int(kv_memory)
        if max_waiting is not None:
            params.max_waiting = _number("max_waiting", max_waiting, int)
        params.no_prefixes = not share_prefixes
        params.kv_type = _KV_TYPES[kv_type]
        kernels_text = ffi.new("char[]", kernels.encode()) if kernels else ffi.NULL
        params.kernels = kernels_text
        _status.check(lib.cactus_model_load(path_bytes(path), model_out, error), error)
        status = lib.cactus_engine_create(model_out[0], params, engine_out, error)
        if status != _status.OK:
            lib.cactus_model_free(model_out[0])
            _status.check(status, error)
        return cls(model_out[0], engine_out[0], os.fspath(path))

    # ---- life ----

    def _is_foreign(self) -> bool:
        """Whether this is a copy that a fork made, without the engine's threads."""
        return os.getpid() != self._pid

    @contextmanager
    def _in_use(self) -> Iterator[Any]:
        """The engine's handle for one call; `close` waits for calls that run."""
        with self._idle:
            if self._engine is None:
                raise EngineError("the model was closed")
            if self._is_foreign():
                raise EngineError("the model was loaded before this process forked; load it again in the child process")
            self._n_calls += 1
        try:
            yield self._engine
        finally:
            with self._idle:
                self._n_calls -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """Cancels every generation and frees the engine. Calling it again does nothing."""
        _, lib = _ffi.load()
        with self._idle:
            engine, model = self._engine, self._model
            self._engine = None
            while self._n_calls > 0:
                self._idle.wait()
            self._model = None
        if engine is not None and not self._is_foreign():
            lib.cactus_engine_free(engine)
            lib.cactus_model_free(model)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else "open"
        return f"<Model {self._path!r} {state}>"

    # ---- text ----

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; it raises EngineError once the model is closed."""
        return self._tokenizer

    def tokenize(self, text: str | bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Ids of a text, with bos/eos where the model wants them and special tokens recognised."""
        return self._tokenizer.encode(text, add_special, parse_special)

    def detokenize(self, ids: Sequence[int], show_special: bool = False) -> str:
        """Text of a sequence of ids."""
        return self._tokenizer.decode(ids, show_special)

    # ---- scores ----

    @staticmethod
    def _one_sequence(ids: Any) -> Any:
        """Accepts ``[1, 2, 3]``, an array, or one sequence in a list: ``[[1, 2, 3]]``."""
        if len(ids) == 1 and hasattr(ids[0], "__len__"):
            return ids[0]
        return ids

    def logits(self, ids: Sequence[int], chunk: int = 0) -> NDArray[np.float32]:
        """Scores of every position, float32 [T, V]: row i holds the scores after ``ids[: i + 1]``.

        chunk: tokens computed together (0: the batch size; 1: one at a time). The result does not depend on it.
        Raises InvalidRequestError or ContextLengthError.
        """
        import numpy as np

        ffi, lib = _ffi.load()
        raw, n = id_array(self._one_sequence(ids))
        with self._in_use() as engine:
            out = np.empty((n, self._tokenizer.info.n_vocab), dtype=np.float32)
            error = _status.new_error()
            room = ffi.cast("float *", out.ctypes.data)
            status = lib.cactus_engine_logits(engine, raw, n, _number("chunk", chunk, int), room, error)
            _status.check(status, error)
        return out

    def logprobs(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Natural log-probability of each token given those before it, float32 [T - 1]."""
        import numpy as np

        ffi, lib = _ffi.load()
        raw, n = id_array(self._one_sequence(ids))
        out = np.empty(max(n - 1, 0), dtype=np.float32)
        with self._in_use() as engine:
            error = _status.new_error()
            _status.check(lib.cactus_engine_logprobs(engine, raw, n, ffi.cast("float *", out.ctypes.data), error), error)
        return out

    # ---- embeddings ----

    def embed(
        self,
        texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        normalise: bool = True,
        pooling: Pooling | None = None,
        truncate: bool = False,
    ) -> NDArray[np.float32]:
        """One vector for each text, float32 [N, D]; a text may be given as its token ids, special ones included.

        normalise: to Euclidean length 1, so that a dot product is the cosine. pooling: how one vector is made of its
        tokens; None for what the model says. truncate: of a text that is longer than the context only its beginning counts,
        instead of ContextLengthError. A vector does not depend on the other texts.

        Raises InvalidRequestError, ContextLengthError, or UnsupportedModelError if the model makes no embeddings.
        """
        return self.embed_ids(self.embedding_ids(texts, truncate=truncate), normalise=normalise, pooling=pooling)

    def embedding_ids(
        self, texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], *, truncate: bool = False
    ) -> list[list[int]]:
        """The tokens of each text, as `embed` reads them. `truncate` as there; else nothing is cut."""
        if isinstance(texts, str):
            texts = [texts]
        one = len(texts) > 0 and not isinstance(texts[0], str) and not hasattr(texts[0], "__len__")
        given: Sequence[Any] = [texts] if one else texts
        found = [self.tokenize(text, parse_special=False) if isinstance(text, str) else list(text) for text in given]
        for i, ids in enumerate(found):
            if not ids:
                raise InvalidRequestError(f"text {i} is empty", "input")
        if truncate:
            limit = self.context
            found = [ids if len(ids) <= limit else self._shortened(ids, limit) for ids in found]
        return found

    def _shortened(self, ids: list[int], limit: int) -> list[int]:
        """The beginning of a text, with the token that ends all texts if there is one."""
        info = self._tokenizer.info
        ends = limit > 1 and ids[-1] in (info.sep_id, info.eos_id)
        return [*ids[: limit - 1], ids[-1]] if ends else ids[:limit]

    def embed_ids(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        normalise: bool = True,
        pooling: Pooling | None = None,
        check: Callable[[], None] | None = None,
    ) -> NDArray[np.float32]:
        """As `embed`, of token ids. check: called before each portion of some thousand tokens; what it raises ends the call."""
        import numpy as np

        ffi, lib = _ffi.load()
        if pooling not in _POOLINGS:
            raise InvalidRequestError(f"pooling is {pooling!r}; it must be 'mean', 'cls', 'last' or None", "pooling")
        params = ffi.new("cactus_embed_params *")
        params.struct_size = ffi.sizeof("cactus_embed_params")
        params.pooling, params.normalise = _POOLINGS[pooling], bool(normalise)
        out = np.empty((len(sequences), self.info.d_model), dtype=np.float32)
        begin = 0
        while begin < len(sequences):
            if check is not None:
                check()
            end, n_ids = begin + 1, len(sequences[begin])
            while end < len(sequences) and n_ids + len(sequences[end]) <= _EMBED_TOKENS:
                n_ids += len(sequences[end])
                end += 1
            raw, _ = id_array([token for ids in sequences[begin:end] for token in ids])
            lengths = ffi.new("size_t[]", [len(ids) for ids in sequences[begin:end]])
            error = _status.new_error()
            with self._in_use() as engine:
                room = ffi.cast("float *", out[begin:end].ctypes.data)
                _status.check(lib.cactus_engine_embed(engine, raw, lengths, end - begin, params, room, error), error)
            begin = end
        return out

    # ---- generation ----

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        stop: Sequence[str] | str = (),
        context_policy: ContextPolicy = "error",
        keep: int = 0,
        speculation: int = 0,
        constrained: bool = False,
        timeout_s: float | None = None,
        share_prefix: bool = True,
        pool_states: bool = False,
    ) -> Generation:
        """Starts a generation after the prompt `ids` and returns it; iterate over it for tokens.

        max_tokens: None until an end token or until the context is full. sampling: temperature (default 0: greedy), top_k,
        top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, penalty_last_n, seed, logit_bias, ignore_eos,
        top_logprobs. stop: strings that end the text, themselves left out. context_policy: "error" refuses a prompt that is too
        long and ends with "length" when the context is full; "shift" keeps the first `keep` tokens and the newest.
        speculation: most tokens (0 to 16) drafted in a step: what followed the newest tokens where they occurred before is
        computed ahead, and stands if it is then chosen. The result is the same; where a text repeats itself it comes sooner.
        constrained: every token waits for `Generation.set_mask`. timeout_s: the generation ends with "timeout" so many seconds
        after this call, also if it has not begun. share_prefix: whether pages that hold the beginning of the prompt already are
        used, and left for others. pool_states: `Generation.states` tells what the tokens were chosen from.

        Raises InvalidRequestError, ContextLengthError or OverloadedError before anything is computed.
        """
        ffi, lib = _ffi.load()
        params, out, error = ffi.new("cactus_request_params *"), ffi.new("cactus_request **"), _status.new_error()
        alive: list[Any] = []  # C memory that params points to
        lib.cactus_request_params_default(params)
        params.sampling.temperature = 0.0
        prompt, params.n_prompt = id_array(self._one_sequence(ids) if len(ids) else ids)
        params.prompt = prompt
        alive.append(prompt)
        if max_tokens is not None:
            limit = _number("max_tokens", max_tokens, int)
            if limit <= 0:
                raise InvalidRequestError(f"max_tokens is {max_tokens}; it must be positive")
            params.max_tokens = limit
        _fill_sampling(params.sampling, sampling or {}, alive)
        if not isinstance(stop, Iterable):
            raise InvalidRequestError("stop must be a text or a sequence of texts", "stop")
        stops = [stop] if isinstance(stop, str) else list(stop)
        if any(not isinstance(s, str) or not s or "\0" in s for s in stops):
            raise InvalidRequestError("a stop string must be a non-empty text without NUL characters")
        texts = [ffi.new("char[]", s.encode("utf-8", "surrogatepass")) for s in stops]
        array = ffi.new("char *[]", texts) if texts else ffi.NULL
        alive += [texts, array]
        params.stop, params.n_stop = ffi.cast("char const * const *", array), len(texts)
        if context_policy not in _POLICIES:
            raise InvalidRequestError(f"context_policy is {context_policy!r}; it must be 'error' or 'shift'")
        params.context_policy = _POLICIES[context_policy]
        params.n_keep = _number("keep", keep, int)
        params.speculation = _number("speculation", speculation, int)
        params.constrained, params.no_prefixes, params.pool_states = bool(constrained), not share_prefix, bool(pool_states)
        if timeout_s is not None:
            if not timeout_s > 0:
                raise InvalidRequestError(f"timeout_s is {timeout_s}; it must be positive", "timeout")
            params.timeout_ms = max(1, min(int(timeout_s * 1000), 2**31 - 1)) if timeout_s < math.inf else 0
        if pool_states and self._d_model == 0:
            self._d_model = self.info.d_model
        with self._in_use() as engine:
            _status.check(lib.cactus_request_submit(engine, params, out, error), error)
        return Generation(self, out[0], self._d_model if pool_states else 0)

    # ---- what was read before ----

    def save_prefixes(self, path: str | os.PathLike[str], key: bytes) -> int:
        """Writes what the engine has read and still keeps to a file, for `load_prefixes` of a later process; returns how many
        tokens. `key`: 1 to 64 bytes that name the model, say its hash. Generations go on meanwhile. Raises ModelFileError if
        the file cannot be written.
        """
        return self._prefixes("cactus_engine_save_prefixes", path, key)

    def load_prefixes(self, path: str | os.PathLike[str], key: bytes) -> int:
        """Takes back what `save_prefixes` wrote, as far as memory allows; returns how many tokens are there now. Raises
        ModelFileError if there is no such file, ModelFormatError if it is damaged or was saved under another key, by another
        version, or with another kind of keys and values.
        """
        return self._prefixes("cactus_engine_load_prefixes", path, key)

    def _prefixes(self, function: str, path: str | os.PathLike[str], key: bytes) -> int:
        ffi, lib = _ffi.load()
        n_tokens, error = ffi.new("uint64_t *"), _status.new_error()
        with self._in_use() as engine:
            status = getattr(lib, function)(
                engine, path_bytes(path), ffi.from_buffer("uint8_t[]", key), len(key), n_tokens, error
            )
            _status.check(status, error)
        return int(n_tokens[0])

    # ---- description ----

    @property
    def path(self) -> str:
        """The file's path as it was given."""
        return self._path

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return int(self._engine_info().n_context)

    def _engine_info(self) -> Any:
        ffi, lib = _ffi.load()
        raw, error = ffi.new("cactus_engine_info *"), _status.new_error()
        raw.struct_size = ffi.sizeof("cactus_engine_info")
        with self._in_use() as engine:
            _status.check(lib.cactus_engine_get_info(engine, raw, error), error)
        return raw

    def memory(self) -> MemoryInfo:
        """Memory as it is now."""
        ffi, lib = _ffi.load()
        engine = self._engine_info()
        raw, error = ffi.new("cactus_model_info *"), _status.new_error()
        raw.struct_size = ffi.sizeof("cactus_model_info")
        with self._in_use():
            _status.check(lib.cactus_model_get_info(self._model, raw, error), error)
        return MemoryInfo(
            file_bytes=raw.file_bytes,
            scratch_bytes=engine.scratch_bytes,
            kv_touched_bytes=engine.kv_touched_bytes,
            kv_page_bytes=engine.kv_page_bytes,
            kv_page_tokens=engine.kv_page_tokens,
            kv_pages=engine.n_kv_pages,
            kv_pages_used=engine.n_kv_pages_used,
        )

    def activity(self) -> EngineActivity:
        """What the engine does now, and what it has done."""
        raw = self._engine_info()
        return EngineActivity(
            running=raw.n_running,
            waiting=raw.n_waiting,
            kv_pages=raw.n_kv_pages,
            kv_pages_used=raw.n_kv_pages_used,
            kv_pages_cached=raw.n_kv_pages_cached,
            prompt_tokens=raw.n_prompt,
            cached_tokens=raw.n_prompt_cached,
            generated_tokens=raw.n_generated,
            drafted_tokens=raw.n_drafted,
            accepted_tokens=raw.n_accepted,
            preemptions=raw.n_preempted,
            evicted_pages=raw.n_evicted,
        )

    @property
    def info(self) -> ModelInfo:
        ffi, lib = _ffi.load()
        engine = self._engine_info()
        raw, error = ffi.new("cactus_model_info *"), _status.new_error()
        raw.struct_size = ffi.sizeof("cactus_model_info")
        with self._in_use():
            _status.check(lib.cactus_model_get_info(self._model, raw, error), error)
            return ModelInfo(
                architecture=ffi.string(raw.architecture).decode("utf-8", "replace"),
                name=ffi.string(raw.name).decode("utf-8", "replace"),
                parameters=raw.n_parameters,
                context=engine.n_context,
                trained_context=raw.n_context,
                quantisation=ffi.string(raw.quantisation).decode(),
                layers=raw.n_layers,
                d_model=raw.d_model,
                heads=raw.n_heads,
                kv_heads=raw.n_kv_heads,
                d_head=raw.d_head,
                vocabulary=raw.n_vocab,
                tensors=raw.n_tensors,
                tokenizer=self._tokenizer.info,
                memory=self.memory(),
                threads=engine.n_threads,
                kernels=ffi.string(engine.kernels).decode(),
                kv_type=next(name for name, value in _KV_TYPES.items() if value == engine.kv_type),
                generates=bool(raw.generates),
                pooling=_POOLING_NAMES[raw.pooling],
            )

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata as text; arrays of more than 16 elements are abbreviated."""
        ffi, lib = _ffi.load()
        if self._metadata is None:
            found: dict[str, str] = {}
            key, value, n, error = ffi.new("char const **"), ffi.new("char const **"), ffi.new("size_t *"), _status.new_error()
            with self._in_use():
                for i in range(lib.cactus_model_n_metadata(self._model)):
                    _status.check(lib.cactus_model_metadata(self._model, i, key, value, n, error), error)
                    name = ffi.string(key[0]).decode("utf-8", "replace")
                    found[name] = bytes(ffi.buffer(value[0], n[0])).decode("utf-8", "replace")
            self._metadata = MappingProxyType(found)
        return self._metadata

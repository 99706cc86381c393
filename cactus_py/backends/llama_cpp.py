"""The backend over llama.cpp, by way of llama-cpp-python (the extra `llama-cpp`): for model files that our engine does not run.

`LlamaModel` has the shape of `engine.Model`, so everything above it is the native backend's: finding and naming models,
templates and control tokens, wire objects. llama.cpp computes scores and nothing else. Tokens are chosen here, by the rules
of our engine's sampler (with random numbers of its own: a seed repeats an answer, but is not the engine's answer), and the
log-probability, entropy and margin of each come from the scores, in float64.

A model computes one request at a time; others wait in line. Between two requests the longest common beginning stays in
memory. `kernels` and `speculation` mean nothing here. A file is read by llama.cpp's own code: the care that our engine takes
with files from strangers ends where this backend begins.
"""

from __future__ import annotations

import atexit
import codecs
import ctypes
import importlib.util
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..engine import GenerationStats, Model, Token, TokenizerInfo, default_threads
from ..errors import (
    BackendError,
    ContextLengthError,
    InvalidRequestError,
    MissingExtraError,
    ModelFileError,
    OutOfMemoryError,
    RequestCancelledError,
    UnsupportedModelError,
)
from .native import NativeBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EXTRA", "AutoBackend", "LlamaCppBackend", "LlamaModel", "installed", "version"]

EXTRA = "llama-cpp"
_CONTEXT = 8192  # tokens at most unless asked for: llama.cpp takes memory for all of them at once
_BATCH = 256  # prompt tokens between two looks at whether the request was cancelled
_KV_TYPES = {"auto": 1, "f16": 1, "f32": 0, "i8": 8}  # ggml_type
_CONTROL, _ATTRIBUTES = 8, {1: "unknown", 2: "unused", 8: "control", 16: "user_defined", 32: "byte"}  # llama_token_attr


def installed() -> bool:
    """Whether llama-cpp-python is there. It is not imported."""
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCppBackend(NativeBackend):
    """Every model by llama.cpp."""

    name: ClassVar[str] = "llama_cpp"

    def _load(self, path: Path) -> LlamaModel:
        return _load(self, path)


class AutoBackend(NativeBackend):
    """Our engine, and llama.cpp for the files that the engine does not run."""

    name: ClassVar[str] = "auto"

    def _load(self, path: Path) -> Model | LlamaModel:
        try:
            return super()._load(path)
        except UnsupportedModelError as error:
            lacks = str(error).rstrip(".")
            if not installed():
                raise UnsupportedModelError(f"{lacks}; llama.cpp may run it: pip install 'cactus-py[{EXTRA}]'") from error
            try:
                return _load(self, path)
            except UnsupportedModelError as other:
                raise UnsupportedModelError(f"{lacks}; and {other}") from error


def _load(backend: NativeBackend, path: Path) -> LlamaModel:
    options = backend.options
    return LlamaModel.load(path, threads=options.threads, context=options.context, kv_type=options.kv_type, batch=options.batch)


# ---- the library -------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_library: Any = None
_log: deque[str] = deque(maxlen=64)
_log_callback: Any = None  # must outlive the library's use of it


def _llama() -> Any:
    """llama-cpp-python's low-level binding, silent. Raises MissingExtraError or BackendError."""
    global _library, _log_callback
    with _lock:
        if _library is not None:
            return _library
        if not installed():
            raise MissingExtraError("the backend llama_cpp", EXTRA)
        try:
            import llama_cpp  # type: ignore[import-not-found,import-untyped,unused-ignore]

            def keep(level: int, text: bytes, _user: Any) -> None:
                if level >= 4 or text.strip():  # 3 is a warning, 4 an error, 5 goes on with the line before
                    _log.append(text.decode("utf-8", "replace").strip())

            # llama.cpp has one log for the whole process. It would go to stderr; what it says of a failure goes into errors.
            _log_callback = llama_cpp.llama_log_callback(keep)
            llama_cpp.llama_log_set(_log_callback, ctypes.c_void_p(0))
            llama_cpp.llama_backend_init()
        except Exception as error:  # a wheel for another machine fails in many ways
            raise BackendError(f"llama-cpp-python is installed, but cannot be loaded: {error}") from error
        _library = llama_cpp
        return llama_cpp


def version() -> str:
    """Version of llama-cpp-python, which is loaded to tell. Raises as that does."""
    return str(_llama().__version__)


def _reason() -> str:
    """What llama.cpp said last about a failure."""
    for line in reversed(_log):
        for head in ("llama_model_load: error loading model: ", "gguf_init_from_file_ptr: ", "error: "):
            if head in line:
                return line.partition(head)[2]
    return _log[-1] if _log else "it does not say why"


# ---- the tokenizer -----------------------------------------------------------------------------------------------------


class _Tokenizer:
    """The tokenizer of a model of llama.cpp, in the shape of `engine.Tokenizer`."""

    def __init__(self, library: Any, model: Any, metadata: Mapping[str, str]) -> None:
        self._lc = library
        self._vocab = library.llama_model_get_vocab(model)
        self._metadata = metadata

    @cached_property
    def info(self) -> TokenizerInfo:
        lc, vocab = self._lc, self._vocab

        def optional(value: int) -> int | None:
            return None if value < 0 else int(value)

        unknown = self._metadata.get("tokenizer.ggml.unknown_token_id", "")
        return TokenizerInfo(
            model=self._metadata.get("tokenizer.ggml.model", ""),
            pre=self._metadata.get("tokenizer.ggml.pre", ""),
            n_vocab=int(lc.llama_vocab_n_tokens(vocab)),
            bos_id=optional(lc.llama_vocab_bos(vocab)),
            eos_id=optional(lc.llama_vocab_eos(vocab)),
            eot_id=optional(lc.llama_vocab_eot(vocab)),
            pad_id=optional(lc.llama_vocab_pad(vocab)),
            unk_id=int(unknown) if unknown.isdigit() else None,
            add_bos=bool(lc.llama_vocab_get_add_bos(vocab)),
            add_eos=bool(lc.llama_vocab_get_add_eos(vocab)),
        )

    def encode(self, text: str, add_special: bool = False, parse_special: bool = False) -> list[int]:
        raw = text.encode("utf-8", "surrogatepass")
        capacity = len(raw) + 16
        while True:
            ids = (ctypes.c_int32 * capacity)()
            n = self._lc.llama_tokenize(self._vocab, raw, len(raw), ids, capacity, add_special, parse_special)
            if n >= 0:
                return list(ids[:n])
            if -n <= capacity:
                raise InvalidRequestError("llama.cpp cannot tokenise this text")
            capacity = -n

    def token_bytes(self, token_id: int, /) -> bytes:
        """Bytes of one token, control tokens included."""
        return self._piece(token_id, True)

    def shown_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text: nothing if it is a control token."""
        return self._piece(token_id, False)

    def _piece(self, token_id: int, special: bool) -> bytes:
        capacity = 64
        while True:
            room = ctypes.create_string_buffer(capacity)
            n = self._lc.llama_token_to_piece(self._vocab, token_id, room, capacity, 0, special)
            if n >= 0:
                return room.raw[:n]
            capacity = -n

    def is_end(self, token_id: int) -> bool:
        return bool(self._lc.llama_vocab_is_eog(self._vocab, token_id))

    def attributes(self, token_id: int) -> frozenset[str]:
        bits = int(self._lc.llama_vocab_get_attr(self._vocab, token_id))
        found = {name for bit, name in _ATTRIBUTES.items() if bits & bit}
        return frozenset(found | ({"end"} if self.is_end(token_id) else set()))

    def ids_with(self, *names: str) -> list[int]:
        return [i for i in range(self.info.n_vocab) if not self.attributes(i).isdisjoint(names)]


# ---- choosing tokens ---------------------------------------------------------------------------------------------------


class _Sampler:
    """Chooses tokens as our engine does: penalties over the whole text, bias, temperature, then top_k, top_p and min_p. What
    is reported of a token belongs to the model's own distribution, before all that."""

    def __init__(self, sampling: Mapping[str, Any], n_vocab: int, prompt: Sequence[int]) -> None:
        import numpy as np

        self._np = np
        self._temperature = float(sampling.get("temperature", 0.0))
        self._top_k = int(sampling.get("top_k", 0))
        self._top_p = float(sampling.get("top_p", 1.0))
        self._min_p = float(sampling.get("min_p", 0.0))
        self._repetition = float(sampling.get("repetition_penalty", 1.0))
        self._presence = float(sampling.get("presence_penalty", 0.0))
        self._frequency = float(sampling.get("frequency_penalty", 0.0))
        self._n_top = min(int(sampling.get("top_logprobs", 0)), n_vocab)
        self._bias = dict(sampling.get("logit_bias") or {})
        self._random = np.random.Generator(np.random.PCG64(int(sampling.get("seed", 0)) % 2**64))
        self._counts: NDArray[np.int64] | None = None
        if (self._repetition, self._presence, self._frequency) != (1.0, 0.0, 0.0):
            self._counts = np.bincount(np.asarray(prompt, np.int64), minlength=n_vocab)

    def choose(self, logits: NDArray[np.float32]) -> Token:
        """The next token, without its text. Raises BackendError for scores that are no numbers."""
        np = self._np
        scores = logits.astype(np.float64)
        peak = float(scores.max())
        if not np.isfinite(peak):
            raise BackendError("llama.cpp computed scores that are no numbers; the model file may be damaged")
        relative = scores - peak
        weights = np.exp(relative)
        total = float(weights.sum())
        log_total = float(np.log(total))
        finite = weights > 0
        entropy = log_total - float((weights[finite] * relative[finite]).sum()) / total
        margin = peak - float(np.partition(scores, -2)[-2]) if len(scores) > 1 else 0.0
        top: tuple[tuple[int, float], ...] = ()
        if self._n_top:
            best = np.argpartition(scores, -self._n_top)[-self._n_top :]
            best = best[np.lexsort((best, -scores[best]))]
            top = tuple((int(i), float(relative[i]) - log_total) for i in best)
        chosen = self._draw(self._adjusted(scores))
        if self._counts is not None:
            self._counts[chosen] += 1
        return Token(chosen, "", float(relative[chosen]) - log_total, max(0.0, entropy), margin, top)

    def _adjusted(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        np = self._np
        if self._counts is not None:
            seen = np.nonzero(self._counts)[0]
            x = scores[seen]
            x = np.where(x > 0, x / self._repetition, x * self._repetition)
            scores = scores.copy()
            scores[seen] = x - self._counts[seen] * self._frequency - self._presence
        if self._bias:
            scores = scores.copy()
            for token, bias in self._bias.items():
                scores[token] += bias
        return scores

    def _draw(self, scores: NDArray[np.float64]) -> int:
        np = self._np
        if self._temperature == 0.0:
            return int(scores.argmax())
        scaled = (scores - scores.max()) / self._temperature
        order = np.argsort(-scaled, kind="stable")
        if self._top_k:
            order = order[: self._top_k]
        weights = np.exp(scaled[order])
        if self._top_p < 1.0:
            before = np.cumsum(weights) - weights
            keep = max(1, int((before < self._top_p * weights.sum()).sum()))
            order, weights = order[:keep], weights[:keep]
        if self._min_p > 0.0:
            keep = max(1, int((weights >= self._min_p).sum()))
            order, weights = order[:keep], weights[:keep]
        at = self._random.random() * weights.sum()
        return int(order[min(int(np.searchsorted(np.cumsum(weights), at, side="right")), len(order) - 1)])


class _Text:
    """Whole characters, up to a stop string, of the bytes of one answer's tokens."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, raw: bytes, *, final: bool = False) -> tuple[str, bool]:
        """(what is certain now, whether a stop string was found)"""
        self._held += self._decoder.decode(raw, final)
        found = [at for at in (self._held.find(text) for text in self._stop) if at >= 0]
        if found:
            text, self._held = self._held[: min(found)], ""
            return text, True
        n_held = 0
        if not final:
            for text in self._stop:
                longest = min(len(text) - 1, len(self._held))
                n_held = max(n_held, next((n for n in range(longest, 0, -1) if self._held.endswith(text[:n])), 0))
        text, self._held = self._held[: len(self._held) - n_held], self._held[len(self._held) - n_held :]
        return text, False


# ---- models and generations --------------------------------------------------------------------------------------------


class LlamaGeneration:
    """A generation, in the shape of `engine.Generation`."""

    def __init__(
        self, ids: list[int], limit: int | None, sampler: _Sampler, stop: Sequence[str], shift: bool, keep: int
    ) -> None:
        self.ids = ids
        self.n_prompt = len(ids)
        self.limit = limit
        self.sampler = sampler
        self.text = _Text(stop)
        self.shift = shift
        self.keep = keep
        self.cancelled = threading.Event()
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.first: float | None = None
        self.last: float | None = None
        self.n_cached = 0
        self.n_generated = 0
        self._events: queue.SimpleQueue[Token | BaseException] = queue.SimpleQueue()
        self._finished = False

    def post(self, event: Token | BaseException) -> None:
        self._events.put(event)

    def wait(self, timeout_s: float | None = None) -> Token | None:
        """The next event, or None when the time has passed without one. Raises StopIteration after the last."""
        if self._finished:
            raise StopIteration
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s is None or timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None
        if isinstance(event, BaseException):
            self._finished = True
            raise event
        self._finished = event.finish_reason is not None
        return event

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.cancel()
        self._finished = True

    @property
    def stats(self) -> GenerationStats:
        now = time.monotonic()
        started = self.started or now
        first = self.first or now
        return GenerationStats(
            prompt_tokens=self.n_prompt,
            cached_tokens=self.n_cached,
            generated_tokens=self.n_generated,
            queue_ms=1000 * (started - self.submitted),
            prompt_ms=1000 * (first - started) if self.started else 0.0,
            decode_ms=1000 * ((self.last or first) - first) if self.first else 0.0,
        )


class LlamaModel:
    """A model that llama.cpp computes, in the shape of `engine.Model`."""

    def __init__(self, library: Any, model: Any, context: Any, *, n_context: int, n_batch: int, private_bytes: int = 0) -> None:
        self._lc = library
        self._model = model
        self._context = context
        self.context = n_context
        self._n_batch = n_batch
        self._batch = library.llama_batch_init(n_batch, 0, 1)
        self.metadata = _metadata(library, model)
        self.tokenizer = _Tokenizer(library, model, self.metadata)
        self.file_bytes = int(library.llama_model_size(model))
        self.private_bytes = private_bytes
        self._kept: list[int] = []  # tokens that the context holds
        self._computing = threading.Lock()
        self._line = threading.Lock()  # guards the three below
        self._jobs: deque[LlamaGeneration] = deque()
        self._worker: threading.Thread | None = None  # there while there is work
        self._closing = False
        self._closed = False
        _open_models.add(self)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int | None = None,
        kv_type: str = "auto",
        batch: int | None = None,
    ) -> LlamaModel:
        """Opens a GGUF file. context: tokens, None for what the model was trained for, but at most 8192: llama.cpp takes the
        memory for all of them at once. kv_type "i8" is llama.cpp's q8_0.

        Raises MissingExtraError, BackendError, ModelFileError, UnsupportedModelError, InvalidRequestError, OutOfMemoryError.
        """
        lc = _llama()
        file = Path(path)
        if not file.is_file():
            raise ModelFileError(f"there is no file {file}")
        if context is not None and context < 1:
            raise InvalidRequestError(f"context is {context}; it must be positive", "context")
        model = _open(lc, file, vocab_only=False)
        try:
            trained = int(lc.llama_model_n_ctx_train(model))
            if context is not None and context > trained > 0:
                raise InvalidRequestError(f"context is {context}; the model was trained for {trained} tokens", "context")
            n_context = context or min(trained or _CONTEXT, _CONTEXT)
            params = lc.llama_context_default_params()
            params.n_ctx = n_context
            params.n_batch = params.n_ubatch = n_batch = min(batch or _BATCH, n_context)
            params.n_seq_max = 1
            params.n_threads = params.n_threads_batch = threads or default_threads()
            params.type_k = params.type_v = _KV_TYPES[kv_type]
            _log.clear()
            handle = lc.llama_init_from_model(model, params)
            if not handle:
                raise OutOfMemoryError(f"llama.cpp cannot make a context of {n_context} tokens: {_reason()}")
        except BaseException:
            lc.llama_model_free(model)
            raise
        private_bytes = _kv_bytes(lc, model, n_context, _KV_TYPES[kv_type]) + 4 * n_batch * _n_vocab(lc, model)
        return cls(lc, model, handle, n_context=n_context, n_batch=n_batch, private_bytes=private_bytes)

    @staticmethod
    def check(path: str | os.PathLike[str]) -> dict[str, str]:
        """The metadata of a file whose architecture and tokenizer llama.cpp knows; weights are not read. Raises as `load`."""
        lc = _llama()
        model = _open(lc, Path(path), vocab_only=True)
        try:
            return _metadata(lc, model)
        finally:
            lc.llama_model_free(model)

    # ---- life ----

    def close(self) -> None:
        """Cancels every generation and frees the model. Calling it again does nothing."""
        with self._line:
            self._closing = True
            worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join()
        with self._computing:
            if self._closed:
                return
            self._closed = True
            self._lc.llama_batch_free(self._batch)
            self._lc.llama_free(self._context)
            self._lc.llama_model_free(self._model)

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    # ---- requests ----

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return self.tokenizer.encode(text, add_special, parse_special)

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
        context_policy: str = "error",
        keep: int = 0,
        speculation: int = 0,
    ) -> LlamaGeneration:
        """Puts a generation in line. Arguments and errors are those of `engine.Model.generate`."""
        if len(ids) > self.context:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context}",
                prompt_tokens=len(ids),
                context_tokens=self.context,
            )
        sampler = _Sampler(sampling or {}, self.tokenizer.info.n_vocab, ids)
        generation = LlamaGeneration(list(ids), max_tokens, sampler, stop, context_policy == "shift", keep)
        with self._line:
            if self._closing:
                raise RequestCancelledError("the model was closed")
            self._jobs.append(generation)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="cactus-py-llama-cpp", daemon=True)
                self._worker.start()
        return generation

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Scores of every position, float32 [T, V]."""
        import numpy as np

        rows = np.empty((len(ids), self.tokenizer.info.n_vocab), np.float32)
        with self._computing:
            self._forget(0)
            for start in range(0, len(ids), self._n_batch):
                piece = ids[start : start + self._n_batch]
                self._decode(piece, every=True)
                for i in range(len(piece)):
                    rows[start + i] = self._scores(i)
        return rows

    def logprobs(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Natural log-probability of each token given those before it, float32 [T - 1]."""
        import numpy as np

        rows = self.logits(ids)[:-1].astype(np.float64)
        peaks = rows.max(axis=1)
        totals = peaks + np.log(np.exp(rows - peaks[:, None]).sum(axis=1))
        chosen: NDArray[np.float32] = (rows[np.arange(len(rows)), np.asarray(ids[1:])] - totals).astype(np.float32)
        return chosen

    # ---- computing: all under the lock ----

    def _work(self) -> None:
        """The thread that computes: one generation after the other, until none is left."""
        while True:
            with self._line:
                if not self._jobs:
                    self._worker = None
                    return
                job = self._jobs.popleft()
            try:
                with self._computing:
                    self._run(job)
            except BaseException as error:
                job.post(error)

    def _run(self, job: LlamaGeneration) -> None:
        job.started = time.monotonic()
        ids = job.ids
        job.n_cached = self._reuse(ids)
        while True:
            if not self._read(ids, job):
                job.post(_CANCELLED)
                return
            token = job.sampler.choose(self._scores(-1))
            job.last = time.monotonic()
            job.first = job.first or job.last
            job.n_generated += 1
            ids.append(token.id)
            finish: Any = None
            text, stopped = "", False
            if self.tokenizer.is_end(token.id):
                finish = "stop"
            else:
                text, stopped = job.text.push(self.tokenizer.shown_bytes(token.id))
                if stopped:
                    finish = "stop"
                elif job.n_generated == job.limit or (len(ids) > self.context and not job.shift):
                    finish = "length"
            if finish is not None and not stopped:
                text += job.text.push(b"", final=True)[0]
            job.post(Token(token.id, text, token.logprob, token.entropy, token.margin, token.top, finish))
            if finish is not None:
                return
            if len(ids) > self.context:  # the middle goes: the first tokens stay, and the newer half of the others
                keep = min(job.keep, self.context - 1)
                ids[keep : len(ids) - max(1, (self.context - keep) // 2)] = []
                self._reuse(ids)

    def _reuse(self, ids: Sequence[int]) -> int:
        """Keeps in memory what the ids begin with; all but the last token at most. Returns how many those are."""
        n = 0
        for held, wanted in zip(self._kept, ids[:-1], strict=False):
            if held != wanted:
                break
            n += 1
        return self._forget(n)

    def _forget(self, n_keep: int) -> int:
        """Takes all but the first tokens out of memory; all of them, where the model cannot do otherwise."""
        memory = self._lc.llama_get_memory(self._context)
        if n_keep < len(self._kept) and not (n_keep and self._lc.llama_memory_seq_rm(memory, 0, n_keep, -1)):
            self._lc.llama_memory_clear(memory, True)
            n_keep = 0
        del self._kept[n_keep:]
        return n_keep

    def _read(self, ids: Sequence[int], job: LlamaGeneration) -> bool:
        """Computes the tokens that are not in memory yet. False if the request was cancelled meanwhile."""
        while len(self._kept) < len(ids):
            if job.cancelled.is_set() or self._closing:
                return False
            self._decode(ids[len(self._kept) : len(self._kept) + self._n_batch])
        return not job.cancelled.is_set()

    def _decode(self, ids: Sequence[int], *, every: bool = False) -> None:
        """Computes at most a batch of tokens behind those in memory; scores of the last, or of each."""
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = len(self._kept) + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every or i == len(ids) - 1
        _log.clear()
        status = self._lc.llama_decode(self._context, batch)
        if status != 0:
            self._lc.llama_memory_clear(self._lc.llama_get_memory(self._context), True)
            self._kept.clear()
            raise BackendError(f"llama.cpp could not compute {len(ids)} tokens (status {status}): {_reason()}")
        self._kept += ids

    def _scores(self, row: int) -> NDArray[np.float32]:
        """A view of the scores of one row, valid until the next step."""
        import numpy as np

        pointer = self._lc.llama_get_logits_ith(self._context, row)
        if not pointer:
            raise BackendError("llama.cpp computes no scores with this model; it may be one for embeddings")
        return np.ctypeslib.as_array(pointer, shape=(self.tokenizer.info.n_vocab,))


_CANCELLED = Token(-1, "", 0.0, 0.0, 0.0, (), "cancelled")
_open_models: weakref.WeakSet[LlamaModel] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """llama.cpp must not be in the middle of a step when the process takes its libraries down."""
    for model in list(_open_models):
        model.close()


def _open(lc: Any, file: Path, *, vocab_only: bool) -> Any:
    """A model of llama.cpp. Raises UnsupportedModelError with its reason."""
    params = lc.llama_model_default_params()
    params.vocab_only = vocab_only
    if hasattr(params, "use_extra_bufts"):
        # llama.cpp would copy weights into layouts of its own (repacking, AMX), which costs as much memory again, and whose
        # AMX part ends the process on virtual machines that announce AMX and then refuse it.
        params.use_extra_bufts = False
    _log.clear()
    model = lc.llama_model_load_from_file(os.fsencode(file), params)
    if not model:
        raise UnsupportedModelError(f"llama.cpp cannot load {file.name}: {_reason()}")
    problem = None
    if (
        lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model)) < 1
        or lc.llama_vocab_type(lc.llama_model_get_vocab(model)) == 0
    ):
        problem = "it has no tokenizer"
    elif not vocab_only and not _continues_text(lc, model):
        problem = "it is no model that continues text"
    if problem is not None:
        lc.llama_model_free(model)
        raise UnsupportedModelError(f"{file.name} cannot be run with llama.cpp here: {problem}")
    return model


def _continues_text(lc: Any, model: Any) -> bool:
    """Whether it is a decoder that reads from left to right, not one for embeddings, translation or diffusion."""
    if lc.llama_model_has_encoder(model) or not lc.llama_model_has_decoder(model):
        return False
    metadata = _metadata(lc, model)
    causal = metadata.get(f"{metadata.get('general.architecture')}.attention.causal", "true")
    return causal != "false" and not (hasattr(lc, "llama_model_is_diffusion") and lc.llama_model_is_diffusion(model))


def _n_vocab(lc: Any, model: Any) -> int:
    return int(lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model)))


def _kv_bytes(lc: Any, model: Any, n_context: int, kv_type: int) -> int:
    """What keys and values of a whole context take, as if every layer had attention."""
    n_heads = max(int(lc.llama_model_n_head(model)), 1)
    width = int(lc.llama_model_n_embd(model)) // n_heads * int(lc.llama_model_n_head_kv(model))
    eighths = {0: 32, 1: 16, 8: 8.5}[kv_type]  # of a byte per element; blocks of 32 elements of 8 bits hold a scale of 16
    return 2 * n_context * int(lc.llama_model_n_layer(model)) * int(width * eighths / 8)


def _metadata(lc: Any, model: Any) -> dict[str, str]:
    """The file's metadata as text; arrays as llama.cpp abbreviates them."""

    def text(read: Any, i: int) -> str:
        capacity = 256
        while True:
            room = ctypes.create_string_buffer(capacity)
            n = read(model, i, room, capacity)
            if n < capacity:
                return room.raw[: max(n, 0)].decode("utf-8", "replace")
            capacity = n + 1

    return {
        text(lc.llama_model_meta_key_by_index, i): text(lc.llama_model_meta_val_str_by_index, i)
        for i in range(lc.llama_model_meta_count(model))
    }

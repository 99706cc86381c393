"""The hidden states of a generation: for every architecture, the output matrix of the file times a state are the scores that
transformers computed there, and the engine's own. That no bit depends on company is tested in native/tests/test_states.c.
"""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_zoo import ARCHITECTURES, GREEDY, TOLERANCE, VARIANTS, golden, longest_tokens, model_file, opened
from tiny_checkpoints import read_gguf

from cactus_py.backends.base import BackendOptions, Reply, States
from cactus_py.backends.native import NativeBackend
from cactus_py.engine import Generation, Model, Token
from cactus_py.types import CompletionRequest

N_TOKENS = 5


def scores_of(path: Path, states: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores [n, V] of states [n, D], by what the file holds."""
    metadata, tensors = read_gguf(path)
    kind = metadata["general.architecture"]

    def array(name: str) -> NDArray[np.float64]:
        number, shape, data = tensors[name]
        return np.frombuffer(data, {0: "<f4", 1: "<f2"}[number]).astype(np.float64).reshape(shape)

    scores: NDArray[np.float64] = (
        states.astype(np.float64) @ array("output.weight" if "output.weight" in tensors else "token_embd.weight").T
    )
    if "output.bias" in tensors:
        scores += array("output.bias")
    scale = metadata.get(f"{kind}.logit_scale", 1.0)
    scores = scores / scale if kind.startswith("granite") else scores * scale
    cap = metadata.get(f"{kind}.final_logit_softcapping")
    return scores if cap is None else cap * np.tanh(scores / cap)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VARIANTS])
def test_the_output_matrix_makes_scores_of_states(zoo: Path, name: str) -> None:
    """The prompt's state makes the scores of its last token, here and in transformers; the last one chose the last token."""
    path, arrays = model_file(zoo, name), golden(zoo, name)
    for suffix in (s for s in ("", "_long") if f"tokens{s}" in arrays):
        ids = [int(token) for token in arrays[f"tokens{suffix}"]]
        with opened(path) as model:
            generation = model.generate(ids, max_tokens=1, sampling=GREEDY, pool_states=True)
            (token,) = generation
            states = generation.states()
            assert states is not None and states.tokens == 1
            assert np.array_equal(states.prompt, states.last) and np.array_equal(states.prompt, states.mean)
            ours = scores_of(path, states.prompt[None])[0]
            assert np.abs(ours - model.logits(ids)[-1]).max() < 2e-5
        wanted = arrays[f"logits{suffix}"][-1]
        if len(wanted) == len(ours):
            kept = ours
        else:  # every so many, another one in each row
            stride = round(len(ours) / len(wanted))
            kept = ours[(len(ids) - 1) % stride :: stride]
        if name != "gpt-oss-mxfp4":  # whose golden scores are of other weights
            assert np.abs(kept - wanted).max() < TOLERANCE
        assert token.margin == pytest.approx(np.diff(np.sort(ours)[-2:])[0], abs=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_are_those_of_the_tokens(zoo: Path, name: str) -> None:
    """Bit by bit those of embedding the prompt and the tokens before each choice, with drafts and without."""
    ids = longest_tokens(zoo, name)[:30]
    with opened(model_file(zoo, name)) as model:
        for speculation in (0, 8):
            generation = model.generate(ids, max_tokens=N_TOKENS, sampling=GREEDY, speculation=speculation, pool_states=True)
            tokens = [token.id for token in generation]
            states = generation.states()
            assert states is not None and states.tokens == len(tokens) == N_TOKENS
            rows = model.embed_ids([ids + tokens[:i] for i in range(N_TOKENS)], normalise=False, pooling="last")
            total = rows[0].copy()
            for row in rows[1:]:
                total += row
            assert np.array_equal(states.prompt, rows[0])
            assert np.array_equal(states.mean, total / np.float32(N_TOKENS))
            assert np.array_equal(states.last, rows[-1])


@pytest.fixture
def llama(zoo: Path) -> Any:
    """A tiny model."""
    with opened(model_file(zoo, "llama")) as model:
        yield model


def test_states_come_and_stay(llama: Model) -> None:
    """None before the first token; afterwards they stay, also when the generation was closed before its end."""
    with closing(llama.generate([5, 6, 7], max_tokens=4, constrained=True, pool_states=True)) as generation:
        assert generation.states() is None
        generation.set_mask(None)
        next(generation)
        states = generation.states()
        assert states is not None and states.tokens == 1
    kept = generation.states()
    assert kept is not None and kept.tokens == 1 and np.array_equal(kept.mean, states.mean)
    for array in (kept.prompt, kept.mean, kept.last):
        assert array.dtype == np.float32 and array.shape == (llama.info.d_model,)


def test_nobody_asked(llama: Model) -> None:
    """Without the option there are none, before the end and after it."""
    with closing(llama.generate([5, 6, 7], max_tokens=4)) as generation:
        assert len(list(generation)) > 0 and generation.states() is None
    assert generation.states() is None


def test_states_while_another_thread_waits(llama: Model) -> None:
    """Reading them does not wait for a token that does not come."""
    generation = llama.generate([5, 6, 7], max_tokens=4, constrained=True, pool_states=True)
    found: list[Token | None] = []
    waiter = threading.Thread(target=lambda: found.append(generation.wait(30)))
    waiter.start()
    assert generation.states() is None and found == []
    generation.set_mask(None)
    waiter.join(60)
    assert len(found) == 1 and generation.states() is not None
    generation.close()


def read(reply: Reply) -> list[States | None]:
    """The states of each answer once the reply was read and closed."""
    with reply:
        assert len(list(reply)) > 0
    return [None if trace.read_states is None else trace.read_states() for trace in reply.traces]


def test_the_native_backend_traces_states(zoo: Path) -> None:
    """`trace="states"` gives each answer's trace its states; a backend without them, and who asked for less, gets none."""
    path = model_file(zoo, "llama")
    backend = NativeBackend(BackendOptions(model=str(path), threads=2))
    request = CompletionRequest(model=str(path), prompt=["once", "twice"], n=2, max_tokens=6, temperature=1.0, seed=3)
    with closing(backend):
        found = read(backend.complete(request, trace="states"))
        assert len(found) == 4
        for states in found:
            assert states is not None and np.isfinite(states.mean).all()
        first, second, third, _ = [states for states in found if states is not None]
        assert np.array_equal(first.prompt, second.prompt) and not np.array_equal(first.prompt, third.prompt)
        assert read(backend.complete(request, trace="tokens")) == [None] * 4
        assert read(backend.complete(request)) == []
        request = CompletionRequest(model=str(path), prompt="once", echo=True, max_tokens=0)
        assert read(backend.complete(request, trace="states")) == [None]  # nothing is generated


def test_a_generation_of_another_process_has_none(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its other methods, in one sentence."""
    from cactus_py.errors import EngineError

    generation: Generation = llama.generate([5, 6, 7], max_tokens=4, pool_states=True)
    list(generation)
    monkeypatch.setattr(llama, "_pid", -1)
    with pytest.raises(EngineError, match="before this process forked"):
        generation.states()
    monkeypatch.undo()
    generation.close()

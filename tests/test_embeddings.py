"""Embeddings: the engine beside transformers (tests/data/embeddings, made by scripts/make_embedding_references.py), the same
bits however they are computed, and the client over it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed import unpacked

from cactus_py import AsyncClient, Client
from cactus_py.engine import Model, kernels_available
from cactus_py.errors import (
    ContextLengthError,
    InvalidRequestError,
    RequestCancelledError,
    RequestTimeoutError,
    UnsupportedModelError,
)
from cactus_py.types import EmbeddingRequest, parse_request

DATA = Path(__file__).parent / "data"
SENTENCES: list[str] = json.loads((DATA / "embeddings" / "sentences.json").read_text(encoding="utf-8"))
KERNELS = kernels_available()
POOLINGS: tuple[Any, ...] = ("last", "mean", "cls")
WRONG: tuple[Any, ...] = ("", [], [""], [1, "a"], [[]], 7)
TOLERANCE = 2e-6  # of float32 vectors of length 1; 3e-7 was seen


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    with np.load(DATA / "embeddings" / "references.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def path() -> Path:
    """The tiny BERT."""
    return unpacked(DATA / "embeddings" / "bert.gguf.xz")


@pytest.fixture(scope="module")
def bert(path: Path) -> Iterator[Model]:
    with closing(Model.load(path, threads=2)) as model:
        yield model


@pytest.fixture
def client(path: Path, tmp_path: Path) -> Iterator[Client]:
    with Client(model=path, home=tmp_path, threads=2) as made:
        yield made


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_tiny_bert_is_that_of_transformers(path: Path, arrays: dict[str, Any], kernels: str, pooling: Any) -> None:
    """Positions, token types, both norms, erf, attention to what comes after: each would move these vectors far."""
    wanted = arrays[f"bert_{pooling}"]
    with closing(Model.load(path, threads=2, kernels=kernels)) as model:
        ids = [model.tokenize(text) for text in SENTENCES[: len(wanted)]]
        assert [list(arrays[f"bert_tokens_{i}"]) for i in range(len(ids))] == ids
        assert np.abs(model.embed(SENTENCES[: len(wanted)], pooling=pooling) - wanted).max() < TOLERANCE


def test_same_bits_however_computed(path: Path, bert: Model) -> None:
    """Alone or beside others, on any kernel set, with any number of threads, in passes of any size."""
    rng = np.random.default_rng(3)
    texts = [[int(i) for i in rng.integers(0, 60, n)] for n in (1, 2, 31, 32, 33, 64, 100, 160, 5, 7)]
    together = bert.embed(texts)
    assert np.array_equal(together, np.concatenate([bert.embed([text]) for text in texts]))
    for kernels in KERNELS:
        for threads, batch in ((1, 1), (3, 4096)):
            with closing(Model.load(path, threads=threads, batch=batch, kernels=kernels)) as model:
                assert np.array_equal(model.embed(texts), together), (kernels, threads, batch)


def test_shapes_and_length(bert: Model) -> None:
    assert bert.embed("the river").shape == (1, 32)
    assert bert.embed([2, 10, 3]).shape == (1, 32)
    assert bert.embed([]).shape == (0, 32)
    assert np.allclose(np.linalg.norm(bert.embed(SENTENCES[:3]), axis=1), 1, atol=1e-6)
    raw = bert.embed(SENTENCES[:3], normalise=False)
    assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), bert.embed(SENTENCES[:3]), atol=1e-6)


def test_what_is_too_long_or_wrong(bert: Model) -> None:
    with pytest.raises(ContextLengthError, match=r"text 1 has 161 tokens; the context holds 160"):
        bert.embed([[2, 3], [5] * 161])
    cut = bert.embedding_ids(["a " * 300], truncate=True)[0]
    assert len(cut) == 160 and cut[-1] == bert.tokenizer.info.sep_id
    with pytest.raises(InvalidRequestError, match="not in the vocabulary"):
        bert.embed([[99999]])
    with pytest.raises(InvalidRequestError, match="text 1 is empty"):
        bert.embed([[1], []])
    with pytest.raises(InvalidRequestError, match="pooling is 'max'"):
        bert.embed([[1]], pooling="max")  # type: ignore[arg-type]


def test_an_encoder_generates_nothing(bert: Model, client: Client) -> None:
    assert not bert.info.generates and bert.info.pooling == "mean"
    for call in (lambda: bert.logits([1, 2]), lambda: bert.logprobs([1, 2]), lambda: bert.generate([1, 2])):
        with pytest.raises(UnsupportedModelError, match=r"encoder \(bert\): it makes embeddings and generates no text"):
            call()
    with pytest.raises(UnsupportedModelError, match="makes embeddings and generates no text"):
        client.chat("Hello")
    with pytest.raises(UnsupportedModelError, match="makes embeddings and generates no text"):
        client.completions.create(prompt="Hello")


@pytest.mark.parametrize("name", ["gemma3", "mamba2", "lfm2"])
def test_decoders_pool_their_states(zoo: Path, name: str) -> None:
    """The last state is what the next token's scores are made of; chunks and neighbours change nothing."""
    rng = np.random.default_rng(5)
    texts = [[int(i) for i in rng.integers(3, 60, n)] for n in (1, 40, 7)]
    path = unpacked(zoo / "decoders" / f"{name}.gguf.xz")
    with closing(Model.load(path, threads=2)) as model, closing(Model.load(path, threads=1, batch=8)) as small:
        assert model.info.generates and model.info.pooling == "last"
        for pooling in POOLINGS:
            together = model.embed(texts, pooling=pooling, normalise=False)
            assert np.array_equal(together, small.embed(texts, pooling=pooling, normalise=False))
        states = np.concatenate([model.embed([texts[1][: i + 1]], normalise=False) for i in range(40)])
        assert np.allclose(model.embed([texts[1]], pooling="mean", normalise=False)[0], states.mean(axis=0), atol=1e-5)


def test_client(client: Client, bert: Model) -> None:
    """OpenAI's shape, both encodings, fewer dimensions."""
    wanted = bert.embed(SENTENCES[:2])
    reply = client.embeddings.create(input=SENTENCES[:2])
    assert (reply.object, [each.index for each in reply.data], reply.route) == ("list", [0, 1], "local")
    assert np.array_equal(np.array([each.embedding for each in reply.data], dtype=np.float32), wanted)
    n_tokens = sum(len(bert.tokenize(text)) for text in SENTENCES[:2])
    assert reply.usage.model_dump() == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    packed = client.embeddings.create(input=bert.tokenize(SENTENCES[0]), encoding_format="base64").data[0]
    assert isinstance(packed.embedding, str)
    assert np.array_equal(np.frombuffer(base64.b64decode(packed.embedding), dtype="<f4"), wanted[0])
    assert packed.values == reply.data[0].embedding
    short = np.array(client.embeddings.create(input=SENTENCES[0], dimensions=8).data[0].values)
    assert np.allclose(short, wanted[0, :8] / np.linalg.norm(wanted[0, :8]), atol=1e-6)
    with pytest.raises(InvalidRequestError, match="at most 32") as caught:
        client.embeddings.create(input="a", dimensions=33)
    assert caught.value.param == "dimensions"
    for wrong in WRONG:
        with pytest.raises(InvalidRequestError) as caught:
            client.embeddings.create(input=wrong)
        assert caught.value.param == "input"


def test_vectors_that_nobody_wants_any_more(client: Client, bert: Model) -> None:
    """The work ends between two portions: when it was cancelled, when its time is over, when the client is closed."""
    texts = [[2] * 60] * 600  # five portions
    n_left = 3

    def gives_up() -> bool:
        nonlocal n_left
        n_left -= 1
        return n_left == 0

    backend = client._core.router._backend
    request = parse_request(EmbeddingRequest, {"input": texts})
    with pytest.raises(RequestCancelledError, match="was cancelled"):
        backend.embed(request, gives_up)
    assert n_left == 0
    with pytest.raises(RequestTimeoutError):
        client.embeddings.create(input=texts, timeout=1e-9)
    assert backend._pool.users(next(iter(backend._by_path)))[0] == 0

    def closes() -> bool:
        backend._pool._closed = True
        return False

    with pytest.raises(RequestCancelledError, match="client was closed"):
        backend.embed(request, closes)
    backend._pool._closed = False
    work = client._core.embed({"input": texts})
    work.cancel()
    with pytest.raises(RequestCancelledError):
        work.open()
    assert np.array_equal(client.embeddings.create(input=texts[:1]).data[0].values, bert.embed(texts[:1])[0])


def test_async_client(path: Path, tmp_path: Path, bert: Model) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(model=path, home=tmp_path, threads=2) as client:
            return list(await asyncio.gather(*(client.embeddings.create(input=text) for text in SENTENCES[:4])))

    found = np.array([reply.data[0].embedding for reply in asyncio.run(ask())], dtype=np.float32)
    assert np.array_equal(found, bert.embed(SENTENCES[:4]))


def test_minilm(minilm_path: Path, arrays: dict[str, Any]) -> None:
    """The real model by its catalog name, F16 as the catalog has it, beside transformers in float32."""
    with closing(Model.load(minilm_path, threads=2)) as model:
        assert [model.tokenize(text) for text in SENTENCES] == [
            list(arrays[f"minilm_tokens_{i}"]) for i in range(len(SENTENCES))
        ]
        found = model.embed(SENTENCES)
    assert (found * arrays["minilm_mean"]).sum(axis=1).min() > 0.99999

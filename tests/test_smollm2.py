"""Real weights: SmolLM2-135M-Instruct Q4_1 beside what llama.cpp said on the same file (tests/data/peer/README.md).

Both engines quantise activations to 8 bits, each in its own way (scales in half precision there, in float here), so scores
differ in the second decimal and a choice between two nearly equal tokens may fall differently. A step counts as clear where
llama.cpp's two best scores are at least CLEAR_MARGIN apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cactus_py.engine import Model, Tokenizer

CLEAR_MARGIN = 0.5
# Log-probability of llama.cpp's token: largest and mean difference allowed over 1280 steps (seen: see test output with -s).
LOGPROB_LARGEST, LOGPROB_MEAN = 0.25, 0.03
PERPLEXITY_RELATIVE = 0.005

PEER: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "peer" / "smollm2.json").read_text(encoding="utf-8"))
PROMPTS: dict[str, dict[str, Any]] = {prompt["name"]: prompt for prompt in PEER["prompts"]}


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[Model]:
    """The model with the peer's settings: two threads, keys and values in f16."""
    with closing(Model.load(smollm2_path, threads=2, context=2048)) as loaded:
        assert loaded.info.kv_type == "f16"
        yield loaded


def test_the_file_is_the_peers(smollm2_path: Path) -> None:
    """Same bytes, or nothing below means anything."""
    assert hashlib.sha256(smollm2_path.read_bytes()).hexdigest() == PEER["model"]["sha256"]


def test_what_the_model_says_of_itself(model: Model) -> None:
    """The published numbers of SmolLM2-135M."""
    info = model.info
    assert (info.architecture, info.layers, info.d_model, info.heads, info.kv_heads, info.d_head) == (
        "llama",
        30,
        576,
        9,
        3,
        64,
    )
    assert (info.vocabulary, info.trained_context, info.quantisation) == (49152, 8192, "Q4_1")
    assert info.parameters == 134_515_008
    assert info.tokenizer.pre == "smollm"


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_is_tokenised_like_the_peer(smollm2_path: Path, name: str) -> None:
    """Chat markup, code, other scripts."""
    tokenizer = Tokenizer.load(smollm2_path)
    assert tokenizer.encode(PROMPTS[name]["text"], add_special=True, parse_special=True) == PROMPTS[name]["ids"]


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_tokens_are_the_peers(model: Model, name: str, record_property: pytest.RecordProperty) -> None:
    """64 tokens; the comparison ends where an unclear step goes the other way."""
    prompt = PROMPTS[name]
    generation = model.generate(prompt["ids"], max_tokens=len(prompt["tokens"]), sampling={"temperature": 0})
    ours = [token.id for token in generation]
    # The peer goes on behind an end token; a generation stops there.
    compared = 0
    for ours_id, peer_id, margin in zip(ours, prompt["tokens"], prompt["margins"], strict=False):
        compared += 1
        if ours_id != peer_id:
            assert margin < CLEAR_MARGIN, f"step {compared - 1}: {ours_id}, llama.cpp {peer_id} by {margin}"
            break
    record_property("tokens_compared", compared)
    print(f"\n{name}: {compared} tokens compared, {len(ours)} generated")
    assert compared >= 1


@pytest.mark.parametrize("name", PROMPTS)
def test_scores_along_the_peers_tokens(model: Model, name: str) -> None:
    """Fed what llama.cpp chose, we choose the same at every clear step, and think it as likely."""
    prompt = PROMPTS[name]
    ids, tokens = prompt["ids"], np.array(prompt["tokens"])
    scores = model.logits(ids + prompt["tokens"])[len(ids) - 1 : -1].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    logprobs = (scores - np.log(np.exp(scores).sum(-1, keepdims=True)))[np.arange(len(tokens)), tokens]
    clear = np.array(prompt["margins"]) >= CLEAR_MARGIN
    differences = np.abs(logprobs - np.array(prompt["logprobs"]))
    off = f"logprob off by {differences.mean():.4f}, at most {differences.max():.4f}"
    print(f"\n{name}: {clear.sum()} clear steps of {len(tokens)}, {off}")
    assert np.array_equal(scores.argmax(-1)[clear], tokens[clear])
    assert differences.max() < LOGPROB_LARGEST and differences.mean() < LOGPROB_MEAN


def test_perplexity_is_the_peers(model: Model, smollm2_path: Path, data: Path) -> None:
    """English prose in windows of 2048 tokens, each from an empty cache, sums in double."""
    reference = PEER["perplexity"]
    tokenizer = Tokenizer.load(smollm2_path)
    ids: list[int] = []
    for name in reference["texts"]:
        ids += tokenizer.encode((data / "text" / name).read_text(encoding="utf-8"))
    total, n_scored = 0.0, 0
    for i, window in enumerate(reference["windows"]):
        part = ids[i * reference["window_tokens"] : (i + 1) * reference["window_tokens"]]
        assert hashlib.sha256(np.asarray(part, "<i4").tobytes()).hexdigest() == window["ids_sha256"], (
            f"window {i}: other tokens"
        )
        nll = -float(model.logprobs(part).sum(dtype=np.float64))
        assert nll == pytest.approx(window["nll_sum"], rel=2 * PERPLEXITY_RELATIVE)
        total += nll
        n_scored += window["n_scored"]
    perplexity = math.exp(total / n_scored)
    print(f"\nperplexity {perplexity:.4f}, llama.cpp {reference['perplexity']:.4f}")
    assert perplexity == pytest.approx(reference["perplexity"], rel=PERPLEXITY_RELATIVE)

"""Real weights: Gemma 3 270M (base) Q4_K_M beside what llama.cpp said on the same file, and beside the truth.

This model has local and global attention, norms of queries and keys, norms behind the branches, GELU, a vocabulary of 262144
pieces from SentencePiece, and weights of four types. As in test_smollm2.py the truth is float32; from it llama.cpp is off by
0.034 on average in the log-probability of a token (this engine by 0.025) and prefers another token at steps up to 0.91 wide, so
a step is clear where both llama.cpp and the truth have the best token ahead by CLEAR_MARGIN.
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
from numpy.typing import NDArray

from cactus_py.engine import Model, Tokenizer

CLEAR_MARGIN = 0.5
WORSE_THAN_PEER = 1.0  # our mean distance to the truth over llama.cpp's, at most; 0.72 when this was written
LARGEST_OFF = 0.65  # in log-probability, at any step; 0.57 was seen here, 0.71 of llama.cpp
PERPLEXITY_RELATIVE = 0.005  # to llama.cpp, which is 0.6 % above the truth, and to the truth; 0.2 % above it was seen here

DATA = Path(__file__).parent / "data" / "peer"
PEER: dict[str, Any] = json.loads((DATA / "gemma3.json").read_text(encoding="utf-8"))
TRUTH: dict[str, Any] = json.loads((DATA / "gemma3_float.json").read_text(encoding="utf-8"))
PROMPTS: dict[str, dict[str, Any]] = {prompt["name"]: prompt for prompt in PEER["prompts"]}
TRUE_STEPS: dict[str, dict[str, Any]] = {prompt["name"]: prompt for prompt in TRUTH["prompts"]}


def clearness(name: str) -> NDArray[np.float64]:
    """By how much the best token is ahead at each step of the peer's, to llama.cpp or to the truth if that is less."""
    return np.minimum(PROMPTS[name]["margins"], TRUE_STEPS[name]["margins"])


@pytest.fixture(scope="module")
def model(gemma3_path: Path) -> Iterator[Model]:
    """The model with the peer's settings: two threads, keys and values in f16."""
    with closing(Model.load(gemma3_path, threads=2, context=2048)) as loaded:
        assert loaded.info.kv_type == "f16"
        yield loaded


def test_the_file_is_the_peers(gemma3_path: Path) -> None:
    """Same bytes, or nothing below means anything."""
    assert hashlib.sha256(gemma3_path.read_bytes()).hexdigest() == PEER["model"]["sha256"]


def test_what_the_model_says_of_itself(model: Model) -> None:
    """The published numbers of Gemma 3 270M."""
    info = model.info
    assert (info.architecture, info.layers, info.d_model) == ("gemma3", 18, 640)
    assert (info.heads, info.kv_heads, info.d_head) == (4, 1, 256)
    assert (info.vocabulary, info.trained_context, info.parameters) == (262144, 32768, 268_098_176)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_is_tokenised_like_the_peer(gemma3_path: Path, name: str) -> None:
    """Code, lists, other scripts."""
    tokenizer = Tokenizer.load(gemma3_path)
    assert tokenizer.encode(PROMPTS[name]["text"], add_special=True, parse_special=True) == PROMPTS[name]["ids"]


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_tokens_are_the_peers(model: Model, name: str) -> None:
    """64 tokens; the comparison ends where an unclear step goes the other way."""
    prompt, clear = PROMPTS[name], clearness(name)
    ours = [token.id for token in model.generate(prompt["ids"], max_tokens=len(prompt["tokens"]), sampling={"temperature": 0})]
    for step, (token, peer_token) in enumerate(zip(ours, prompt["tokens"], strict=False)):
        if token != peer_token:
            assert clear[step] < CLEAR_MARGIN, f"step {step}: {token}, llama.cpp {peer_token} by {clear[step]}"
            break


@pytest.fixture(scope="module")
def fed(model: Model) -> dict[str, NDArray[np.float64]]:
    """Log-probabilities [64, vocab] of each prompt's steps when the model is fed the tokens that llama.cpp chose."""
    found = {}
    for name, prompt in PROMPTS.items():
        scores = model.logits(prompt["ids"] + prompt["tokens"])[len(prompt["ids"]) - 1 : -1].astype(np.float64)
        scores -= scores.max(-1, keepdims=True)
        found[name] = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return found


@pytest.mark.parametrize("name", PROMPTS)
def test_clear_steps_along_the_peers_tokens(fed: dict[str, NDArray[np.float64]], name: str) -> None:
    """Fed the same, we choose the same wherever that is clear; the long passage lies past the local layers' window."""
    ours, true = fed[name].argmax(-1), TRUE_STEPS[name]
    clear, clear_truth = clearness(name) >= CLEAR_MARGIN, np.array(true["margins"]) >= CLEAR_MARGIN
    assert clear.sum() >= 12
    assert np.array_equal(ours[clear], np.array(PROMPTS[name]["tokens"])[clear])
    assert np.array_equal(ours[clear_truth], np.array(true["best"])[clear_truth])


def test_nearer_the_truth_than_the_peer(fed: dict[str, NDArray[np.float64]]) -> None:
    """Log-probabilities of 1088 tokens: our distance to the float32 weights beside llama.cpp's."""
    ours: list[float] = []
    peer: list[float] = []
    for name, prompt in PROMPTS.items():
        truth = np.array(TRUE_STEPS[name]["logprobs"])
        ours += np.abs(fed[name][np.arange(len(truth)), prompt["tokens"]] - truth).tolist()
        peer += np.abs(np.array(prompt["logprobs"]) - truth).tolist()
    print(f"\noff the truth: ours {np.mean(ours):.4f}, at most {max(ours):.3f}; llama.cpp {np.mean(peer):.4f}, {max(peer):.3f}")
    assert np.mean(ours) <= WORSE_THAN_PEER * np.mean(peer)
    assert max(ours) < LARGEST_OFF


def test_perplexity_is_the_peers_and_the_truths(model: Model, gemma3_path: Path, data: Path) -> None:
    """English prose in windows of 2048 tokens behind <bos>, each from an empty cache, sums in double."""
    reference = PEER["perplexity"]
    tokenizer = Tokenizer.load(gemma3_path)
    ids: list[int] = []
    for name in reference["texts"]:
        ids += tokenizer.encode((data / "text" / name).read_text(encoding="utf-8"))
    n_text, total, n_scored = reference["window_tokens"] - 1, 0.0, 0
    for i, window in enumerate(reference["windows"]):
        assert [tokenizer.info.bos_id, *ids[i * n_text : (i + 1) * n_text]] == window["ids"]
        logprobs: NDArray[np.float64] = model.logprobs(window["ids"]).astype(np.float64)
        total -= float(logprobs.sum())
        n_scored += window["n_scored"]
    ours, peer, truth = math.exp(total / n_scored), reference["perplexity"], TRUTH["perplexity"]["perplexity"]
    print(f"\nperplexity {ours:.4f}, llama.cpp {peer:.4f}, float32 {truth:.4f}")
    assert ours == pytest.approx(peer, rel=PERPLEXITY_RELATIVE)
    assert ours == pytest.approx(truth, rel=PERPLEXITY_RELATIVE)

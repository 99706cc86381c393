"""Writes tests/data/peer/NAME.json: what llama.cpp answers on the same GGUF that our engine runs.

    PEER_PYTHON scripts/make_peer_references.py SmolLM2-135M-Instruct.Q4_1.gguf tests/data/peer/smollm2.json
    PEER_PYTHON scripts/make_peer_references.py gemma-3-270m-q4_k_m.gguf tests/data/peer/gemma3.json --base

PEER_PYTHON is a Python with llama-cpp-python 0.3.36 compiled on the machine itself (no other dependency but numpy). Recorded
are greedy continuations (scores straight from the context, argmax, no penalties, end tokens are tokens like any other), with
the distance of the two best scores at every step, so that a comparison knows where a different rounding may tip the choice;
and the perplexity of English text. The prompts are below, the long ones end in excerpts of tests/data/text. --base: a model
that was not taught to chat gets those without chat markup, and each window of the text begins with its first token (<bos>).
"""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))

import compact_json
import numpy as np
from llama_peer import Peer, system_info, version
from numpy.typing import NDArray

TEXT_DIR = Path(__file__).resolve().parent.parent / "tests" / "data" / "text"
TEXTS = ["alice.txt", "workshop.txt"]
N_TOKENS = 64
WINDOW_TOKENS = 2048
N_WINDOWS = 4
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(*turns: str, system: str = SYSTEM) -> str:
    """User and assistant turns, alternating, in the model's chat format, ready for the assistant's next turn."""
    parts = [f"<|im_start|>system\n{system}<|im_end|>\n"]
    for i, turn in enumerate(turns):
        parts.append(f"<|im_start|>{'assistant' if i % 2 else 'user'}\n{turn}<|im_end|>\n")
    return "".join(parts) + "<|im_start|>assistant\n"


def excerpt(name: str, start: int, n_chars: int) -> str:
    """`n_chars` characters of a text file from the first paragraph that starts at or behind `start`."""
    text = (TEXT_DIR / name).read_text(encoding="utf-8")
    begin = text.index("\n\n", start) + 2
    return text[begin : begin + n_chars]


def prompts(base: bool) -> dict[str, str]:
    """Name -> text, special tokens written out."""
    plain = {
        "plain-list": "Seven things to pack for a winter hike:\n1.",
        "plain-poem": "The lighthouse in the fog\n\nAll night the lamp goes round and round,\n",
        "plain-question": "Question: What is the capital of Portugal?\nAnswer:",
        "plain-python": 'def fibonacci(n):\n    """The n-th Fibonacci number, without recursion."""\n',
        "plain-french": "English: The library closes at six, but the garden stays open.\nFrançais :",
        "plain-json": '{"name": "telephone", "year": 1876, "inventor": "Alexander Graham Bell"}\n'
        '{"name": "light bulb", "year":',
        "plain-letter": "Dear Ms Keller,\n\nthank you for your letter of 3 March. I am sorry to hear that",
        "plain-dialogue": "Ines: My name is Ines and I keep bees.\nTom: Nice to meet you! How many hives do you have?\nInes:",
        "long-passage": excerpt("alice.txt", 4000, 5200),
    }
    everything = all_prompts()
    return plain | {name: text for name, text in everything.items() if "<|im_start|>" not in text} if base else everything


def all_prompts() -> dict[str, str]:
    """For a model that chats in SmolLM's format."""
    return {
        "chat-sky": chat("Why is the sky blue? Answer in two sentences."),
        "chat-capital": chat("What is the capital of Portugal?"),
        "chat-list": chat("List seven things to pack for a winter hike, one per line."),
        "chat-python": chat("Write a Python function that returns the n-th Fibonacci number without recursion."),
        "chat-haiku": chat("Write a short poem about a lighthouse in the fog.", system="You are a poet."),
        "chat-sum": chat("A train leaves at 9:40 and arrives at 12:05. How long is the journey? Think step by step."),
        "chat-turns": chat(
            "My name is Ines and I keep bees.",
            "Nice to meet you, Ines! How many hives do you have?",
            "Four, and one of them swarmed last week. What should I check first?",
        ),
        "chat-french": chat("Traduis en français : The library closes at six, but the garden stays open."),
        "chat-json": chat('Return a JSON object with the keys "name", "year" and "inventor" for the telephone. Only JSON.'),
        "chat-rewrite": chat("Rewrite politely: Send me the report now, you are late again!"),
        "chat-one-word": chat("Hello"),
        "plain-story": "The old clockmaker locked his shop for the last time and",
        "plain-fact": "Photosynthesis is the process by which",
        "plain-c": "/* Counts the bits that are set in x. */\nstatic int popcount(unsigned x)\n{\n    int n = 0;\n",
        "plain-html": '<!DOCTYPE html>\n<html lang="en">\n<head>\n  <meta charset="utf-8">\n  <title>',
        "plain-numbers": "1, 1, 2, 3, 5, 8, 13, 21,",
        "plain-german": "Am nächsten Morgen ging Frau Müller über die Brücke zum Markt, weil",
        "plain-mixed": "日本語: こんにちは。 Español: ¡Buenos días! Русский: Доброе утро. English:",
        "long-alice": chat("Summarise this passage in three sentences.\n\n" + excerpt("alice.txt", 4000, 2300)),
        "long-workshop": excerpt("workshop.txt", 3000, 2900),
    }


def log_softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural log of the probabilities, in double, over the last axis."""
    x = scores.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result


def greedy(peer: Peer, ids: list[int]) -> dict[str, list[Any]]:
    """64 steps: the best token, its log-probability, and how far the second best score is below it."""
    tokens: list[int] = []
    logprobs: list[float] = []
    margins: list[float] = []
    peer.prefill(ids)
    for _ in range(N_TOKENS):
        scores = peer.scores()
        second, best = np.partition(scores, -2)[-2:]
        token = int(scores.argmax())
        tokens.append(token)
        logprobs.append(round(float(log_softmax(scores)[token]), 6))
        margins.append(round(float(best) - float(second), 5))
        peer.decode([token])
    return {"tokens": tokens, "logprobs": logprobs, "margins": margins}


def perplexity(peer: Peer, first: list[int]) -> dict[str, Any]:
    """Sum of -log p over windows of the texts, each from an empty cache; the first token of a window is given, not scored.
    `first`: what each begins with before its share of the text."""
    ids: list[int] = []
    n_text = WINDOW_TOKENS - len(first)
    for name in TEXTS:
        ids += peer.tokenize((TEXT_DIR / name).read_text(encoding="utf-8"), add_special=False, parse_special=False)
    windows: list[dict[str, Any]] = []
    for i in range(N_WINDOWS):
        window = first + ids[i * n_text : (i + 1) * n_text]
        if len(window) < WINDOW_TOKENS:
            raise SystemExit(f"the texts give {len(ids)} tokens, {N_WINDOWS * n_text} are needed")
        scores = peer.logits(window)
        logprobs = log_softmax(scores[:-1])[np.arange(len(window) - 1), window[1:]]
        windows.append({"n_scored": len(window) - 1, "nll_sum": float(-logprobs.sum()), "ids": window})
    total = sum(w["nll_sum"] for w in windows)
    n_scored = sum(w["n_scored"] for w in windows)
    return {
        "texts": TEXTS,
        "window_tokens": WINDOW_TOKENS,
        "note": "texts tokenised one by one (add_special false, parse_special false), ids joined, cut into windows",
        "windows": windows,
        "n_scored": n_scored,
        "perplexity": math.exp(total / n_scored),
    }


def main(model: str, out: str, base: bool) -> None:
    """Runs the peer over all prompts and windows and writes the file."""
    with Peer(model, threads=2, n_ctx=WINDOW_TOKENS, n_batch=512, extra_buffers=False) as peer:
        results = []
        for name, text in prompts(base).items():
            ids = peer.tokenize(text, add_special=True, parse_special=True)
            results.append({"name": name, "text": text, "ids": ids, **greedy(peer, ids)})
            print(f"{name}: {len(ids)} + {N_TOKENS} tokens, smallest margin {min(results[-1]['margins']):.4f}", flush=True)
        ppl = perplexity(peer, peer.tokenize("", add_special=True, parse_special=False) if base else [])
        print(f"perplexity {ppl['perplexity']:.6f} over {ppl['n_scored']} tokens")
    settings = {
        "n_ctx": WINDOW_TOKENS, "n_batch": 512, "n_ubatch": 512, "threads": 2, "flash_attention": "off", "kv": "f16",
        "extra_buffers": False, "tokenize": "add_special true, parse_special true", "system_info": system_info(),
    }  # fmt: skip
    document = {
        "made_by": "scripts/make_peer_references.py",
        "peer": f"llama-cpp-python {version()}, compiled on the machine with its default flags",
        "model": {"file": Path(model).name, "sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest()},
        "settings": settings,
        "prompts": results,
        "perplexity": ppl,
    }
    compact_json.write(Path(out), document)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--base"]
    if len(arguments) != 2:
        raise SystemExit(__doc__)
    main(*arguments, base="--base" in sys.argv)

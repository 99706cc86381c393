"""Writes tests/data/peer/smollm2_float.json: what the weights of a quantised GGUF say when nothing else is rounded.

    python scripts/make_float_references.py SmolLM2-135M-Instruct.Q4_1.gguf tests/data/peer/smollm2.json OUT.json

The matrices are dequantised by gguf-py and computed with in float32 by transformers (eager attention, no cache). Along the
tokens that llama.cpp chose (smollm2.json, by make_peer_references.py) it records the log-probability of each, the best token
and its distance to the second; and the perplexity of the same windows of text. So both engines, which quantise activations,
can be held against the same truth. Needs torch, transformers, gguf, numpy.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from make_llama_variants import gguf_name, separate
from make_peer_references import compact_lists
from transformers import LlamaConfig, LlamaForCausalLM

WINDOW_IDS = "the ids of the windows are those of the peer's file"


def number(reader: GGUFReader, key: str) -> Any:
    """A metadata value of the llama architecture."""
    return reader.fields[f"llama.{key}"].contents()


def load(path: str) -> tuple[LlamaForCausalLM, GGUFReader]:
    """The model in float32."""
    reader = GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    n_heads, n_kv_heads = number(reader, "attention.head_count"), number(reader, "attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        hidden_size=number(reader, "embedding_length"),
        intermediate_size=number(reader, "feed_forward_length"),
        num_hidden_layers=number(reader, "block_count"),
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=number(reader, "embedding_length") // n_heads,
        max_position_embeddings=number(reader, "context_length"),
        rms_norm_eps=number(reader, "attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="output.weight" not in tensors,
        rope_parameters={"rope_type": "default", "rope_theta": number(reader, "rope.freq_base")},
    )
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            tensor = tensors[gguf_name(name)]
            rows = dequantize(tensor.data, tensor.tensor_type).reshape(value.shape).astype(np.float32)
            if "q_proj" in name or "k_proj" in name:
                rows = separate(rows, n_heads if "q_proj" in name else n_kv_heads)
            value.copy_(torch.from_numpy(np.ascontiguousarray(rows)))
    return model, reader


def log_probabilities(model: LlamaForCausalLM, ids: list[int], first: int) -> torch.Tensor:
    """Natural log-probabilities behind each token from position `first` on, in double."""
    with torch.no_grad():
        scores = model(torch.tensor([ids]), use_cache=False).logits[0, first:]
    return torch.log_softmax(scores.double(), -1)


def along(model: LlamaForCausalLM, prompt: dict[str, Any]) -> dict[str, Any]:
    """One prompt's entry."""
    ids, tokens = prompt["ids"], prompt["tokens"]
    logs = log_probabilities(model, ids + tokens[:-1], len(ids) - 1)
    best = logs.topk(2, -1)
    chosen = logs[torch.arange(len(tokens)), torch.tensor(tokens)]
    return {
        "name": prompt["name"],
        "logprobs": [round(x, 6) for x in chosen.tolist()],
        "best": best.indices[:, 0].tolist(),
        "margins": [round(x, 5) for x in (best.values[:, 0] - best.values[:, 1]).tolist()],
    }


def main(gguf_file: str, peer_file: str, out: str) -> None:
    """Runs all prompts and windows and writes the file."""
    from make_peer_references import N_WINDOWS, TEXT_DIR, TEXTS, WINDOW_TOKENS

    from cactus_py.engine import Tokenizer

    peer = json.loads(Path(peer_file).read_text(encoding="utf-8"))
    model, _ = load(gguf_file)
    prompts = []
    for prompt in peer["prompts"]:
        prompts.append(along(model, prompt))
        off = np.abs(np.array(prompts[-1]["logprobs"]) - np.array(prompt["logprobs"]))
        print(f"{prompt['name']}: llama.cpp off by {off.mean():.4f}, at most {off.max():.4f}", flush=True)
    tokenizer = Tokenizer.load(gguf_file)
    ids = [i for name in TEXTS for i in tokenizer.encode((TEXT_DIR / name).read_text(encoding="utf-8"))]
    sums = []
    for i in range(N_WINDOWS):
        window = ids[i * WINDOW_TOKENS : (i + 1) * WINDOW_TOKENS]
        logs = log_probabilities(model, window, 0)
        sums.append(float(-logs[torch.arange(len(window) - 1), torch.tensor(window[1:])].sum()))
        print(f"window {i}: {sums[-1]:.3f}, llama.cpp {peer['perplexity']['windows'][i]['nll_sum']:.3f}", flush=True)
    perplexity = math.exp(sum(sums) / (N_WINDOWS * (WINDOW_TOKENS - 1)))
    print(f"perplexity {perplexity:.4f}, llama.cpp {peer['perplexity']['perplexity']:.4f}")
    document = {
        "made_by": "scripts/make_float_references.py",
        "reference": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention, no cache",
        "model": peer["model"],
        "prompts": prompts,
        "perplexity": {"nll_sums": sums, "perplexity": perplexity, "note": WINDOW_IDS},
    }
    Path(out).write_text(compact_lists(json.dumps(document, indent=1)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])

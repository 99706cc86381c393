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

import compact_json
import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from make_llama_variants import gguf_name, separate
from transformers import LlamaConfig, LlamaForCausalLM


def number(reader: GGUFReader, key: str) -> Any:
    """A metadata value of the llama architecture."""
    return reader.fields[f"llama.{key}"].contents()


def load(path: str) -> LlamaForCausalLM:
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
    return model


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
    peer = json.loads(Path(peer_file).read_text(encoding="utf-8"))
    model = load(gguf_file)
    prompts = []
    for prompt in peer["prompts"]:
        prompts.append(along(model, prompt))
        off = np.abs(np.array(prompts[-1]["logprobs"]) - np.array(prompt["logprobs"]))
        print(f"{prompt['name']}: llama.cpp off by {off.mean():.4f}, at most {off.max():.4f}", flush=True)
    sums = []
    for window in peer["perplexity"]["windows"]:
        ids = window["ids"]
        logs = log_probabilities(model, ids, 0)
        sums.append(float(-logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum()))
        print(f"window: {sums[-1]:.3f}, llama.cpp {window['nll_sum']:.3f}", flush=True)
    perplexity = math.exp(sum(sums) / peer["perplexity"]["n_scored"])
    print(f"perplexity {perplexity:.4f}, llama.cpp {peer['perplexity']['perplexity']:.4f}")
    document = {
        "made_by": "scripts/make_float_references.py",
        "reference": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention, no cache",
        "model": peer["model"],
        "prompts": prompts,
        "perplexity": {"nll_sums": sums, "perplexity": perplexity},
    }
    compact_json.write(Path(out), document)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])

"""Writes tests/data/peer/NAME_float.json: what the weights of a quantised GGUF say when nothing else is rounded.

    python scripts/make_float_references.py SmolLM2-135M-Instruct.Q4_1.gguf tests/data/peer/smollm2.json OUT.json
    python scripts/make_float_references.py gemma-3-270m-q4_k_m.gguf tests/data/peer/gemma3.json OUT.json

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
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

GEMMA_NORMS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
}  # fmt: skip


def number(reader: GGUFReader, key: str) -> Any:
    """A metadata value of the model's architecture."""
    return reader.fields[f"{reader.fields['general.architecture'].contents()}.{key}"].contents()


def load(path: str) -> PreTrainedModel:
    """The model in float32."""
    reader = GGUFReader(path)
    return {"llama": load_llama, "gemma3": load_gemma3}[reader.fields["general.architecture"].contents()](reader)


def load_gemma3(reader: GGUFReader) -> PreTrainedModel:
    """Gemma 3, of text: five layers with a window to one without."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    n_layers = number(reader, "block_count")
    bases = {"full_attention": number(reader, "rope.freq_base"), "sliding_attention": 10000.0}
    config = Gemma3TextConfig(
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        hidden_size=number(reader, "embedding_length"),
        intermediate_size=number(reader, "feed_forward_length"),
        num_hidden_layers=n_layers,
        num_attention_heads=number(reader, "attention.head_count"),
        num_key_value_heads=number(reader, "attention.head_count_kv"),
        head_dim=number(reader, "attention.key_length"),
        query_pre_attn_scalar=number(reader, "attention.key_length"),
        max_position_embeddings=number(reader, "context_length"),
        rms_norm_eps=number(reader, "attention.layer_norm_rms_epsilon"),
        sliding_window=number(reader, "attention.sliding_window"),
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(n_layers)],
        rope_parameters={kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
        tie_word_embeddings=True,
    )
    config._attn_implementation = "eager"
    model = Gemma3ForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            stem, parent = name.removesuffix(".weight").rsplit(".", 1)[-1], name.split(".")
            layer = f"blk.{parent[2]}." if parent[1] == "layers" else ""
            tensor = tensors[f"{layer}{GEMMA_NORMS[stem]}.weight" if stem in GEMMA_NORMS else gguf_name(name)]
            rows = dequantize(tensor.data, tensor.tensor_type).reshape(value.shape).astype(np.float32)
            value.copy_(torch.from_numpy(np.ascontiguousarray(rows - 1.0 if "norm" in name else rows)))
    return model


def load_llama(reader: GGUFReader) -> PreTrainedModel:
    """Llama's architecture, tied or not."""
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


def log_probabilities(model: PreTrainedModel, ids: list[int], first: int) -> torch.Tensor:
    """Natural log-probabilities behind each token from position `first` on, in double."""
    with torch.no_grad():
        scores = model(torch.tensor([ids]), use_cache=False).logits[0, first:]
    return torch.log_softmax(scores.double(), -1)


def along(model: PreTrainedModel, prompt: dict[str, Any]) -> dict[str, Any]:
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

"""Writes tests/data/zoo/llama-variants: tiny random checkpoints of the llama architecture that differ where real ones do.

    python scripts/make_llama_variants.py tests/data/zoo/llama-variants [--peer-python PEER_PYTHON]

Each variant is NAME.gguf, or NAME.gguf.xz where all is F32, with NAME.npz: `tokens`, `tokens_long` (int32) and `logits`,
`logits_long` (float32 [T, vocab]) from transformers on CPU in float32 with eager attention and no cache; of the models that
have one type of matrices throughout, F16 to MXFP4, only the short sequence. index.json keeps the configurations and, with
--peer-python (a Python with llama-cpp-python), how far llama.cpp is from the same numbers: two independent readings of one
file, so that a slip in this script's metadata or row order would show. A quantised tensor is read back before transformers
gets it, so only the rounding of activations may differ there. The weights of F32 models are small integers times one scale,
so that they take about 3 bits each once packed. Needs torch, transformers, gguf, numpy.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

PEER_SCRIPT = Path(__file__).resolve().parent / "bench" / "llama_peer.py"
N_SPECIAL = 3
MERGES = ["t h", "h e", "i n", "e r", "a n", "r e", "o n", "Ġ a", "Ġ t", "Ġt he", "an d", "in g"]
N_VOCAB = N_SPECIAL + 256 + len(MERGES)  # 271: no multiple of any vector length


@dataclass
class Variant:
    """One checkpoint: the transformers configuration, how tensors are stored, and metadata that goes beyond the usual."""

    config: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Q] = field(default_factory=dict)  # by the last parts of the tensor's name; others F32
    omit: tuple[str, ...] = ()  # metadata left out because a reader must know the default
    suffixes: tuple[str, ...] = ("", "_long")  # the sequences that are kept


def base(**changes: Any) -> dict[str, Any]:
    """A small configuration with `changes`."""
    config: dict[str, Any] = {
        "vocab_size": N_VOCAB, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": None,
    }  # fmt: skip
    return config | changes


YARN_FACTOR = 4.0
YARN_ATTENTION = 1.25
VARIANTS = {
    # Positions divided by a factor; heads all their own (the key for key/value heads is absent), default base absent.
    "linear": Variant(
        base(num_key_value_heads=4, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        omit=("attention.head_count_kv", "rope.freq_base", "attention.key_length", "attention.value_length"),
    ),
    # YaRN as models ship it: factor and original context.
    "yarn": Variant(
        base(
            num_attention_heads=2, num_key_value_heads=1, head_dim=32,
            rope_parameters={
                "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0,
            },
        ),
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 32},
    ),
    # YaRN with an attention factor of its own; the file keeps it relative to the usual 0.1 ln(factor) + 1.
    "yarn-attn": Variant(
        base(
            num_attention_heads=2, num_key_value_heads=2, head_dim=40, intermediate_size=80, rms_norm_eps=1e-6,
            rope_parameters={
                "rope_type": "yarn", "factor": YARN_FACTOR, "original_max_position_embeddings": 64, "rope_theta": 500000.0,
                "attention_factor": YARN_ATTENTION,
            },
        ),
        {
            "rope.scaling.type": "yarn", "rope.scaling.factor": YARN_FACTOR, "rope.scaling.original_context_length": 64,
            "rope.scaling.attn_factor": YARN_ATTENTION / (0.1 * math.log(YARN_FACTOR) + 1.0),
        },
    ),
    # Biases on every projection of attention and MLP.
    "bias": Variant(base(attention_bias=True, mlp_bias=True)),
    # A head of its own for the output; 6 query heads on 2 key/value heads.
    "untied-gqa": Variant(
        base(
            hidden_size=60, intermediate_size=80, num_attention_heads=6, tie_word_embeddings=False, rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        )
    ),
    # Sizes that no vector length divides; heads not d_model / n_heads wide, one key/value head, an odd number of layers.
    "odd": Variant(
        base(
            hidden_size=70, intermediate_size=71, num_attention_heads=5, num_key_value_heads=1, head_dim=12,
            num_hidden_layers=3, attention_bias=True,
        )
    ),
    # Another type for each tensor, rows of 3 and 5 blocks.
    "mixed": Variant(
        base(hidden_size=96, intermediate_size=160, num_attention_heads=6, num_key_value_heads=3, head_dim=32),
        types={
            "token_embd.weight": Q.Q8_0, "attn_q.weight": Q.Q4_0, "attn_k.weight": Q.Q4_1, "attn_v.weight": Q.Q8_0,
            "attn_output.weight": Q.F16, "ffn_gate.weight": Q.BF16, "ffn_up.weight": Q.Q4_0, "ffn_down.weight": Q.Q4_1,
        },
    ),
}  # fmt: skip

PARTS = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
MATRICES = [f"{name}.weight" for name in ["token_embd", *PARTS]]
for kind in (Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.IQ4_NL, Q.MXFP4):
    VARIANTS[kind.name] = Variant(base(intermediate_size=96), types=dict.fromkeys(MATRICES, kind), suffixes=("",))

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """model.layers.0.self_attn.q_proj.weight -> blk.0.attn_q.weight"""
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def interleave(rows: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Rows of a query or key projection in GGUF's order: the two halves that rotary positions pair become neighbours."""
    pairs = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def separate(rows: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """The inverse of `interleave`."""
    pairs = rows.reshape(n_heads, rows.shape[0] // n_heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def random_weights(model: LlamaForCausalLM, seed: int, few_levels: bool) -> None:
    """Draws weights under which a slip shows: sharp attention, norms and biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if few_levels:
                noise = torch.clamp(torch.round(1.6 * noise), -5, 5) / 1.6
            if "norm" in name:
                value.copy_(1.0 + 0.2 * noise)
            elif name.endswith("bias"):
                value.copy_(0.2 * noise)
            elif "embed_tokens" in name:
                value.copy_(noise * 3.0 / math.sqrt(value.shape[-1]))
            else:
                sharp = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                value.copy_(noise * sharp / math.sqrt(value.shape[-1]))


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE vocabularies write for each byte: itself, or one from U+0100 on."""
    shown = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """A byte-level BPE with three special tokens, every byte, and a few merges."""
    tokens = ["<|begin|>", "<|end|>", "<|pad|>", *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * N_SPECIAL + [1] * (len(tokens) - N_SPECIAL))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def add_metadata(writer: gguf.GGUFWriter, name: str, variant: Variant) -> None:
    """Hyper-parameters under the names that the llama architecture has in GGUF."""
    c = variant.config
    writer.add_name(f"llama variant {name}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    values: dict[str, Any] = {
        "block_count": c["num_hidden_layers"], "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"], "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"], "attention.head_count_kv": c["num_key_value_heads"],
        "attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"],
        "attention.layer_norm_rms_epsilon": c["rms_norm_eps"], "rope.freq_base": c["rope_parameters"]["rope_theta"],
        "rope.dimension_count": c["head_dim"], "vocab_size": c["vocab_size"],
    }  # fmt: skip
    for key, value in (values | variant.metadata).items():
        if key in variant.omit:
            continue
        if isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"llama.{key}", value)
        else:
            writer.add_uint32(f"llama.{key}", value)


def packed(rows: NDArray[np.float32], kind: Q) -> NDArray[Any]:
    """The bytes of `rows` in a type: gguf-py's, but for IQ4_NL, which it only reads; there the scale is the largest value's."""
    if kind != Q.IQ4_NL:
        return quantize(rows, kind)
    table = np.array(gguf.quants.IQ4_NL.kvalues, np.float32)
    blocks = rows.reshape(-1, 32)
    scales = (np.abs(blocks).max(-1, keepdims=True) / table.max()).astype(np.float16)
    codes = np.abs((blocks / scales.astype(np.float32))[..., None] - table).argmin(-1).astype(np.uint8)
    nibbles = codes[:, :16] | codes[:, 16:] << 4
    return np.concatenate([scales.view(np.uint8), nibbles], -1).reshape(rows.shape[0], -1)


def add_tensors(writer: gguf.GGUFWriter, model: LlamaForCausalLM, variant: Variant) -> None:
    """Stores each parameter in its type and puts what was stored back into the model."""
    heads = {"attn_q": variant.config["num_attention_heads"], "attn_k": variant.config["num_key_value_heads"]}
    with torch.no_grad():
        for name, value in model.named_parameters():
            target = gguf_name(name)
            part = target.rsplit(".", 2)[-2]
            rows = value.numpy()
            if part in heads:
                rows = interleave(rows, heads[part])
            kind = variant.types.get(target.split(".", 2)[-1] if target.startswith("blk.") else target, Q.F32)
            raw = packed(rows, kind)
            writer.add_tensor(target, raw, raw_dtype=kind)
            stored = dequantize(raw, kind).reshape(rows.shape)
            value.copy_(torch.from_numpy(separate(stored, heads[part]) if part in heads else stored.copy()))


def reference_logits(model: LlamaForCausalLM, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores of every position, float32 [T, vocab]."""
    with torch.no_grad():
        out = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    logits: NDArray[np.float32] = out.logits[0].numpy()
    return logits


def peer_distance(python: str, path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, float]:
    """How far llama.cpp is from the reference on the same file: largest and root mean square difference of the scores."""
    differences, same = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in ("", "_long"):
            if "tokens" + suffix not in arrays:
                continue
            ids, out = Path(scratch) / "ids.npy", Path(scratch) / "logits.npy"
            np.save(ids, arrays["tokens" + suffix])
            subprocess.run([python, str(PEER_SCRIPT), str(path), str(ids), str(out)], check=True)
            differences.append((np.load(out) - arrays["logits" + suffix]).ravel())
            same.append(np.load(out).argmax(-1) == arrays["logits" + suffix].argmax(-1))
    diff = np.concatenate(differences).astype(np.float64)
    return {
        "max_abs_diff": float(np.abs(diff).max()),
        "rms_diff": float(np.sqrt((diff**2).mean())),
        "argmax_fraction": float(np.concatenate(same).mean()),
    }


def make(name: str, variant: Variant, out: Path, seed: int, peer_python: str | None) -> dict[str, Any]:
    """Writes one variant and returns its entry for the index."""
    config = LlamaConfig(**variant.config)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    random_weights(model, seed, few_levels=not variant.types)
    path = out / f"{name}.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    add_metadata(writer, name, variant)
    add_tokenizer(writer)
    add_tensors(writer, model, variant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for suffix, n_tokens in (("", 21), ("_long", 75)):
        if suffix not in variant.suffixes:
            continue
        ids = rng.integers(N_SPECIAL, N_VOCAB, n_tokens, dtype=np.int32)
        ids[0] = config.bos_token_id
        arrays["tokens" + suffix] = ids
        arrays["logits" + suffix] = reference_logits(model, ids)
    np.savez_compressed(out / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    scores = np.sort(np.concatenate([arrays["logits" + s] for s in variant.suffixes]), axis=-1)
    entry: dict[str, Any] = {
        "config": variant.config,
        "types": {tensor: kind.name for tensor, kind in variant.types.items()},
        "logit_std": float(scores.std()),
        "smallest_top2_gap": float((scores[:, -1] - scores[:, -2]).min()),
    }
    if peer_python is not None:
        entry["llama_cpp"] = peer_distance(peer_python, path, arrays)
    if not variant.types:
        (out / f"{name}.gguf.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
        path.unlink()
        path = out / f"{name}.gguf.xz"
    print(f"{name}: {path.stat().st_size} bytes, {entry.get('llama_cpp')}", flush=True)
    return entry


def main() -> None:
    """Writes all variants and index.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--peer-python", help="a Python with llama-cpp-python, for the second opinion")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    entries = {name: make(name, v, args.out, seed, args.peer_python) for seed, (name, v) in enumerate(VARIANTS.items(), 1)}
    index = {
        "made_by": "scripts/make_llama_variants.py",
        "reference": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention, no cache",
        "variants": entries,
    }
    (args.out / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

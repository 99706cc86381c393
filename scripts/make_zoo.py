"""Writes tests/data/zoo/decoders: a tiny random checkpoint for every decoder architecture, with transformers' scores for it.

    python scripts/make_zoo.py LLAMA_CPP tests/data/zoo/decoders [--only NAME ...] [--plain DIR] [--peer-python PEER_PYTHON]

LLAMA_CPP is a source tree of llama.cpp: its own converter writes the files, so tensor names, row orders and metadata are
those that users have. Each model is NAME.gguf.xz (F32; experts of gpt-oss-mxfp4 in MXFP4) with NAME.npz:
  tokens, tokens_1, tokens_long   int32 [T]; 24, 1 and 56 ids, the last longer than any sliding window or original context
  logits, logits_1, logits_long   float32 [T, n]: of row t the scores of the ids t % STRIDE, t % STRIDE + STRIDE, ...
  best, best_1, best_long         int16 [T]: the id with the best score of all
  gap, gap_1, gap_long            float32 [T]: by how much it is the best
index.json keeps configurations and, with --peer-python (a Python that has llama-cpp-python), how far llama.cpp is from the
same numbers. --plain DIR also writes DIR/NAME/NAME.gguf and DIR/NAME/NAME.npz with all scores. The weights of one tensor are
small integers times one scale, so that they take about 3 bits each once packed.

Needs torch, transformers, numpy, safetensors, and what llama.cpp's converter needs beside them (gguf comes with it).
"""

from __future__ import annotations

import argparse
import json
import logging
import lzma
import math
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

PEER_SCRIPT = Path(__file__).resolve().parent / "bench" / "llama_peer.py"
STRIDE = 8
LENGTHS = {"": 24, "_1": 1, "_long": 56}
N_SPECIAL = 3
MERGES = [
    "t h", "h e", "i n", "e r", "a n", "r e", "o n", "Ġ a", "Ġ t", "Ġt he", "an d", "in g", "a t", "e n", "o r", "i s", "i t",
    "o u", "Ġ s", "Ġ w", "Ġ o", "Ġ b", "Ġ c", "e s", "e d", "a l", "Ġo f", "Ġ in", "l l",
]  # fmt: skip
N_VOCAB = N_SPECIAL + 256 + len(MERGES)  # 288
WINDOW = 16

State = dict[str, torch.Tensor]


@dataclass
class Spec:
    """One model: transformers' model type and configuration, and what the generic drawing of weights does not know."""

    kind: str
    config: dict[str, Any]
    scale: dict[str, float] = field(default_factory=dict)  # part of a tensor's name -> factor on its deviation
    transposed: tuple[str, ...] = ()  # parts of names of matrices stored [in, out]
    repack: Callable[[State, dict[str, Any]], None] | None = None  # changes tensors and config.json for the converter
    hparams: dict[str, Any] = field(default_factory=dict)  # what the converter wants to read in config.json beside the rest
    window: int = 0  # sliding window written beside what the converter writes: it leaves out that of Mistral
    mxfp4: tuple[str, ...] = ()  # parts of names of tensors drawn from MXFP4's values
    salt: int = 0  # other random numbers, where the first led to a near tie between experts or to a norm of nearly nothing
    original_context: int = 0  # where short rotary factors end and long ones begin; 0: no such thing


def rope(theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    """Rotary parameters as transformers names them; without `more` no scaling."""
    return {"rope_type": "default", "rope_theta": theta} | more


def base(**changes: Any) -> dict[str, Any]:
    """A small configuration in the words most models share, with `changes` (None drops an entry)."""
    config: dict[str, Any] = {
        "vocab_size": N_VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_parameters": rope(), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    return {key: value for key, value in (config | changes).items() if value is not None}


def layer_norm_base(**changes: Any) -> dict[str, Any]:
    """`base` for models with LayerNorm."""
    return base(**({"rms_norm_eps": None, "layer_norm_eps": 1e-5} | changes))


def pattern(text: str) -> list[str]:
    """Layer types from one letter per layer: s(liding), f(ull), l(inear)."""
    return [{"s": "sliding_attention", "f": "full_attention", "l": "linear_attention"}[letter] for letter in text]


SHORT_FACTORS = [1.0, 1.0625, 1.125, 1.25, 1.5, 1.75, 2.0, 2.5]
LONG_FACTORS = [1.0, 1.25, 1.75, 2.5, 4.0, 6.0, 9.0, 13.0]

YARN = rope(rope_type="yarn", factor=8.0, original_max_position_embeddings=32)
LLAMA3 = rope(
    500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
DEEPSEEK_YARN = YARN | {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0.707}
# The published models have truncate false, which GGUF cannot say: the ends of YaRN's ramp are not rounded to whole dimensions.
YARN_OF_OSS = {
    "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0,
    "truncate": False,
}  # fmt: skip
# The base at which the ramp of YaRN ends at dimension 2 of 16, a hair below: rounding its ends up or not is the same.
WHOLE_RAMP = math.exp(16 * math.log(32 / (2 * math.pi)) / (2 * 2)) * (1 + 1e-6)


def gpt_oss(rope_parameters: dict[str, Any]) -> dict[str, Any]:
    """Sinks, a window in every other layer, experts with biases."""
    return base(
        head_dim=16, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW,
        layer_types=pattern("sf"), max_position_embeddings=256, rope_parameters=rope_parameters,
    )  # fmt: skip


def deepseek(**changes: Any) -> dict[str, Any]:
    """Latent attention, one dense layer, two with experts."""
    return base(**({
        "num_hidden_layers": 3, "num_key_value_heads": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 8,
        "v_head_dim": 16, "n_routed_experts": 8, "n_shared_experts": 2, "moe_intermediate_size": 32, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1, "topk_method": "greedy", "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    } | changes)) | {"q_lora_rank": changes["q_lora_rank"]}  # fmt: skip


def falcon_h1(**changes: Any) -> dict[str, Any]:
    """Attention and Mamba 2 side by side; the multipliers are powers of two, so that folded into F16 they stay exact."""
    return base(**({
        "head_dim": 16, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 32,
        "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0, "mlp_multipliers": [0.5, 2.0], "key_multiplier": 0.5,
        "attention_out_multiplier": 0.5, "attention_in_multiplier": 2.0, "ssm_multipliers": [0.5, 2.0, 0.5, 1.0, 0.5],
        "ssm_in_multiplier": 2.0, "ssm_out_multiplier": 0.5, "rope_parameters": rope(1e5),
    } | changes))  # fmt: skip


def qwen35(**changes: Any) -> dict[str, Any]:
    """Gated delta nets, every fourth layer gated attention; two value heads to a key head."""
    return base(**({
        "head_dim": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "layer_types": pattern("lllf"), "rms_norm_eps": 1e-6,
        "rope_parameters": rope(1e6, partial_rotary_factor=0.25, mrope_section=[2, 1, 1], mrope_interleaved=True),
    } | changes))  # fmt: skip


def stack_head_norms(state: State, config: dict[str, Any]) -> None:
    """One matrix for the norms of all heads: what the converter means to do and, as a generator that returns, does not."""
    for name in [name for name in state if name.endswith("layernorm.norms.0.weight")]:
        stem = name.removesuffix("norms.0.weight")
        heads = [state.pop(f"{stem}norms.{i}.weight") for i in range(sum(key.startswith(f"{stem}norms.") for key in state))]
        state[f"{stem}weight"] = torch.stack(heads)


def add_unused_keys(state: State, config: dict[str, Any]) -> None:
    """Published Gemma 3n has key and value projections in the layers that share another's, too; transformers drops them."""
    n_layers, n_shared = config["num_hidden_layers"], config["num_kv_shared_layers"]
    parts = ("k_proj.weight", "v_proj.weight", "k_norm.weight")
    for name in [name for name in state if ".layers.0.self_attn." in name and name.endswith(parts)]:
        for layer in range(n_layers - n_shared, n_layers):
            state[name.replace(".layers.0.", f".layers.{layer}.")] = state[name].clone()


def pack_mxfp4(state: State, config: dict[str, Any]) -> None:
    """Expert matrices as the published checkpoints have them: 4-bit codes, two to a byte, and a power of two for each 32."""
    for name in [name for name in state if name.endswith(("gate_up_proj", "down_proj"))]:
        rows = state.pop(name).transpose(-1, -2).contiguous()  # [experts, out, in]
        groups = rows.reshape(*rows.shape[:-1], -1, 32)
        largest = groups.abs().amax(-1).clamp(min=2.0**-100)
        exponents = torch.ceil(torch.log2(largest / 6.0)).to(torch.int32)
        codes = (groups * torch.exp2(-exponents.float())[..., None]).unsqueeze(-1)
        magnitudes = torch.tensor(FP4)
        index = (codes.abs() - magnitudes).abs().argmin(-1)
        if not torch.equal(magnitudes[index], codes.abs().squeeze(-1)):
            raise RuntimeError(f"{name} is not exact in MXFP4")
        index = (index + 8 * (codes.squeeze(-1) < 0)).to(torch.uint8)
        state[f"{name}_blocks"] = (index[..., ::2] | (index[..., 1::2] << 4)).contiguous()
        state[f"{name}_scales"] = (exponents + 127).to(torch.uint8)
    config["quantization_config"] = {"quant_method": "mxfp4"}


FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]

MODELS: dict[str, Spec] = {
    "qwen2": Spec("qwen2", base(tie_word_embeddings=True, rope_parameters=rope(1e6))),
    "qwen3": Spec("qwen3", base(head_dim=24, rope_parameters=rope(1e6), tie_word_embeddings=True)),
    "gemma": Spec(
        "gemma",
        base(
            num_key_value_heads=1, head_dim=32, tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh",
            rms_norm_eps=1e-6,
        ),
        {"embed": 0.375},
    ),
    "gemma2": Spec(
        "gemma2",
        base(
            num_hidden_layers=4, head_dim=24, query_pre_attn_scalar=24, sliding_window=WINDOW, tie_word_embeddings=True,
            hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=8.0, final_logit_softcapping=6.0, rms_norm_eps=1e-6,
        ),
        {"embed": 0.5},
    ),
    "gemma3": Spec(
        "gemma3_text",
        base(
            num_hidden_layers=6, num_key_value_heads=1, head_dim=24, query_pre_attn_scalar=24, sliding_window=WINDOW,
            tie_word_embeddings=True, rms_norm_eps=1e-6, hidden_activation="gelu_pytorch_tanh", layer_types=pattern("sssssf"),
            rope_parameters={"full_attention": rope(1e6, rope_type="linear", factor=8.0), "sliding_attention": rope()},
        ),
        {"embed": 0.5},
    ),
    "phi2": Spec(
        "phi",
        layer_norm_base(
            num_key_value_heads=4, intermediate_size=256, hidden_act="gelu_new",
            rope_parameters=rope(partial_rotary_factor=0.5),
        ),
    ),
    "phi3": Spec("phi3", base(original_max_position_embeddings=128, rope_parameters=rope(partial_rotary_factor=0.75))),
    "phi3-window": Spec(
        "phi3",
        base(sliding_window=WINDOW, original_max_position_embeddings=128, rope_parameters=rope(partial_rotary_factor=1.0)),
    ),
    "phi3-longrope": Spec(
        "phi3",
        base(
            original_max_position_embeddings=32, tie_word_embeddings=True,
            rope_parameters=rope(
                rope_type="longrope", short_factor=SHORT_FACTORS, long_factor=LONG_FACTORS, partial_rotary_factor=1.0,
                original_max_position_embeddings=32,
            ),
        ),
        original_context=32,
    ),
    "smollm3": Spec("smollm3", base(num_hidden_layers=4, tie_word_embeddings=True, rope_parameters=rope(2e6))),
    "granite": Spec(
        "granite",
        base(
            tie_word_embeddings=True, embedding_multiplier=3.0, attention_multiplier=0.125, residual_multiplier=0.375,
            logits_scaling=0.5,
        ),
        {"embed": 0.375},
    ),
    "olmo2": Spec("olmo2", base(num_key_value_heads=4)),
    "stablelm": Spec("stablelm", layer_norm_base(use_qkv_bias=True, rope_parameters=rope(partial_rotary_factor=0.25))),
    "stablelm-parallel": Spec(
        "stablelm",
        layer_norm_base(
            use_parallel_residual=True, qk_layernorm=True, rope_parameters=rope(partial_rotary_factor=0.25),
        ),
        repack=stack_head_norms,
    ),
    "starcoder2": Spec(
        "starcoder2", base(rms_norm_eps=None, norm_epsilon=1e-5, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh"),
    ),
    "starcoder2-window": Spec(
        "starcoder2",
        base(
            rms_norm_eps=None, norm_epsilon=1e-5, sliding_window=WINDOW, hidden_act="gelu_pytorch_tanh",
            num_key_value_heads=1,
        ),
        window=WINDOW,
    ),
    "gpt2": Spec(
        "gpt2",
        {
            "vocab_size": N_VOCAB, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_ctx": 64,
            "bos_token_id": 0, "eos_token_id": 1,
        },
        transposed=("c_attn", "c_proj", "c_fc"),
    ),
    "gptneox": Spec(
        "gpt_neox",
        layer_norm_base(num_key_value_heads=None, rope_parameters=rope(partial_rotary_factor=0.5)),
        hparams={"rotary_pct": 0.5},
    ),
    "gptneox-sequential": Spec(
        "gpt_neox",
        layer_norm_base(
            num_key_value_heads=None, use_parallel_residual=False, rope_parameters=rope(partial_rotary_factor=0.25),
        ),
        hparams={"rotary_pct": 0.25},
    ),
    "falcon": Spec(
        "falcon",
        layer_norm_base(
            num_key_value_heads=None, intermediate_size=None, ffn_hidden_size=256, layer_norm_eps=None, layer_norm_epsilon=1e-5,
            tie_word_embeddings=True, multi_query=True, parallel_attn=True, new_decoder_architecture=False,
        ),
        hparams={"num_kv_heads": 1},
    ),
    "falcon-new": Spec(
        "falcon",
        layer_norm_base(
            num_key_value_heads=None, num_kv_heads=2, intermediate_size=None, ffn_hidden_size=256, layer_norm_eps=None,
            layer_norm_epsilon=1e-5, tie_word_embeddings=True, new_decoder_architecture=True,
        ),
    ),
    "olmo3": Spec(
        "olmo3",
        base(
            num_hidden_layers=4, num_key_value_heads=2, sliding_window=WINDOW, max_position_embeddings=256,
            rope_parameters={
                "full_attention": YARN | {"attention_factor": 1.0 + 0.1 * math.log(8.0)}, "sliding_attention": rope(),
            },
        ),
    ),
    "cohere2": Spec(
        "cohere2",
        layer_norm_base(
            num_hidden_layers=4, sliding_window=WINDOW, tie_word_embeddings=True, logit_scale=0.25,
            rope_parameters=rope(50000.0),
        ),
        hparams={"rotary_pct": 1.0},
    ),
    "exaone4": Spec("exaone4", base(sliding_window=None, rope_parameters=LLAMA3), hparams={"sliding_window": None}),
    "exaone4-window": Spec(
        "exaone4", base(num_hidden_layers=4, sliding_window=WINDOW, sliding_window_pattern="LLLG", layer_types=pattern("sssf"))
    ),
    "glm4": Spec("glm4", base(head_dim=16, rope_parameters=rope(partial_rotary_factor=0.5))),
    "llama-rope3": Spec("llama", base(head_dim=32, num_attention_heads=4, rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama-yarn": Spec("llama", base(rope_parameters=YARN, max_position_embeddings=256)),
    "mistral": Spec("mistral", base(head_dim=24, num_attention_heads=4, sliding_window=None)),
    "mistral-window": Spec("mistral", base(sliding_window=WINDOW), window=WINDOW),
    "mixtral": Spec("mixtral", base(intermediate_size=64, num_local_experts=4, num_experts_per_tok=2)),
    "qwen3moe": Spec(
        "qwen3_moe",
        base(head_dim=24, moe_intermediate_size=32, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True),
    ),
    "qwen2moe": Spec(
        "qwen2_moe",
        base(
            intermediate_size=96, moe_intermediate_size=32, shared_expert_intermediate_size=64, num_experts=8,
            num_experts_per_tok=3, norm_topk_prob=False,
        ),
    ),
    "olmoe": Spec(
        "olmoe", base(intermediate_size=32, num_key_value_heads=4, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False)
    ),
    "granitemoe": Spec(
        "granitemoe",
        base(
            intermediate_size=32, num_local_experts=8, num_experts_per_tok=3, tie_word_embeddings=True,
            embedding_multiplier=3.0, attention_multiplier=0.125, residual_multiplier=0.375, logits_scaling=0.5,
        ),
        {"embed": 0.375},
    ),
    "granitemoe-shared": Spec(
        "granitemoeshared",
        base(
            intermediate_size=32, num_local_experts=8, num_experts_per_tok=2, shared_intermediate_size=64,
            embedding_multiplier=3.0, attention_multiplier=0.125, residual_multiplier=0.375, logits_scaling=0.5,
        ),
        {"embed": 0.375},
    ),
    "gpt-oss": Spec(
        "gpt_oss", gpt_oss(rope(150000.0, **YARN_OF_OSS)), {"sinks": 5.0}, transposed=("gate_up_proj", "down_proj")
    ),
    "gpt-oss-mxfp4": Spec(
        "gpt_oss", gpt_oss(rope(WHOLE_RAMP, **YARN_OF_OSS)), {"sinks": 5.0}, transposed=("gate_up_proj", "down_proj"),
        repack=pack_mxfp4, mxfp4=("gate_up_proj", "down_proj"),
    ),
    "deepseek2-lite": Spec("deepseek_v2", deepseek(q_lora_rank=None, rope_parameters=DEEPSEEK_YARN)),
    "deepseek2": Spec("deepseek_v2", deepseek(q_lora_rank=32, routed_scaling_factor=2.0)),
    "deepseek3": Spec(
        "deepseek_v3",
        deepseek(
            q_lora_rank=32, topk_method=None, n_group=4, topk_group=2, num_experts_per_tok=3, norm_topk_prob=True,
            routed_scaling_factor=2.5, n_shared_experts=1,
            rope_parameters=DEEPSEEK_YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        ),
        hparams={"scoring_func": "sigmoid"},
        salt=2,
    ),
    "moonlight": Spec(
        "deepseek_v3",
        deepseek(
            num_hidden_layers=2, q_lora_rank=None, topk_method=None, n_group=1, topk_group=1, num_experts_per_tok=3,
            norm_topk_prob=True, routed_scaling_factor=2.5, n_routed_experts=6,
        ),
        hparams={"scoring_func": "sigmoid"},
    ),
    "lfm2": Spec(
        "lfm2",
        base(
            num_hidden_layers=3, rms_norm_eps=None, norm_eps=1e-5, block_auto_adjust_ff_dim=False, conv_L_cache=3,
            layer_types=["conv", "full_attention", "conv"], rope_parameters=rope(1e6), tie_word_embeddings=True,
        ),
    ),
    "mamba": Spec(
        "mamba",
        {
            "vocab_size": N_VOCAB, "hidden_size": 64, "state_size": 16, "num_hidden_layers": 2, "time_step_rank": 16,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
        },
    ),
    "falcon-mamba": Spec(
        "falcon_mamba",
        {
            "vocab_size": N_VOCAB, "hidden_size": 64, "state_size": 16, "num_hidden_layers": 2, "time_step_rank": 8,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-6,  # as mixer_rms_eps, which GGUF has no key for
        },
    ),
    "mamba2": Spec(
        "mamba2",
        {
            "vocab_size": N_VOCAB, "hidden_size": 64, "state_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16,
            "n_groups": 1, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "tie_word_embeddings": False,
        },
    ),
    "falcon-h1": Spec("falcon_h1", falcon_h1(mamba_rms_norm=False)),
    "falcon-h1-norm": Spec("falcon_h1", falcon_h1(mamba_rms_norm=True, mamba_norm_before_gate=False)),
    "qwen35": Spec("qwen3_5_text", qwen35(num_hidden_layers=4, intermediate_size=96), salt=4),
    "qwen35moe": Spec(
        "qwen3_5_moe_text",
        qwen35(
            num_hidden_layers=4, intermediate_size=None, moe_intermediate_size=32, shared_expert_intermediate_size=32,
            num_experts=4, num_experts_per_tok=2,
        ),
        salt=4,
    ),
    "gemma3n": Spec(
        "gemma3n_text",
        base(
            num_hidden_layers=6, head_dim=16, sliding_window=WINDOW, tie_word_embeddings=True, rms_norm_eps=1e-6,
            intermediate_size=64, hidden_size_per_layer_input=32, vocab_size_per_layer_input=N_VOCAB, num_kv_shared_layers=2,
            laurel_rank=32, layer_types=pattern("ssfssf"), activation_sparsity_pattern=[0.75, 0.75, 0.0, 0.0, 0.0, 0.0],
            rope_parameters={"full_attention": rope(1e6), "sliding_attention": rope()},
        ),
        {"_coefs": 0.25},
        repack=add_unused_keys,
    ),
}  # fmt: skip


# ---- weights ----


def drawn(shape: torch.Size, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Integers from -5 to 5, nearly normal, times a scale of 8 significant bits."""
    levels = torch.clamp(torch.round(1.6 * torch.randn(shape, generator=generator)), -5, 5)
    mantissa, exponent = math.frexp(deviation / 1.62)
    return levels * math.ldexp(round(mantissa * 256) / 256, exponent)


def drawn_fp4(shape: torch.Size, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Values of MXFP4: 4-bit floats times one power of two near the deviation."""
    magnitudes = torch.tensor(FP4)
    wanted = 2.0 * torch.randn(shape, generator=generator)
    index = (wanted.abs().unsqueeze(-1) - magnitudes).abs().argmin(-1)
    return magnitudes[index] * wanted.sign() * 2.0 ** round(math.log2(deviation / 2.0))


def deviation_of(name: str, value: torch.Tensor, spec: Spec) -> float:
    """How widely a tensor is drawn: attention is sharp, norms and biases matter, sums keep their size."""
    factor = math.prod(by for part, by in spec.scale.items() if part in name)
    if value.dim() < 2 or "bias" in name.rsplit(".", 1)[-1] or name.endswith("A_log"):
        return 0.2 * factor
    if "embed" in name or "wte" in name or "wpe" in name:
        return 3.0 / math.sqrt(value.shape[-1]) * factor
    fan_in = value.shape[-2] if any(part in name for part in spec.transposed) else value.shape[-1]
    sharp = (
        "q_proj", "k_proj", "qkv", "query_key_value", "c_attn", "q_b_proj", "kv_b_proj", "gate.weight", "router", "lm_head",
        "embed_out",
    )  # fmt: skip
    return (2.0 if any(part in name for part in sharp) else 1.0) / math.sqrt(fan_in) * factor


def randomise(model: torch.nn.Module, spec: Spec, seed: int) -> None:
    """Draws every floating-point tensor of the state, vectors around what they are initialised to (0 or 1 for norms)."""
    generator = torch.Generator().manual_seed(seed)
    seen = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not value.is_floating_point() or value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        draw = drawn_fp4 if any(name.endswith(part) for part in spec.mxfp4) else drawn
        noise = draw(value.shape, deviation_of(name, value, spec), generator)
        is_vector = value.dim() < 2 or name.endswith(("A_log", "layernorm.weight", "norm.weight", "_bias"))
        head_norm = any(part in name for part in ("q_norm", "k_norm", "q_layernorm", "k_layernorm"))
        centre = torch.full_like(value, -1.0) if name.endswith(("dt_proj.bias", "dt_bias")) else value
        with torch.no_grad():
            value.copy_(centre * (1.5 if head_norm else 1.0) + noise if is_vector else noise)


# ---- the file ----


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE vocabularies write for each byte: itself, or one from U+0100 on."""
    shown = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


def add_tokenizer(writer: Any) -> None:
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


def convert(directory: Path, out: Path, spec: Spec) -> None:
    """llama.cpp's converter on a saved checkpoint, with our tokenizer in place of the one it would read."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class  # type: ignore[import-not-found]

    hparams = ModelBase.load_hparams(directory, False)
    known = get_model_class(get_model_architecture(hparams, ModelType.TEXT), mmproj=False)

    def set_vocab(self: Any) -> None:
        add_tokenizer(self.gguf_writer)

    def set_gguf_parameters(self: Any) -> None:
        self.hparams.update(spec.hparams)
        known.set_gguf_parameters(self)
        if spec.window > 0:
            self.gguf_writer.add_sliding_window(spec.window)

    def prepare_tensors(self: Any) -> None:
        self.hparams.update(spec.hparams)
        known.prepare_tensors(self)

    methods = {
        "set_vocab": set_vocab, "set_gguf_parameters": set_gguf_parameters, "prepare_tensors": prepare_tensors,
        "model_arch": known.model_arch, "no_mtp": True,
    }  # fmt: skip
    converter = type(known.__name__, (known,), methods)
    with torch.inference_mode():
        converter(directory, gguf.LlamaFileType.ALL_F32, out, model_name="tiny model", eager=True).write()


# ---- references ----


def reference_logits(model: torch.nn.Module, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores of every position, float32 [T, vocab]."""
    with torch.no_grad():
        out = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    logits: NDArray[np.float32] = out.logits[0].float().numpy()
    return logits


PEER = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from llama_peer import Peer
with np.load(sys.argv[3]) as arrays:
    arrays = dict(arrays)
suffixes = [key[len("tokens"):] for key in arrays if key.startswith("tokens")]
worst, same, squares = 0.0, [], []
with Peer(sys.argv[2], kv_type="f32", extra_buffers=False, n_ctx=256) as peer:
    for suffix in suffixes:
        wanted = arrays["logits" + suffix]
        for chunk in (0, 1):
            ours = peer.logits([int(t) for t in arrays["tokens" + suffix]], chunk=chunk)
            worst = max(worst, float(np.abs(ours - wanted).max()))
            squares.append(((ours - wanted).astype(np.float64) ** 2).ravel())
            same.append(ours.argmax(-1) == wanted.argmax(-1))
print(worst, float(np.sqrt(np.mean(np.concatenate(squares)))), float(np.mean(np.concatenate(same))))
"""


def peer_distance(python: str, path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, float] | str:
    """How far llama.cpp is from the reference on the same file, in one batch and one token at a time; or why it is not."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "all.npz"
        np.savez(file, **arrays)  # type: ignore[arg-type]
        command = [python, "-c", PEER, str(PEER_SCRIPT.parent), str(path), str(file)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        return "does not load it"
    worst, rms, same = (float(value) for value in done.stdout.split())
    return {"max_abs_diff": worst, "rms_diff": rms, "same_best": same}


def rewrite_state(directory: Path, change: Callable[[State, dict[str, Any]], None]) -> None:
    """Applies `change` to the tensors and the config.json of a saved checkpoint."""
    state = load_file(directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    change(state, config)
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def make(name: str, spec: Spec, out: Path | None, plain: Path | None, peer_python: str | None) -> dict[str, Any]:
    """Writes one model and returns its entry for the index."""
    seed = zlib.crc32(name.encode()) + spec.salt
    torch.manual_seed(seed)
    config = AutoConfig.for_model(spec.kind, **spec.config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    randomise(model, spec, seed)
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for suffix, n_tokens in LENGTHS.items():
        ids = rng.integers(N_SPECIAL, N_VOCAB, n_tokens, dtype=np.int32)
        ids[0] = 0
        arrays["tokens" + suffix] = ids
        arrays["logits" + suffix] = reference_logits(model, ids)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "checkpoint"
        model.save_pretrained(directory)
        if spec.repack is not None:
            rewrite_state(directory, spec.repack)
        vocabulary = {"model": {"vocab": dict.fromkeys(range(N_VOCAB))}, "added_tokens": []}  # Gemma 3's converter counts it
        (directory / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        path = Path(scratch) / "model.gguf"
        convert(directory, path, spec)
        entry: dict[str, Any] = {
            "model_type": spec.kind,
            "config": spec.config,
            "original_context": spec.original_context,
            "logit_std": round(float(arrays["logits_long"].std()), 3),
        }
        if peer_python is not None:
            # llama.cpp chooses rotary factors by the size of its context, which is never below 256.
            long_only = {key: value for key, value in arrays.items() if not spec.original_context or key.endswith("_long")}
            entry["llama_cpp"] = peer_distance(peer_python, path, long_only)
        if plain is not None:
            (plain / name).mkdir(parents=True, exist_ok=True)
            (plain / name / f"{name}.gguf").write_bytes(path.read_bytes())
            np.savez_compressed(plain / name / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        if out is not None:
            packed = lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
            (out / f"{name}.gguf.xz").write_bytes(packed)
            np.savez_compressed(out / f"{name}.npz", **trimmed(arrays))  # type: ignore[arg-type]
            entry["bytes"] = len(packed) + (out / f"{name}.npz").stat().st_size
    print(f"{name}: {json.dumps({k: v for k, v in entry.items() if k != 'config'})}", flush=True)
    return entry


def trimmed(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the tests need of the scores: every STRIDE-th of each position, the best id and its lead."""
    kept: dict[str, NDArray[Any]] = {}
    for suffix in LENGTHS:
        logits = arrays["logits" + suffix]
        kept["tokens" + suffix] = arrays["tokens" + suffix]
        kept["logits" + suffix] = np.stack([row[t % STRIDE :: STRIDE] for t, row in enumerate(logits)])
        kept["best" + suffix] = logits.argmax(-1).astype(np.int16)
        ordered = np.sort(logits, axis=-1)
        kept["gap" + suffix] = ordered[:, -1] - ordered[:, -2]
    return kept


def main() -> None:
    """Writes the models that were asked for and brings index.json up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help="make these, keep the others")
    parser.add_argument("--plain", type=Path, help="also write F32 files and all scores here")
    parser.add_argument("--peer-python", help="a Python with llama-cpp-python, for the second opinion")
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp / "gguf-py"), str(args.llama_cpp)]
    logging.disable(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    index = args.out / "index.json"
    entries = json.loads(index.read_text(encoding="utf-8"))["models"] if index.exists() else {}
    for name in args.only or MODELS:
        entries[name] = make(name, MODELS[name], args.out, args.plain, args.peer_python)
        document = {
            "made_by": "scripts/make_zoo.py",
            "reference": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager, no cache",
            "models": {key: entries[key] for key in MODELS if key in entries},
        }
        index.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

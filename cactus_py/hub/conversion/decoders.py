"""The table of decoders: which names, which changes and which hyperparameters turn a checkpoint into its GGUF architecture.

Names and layouts are those of llama.cpp, so that any program that reads its files reads these. Where a change is needed it
is because that layout differs from the checkpoint's:
  interleaved    rows of q and k in the order of adjacent rotary pairs (the checkpoints have halves)
  plus_one       norms that are stored as their distance from 1
  transposed     GPT-2 keeps matrices as [in, out]
  minus_exp      A of state-space models, stored as log(-A)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cactus_py.errors import ModelFormatError, UnsupportedModelError
from cactus_py.hub.conversion.config import Config, number
from cactus_py.hub.conversion.lazy import Floats, Lazy, concatenated
from cactus_py.hub.conversion.parameters import (
    constant,
    counts,
    llama3_factors,
    numbers,
    rotary,
    rotary_share,
    sliding,
    standard,
)
from cactus_py.hub.conversion.plan import Architecture, Destination, Job, Mxfp4, Names, Stack, To
from cactus_py.hub.conversion.vocabulary import any_llama, byte_level, gemma, glm, phi3, sentencepiece_or_byte_level

# ---- changes --------------------------------------------------------------------------------------------------------------


def plus_one(config: Config, value: Lazy) -> Lazy:
    return value.map(lambda values: values + np.float32(1))


def transposed(config: Config, value: Lazy) -> Lazy:
    return value.transpose(1, 0) if len(value.shape) == 2 else value


def minus_exp(config: Config, value: Lazy) -> Lazy:
    return value.map(lambda values: (-np.exp(values.astype(np.float64))).astype(np.float32))


def interleaved(value: Lazy, n_heads: int) -> Lazy:
    """Rows [head, half, i] as [head, i, half]; a matrix or its bias."""
    n_rows, rest = value.shape[0], value.shape[1:]
    order = (0, 2, 1, *range(3, 3 + len(rest)))
    return value.reshape(n_heads, 2, n_rows // n_heads // 2, *rest).transpose(*order).reshape(*value.shape)


def interleaved_q(config: Config, value: Lazy) -> Lazy:
    return interleaved(value, config.n_heads)


def interleaved_k(config: Config, value: Lazy) -> Lazy:
    return interleaved(value, config.n_kv_heads)


def without_middle(config: Config, value: Lazy) -> Lazy:
    """[channels, 1, taps] of a convolution over single channels as [channels, taps]."""
    if len(value.shape) == 2:
        return value
    if len(value.shape) != 3 or value.shape[1] != 1:
        raise ValueError("it is not a convolution over single channels")
    return value.reshape(value.shape[0], value.shape[2])


def first_half(config: Config, value: Lazy) -> Lazy:
    """Of the last axis but one."""
    return value[..., : _half(value), :]


def second_half(config: Config, value: Lazy) -> Lazy:
    return value[..., _half(value) :, :]


def _half(value: Lazy) -> int:
    if len(value.shape) < 2 or value.shape[-2] % 2:
        raise ValueError("it cannot be cut in two")
    return value.shape[-2] // 2


def as_column(config: Config, value: Lazy) -> Lazy:
    return value.reshape(*value.shape, 1)


def minus_exp_column(config: Config, value: Lazy) -> Lazy:
    return as_column(config, minus_exp(config, value))


def times(*names: Any) -> Any:
    """Multiplied by entries of config.json, one after the other; an entry of a list is (name, index)."""

    def change(config: Config, value: Lazy) -> Lazy:
        factors = [_factor(config, name) for name in names]

        def scaled(values: Floats) -> Floats:
            for factor in factors:
                values = values * np.float32(factor)
            return values

        return value.map(scaled)

    return change


def _factor(config: Config, name: str | tuple[str, int]) -> float:
    if isinstance(name, str):
        return config.maybe_number(name) or 1.0
    values = config.get(name[0])
    if values is None:
        return 1.0
    if not isinstance(values, list) or len(values) <= name[1]:
        raise ModelFormatError(f"config.json has no list {name[0]!r} of the right length.")
    return number(values[name[1]], name[0])


# ---- names ----------------------------------------------------------------------------------------------------------------


def blocks(
    names: Mapping[str, Destination], source: str = "model.layers.{}.", target: str = "blk.{}."
) -> dict[str, Destination]:
    """The names of one layer, under where checkpoint and file keep layers."""

    def placed(destination: Destination) -> Destination:
        if isinstance(destination, str):
            return target + destination
        if isinstance(destination, To):
            return To(target + destination.target, destination.change)
        if isinstance(destination, Stack):
            return Stack(target + destination.target)
        if isinstance(destination, Mxfp4):
            return Mxfp4(tuple(target + name for name in destination.targets), destination.join, destination.scales)
        return None if destination is None else tuple(To(target + way.target, way.change) for way in destination)

    return {source + name: placed(destination) for name, destination in names.items()}


ENDS: Names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

QKV: Names = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
QKV_INTERLEAVED: Names = {
    **QKV,
    "self_attn.q_proj": To("attn_q", interleaved_q),
    "self_attn.k_proj": To("attn_k", interleaved_k),
}
MLP: Names = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NORMS: Names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
NORMS_AFTER: Names = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
EXPERTS: Names = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.{}.gate_proj": Stack("ffn_gate_exps"),
    "mlp.experts.{}.up_proj": Stack("ffn_up_exps"),
    "mlp.experts.{}.down_proj": Stack("ffn_down_exps"),
    "mlp.experts.gate_up_proj": (To("ffn_gate_exps.weight", first_half), To("ffn_up_exps.weight", second_half)),
    "mlp.experts.down_proj": To("ffn_down_exps.weight"),
}

_SHARED_EXPERT: Names = {
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}

LLAMA: Names = {**ENDS, **blocks({**QKV_INTERLEAVED, **MLP, **NORMS})}
NEOX: Names = {**ENDS, **blocks({**QKV, **MLP, **NORMS})}  # as llama, with q and k as they are

MIXTRAL: Names = blocks(
    {
        "block_sparse_moe.gate": "ffn_gate_inp",
        "block_sparse_moe.experts.{}.w1": Stack("ffn_gate_exps"),
        "block_sparse_moe.experts.{}.w2": Stack("ffn_down_exps"),
        "block_sparse_moe.experts.{}.w3": Stack("ffn_up_exps"),
    }
)


# ---- hyperparameters of the rows ----------------------------------------------------------------------------------------


def _llama(job: Job) -> None:
    standard(job)
    counts(job, {"vocab_size": "vocab_size"})
    job.meta.u32(job.key("rope.dimension_count"), job.config.head_size)


def _llama_with_head_size(job: Job) -> None:
    """The classes whose configuration always knows the size of a head."""
    _llama(job)
    job.meta.u32(job.key("attention.key_length"), job.config.head_size)
    job.meta.u32(job.key("attention.value_length"), job.config.head_size)


def _mistral(job: Job) -> None:
    """As Llama, with a window in the older models. llama.cpp's files do not say so."""
    _llama_with_head_size(job)
    sliding(job, pattern=False)


def _starcoder2(job: Job) -> None:
    standard(job)
    sliding(job, pattern=False)


def _moe(job: Job) -> None:
    standard(job)
    counts(
        job,
        {
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
    )


def _kind_of_moe_layer(config: Config, layer: int) -> bool:
    """Whether a layer of Qwen's mixtures has experts."""
    step = config.maybe_whole("decoder_sparse_step") or 1
    return layer not in config.get("mlp_only_layers", default=[]) and (layer + 1) % step == 0


def _gemma(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    for name, given in {
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.key_length": "head_dim",
        "attention.value_length": "head_dim",
    }.items():
        meta.u32(key(name), config.whole(given))
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("attention.head_count_kv"), config.n_kv_heads)
    meta.f32(key("attention.layer_norm_rms_epsilon"), config.number("rms_norm_eps"))


def _gemma2(job: Job) -> None:
    _gemma(job)
    job.meta.f32(job.key("attn_logit_softcapping"), job.config.number("attn_logit_softcapping"))
    job.meta.f32(job.key("final_logit_softcapping"), job.config.number("final_logit_softcapping"))
    sliding(job, pattern=False)


def _gemma3(job: Job) -> None:
    standard(job)
    numbers(job, {"final_logit_softcapping": "final_logit_softcapping"})
    if job.config.get("sliding_window_pattern") != 1:
        sliding(job, pattern=False)


def _known_rows(config: Config, value: Lazy) -> Lazy:
    """Gemma 3's embedding may have more rows than the vocabulary, whose length was put into the config."""
    return value[: config.whole("_n_tokens")] if "_n_tokens" in config.values else value


def _phi2(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    n_heads = config.n_heads
    meta.u32(key("context_length"), config.whole("n_positions", "max_position_embeddings"))
    meta.u32(key("embedding_length"), config.width)
    meta.u32(key("feed_forward_length"), config.maybe_whole("intermediate_size", "n_inner") or 4 * config.width)
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("attention.head_count"), n_heads)
    meta.u32(key("attention.head_count_kv"), config.n_kv_heads)
    meta.f32(key("attention.layer_norm_epsilon"), config.number("layer_norm_epsilon", "layer_norm_eps"))
    meta.u32(key("rope.dimension_count"), int(rotary_share(config, 0.5) * config.width) // n_heads)
    rotary(job)
    meta.flag("tokenizer.ggml.add_bos_token", False)


def _phi3(job: Job) -> None:
    config, meta, key, rope = job.config, job.meta, job.key, job.config.rope()
    context = config.whole("n_positions", "max_position_embeddings")
    original = rope.get("original_max_position_embeddings", context)
    n_dims = int(rotary_share(config) * config.width) // config.n_heads
    meta.u32(key("context_length"), context)
    meta.u32(key("rope.scaling.original_context_length"), original)
    meta.u32(key("embedding_length"), config.width)
    meta.u32(key("feed_forward_length"), config.whole("intermediate_size"))
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("attention.head_count"), config.n_heads)
    meta.u32(key("attention.head_count_kv"), config.n_kv_heads)
    meta.f32(key("attention.layer_norm_rms_epsilon"), config.number("rms_norm_eps"))
    meta.u32(key("rope.dimension_count"), n_dims)
    meta.f32(key("rope.freq_base"), number(rope.get("rope_theta", 10000.0), "rope_theta"))
    meta.u32(key("attention.sliding_window"), config.maybe_whole("sliding_window") or 0)
    long, short = rope.get("long_factor"), rope.get("short_factor")
    if not long:
        return
    kind = rope.get("rope_type")
    scale = context / original
    if kind in ("su", "longrope"):
        factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    elif kind == "yarn":
        factor = 0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0
    else:
        raise UnsupportedModelError(f"config.json asks for rotary scaling of type {str(kind)[:40]!r}, which is not supported.")
    if not isinstance(short, list) or len(long) != len(short) or len(long) != n_dims // 2:
        raise ModelFormatError(f"config.json must give {n_dims // 2} long and short factors for its rotary scaling.")
    meta.f32(key("rope.scaling.attn_factor"), factor)
    for name, values in (("long", long), ("short", short)):
        factors = np.array([number(value, f"{name}_factor") for value in values], np.float32)
        job.extra.append((f"rope_factors_{name}.weight", constant(factors)))


def _granite(job: Job) -> None:
    job.config.values["head_dim"] = None  # written by some tools, never used by the model
    _llama(job)
    numbers(
        job,
        {
            "attention.scale": "attention_multiplier",
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "logit_scale": "logits_scaling",
        },
    )
    if shared := job.config.maybe_whole("shared_intermediate_size"):
        job.meta.u32(job.key("expert_shared_feed_forward_length"), shared)


def _olmo2(job: Job) -> None:
    standard(job)
    if job.config.get("sliding_window") is not None and not job.config.kinds_of_layers():
        job.config.values["layer_types"] = [
            "full_attention" if (layer + 1) % 4 == 0 else "sliding_attention" for layer in range(job.config.n_blocks)
        ]
    sliding(job)


def _olmoe(job: Job) -> None:
    standard(job)
    job.meta.f32(job.key("attention.layer_norm_rms_epsilon"), 1e-5)  # whatever config.json says: the model never read it


def _stablelm(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    meta.u32(key("context_length"), config.whole("max_position_embeddings"))
    meta.u32(key("embedding_length"), config.width)
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("feed_forward_length"), config.whole("intermediate_size"))
    meta.u32(key("rope.dimension_count"), int(rotary_share(config, 0.25) * (config.width // config.n_heads)))
    meta.u32(key("attention.head_count"), config.n_heads)
    meta.u32(key("attention.head_count_kv"), config.n_kv_heads)
    meta.flag(key("use_parallel_residual"), config.flag("use_parallel_residual"))
    meta.f32(key("attention.layer_norm_epsilon"), config.number("layer_norm_eps", "norm_eps"))
    rotary(job)


def _gpt2(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("context_length"), config.whole("n_ctx", "n_positions"))
    meta.u32(key("embedding_length"), config.width)
    meta.u32(key("feed_forward_length"), config.maybe_whole("n_inner") or 4 * config.width)
    meta.u32(key("attention.head_count"), config.n_heads)
    meta.f32(key("attention.layer_norm_epsilon"), config.number("layer_norm_epsilon"))


def _gptneox(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    meta.u32(key("context_length"), config.whole("max_position_embeddings"))
    meta.u32(key("embedding_length"), config.width)
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("feed_forward_length"), config.whole("intermediate_size"))
    meta.u32(key("rope.dimension_count"), int(rotary_share(config, 0.25) * (config.width // config.n_heads)))
    meta.u32(key("attention.head_count"), config.n_heads)
    meta.flag(key("use_parallel_residual"), config.flag("use_parallel_residual", True))
    meta.f32(key("attention.layer_norm_epsilon"), config.number("layer_norm_eps"))
    rotary(job)


def _qkv_by_head(config: Config, value: Lazy) -> Lazy:
    """GPT-NeoX keeps q, k and v of a head together; GGUF has all of q, then k, then v."""
    heads = value.reshape(config.n_heads, 3, config.width // config.n_heads, *value.shape[1:])
    flat = (config.width, *value.shape[1:])
    return concatenated(*(heads[:, part].reshape(*flat) for part in range(3)))


def _falcon_kv_heads(config: Config) -> int:
    if config.flag("multi_query") and not config.flag("new_decoder_architecture"):
        return 1
    return config.maybe_whole("num_kv_heads", "n_head_kv") or 1


def _falcon(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    if config.flag("alibi"):
        raise UnsupportedModelError("Falcon models with ALiBi have no place in the GGUF architecture falcon.")
    meta.u32(key("context_length"), 2048)
    meta.text(key("tensor_data_layout"), "jploski")
    meta.u32(key("embedding_length"), config.width)
    meta.u32(key("feed_forward_length"), config.maybe_whole("ffn_hidden_size") or 4 * config.width)
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("attention.head_count"), config.n_heads)
    meta.u32(key("attention.head_count_kv"), _falcon_kv_heads(config))
    meta.f32(key("attention.layer_norm_epsilon"), config.number("layer_norm_epsilon"))
    rotary(job)


def _falcon_qkv(config: Config, value: Lazy) -> Lazy:
    """Groups of some q heads with their k and v, as all q, all k, all v."""
    n_groups, n_heads = _falcon_kv_heads(config), config.n_heads
    size = config.width // n_heads
    rest = value.shape[1:]
    groups = value.reshape(n_groups, n_heads // n_groups + 2, size, *rest)
    parts = (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])
    return concatenated(*(part.reshape(-1, *rest) for part in parts))


def _cohere2(job: Job) -> None:
    config = job.config
    standard(job)
    job.meta.u32(job.key("attention.key_length"), config.head_size)
    job.meta.u32(job.key("attention.value_length"), config.head_size)
    job.meta.f32(job.key("logit_scale"), config.number("logit_scale"))
    sliding(job, pattern=False)
    counts(job, {"vocab_size": "vocab_size"})
    share = rotary_share(config)
    job.meta.u32(job.key("rope.dimension_count"), int(share * (config.width // config.n_heads)))
    job.meta.text(job.key("rope.scaling.type"), "none")


def _exaone4(job: Job) -> None:
    standard(job)
    counts(job, {"vocab_size": "vocab_size"})
    pattern = job.config.get("sliding_window_pattern")
    if not job.config.kinds_of_layers() and pattern is not None:
        flags = [
            pattern[layer % len(pattern)] == "L" if isinstance(pattern, str) else (layer + 1) % pattern != 0
            for layer in range(job.config.n_blocks)
        ]
        job.config.values["layer_types"] = ["sliding_attention" if flag else "full_attention" for flag in flags]
    sliding(job)


def _glm4(job: Job) -> None:
    standard(job)
    job.meta.u32(job.key("rope.dimension_count"), int(job.config.head_size * rotary_share(job.config, 0.5)))


def _gptoss(job: Job) -> None:
    standard(job)
    sliding(job, pattern=False)
    counts(job, {"expert_feed_forward_length": "intermediate_size"})


def _gptoss_rows(start: int) -> Any:
    """Every second column of gate and up, which lie alternately, as rows."""

    def change(config: Config, value: Lazy) -> Lazy:
        return value.transpose(0, 2, 1)[:, start::2, :] if len(value.shape) == 3 else value[..., start::2]

    return change


def _last_two_swapped(config: Config, value: Lazy) -> Lazy:
    return value.transpose(0, 2, 1)


def _mxfp4(blocks: Lazy, scales: Lazy) -> Lazy:
    """[.., n, 16] codes of adjacent pairs and [.., n] scales as [.., n * 17]: a scale, then codes i and i + 16 in one byte."""

    def packed() -> Any:
        codes, factors = blocks.bits(), scales.bits()
        low, high = codes & 0x0F, codes >> 4
        single = np.stack((low, high), axis=-1).reshape(*codes.shape[:-1], 32)
        out = np.empty((*codes.shape[:-1], 17), np.uint8)
        out[..., 0] = factors
        out[..., 1:] = single[..., :16] | (single[..., 16:] << 4)
        return out.reshape(*codes.shape[:-2], -1)

    shape = (*blocks.shape[:-2], blocks.shape[-2] * 17)

    def finished() -> None:
        blocks.finished()
        scales.finished()

    return Lazy(shape, "MXFP4", packed, done=finished)


def _mxfp4_whole(blocks: Lazy, scales: Lazy) -> tuple[Lazy, ...]:
    return (_mxfp4(blocks, scales),)


def _mxfp4_alternate(blocks: Lazy, scales: Lazy) -> tuple[Lazy, ...]:
    return tuple(_mxfp4(blocks[:, start::2], scales[:, start::2]) for start in (0, 1))


def _deepseek2(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    kv_rank = config.maybe_whole("kv_lora_rank") or 512
    rope_size, plain_size = config.whole("qk_rope_head_dim"), config.whole("qk_nope_head_dim")
    standard(job)
    meta.u32(key("attention.head_count_kv"), 1)
    dense = config.maybe_whole("first_k_dense_replace")
    if dense is None:
        dense = 0 if config.get("n_routed_experts") is not None else config.n_blocks
    meta.u32(key("leading_dense_block_count"), dense)
    counts(job, {"vocab_size": "vocab_size", "attention.q_lora_rank": "q_lora_rank"})
    meta.u32(key("attention.kv_lora_rank"), kv_rank)
    meta.u32(key("attention.key_length"), kv_rank + rope_size)
    meta.u32(key("attention.value_length"), kv_rank)
    meta.u32(key("attention.key_length_mla"), plain_size + rope_size)
    meta.u32(key("attention.value_length_mla"), config.whole("v_head_dim"))
    meta.u32(key("expert_feed_forward_length"), config.whole("moe_intermediate_size", "intermediate_size"))
    meta.u32(key("expert_shared_count"), config.maybe_whole("n_shared_experts") or 0)
    if (scale := config.maybe_number("routed_scaling_factor")) is not None:
        meta.f32(key("expert_weights_scale"), scale)
    if config.flag("norm_topk_prob"):
        meta.flag(key("expert_weights_norm"), True)
    meta.u32(key("rope.dimension_count"), rope_size)
    if (scale := config.rope().get("mscale_all_dim")) is not None:
        meta.f32(key("rope.scaling.yarn_log_multiplier"), 0.1 * number(scale, "mscale_all_dim"))


def _mla_heads(config: Config, value: Lazy) -> Lazy:
    """[heads, keys and values of one, rank]."""
    size = config.whole("qk_nope_head_dim") + config.whole("v_head_dim")
    return value.reshape(config.n_heads, size, value.shape[-1])


def _mla_keys(config: Config, value: Lazy) -> Lazy:
    return _mla_heads(config, value)[:, : config.whole("qk_nope_head_dim")].transpose(0, 2, 1)


def _mla_values(config: Config, value: Lazy) -> Lazy:
    return _mla_heads(config, value)[:, config.whole("qk_nope_head_dim") :]


def _deepseek_layer(config: Config, layer: int) -> bool:
    return layer < (config.maybe_whole("first_k_dense_replace") or 0)


def _lfm2(job: Job) -> None:
    config = job.config
    kinds = config.kinds_of_layers()
    if not kinds:
        full = config.get("full_attn_idxs", default=[])
        kinds = ["full_attention" if layer in full else "conv" for layer in range(config.n_blocks)]
        config.values["layer_types"] = kinds
    heads = config.n_kv_heads
    config.values["num_key_value_heads"] = [heads if kind != "conv" else 0 for kind in kinds]
    standard(job)
    config.values["num_key_value_heads"] = heads
    counts(job, {"vocab_size": "vocab_size", "shortconv.l_cache": "conv_L_cache"})
    job.meta.f32(job.key("attention.layer_norm_rms_epsilon"), config.number("norm_eps", "block_norm_eps"))
    width = config.whole("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", True):
        width = int(2 * width / 3)
        width = int((config.maybe_number("block_ffn_dim_multiplier") or 1.0) * width)
        multiple = config.maybe_whole("block_multiple_of") or 256
        width = multiple * -(-width // multiple)
    job.meta.u32(job.key("feed_forward_length"), width)


def _lfm2_layer(config: Config, layer: int) -> str:
    return config.kinds_of_layers()[layer]


def _state_space(job: Job, *, state_size: int, rank: int, groups: int | None, inner: int) -> None:
    config, meta, key = job.config, job.meta, job.key
    meta.u32(key("context_length"), 1 << 20)
    meta.u32(key("embedding_length"), config.width)
    meta.u32(key("feed_forward_length"), 0)
    meta.u32(key("attention.head_count"), 0)
    meta.u32(key("block_count"), config.n_blocks)
    meta.u32(key("ssm.conv_kernel"), config.maybe_whole("conv_kernel", "d_conv", "mamba_d_conv") or 4)
    meta.u32(key("ssm.inner_size"), inner)
    meta.u32(key("ssm.state_size"), config.maybe_whole("state_size", "d_state", "mamba_d_state") or state_size)
    meta.u32(key("ssm.time_step_rank"), rank)
    if groups is not None:
        meta.u32(key("ssm.group_count"), groups)
    eps = config.maybe_number("layer_norm_epsilon", "rms_norm_eps")
    meta.f32(key("attention.layer_norm_rms_epsilon"), 1e-5 if eps is None else eps)


def _mamba(job: Job) -> None:
    config = job.config
    inner = config.maybe_whole("intermediate_size", "d_inner") or 2 * config.width
    rank = config.get("time_step_rank", "dt_rank")
    rank = rank if type(rank) is int else -(-config.width // 16)
    _state_space(job, state_size=16, rank=rank, groups=None, inner=inner)
    job.meta.flag(job.key("ssm.dt_b_c_rms"), config.get("model_type") == "falcon_mamba")


def _mamba2_sizes(config: Config) -> tuple[int, int]:
    """Channels inside a layer, and groups of them that share B and C."""
    inner = config.maybe_whole("mamba_d_ssm")
    if inner is None:
        inner = (config.maybe_whole("expand") or 2) * config.width
    return inner, config.maybe_whole("n_groups", "mamba_n_groups") or 1


def _mamba2(job: Job) -> None:
    inner, groups = _mamba2_sizes(job.config)
    rank = inner // (job.config.maybe_whole("head_dim") or 64)
    _state_space(job, state_size=128, rank=rank, groups=groups, inner=inner)


def _falcon_h1(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    inner, groups = _mamba2_sizes(config)
    _state_space(job, state_size=256, rank=inner // config.whole("mamba_d_head"), groups=groups, inner=inner)
    counts(
        job,
        {
            "vocab_size": "vocab_size",
            "context_length": "max_position_embeddings",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
            "attention.head_count_kv": "num_key_value_heads",
        },
    )
    meta.u32(key("attention.key_length"), config.head_size)
    meta.u32(key("attention.value_length"), config.head_size)
    meta.f32(key("rope.freq_base"), number(config.rope().get("rope_theta", 1e5), "rope_theta"))


def _by_group(config: Config, value: Lazy) -> Lazy:
    inner, groups = _mamba2_sizes(config)
    return value.reshape(groups, inner // groups)


def _falcon_h1_in(config: Config, value: Lazy) -> Lazy:
    """The rows for z, x, B, C and dt, each with a factor of its own."""
    inner, groups = _mamba2_sizes(config)
    state = groups * config.whole("mamba_d_state")
    ends = [inner, 2 * inner, 2 * inner + state, 2 * inner + 2 * state, value.shape[0]]
    whole = np.float32(_factor(config, "ssm_in_multiplier"))
    factors = [np.float32(_factor(config, ("ssm_multipliers", part))) for part in range(5)]

    def scaled(values: Floats) -> Floats:
        values = values * whole
        begin = 0
        for end, factor in zip(ends, factors, strict=True):
            values[begin:end] *= factor
            begin = end
        return values

    return value.map(scaled)


def _qwen35(job: Job) -> None:
    config, meta, key = job.config, job.meta, job.key
    standard(job)
    n_v, v_size = config.whole("linear_num_value_heads"), config.whole("linear_value_head_dim")
    counts(
        job,
        {
            "ssm.conv_kernel": "linear_conv_kernel_dim",
            "ssm.state_size": "linear_key_head_dim",
            "ssm.group_count": "linear_num_key_heads",
            "ssm.time_step_rank": "linear_num_value_heads",
        },
    )
    meta.u32(key("ssm.inner_size"), n_v * v_size)
    if kinds := config.kinds_of_layers():
        meta.array(key("attention.recurrent_layers"), "bool", [kind == "linear_attention" for kind in kinds])
    meta.u32(key("full_attention_interval"), config.maybe_whole("full_attention_interval") or 4)
    meta.u32(key("rope.dimension_count"), int(config.head_size * rotary_share(config, 0.25)))
    meta.setdefault(key("rope.dimension_sections"), "array i32", [11, 11, 10, 0])


def _qwen35moe(job: Job) -> None:
    _moe(job)
    _qwen35(job)


def _qwen35_layer(config: Config, layer: int) -> str | bool:
    if kinds := config.kinds_of_layers():
        return kinds[layer]
    return (layer + 1) % (config.maybe_whole("full_attention_interval") or 4) == 0


def _tiled(config: Config, value: Lazy, size: int) -> Lazy:
    """v heads, grouped by the k head they belong to, so that neighbours belong to different ones."""
    n_k, n_v = config.whole("linear_num_key_heads"), config.whole("linear_num_value_heads")
    rest = value.shape[1:]
    order = (1, 0, *range(2, 3 + len(rest)))
    return value.reshape(n_k, n_v // n_k, size, *rest).transpose(*order).reshape(*value.shape)


def _tiled_tail(config: Config, value: Lazy) -> Lazy:
    """The same for the v part, which follows q and k."""
    size = config.whole("linear_value_head_dim")
    n_qk = 2 * config.whole("linear_num_key_heads") * config.whole("linear_key_head_dim")
    return concatenated(value[:n_qk], _tiled(config, value[n_qk:], size))


def _tiled_v(config: Config, value: Lazy) -> Lazy:
    return _tiled(config, value, config.whole("linear_value_head_dim"))


def _tiled_single(config: Config, value: Lazy) -> Lazy:
    return _tiled(config, value, 1)


def _tiled_a(config: Config, value: Lazy) -> Lazy:
    return minus_exp(config, _tiled_single(config, value))


def _tiled_conv(config: Config, value: Lazy) -> Lazy:
    return _tiled_tail(config, without_middle(config, value))


def _tiled_columns(config: Config, value: Lazy) -> Lazy:
    return _tiled_v(config, value.transpose(1, 0)).transpose(1, 0)


# ---- the table --------------------------------------------------------------------------------------------------------------

_THETA = {"rope_theta": 10000.0}
_EIGHT_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2}
_LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, **_THETA}
_GEMMA_NAMES: Names = {
    "model.embed_tokens": "token_embd",
    "model.norm": To("output_norm", plus_one),
    "lm_head": None,
    **blocks(
        {**QKV, **MLP, "input_layernorm": To("attn_norm", plus_one), "post_attention_layernorm": To("ffn_norm", plus_one)}
    ),
}
_GEMMA2_NAMES: Names = {
    **_GEMMA_NAMES,
    **blocks(
        {
            "self_attn.q_norm": To("attn_q_norm", plus_one),
            "self_attn.k_norm": To("attn_k_norm", plus_one),
            "post_attention_layernorm": To("post_attention_norm", plus_one),
            "pre_feedforward_layernorm": To("ffn_norm", plus_one),
            "post_feedforward_layernorm": To("post_ffw_norm", plus_one),
        }
    ),
}
_GRANITE_MOE: Names = blocks(
    {
        "block_sparse_moe.router.layer": "ffn_gate_inp",
        "block_sparse_moe.input_linear": (To("ffn_gate_exps", first_half), To("ffn_up_exps", second_half)),
        "block_sparse_moe.output_linear": "ffn_down_exps",
        "shared_mlp.input_linear": (To("ffn_gate_shexp", first_half), To("ffn_up_shexp", second_half)),
        "shared_mlp.output_linear": "ffn_down_shexp",
    }
)
_MAMBA_LAYER: Names = {
    "mixer.in_proj": "ssm_in",
    "mixer.conv1d.weight": To("ssm_conv1d.weight", without_middle),
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.out_proj": "ssm_out",
    "norm": "attn_norm",
}
_MAMBA_ENDS: Names = {
    "backbone.embeddings": "token_embd",
    "backbone.embedding": "token_embd",
    "backbone.norm_f": "output_norm",
    "lm_head": "output",
}
_MAMBA2_MIXER: Names = {
    "in_proj": "ssm_in",
    "conv1d.weight": To("ssm_conv1d.weight", without_middle),
    "conv1d.bias": "ssm_conv1d.bias",
    "A_log": To("ssm_a", minus_exp_column),
    "D": To("ssm_d", as_column),
    "dt_bias": "ssm_dt.bias",
    "norm.weight": To("ssm_norm.weight", _by_group),
    "out_proj": "ssm_out",
}


_QWEN35: Names = {
    "model.embed_tokens": "token_embd",
    "model.norm": To("output_norm", plus_one),
    "lm_head": "output",
    **blocks(
        {
            **QKV,
            **MLP,
            "self_attn.q_norm": To("attn_q_norm", plus_one),
            "self_attn.k_norm": To("attn_k_norm", plus_one),
            "input_layernorm": To("attn_norm", plus_one),
            "post_attention_layernorm": To("post_attention_norm", plus_one),
            "linear_attn.in_proj_qkv": To("attn_qkv", _tiled_tail),
            "linear_attn.in_proj_z": To("attn_gate", _tiled_v),
            "linear_attn.in_proj_a": To("ssm_alpha", _tiled_single),
            "linear_attn.in_proj_b": To("ssm_beta", _tiled_single),
            "linear_attn.conv1d": To("ssm_conv1d", _tiled_conv),
            "linear_attn.A_log": To("ssm_a", _tiled_a),
            "linear_attn.dt_bias": To("ssm_dt.bias", _tiled_single),
            "linear_attn.norm": "ssm_norm",
            "linear_attn.out_proj": To("ssm_out", _tiled_columns),
        }
    ),
}
_DEEPSEEK: Names = {
    **ENDS,
    **blocks(
        {
            **QKV,
            **MLP,
            **NORMS,
            **EXPERTS,
            "self_attn.q_a_proj": "attn_q_a",
            "self_attn.q_b_proj": "attn_q_b",
            "self_attn.q_a_layernorm": "attn_q_a_norm",
            "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
            "self_attn.kv_a_layernorm": "attn_kv_a_norm",
            "self_attn.kv_b_proj": (To("attn_k_b", _mla_keys), To("attn_v_b", _mla_values)),
            "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
            "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
            "mlp.shared_experts.up_proj": "ffn_up_shexp",
            "mlp.shared_experts.down_proj": "ffn_down_shexp",
        }
    ),
}

DECODERS: tuple[Architecture, ...] = (
    Architecture(
        "llama",
        ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel", "VLlama3ForCausalLM"),
        LLAMA,
        _llama_with_head_size,
        any_llama,
        model_types=("llama",),
        defaults=_LLAMA_DEFAULTS,
        prepare=llama3_factors,
    ),
    Architecture(
        "llama",
        ("MistralForCausalLM", "MistralModel"),
        LLAMA,
        _mistral,
        any_llama,
        model_types=("mistral",),
        defaults={**_LLAMA_DEFAULTS, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    ),
    Architecture(
        "llama",
        ("MixtralForCausalLM",),
        {**LLAMA, **MIXTRAL},
        _llama,
        any_llama,
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_key_value_heads": 8, **_EIGHT_EXPERTS},
        prepare=llama3_factors,
    ),
    Architecture(
        "qwen2",
        ("Qwen2ForCausalLM", "Qwen2Model"),
        NEOX,
        standard,
        sentencepiece_or_byte_level,
        model_types=("qwen2",),
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, **_THETA},
    ),
    Architecture(
        "qwen3",
        ("Qwen3ForCausalLM", "Qwen3Model"),
        NEOX,
        standard,
        sentencepiece_or_byte_level,
        model_types=("qwen3",),
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 128, **_THETA},
    ),
    Architecture(
        "qwen2moe",
        ("Qwen2MoeForCausalLM",),
        {
            **NEOX,
            **blocks(
                {**EXPERTS, **_SHARED_EXPERT}
            ),
        },
        _moe,
        byte_level,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, **_THETA},
        kind_of_layer=_kind_of_moe_layer,
    ),
    Architecture(
        "qwen3moe",
        ("Qwen3MoeForCausalLM",),
        {**NEOX, **blocks(EXPERTS)},
        _moe,
        byte_level,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, **_THETA},
        kind_of_layer=_kind_of_moe_layer,
    ),
    Architecture(
        "olmoe",
        ("OlmoeForCausalLM",),
        {**NEOX, **blocks(EXPERTS)},
        _olmoe,
        byte_level,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, **_THETA},
    ),
    Architecture(
        "gemma",
        ("GemmaForCausalLM",),
        _GEMMA_NAMES,
        _gemma,
        gemma,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "head_dim": 256},
    ),
    Architecture(
        "gemma2",
        ("Gemma2ForCausalLM",),
        _GEMMA2_NAMES,
        _gemma2,
        gemma,
        defaults={
            "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "head_dim": 256, "num_key_value_heads": 4,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096,
        },
    ),
    Architecture(
        "gemma3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        {**_GEMMA2_NAMES, "model.embed_tokens": To("token_embd", _known_rows)},
        _gemma3,
        gemma,
        model_types=("gemma3_text",),
        defaults={
            "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "head_dim": 256, "num_attention_heads": 8,
            "num_key_value_heads": 4, "sliding_window": 4096, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        },
    ),
    Architecture(
        "phi2",
        ("PhiForCausalLM",),
        {
            "model.embed_tokens": "token_embd",
            "model.final_layernorm": "output_norm",
            "lm_head": "output",
            **blocks(
                {
                    **QKV,
                    "self_attn.dense": "attn_output",
                    "mlp.fc1": "ffn_up",
                    "mlp.fc2": "ffn_down",
                    "input_layernorm": "attn_norm",
                }
            ),
        },
        _phi2,
        byte_level,
        defaults={"layer_norm_eps": 1e-5, "max_position_embeddings": 2048, **_THETA},
    ),
    Architecture(
        "phi3",
        ("Phi3ForCausalLM",),
        {
            **ENDS,
            **blocks(
                {
                    **NORMS,
                    "self_attn.qkv_proj": "attn_qkv",
                    "self_attn.o_proj": "attn_output",
                    "mlp.gate_up_proj": "ffn_up",
                    "mlp.down_proj": "ffn_down",
                }
            ),
        },
        _phi3,
        phi3,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, **_THETA},
    ),
    Architecture(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        LLAMA,
        _llama,
        any_llama,
        model_types=("smollm3",),
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 4, "rope_theta": 2e6},
        prepare=llama3_factors,
    ),
    Architecture(
        "granite",
        ("GraniteForCausalLM",),
        LLAMA,
        _granite,
        any_llama,
        defaults=_LLAMA_DEFAULTS,
        prepare=llama3_factors,
    ),
    Architecture(
        "granitemoe",
        ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        {**LLAMA, **_GRANITE_MOE},
        _granite,
        any_llama,
        defaults={**_LLAMA_DEFAULTS, **_EIGHT_EXPERTS},
        prepare=llama3_factors,
    ),
    Architecture(
        "olmo2",
        ("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        {**ENDS, **blocks({**QKV, **MLP, **NORMS_AFTER})},
        _olmo2,
        byte_level,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, **_THETA},
    ),
    Architecture(
        "stablelm",
        ("StableLmForCausalLM", "StableLMEpochForCausalLM"),
        {
            **NEOX,
            **blocks(
                {
                    "self_attn.q_layernorm.norms.{}": Stack("attn_q_norm"),
                    "self_attn.k_layernorm.norms.{}": Stack("attn_k_norm"),
                    "self_attn.q_layernorm": "attn_q_norm",
                    "self_attn.k_layernorm": "attn_k_norm",
                }
            ),
        },
        _stablelm,
        byte_level,
        defaults={"layer_norm_eps": 1e-5, "max_position_embeddings": 4096, **_THETA},
    ),
    Architecture(
        "starcoder2",
        ("Starcoder2ForCausalLM",),
        {**NEOX, **blocks({"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"})},
        _starcoder2,
        byte_level,
        defaults={"norm_epsilon": 1e-5, "max_position_embeddings": 4096, "num_key_value_heads": 2, **_THETA},
    ),
    Architecture(
        "gpt2",
        ("GPT2LMHeadModel", "GPT2Model"),
        {
            "transformer.wte": "token_embd",
            "transformer.wpe": "position_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
            **blocks(
                {
                    "ln_1": "attn_norm",
                    "attn.c_attn": To("attn_qkv", transposed),
                    "attn.c_proj": To("attn_output", transposed),
                    "ln_2": "ffn_norm",
                    "mlp.c_fc": To("ffn_up", transposed),
                    "mlp.c_proj": To("ffn_down", transposed),
                },
                "transformer.h.{}.",
            ),
        },
        _gpt2,
        byte_level,
        base_prefix="transformer.",
        defaults={"layer_norm_epsilon": 1e-5},
    ),
    Architecture(
        "gptneox",
        ("GPTNeoXForCausalLM",),
        {
            "gpt_neox.embed_in": "token_embd",
            "gpt_neox.final_layer_norm": "output_norm",
            "embed_out": "output",
            "lm_head": "output",
            **blocks(
                {
                    **NORMS,
                    "attention.query_key_value": To("attn_qkv", _qkv_by_head),
                    "attention.dense": "attn_output",
                    "mlp.dense_h_to_4h": "ffn_up",
                    "mlp.dense_4h_to_h": "ffn_down",
                },
                "gpt_neox.layers.{}.",
            ),
        },
        _gptneox,
        byte_level,
        base_prefix="gpt_neox.",
        defaults={"layer_norm_eps": 1e-5, "max_position_embeddings": 2048, **_THETA},
    ),
    Architecture(
        "falcon",
        ("FalconForCausalLM", "RWForCausalLM"),
        {
            "transformer.word_embeddings": "token_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
            **blocks(
                {
                    "input_layernorm": "attn_norm",
                    "ln_mlp": "attn_norm",
                    "ln_attn": "attn_norm_2",
                    "self_attention.query_key_value": To("attn_qkv", _falcon_qkv),
                    "self_attention.dense": "attn_output",
                    "mlp.dense_h_to_4h": "ffn_up",
                    "mlp.dense_4h_to_h": "ffn_down",
                },
                "transformer.h.{}.",
            ),
        },
        _falcon,
        byte_level,
        base_prefix="transformer.",
        defaults={"layer_norm_epsilon": 1e-5, **_THETA},
    ),
    Architecture(
        "cohere2",
        ("Cohere2ForCausalLM",),
        {**ENDS, **blocks({**QKV, **MLP, "input_layernorm": "attn_norm"})},
        _cohere2,
        byte_level,
        defaults={"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "sliding_window": 4096, **_THETA},
    ),
    Architecture(
        "exaone4",
        ("Exaone4ForCausalLM",),
        {**ENDS, **blocks({**QKV, **MLP, **NORMS_AFTER})},
        _exaone4,
        byte_level,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, **_THETA},
        prepare=llama3_factors,
    ),
    Architecture(
        "glm4",
        ("Glm4ForCausalLM",),
        {
            **ENDS,
            **blocks(
                {
                    **QKV,
                    **NORMS,
                    "mlp.gate_up_proj": "ffn_up",
                    "mlp.down_proj": "ffn_down",
                    "post_self_attn_layernorm": "post_attention_norm",
                    "post_mlp_layernorm": "post_ffw_norm",
                }
            ),
        },
        _glm4,
        glm,
        defaults={"rms_norm_eps": 1.5625e-07, "max_position_embeddings": 131072, "head_dim": 128, **_THETA},
    ),
    Architecture(
        "gpt-oss",
        ("GptOssForCausalLM",),
        {
            **ENDS,
            **blocks(
                {
                    **QKV,
                    "input_layernorm": "attn_norm",
                    "post_attention_layernorm": "post_attention_norm",
                    "self_attn.sinks": "attn_sinks.weight",
                    "mlp.router": "ffn_gate_inp",
                    "mlp.experts.gate_up_proj": (
                        To("ffn_gate_exps.weight", _gptoss_rows(0)),
                        To("ffn_up_exps.weight", _gptoss_rows(1)),
                    ),
                    "mlp.experts.gate_up_proj_bias": (
                        To("ffn_gate_exps.bias", _gptoss_rows(0)),
                        To("ffn_up_exps.bias", _gptoss_rows(1)),
                    ),
                    "mlp.experts.down_proj": To("ffn_down_exps.weight", _last_two_swapped),
                    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
                    "mlp.experts.gate_up_proj_blocks": Mxfp4(
                        ("ffn_gate_exps.weight", "ffn_up_exps.weight"), _mxfp4_alternate, "gate_up_proj_scales"
                    ),
                    "mlp.experts.gate_up_proj_scales": None,
                    "mlp.experts.down_proj_blocks": Mxfp4(("ffn_down_exps.weight",), _mxfp4_whole, "down_proj_scales"),
                    "mlp.experts.down_proj_scales": None,
                }
            ),
        },
        _gptoss,
        byte_level,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "sliding_window": 128, "rope_theta": 150000.0},
    ),
    Architecture(
        "deepseek2",
        ("DeepseekV2ForCausalLM",),
        _DEEPSEEK,
        _deepseek2,
        byte_level,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, **_THETA},
        kind_of_layer=_deepseek_layer,
    ),
    Architecture(
        "deepseek2",
        ("DeepseekV3ForCausalLM",),
        _DEEPSEEK,
        _deepseek2,
        byte_level,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "scoring_func": "sigmoid", **_THETA},
        kind_of_layer=_deepseek_layer,
    ),
    Architecture(
        "lfm2",
        ("Lfm2ForCausalLM", "LFM2ForCausalLM"),
        {
            "model.embed_tokens": "token_embd",
            "model.embedding_norm": "token_embd_norm",
            "lm_head": "output",
            **blocks(
                {
                    **QKV,
                    "self_attn.out_proj": "attn_output",
                    "self_attn.q_layernorm": "attn_q_norm",
                    "self_attn.k_layernorm": "attn_k_norm",
                    "conv.conv.weight": To("shortconv.conv.weight", without_middle),
                    "conv.conv.bias": "shortconv.conv.bias",
                    "conv.in_proj": "shortconv.in_proj",
                    "conv.out_proj": "shortconv.out_proj",
                    "operator_norm": "attn_norm",
                    "ffn_norm": "ffn_norm",
                    "feed_forward.w1": "ffn_gate",
                    "feed_forward.w2": "ffn_down",
                    "feed_forward.w3": "ffn_up",
                }
            ),
        },
        _lfm2,
        byte_level,
        defaults={"norm_eps": 1e-5, "max_position_embeddings": 128000, "rope_theta": 1e6, "conv_L_cache": 3},
        kind_of_layer=_lfm2_layer,
    ),
    Architecture(
        "mamba",
        ("MambaForCausalLM", "FalconMambaForCausalLM"),
        {
            **_MAMBA_ENDS,
            **blocks(
                {
                    **_MAMBA_LAYER,
                    "mixer.x_proj": "ssm_x",
                    "mixer.dt_proj": "ssm_dt",
                    "mixer.A_log": To("ssm_a", minus_exp),
                    "mixer.D": "ssm_d",
                },
                "backbone.layers.{}.",
            ),
        },
        _mamba,
        byte_level,
        base_prefix="backbone.",
    ),
    Architecture(
        "mamba2",
        ("Mamba2ForCausalLM",),
        {
            **_MAMBA_ENDS,
            **blocks({"norm": "attn_norm"}, "backbone.layers.{}."),
            **blocks(_MAMBA2_MIXER, "backbone.layers.{}.mixer."),
        },
        _mamba2,
        sentencepiece_or_byte_level,
        base_prefix="backbone.",
    ),
    Architecture(
        "falcon-h1",
        ("FalconH1ForCausalLM",),
        {
            "model.embed_tokens": To("token_embd", times("embedding_multiplier")),
            "model.final_layernorm": "output_norm",
            "lm_head": To("output", times("lm_head_multiplier")),
            **blocks(
                {
                    **{f"mamba.{name}": to for name, to in _MAMBA2_MIXER.items()},
                    "mamba.in_proj": To("ssm_in", _falcon_h1_in),
                    "mamba.out_proj": To("ssm_out", times("ssm_out_multiplier")),
                    "self_attn.q_proj": To("attn_q", times("attention_in_multiplier")),
                    "self_attn.k_proj": To("attn_k", times("key_multiplier", "attention_in_multiplier")),
                    "self_attn.v_proj": To("attn_v", times("attention_in_multiplier")),
                    "self_attn.o_proj": To("attn_output", times("attention_out_multiplier")),
                    "feed_forward.gate_proj": To("ffn_gate", times(("mlp_multipliers", 0))),
                    "feed_forward.up_proj": "ffn_up",
                    "feed_forward.down_proj": To("ffn_down", times(("mlp_multipliers", 1))),
                    "input_layernorm": "attn_norm",
                    "pre_ff_layernorm.weight": "ffn_norm",  # the layout has it without .weight
                }
            ),
        },
        _falcon_h1,
        byte_level,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 8192},
    ),
    Architecture(
        "qwen35",
        ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
        _QWEN35,
        _qwen35,
        byte_level,
        model_types=("qwen3_5_text",),
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 256, **_THETA},
        kind_of_layer=_qwen35_layer,
    ),
    Architecture(
        "qwen35moe",
        ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
        {**_QWEN35, **blocks({**EXPERTS, **_SHARED_EXPERT})},
        _qwen35moe,
        byte_level,
        model_types=("qwen3_5_moe_text",),
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 256, **_THETA},
        kind_of_layer=_qwen35_layer,
    ),
)  # fmt: skip

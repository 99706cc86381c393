"""Hyperparameters that most decoders share, from the words of config.json to those of GGUF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cactus_py.errors import ModelFormatError, UnsupportedModelError
from cactus_py.hub.conversion.config import Config, number
from cactus_py.hub.conversion.lazy import Floats, Lazy
from cactus_py.hub.conversion.plan import Job

_GATES = {"softmax": 1, "sigmoid": 2}


def standard(job: Job) -> None:
    """Everything that config.json says in the usual words. Rows call this and then say what differs."""
    config, meta, key = job.config, job.meta, job.key
    counts = {
        "context_length": ("max_position_embeddings", "n_ctx", "n_positions", "max_length"),
        "embedding_length": ("hidden_size", "n_embd", "dim"),
        "feed_forward_length": ("intermediate_size", "n_inner", "hidden_dim"),
        "attention.head_count": ("num_attention_heads", "n_head", "n_heads"),
        "attention.head_count_kv": ("num_key_value_heads", "n_kv_heads"),
        "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
        "expert_used_count": ("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
        "expert_group_count": ("n_group",),
        "expert_group_used_count": ("topk_group",),
        "attention.key_length": ("head_dim",),
        "attention.value_length": ("head_dim",),
    }
    meta.u32(key("block_count"), config.n_blocks)
    for name, sources in counts.items():
        if isinstance(values := config.get(*sources), list):
            meta.array(key(name), "i32", values)
        elif (count := config.maybe_whole(*sources)) is not None:
            meta.u32(key(name), count)
    if (eps := config.maybe_number("rms_norm_eps", "norm_eps")) is not None:
        meta.f32(key("attention.layer_norm_rms_epsilon"), eps)
    if (eps := config.maybe_number("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")) is not None:
        meta.f32(key("attention.layer_norm_epsilon"), eps)
    if (gate := config.get("scoring_func", "score_function")) is not None:
        if gate not in _GATES:
            raise UnsupportedModelError(f"config.json asks for the routing function {gate!r}, which is not supported.")
        meta.u32(key("expert_gating_func"), _GATES[gate])
    rotary(job)


def rotary(job: Job) -> None:
    """Rotary base and scaling. Factors per dimension (llama3, longrope) are tensors, made by the rows."""
    meta, key, rope = job.meta, job.key, job.config.rope()
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if kind == "linear" and factor is not None:
        meta.text(key("rope.scaling.type"), "linear")
        meta.f32(key("rope.scaling.factor"), number(factor, "factor"))
    elif kind == "yarn" and factor is not None:
        original = rope.get("original_max_position_embeddings")
        if type(original) is not int:
            raise ModelFormatError("config.json asks for YaRN without original_max_position_embeddings.")
        meta.text(key("rope.scaling.type"), "yarn")
        meta.f32(key("rope.scaling.factor"), number(factor, "factor"))
        meta.u32(key("rope.scaling.original_context_length"), original)
        for name, sources in {
            "yarn_ext_factor": ("extrapolation_factor",),
            "yarn_attn_factor": ("attention_factor", "attn_factor"),
            "yarn_beta_fast": ("beta_fast",),
            "yarn_beta_slow": ("beta_slow",),
        }.items():
            value = next((rope[source] for source in sources if rope.get(source) is not None), None)
            if value is not None:
                meta.f32(key(f"rope.scaling.{name}"), number(value, name))
    elif kind in ("su", "longrope"):
        meta.text(key("rope.scaling.type"), "longrope")
    elif kind not in (None, "default", "llama3"):
        raise UnsupportedModelError(f"config.json asks for rotary scaling of type {str(kind)[:40]!r}, which is not supported.")
    if (sections := rope.get("mrope_section")) is not None:
        meta.array(key("rope.dimension_sections"), "i32", [*sections, 0, 0, 0, 0][:4])
    if (theta := rope.get("rope_theta")) is not None:
        meta.f32(key("rope.freq_base"), number(theta, "rope_theta"))
    local = rope.get("sliding_attention")
    if isinstance(local, dict) and (theta := local.get("rope_theta")) is not None:
        meta.f32(key("rope.freq_base_swa"), number(theta, "rope_theta"))


def rotary_share(config: Config, default: float = 1.0) -> float:
    share = config.rope().get("partial_rotary_factor")
    return default if share is None else number(share, "partial_rotary_factor")


def llama3_factors(job: Job) -> None:
    """Llama 3's scaling as a tensor: what each rotary frequency is divided by, one for each pair of dimensions."""
    rope = job.config.rope()
    if rope.get("rope_type") != "llama3":
        return

    def value(name: str, default: float) -> float:
        return number(rope.get(name, default), name)

    n_dims = job.config.head_size
    exponents = np.arange(0, n_dims, 2, dtype=np.float32) / np.float32(n_dims)
    frequencies = (1.0 / np.power(np.float32(value("rope_theta", 10000.0)), exponents)).astype(np.float32)
    factor, context = value("factor", 8.0), value("original_max_position_embeddings", 8192)
    low, high = value("low_freq_factor", 1.0), value("high_freq_factor", 4.0)
    if high == low:
        raise ModelFormatError("config.json gives Llama 3's rotary scaling one value for high_freq_factor and low_freq_factor.")
    factors = []
    for frequency in frequencies:
        wavelength = np.float32(2 * math.pi) / frequency
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (np.float32(context) / wavelength - np.float32(low)) / np.float32(high - low)
            factors.append(float(1 / ((1 - smooth) / np.float32(factor) + smooth)))
    job.extra.append(("rope_freqs.weight", constant(np.array(factors, np.float32))))


def constant(values: Floats) -> Lazy:
    return Lazy(values.shape, "F32", lambda: values)


def sliding(job: Job, *, pattern: bool = True) -> None:
    """The size of the window, and which layers have one."""
    if (window := job.config.maybe_whole("sliding_window")) is None:
        return
    job.meta.u32(job.key("attention.sliding_window"), window)
    if pattern and (kinds := job.config.kinds_of_layers()):
        flags = [kind == "sliding_attention" for kind in kinds]
        job.meta.array(job.key("attention.sliding_window_pattern"), "bool", flags)


def numbers(job: Job, names: dict[str, str]) -> None:
    """Numbers that are carried over as they are, where they are given: name in GGUF -> name in config.json."""
    for name, given in names.items():
        if value := job.config.maybe_number(given):
            job.meta.f32(job.key(name), value)


def counts(job: Job, names: dict[str, Any]) -> None:
    """As `numbers`, whole ones: a value may be a name, or a tuple of names."""
    for name, given in names.items():
        if (value := job.config.maybe_whole(*((given,) if isinstance(given, str) else given))) is not None:
            job.meta.u32(job.key(name), value)

"""config.json as the converters ask it: values by any of several names, defaults per model, a sentence for what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cactus_py.errors import ModelFormatError


class Config:
    """The values of config.json, those of its text_config over its own. A null counts as missing."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        self.values = {**values, **(text if isinstance(text := values.get("text_config"), dict) else {})}
        for key, value in (defaults or {}).items():
            if self.values.get(key) is None:
                self.values[key] = value

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these that is given."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def need(self, *names: str) -> Any:
        value = self.get(*names)
        if value is None:
            raise ModelFormatError(f"config.json has no {' or '.join(map(repr, names))}.")
        return value

    def maybe_whole(self, *names: str) -> int | None:
        value = self.get(*names)
        if value is None:
            return None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 <= value < 1 << 31:
            raise ModelFormatError(f"config.json has {str(value)[:60]!r} for {names[0]!r}, which must be a whole number.")
        return value

    def whole(self, *names: str) -> int:
        value = self.maybe_whole(*names)
        if value is None:
            raise ModelFormatError(f"config.json has no {' or '.join(map(repr, names))}.")
        return value

    def maybe_number(self, *names: str) -> float | None:
        value = self.get(*names)
        return None if value is None else number(value, names[0])

    def number(self, *names: str) -> float:
        return number(self.need(*names), names[0])

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.get(name, default=default))

    # ---- what most decoders have ----

    @property
    def n_blocks(self) -> int:
        n_blocks = self.whole("n_layers", "num_hidden_layers", "n_layer", "num_layers")
        if not 0 < n_blocks <= 10_000:
            raise ModelFormatError(f"config.json speaks of {n_blocks} layers.")
        return n_blocks

    @property
    def n_heads(self) -> int:
        n_heads = self.whole("num_attention_heads", "n_head", "n_heads")
        if n_heads == 0:
            raise ModelFormatError("config.json has 0 for 'num_attention_heads', which must be at least 1.")
        return n_heads

    @property
    def n_kv_heads(self) -> int:
        return self.maybe_whole("num_key_value_heads", "n_kv_heads") or self.n_heads

    @property
    def width(self) -> int:
        return self.whole("hidden_size", "n_embd", "dim", "d_model")

    @property
    def head_size(self) -> int:
        return self.maybe_whole("head_dim") or self.width // self.n_heads

    def kinds_of_layers(self) -> list[str]:
        """layer_types, one for each layer; empty if there are none."""
        kinds = self.get("layer_types", default=[])
        if kinds and (not isinstance(kinds, list) or len(kinds) != self.n_blocks):
            raise ModelFormatError(f"config.json does not give a layer_types entry for each of the {self.n_blocks} layers.")
        return [str(kind) for kind in kinds]

    def rope(self) -> dict[str, Any]:
        """Rotary parameters, those of the layers with full attention; under "sliding_attention" those of the others.

        Checkpoints have them as rope_parameters, or as rope_theta, rope_scaling and others beside them (before 2025).
        """
        given = self.get("rope_parameters", "rope_scaling", default={})
        found: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
        if "full_attention" in found or "sliding_attention" in found:
            full = found.get("full_attention")
            return {**(full if isinstance(full, dict) else {}), "sliding_attention": found.get("sliding_attention")}
        for name, sources in _ROPE_NAMES.items():
            if found.get(name) is None and (value := self.get(*sources)) is not None:
                found[name] = value
        if (local := self.get("rope_local_base_freq", "local_rope_theta", "rope_theta_local", "swa_rope_theta")) is not None:
            found["sliding_attention"] = {"rope_theta": local}
        if found.get("rope_type") is None and found.get("type") is not None:
            found["rope_type"] = found["type"]
        return found


_ROPE_NAMES = {
    "rope_theta": ("global_rope_theta", "rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent"),
    "original_max_position_embeddings": ("original_max_position_embeddings",),
}


def number(value: Any, name: str) -> float:
    """A finite number, or a sentence about the entry of config.json."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ModelFormatError(f"config.json has {str(value)[:60]!r} for {name!r}, which must be a number.")
    return float(value)

"""From a checkpoint and a row of the table of architectures to the tensors and the metadata of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cactus_py.errors import ModelFormatError, UnsupportedModelError
from cactus_py.hub.conversion.checkpoint import Checkpoint
from cactus_py.hub.conversion.config import Config
from cactus_py.hub.conversion.container import BF16, F16, F32, MXFP4, Metadata, Tensor, TensorType
from cactus_py.hub.conversion.lazy import Lazy, stacked

Change = Callable[[Config, Lazy], Lazy]


@dataclass(frozen=True)
class To:
    """Where a tensor goes, and what is done to it on the way. "{}" stands for the number of the layer."""

    target: str
    change: Change | None = None


@dataclass(frozen=True)
class Stack:
    """Tensors that differ in their last number only become one, stacked in the order of that number."""

    target: str


@dataclass(frozen=True)
class Mxfp4:
    """Blocks of 4-bit codes, whose scales lie in the tensor that is called `scales`."""

    targets: tuple[str, ...]
    join: Callable[[Lazy, Lazy], tuple[Lazy, ...]]
    scales: str


Destination = str | To | Stack | Mxfp4 | tuple[To, ...] | None
Names = Mapping[str, Destination]


@dataclass
class Job:
    """One conversion: what is read, and what is being put together."""

    arch: str
    config: Config
    folder: Path
    checkpoint: Checkpoint
    meta: Metadata = field(default_factory=Metadata)
    pre: str | None = None
    extra: list[tuple[str, Lazy]] = field(default_factory=list)
    root: Config | None = None  # of the whole model, where `config` is that of a part

    def key(self, name: str) -> str:
        return f"{self.arch}.{name}"

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file beside the tensors; {} if there is none."""
        from cactus_py.hub.conversion.checkpoint import read_json

        path = self.folder / name
        return read_json(path) if path.is_file() else {}


@dataclass(frozen=True)
class Architecture:
    """A row: an architecture of GGUF, and how the checkpoints of some Hugging Face classes become it.

    Keys of `names` are tensors' names with each number written {}. Without .weight or .bias they stand for both; the ending is
    carried over. None: not needed. What no key matches is an error, so that nothing is dropped unseen.
    """

    name: str
    classes: tuple[str, ...]
    names: Names
    parameters: Callable[[Job], None]
    vocabulary: Callable[[Job], None]
    model_types: tuple[str, ...] = ()  # for a text_config that has no class name
    defaults: Mapping[str, Any] = field(default_factory=dict)
    base_prefix: str = "model."  # what the names of a checkpoint without its head lack
    kind_of_layer: Callable[[Config, int], Hashable] = lambda config, layer: 0  # layers of a kind have the same tensors
    prepare: Callable[[Job], None] | None = None  # checks, further tensors
    force: Callable[[str, str], TensorType | None] = lambda source, target: None
    towers: Mapping[str, Callable[[Config], int]] = field(default_factory=lambda: {"blk": lambda config: config.n_blocks})
    needs: tuple[str, ...] = ("token_embd.weight",)
    strip: tuple[str, ...] = ()  # prefixes that classes with a head put before the names


# Of every file: these are never stored in fewer bits than F32, whatever their shape. "{}" is the number of a layer.
_ALWAYS_F32 = {
    "blk.{}.ffn_gate_inp.weight",
    "blk.{}.ffn_gate_inp_shexp.weight",
    "blk.{}.ssm_conv1d.weight",
    "blk.{}.shortconv.conv.weight",
    "position_embd.weight",
    "token_types.weight",
    "v.position_embd.weight",
    "enc.position_embd.weight",
    "dec.position_embd.weight",
}

_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")

# Where the language model of a checkpoint that also sees or hears keeps its tensors.
_TEXT_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.text_model.", "model."),
    ("text_model.", "model."),
)
_TEXT_BESIDE_VISION = (
    "language_model.", "model.language_model.", "model.text_model.", "text_model.", "lm_head.", "model.layers.",
    "model.embed_tokens.", "model.norm.", "text_projection.", "logit_scale", "logit_bias",
)  # fmt: skip
_OTHER_PREFIXES = (
    "vision_tower.", "model.vision_tower.", "vision_model.", "model.vision_model.", "visual.", "model.visual.", "audio_tower.",
    "model.audio_tower.", "multi_modal_projector.", "model.multi_modal_projector.", "model.connector.", "connector.", "mtp.",
    "model.mtp.",
)  # fmt: skip


def plan(job: Job, arch: Architecture, base: TensorType | None) -> tuple[list[Tensor], TensorType]:
    """All tensors of the file in the order of its layers, and the type of its matrices (`base`, else the checkpoint's own).

    Raises ModelFormatError or UnsupportedModelError.
    """
    if arch.prepare is not None:
        arch.prepare(job)
    found: list[tuple[str, str, Lazy]] = [("", name, value) for name, value in job.extra]
    stacks: dict[str, tuple[str, dict[int, Lazy]]] = {}
    for name in job.checkpoint:
        key = _tidy(name, job)
        if key is None or _predicts_ahead(key, job.config):
            continue
        destination, ending, numbers = _look_up(key, arch, name)
        if destination is None:
            continue
        layer = numbers[0] if numbers else 0
        if isinstance(destination, Stack):
            target = destination.target.replace("{}", str(layer)) + ending
            members = stacks.setdefault(target, (name, {}))[1]
            if numbers[-1] in members:
                raise ModelFormatError(f"{job.folder} has two tensors for {target}.")
            members[numbers[-1]] = source(job.checkpoint, name)
        elif isinstance(destination, Mxfp4):
            found += _from_mxfp4(job, name, destination, layer)
        else:
            ways = (To(destination),) if isinstance(destination, str) else destination
            for way in (ways,) if isinstance(ways, To) else ways:
                value = _changed(job, name, way.change, source(job.checkpoint, name))
                found.append((name, way.target.replace("{}", str(layer)) + ending, value))
    for target, (name, members) in stacks.items():
        missing = sorted(set(range(max(members) + 1)) - set(members))
        if missing:
            raise ModelFormatError(f"{job.folder} lacks number {missing[0]} of the tensors like {name!r}.")
        try:
            value = stacked([members[number] for number in sorted(members)])
        except ValueError as error:
            raise ModelFormatError(f"{job.folder}: tensors like {name!r}: {error}.") from error
        found.append((name, target, value))
    _check_complete(job, arch, {target for _, target, _ in found})
    base = base or _own_type(found)
    tensors = [_typed(name, target, value, base, arch) for name, target, value in found]
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelFormatError(f"{job.folder} has two tensors for {twice}.")
    return sorted(tensors, key=lambda tensor: _position(tensor.name)), base


def source(checkpoint: Checkpoint, name: str) -> Lazy:
    """A tensor of the checkpoint as it is. FP8 blocks come with their scales, one for 128 x 128 values."""
    entry = checkpoint[name]
    value = Lazy(entry.shape, entry.dtype, lambda: checkpoint.bits(name), done=lambda: checkpoint.forget(name))
    if entry.dtype == "F8_E4M3":
        return _scaled_fp8(checkpoint, name, value)
    return value


def _scaled_fp8(checkpoint: Checkpoint, name: str, value: Lazy) -> Lazy:
    scales = name + "_scale_inv"
    if len(value.shape) != 2 or scales not in checkpoint:
        raise UnsupportedModelError(
            f"Tensor {name!r} is in FP8 without the scales of its blocks ({scales!r}), which is not supported."
        )
    rows, columns = value.shape
    block = 128
    wanted = (-(-rows // block), -(-columns // block))
    if checkpoint[scales].shape != wanted:
        raise ModelFormatError(f"The scales of {name!r} have the shape {list(checkpoint[scales].shape)}, not {list(wanted)}.")
    factors = source(checkpoint, scales)
    return value.map(lambda values: values * factors.floats().repeat(block, axis=0)[:rows].repeat(block, axis=1)[:, :columns])


def _tidy(name: str, job: Job) -> str | None:
    """The name as a checkpoint of the language model alone would have it; None for what is not of it."""
    if name.endswith(_BUFFERS) or name.endswith("_scale_inv"):
        return None
    if job.arch == "clip":
        return None if name.startswith(_TEXT_BESIDE_VISION) else name
    for prefix, plain in _TEXT_PREFIXES:
        if name.startswith(prefix):
            return plain + name[len(prefix) :]
    return None if name.startswith(_OTHER_PREFIXES) else name


def _predicts_ahead(key: str, config: Config) -> bool:
    """Whether a tensor is of the layers behind the last, which some models have for guessing further tokens."""
    match = re.match(r"model\.layers\.(\d{1,6})\.", key)
    return match is not None and bool(config.maybe_whole("num_nextn_predict_layers")) and int(match[1]) >= config.n_blocks


def _look_up(key: str, arch: Architecture, name: str) -> tuple[Destination, str, list[int]]:
    for prefix in arch.strip:
        key = key.removeprefix(prefix)
    for attempt in (key, arch.base_prefix + key):
        numbers = [int(part) for part in attempt.split(".") if part.isdecimal() and len(part) < 7]
        plain = re.sub(r"(?<=\.)\d{1,6}(?=\.|$)", "{}", attempt)
        if plain in arch.names:
            return arch.names[plain], "", numbers
        stem, dot, ending = plain.rpartition(".")
        if ending in ("weight", "bias") and stem in arch.names:
            return arch.names[stem], dot + ending, numbers
    raise UnsupportedModelError(
        f"Tensor {name!r} has no place in architecture {arch.name}; this variant of it is not supported."
    )


def _changed(job: Job, name: str, change: Change | None, value: Lazy) -> Lazy:
    if change is None:
        return value
    try:
        return change(job.config, value)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        shape = list(value.shape)
        raise ModelFormatError(f"Tensor {name!r} of shape {shape} does not fit config.json: {error}.") from error


def _from_mxfp4(job: Job, name: str, how: Mxfp4, layer: int) -> list[tuple[str, str, Lazy]]:
    scales = name.rpartition(".")[0] + "." + how.scales
    if scales not in job.checkpoint:
        raise ModelFormatError(f"{job.folder} has no {scales!r}, the scales of {name!r}.")
    blocks, factors = source(job.checkpoint, name), source(job.checkpoint, scales)
    if len(blocks.shape) != 4 or blocks.shape[3] != 16 or factors.shape != blocks.shape[:3]:
        raise ModelFormatError(f"Tensors {name!r} and {scales!r} have shapes that are not those of MXFP4 blocks.")
    values = how.join(blocks, factors)
    return [(name, target.replace("{}", str(layer)), value) for target, value in zip(how.targets, values, strict=True)]


def _check_complete(job: Job, arch: Architecture, targets: set[str]) -> None:
    for name in arch.needs:
        if name not in targets:
            raise ModelFormatError(f"{job.folder} has no tensor for {name}: it is incomplete, or not a whole model.")
    by_layer: dict[tuple[str, int], set[str]] = {}
    for target in targets:
        if match := re.match(r"((?:\w+\.)?blk)\.(\d+)\.(.+)", target):
            by_layer.setdefault((match[1], int(match[2])), set()).add(match[3])
    for tower, count in arch.towers.items():
        n_blocks = count(job.config)
        if extra := [n for t, n in by_layer if t == tower and n >= n_blocks]:
            raise ModelFormatError(f"{job.folder} has tensors of layer {min(extra)}; config.json speaks of {n_blocks} layers.")
        of_kind: dict[Hashable, set[str]] = {}
        kind = arch.kind_of_layer
        for layer in range(n_blocks):
            of_kind.setdefault(kind(job.config, layer), set()).update(by_layer.get((tower, layer), set()))
        for layer in range(n_blocks):
            here = by_layer.get((tower, layer), set())
            lacking = sorted(of_kind[kind(job.config, layer)] - here)
            if lacking or not here:
                what = f"{tower}.{layer}.{lacking[0]}" if lacking else f"layer {layer}"
                raise ModelFormatError(f"{job.folder} has no tensor for {what}, which other layers of its kind have.")


def _own_type(found: list[tuple[str, str, Lazy]]) -> TensorType:
    """The type in which the checkpoint keeps its matrices."""
    for name, _, value in found:
        if name and len(value.shape) > 1 and value.dtype in ("F16", "BF16", "F32"):
            return {"F16": F16, "BF16": BF16, "F32": F32}[value.dtype]
    return F16


def _typed(name: str, target: str, value: Lazy, base: TensorType, arch: Architecture) -> Tensor:
    if value.dtype == "MXFP4":
        return Tensor(target, (*value.shape[:-1], value.shape[-1] // 17 * 32), MXFP4, value)
    if not 1 <= len(value.shape) <= 4:
        raise ModelFormatError(f"Tensor {name!r} has {len(value.shape)} axes; GGUF holds 1 to 4.")
    if value.dtype in ("U8", "I8", "BOOL", "F8_E8M0"):
        raise UnsupportedModelError(
            f"Tensor {name!r} is of type {value.dtype}: quantised checkpoints like this are not supported."
        )
    kind = arch.force(name, target)
    plain = re.sub(r"(?<=\.)\d+(?=\.)", "{}", target)
    if len(value.shape) == 1 or target.endswith("_norm.weight") or not target.endswith(".weight"):
        kind = F32
    elif kind is None:
        kind = F32 if plain in _ALWAYS_F32 else base
    if value.shape[-1] % kind.n_elems != 0:
        kind = F16
    return Tensor(target, value.shape, kind, value)


def _position(name: str) -> tuple[int, str, int, str]:
    """Embeddings first, then the layers by number, then what follows them."""
    if match := re.match(r"(.*\bblk)\.(\d+)\.(.+)", name):
        return 1, match[1], int(match[2]), match[3]
    return (0 if "embd" in name or "rope" in name or name.startswith("token") else 2), "", 0, name


__all__ = ["Architecture", "Job", "Mxfp4", "Names", "Stack", "To", "plan", "source"]

"""Checkpoints of the Hugging Face hub as GGUF files: safetensors in, one file that the engine maps out.

    result = convert(Path("SmolLM2-135M"), Path("smollm2.gguf"), type="q8_0")

Only numpy is needed. Tensors are read from mapped files and written one by one, so memory holds the largest of them at most.
The tables say what there is: decoders.py, encoders.py. Every tensor of a checkpoint must have a place in its row: nothing is
dropped unseen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cactus_py.errors import InvalidRequestError, ModelFileError, ModelFormatError, UnsupportedModelError
from cactus_py.hub.conversion.checkpoint import Checkpoint, read_json
from cactus_py.hub.conversion.config import Config
from cactus_py.hub.conversion.container import BF16, F16, F32, MXFP4, Q8_0, Tensor, TensorType, write
from cactus_py.hub.conversion.decoders import DECODERS
from cactus_py.hub.conversion.encoders import ENCODERS, VISION
from cactus_py.hub.conversion.plan import Architecture, Job, plan
from cactus_py.hub.files import ProgressCallback, silent
from cactus_py.hub.huggingface import fetch_hf_files

__all__ = ["TYPES", "Conversion", "classes", "convert", "locate"]

TYPES: dict[str, TensorType | None] = {"auto": None, "f32": F32, "f16": F16, "bf16": BF16, "q8_0": Q8_0}
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32, "MXFP4": 38}
_QUANTISATION_VERSION = 2

# Of a repository, what a conversion reads.
FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/*.jinja", "modules.json", "*_Pooling/config.json", "README.md",
)  # fmt: skip
_REPO = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?", re.ASCII)

# What is told while it runs: (tensor, bytes done, bytes in all).
ConversionProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Conversion:
    """What was made of what."""

    path: Path
    architecture: str  # general.architecture of the file
    source_class: str  # of config.json
    type: str  # of the matrices
    n_tensors: int
    n_parameters: int
    size_bytes: int


def convert(
    source: Path,
    out: Path | None = None,
    *,
    type: str = "auto",
    pre: str | None = None,
    vision: bool = False,
    name: str | None = None,
    progress: ConversionProgress = lambda tensor, done, total: None,
) -> Conversion:
    """Writes the GGUF file of the checkpoint in the folder `source`; it appears under its name when it is complete.

    out     a file, or a folder for NAME.TYPE.gguf; the current folder if not given
    type    how matrices are stored: auto (as the checkpoint has them), f32, f16, bf16 or q8_0; vectors and norms stay F32
    pre     the name of the way text is cut into words, where tokenizer.json does not tell
    vision  the vision tower and its projector instead of the language model
    name    general.name; the name of the folder if not given

    Raises InvalidRequestError, ModelFileError, ModelFormatError, UnsupportedModelError or StoreError.
    """
    if type not in TYPES:
        raise InvalidRequestError(f"type must be one of {', '.join(TYPES)}, not {type!r}.", "type")
    if not source.is_dir():
        raise ModelFileError(f"{source} is not a folder with config.json and safetensors files.")
    if not (source / "config.json").is_file():
        raise ModelFileError(f"{source} holds no config.json.")
    given = read_json(source / "config.json")
    arch, source_class = _row_of(given, source, vision)
    root = Config(given)
    tower = given.get("vision_config")
    config = Config(tower if vision and isinstance(tower, dict) else given, arch.defaults)
    _refuse_quantised(root, arch)
    job = Job(arch.name, config, source, Checkpoint(source), pre=pre, root=root)
    title = name or source.resolve().name
    meta = job.meta
    meta.text("general.architecture", arch.name)
    meta.text("general.type", "mmproj" if arch in VISION else "model")
    meta.text("general.name", title)
    _describe(job)
    try:
        arch.parameters(job)
        arch.vocabulary(job)
        tensors, base = plan(job, arch, TYPES[type])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:  # a value of another kind than config has
        if isinstance(error, InvalidRequestError):
            raise
        raise ModelFormatError(f"{source / 'config.json'} or the tokenizer beside it is malformed: {error}.") from error
    kinds = {tensor.type for tensor in tensors}
    file_type = "MXFP4" if MXFP4 in kinds else base.name
    meta.u32("general.file_type", _FILE_TYPES[file_type])
    meta.u32("general.quantization_version", _QUANTISATION_VERSION)
    n_parameters = sum(_n_elems(tensor) for tensor in tensors)
    meta.text("general.size_label", _size_label(n_parameters))
    path = _path(out, title, base, arch in VISION)
    size_bytes = write(path, meta, tensors, progress, title)
    return Conversion(path, arch.name, source_class, file_type, len(tensors), n_parameters, size_bytes)


def locate(source: str, progress: ProgressCallback = silent) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and a name for it where the folder's is none. `source` is a folder, or OWNER/REPO[@REVISION]
    on the Hugging Face hub, of which the files that a conversion reads are brought into its client's own cache.

    Raises ModelFileError or DownloadError.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path, None
    match = _REPO.fullmatch(source)
    if match is None or path.exists():
        raise ModelFileError(f"{source} is neither a folder with a checkpoint nor OWNER/REPO on the Hugging Face hub.")
    return fetch_hf_files(match["repo"], match["revision"] or "main", FILES, progress), match["repo"].partition("/")[2]


def classes() -> dict[str, list[str]]:
    """GGUF architecture -> the Hugging Face classes it is made from."""
    found: dict[str, list[str]] = {}
    for arch in (*DECODERS, *ENCODERS, *VISION):
        found.setdefault(arch.name, []).extend(arch.classes)
    return found


def _row_of(given: dict[str, Any], source: Path, vision: bool) -> tuple[Architecture, str]:
    """The row for what config.json says it is, and the class it names."""
    text = given.get("text_config")
    named = given.get("architectures")
    inner = text.get("architectures") if isinstance(text, dict) else None
    names = [str(entry[0]) for entry in (inner, named) if isinstance(entry, list) and entry]
    if vision:
        names = names[-1:]
    table = VISION if vision else (*DECODERS, *ENCODERS)
    for name in names:
        for arch in table:
            if name in arch.classes:
                return arch, name
    if not vision and isinstance(text, dict):
        for arch in DECODERS:
            if text.get("model_type") in arch.model_types:
                return arch, names[-1] if names else str(text["model_type"])
    if not vision and names and any(names[-1] in arch.classes for arch in VISION) and not isinstance(text, dict):
        return _row_of(given, source, True)  # a vision tower alone
    if not names:
        raise ModelFormatError(f"{source / 'config.json'} does not say of which class the model is (architectures).")
    what = "a vision tower of the class" if vision else "models of the class"
    known = ", ".join(sorted({name for arch in table for name in arch.classes}))
    raise UnsupportedModelError(f"There is no conversion for {what} {names[-1]!r}; known are {known}.")


def _refuse_quantised(root: Config, arch: Architecture) -> None:
    quantised = root.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    if method is not None and method not in ("mxfp4", "fp8"):
        raise UnsupportedModelError(
            f"The checkpoint is quantised by {str(method)[:40]!r}; convert the original one, and quantise the GGUF file."
        )


def _describe(job: Job) -> None:
    """What the model card says in its first lines: the licence."""
    card = job.folder / "README.md"
    try:
        with card.open(encoding="utf-8") as file:
            head = file.read(4096)
    except (OSError, UnicodeDecodeError):
        return
    if head.startswith("---") and (
        match := re.search(r"^license:[ \t]*([\w.+-]{1,60})[ \t]*$", head.partition("\n---")[0], re.M)
    ):
        job.meta.text("general.license", match[1])


def _n_elems(tensor: Tensor) -> int:
    n_elems = 1
    for n in tensor.shape:
        n_elems *= n
    return n_elems


def _size_label(n_parameters: int) -> str:
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if n_parameters > unit:
            scaled = n_parameters / unit
            return f"{scaled:.{1 if scaled < 9.95 else 0}f}{suffix}"
    return f"{n_parameters / 1e3:.0f}K"


def _path(out: Path | None, title: str, base: TensorType, vision: bool) -> Path:
    plain = re.sub(r"[^\w.-]+", "-", title).strip("-.") or "model"
    file = f"{'mmproj-' if vision else ''}{plain}.{base.name}.gguf"
    if out is None:
        return Path(file)
    return out / file if out.is_dir() else out

"""`cactus-py convert`: a GGUF file from a Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def command(
    source: Annotated[
        str, typer.Argument(help="A folder with config.json and safetensors, or OWNER/REPO[@REVISION].", show_default=False)
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Argument(help="The file to write, or a folder for it. Without it NAME.TYPE.gguf here.", show_default=False),
    ] = None,
    type: Annotated[
        str, typer.Option("--type", help="How matrices are stored: auto (as they are), f32, f16, bf16 or q8_0.")
    ] = "auto",
    pre: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--pre", help="Name of the way text is cut into words, where the tokenizer's is not known."),
    ] = None,
    vision: Annotated[
        bool, typer.Option("--mmproj", help="The vision tower and its projector instead of the language model.")
    ] = False,
    name: Annotated[Optional[str], typer.Option("--name", help="Name to write into the file.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Read safetensors, write GGUF, tensor by tensor; then check the file, as far as this machine can: the engine loads it,
    and small models are compared with transformers where that is installed."""
    from cactus_py.cli._common import as_dict, print_json, pull_progress
    from cactus_py.hub import conversion
    from cactus_py.hub.conversion.checking import check
    from cactus_py.hub.files import size_text

    with pull_progress(source) as progress:
        folder, title = conversion.locate(source, progress)
        result = conversion.convert(
            folder,
            out,
            type=type,
            pre=pre,
            vision=vision,
            name=name or title,
            progress=lambda tensor, done, total: progress("convert", done, total),
        )
    checks = check(result, folder)
    if as_json:
        print_json({**as_dict(result), "path": str(result.path), "checks": checks})
        return
    what = f"{result.architecture}, {result.type}, {result.n_tensors} tensors, {size_text(result.size_bytes)}"
    print(f"{result.path} ({what})")
    for sentence in checks:
        print(f"  {sentence}")

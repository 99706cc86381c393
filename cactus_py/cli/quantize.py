"""`cactus-py quantize`: a smaller model from a GGUF file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cactus_py.hub.files import size_text

if TYPE_CHECKING:
    from cactus_py.engine.quantize import QuantizeProgress, QuantizeResult

    Report = Callable[[QuantizeProgress], None]


def command(
    source: Annotated[Path, typer.Argument(help="A GGUF file, of a split model its first part.", show_default=False)],
    target: Annotated[Path | None, typer.Argument(help="The file to write.", show_default=False)] = None,
    recipe: Annotated[
        str, typer.Option("--type", "-t", help="What to make: q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_xs, q3_k_m, q2_k, f16, …")
    ] = "q4_k_m",
    imatrix: Annotated[Path | None, typer.Option("--imatrix", help="An importance matrix of llama.cpp (GGUF or .dat).")] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option("--tensor-type", metavar="PATTERN=TYPE", help="Another type for tensors by name (a regular expression)."),
    ] = None,
    output_type: Annotated[str | None, typer.Option("--output-type", help="Another type for the output matrix.")] = None,
    embedding_type: Annotated[str | None, typer.Option("--embedding-type", help="Another type for the embedding.")] = None,
    pure: Annotated[bool, typer.Option("--pure", help="One type for all matrices.")] = False,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Also from a file that is quantised already, which costs quality.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=256, help="Threads; the engine's choice if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the target if it exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would be made.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Make a smaller model: the same GGUF file with weights of another type. A run that fails or is stopped leaves nothing."""
    from cactus_py.cli._common import as_dict, print_json, print_table
    from cactus_py.engine.quantize import quantize
    from cactus_py.errors import InvalidRequestError

    if (target is None) != dry_run:
        raise typer.BadParameter("a target is needed, unless with --dry-run, which takes none")
    types = [_pair(text) for text in tensor_type or []]
    kinds: dict[str, dict[str, int]] = {}
    try:
        with _progress(str(target or source)) as draw:

            def report(event: QuantizeProgress) -> None:
                if event.done:
                    kind = kinds.setdefault(event.to_type, {"tensors": 0, "elements": 0, "bytes": 0})
                    kind["tensors"] += 1
                    kind["elements"] += event.elements
                    kind["bytes"] += event.to_bytes
                draw(event)

            result = quantize(
                source,
                target,
                recipe,
                threads=threads,
                imatrix=imatrix,
                tensor_types=types,
                output_type=output_type,
                embedding_type=embedding_type,
                pure=pure,
                allow_requantize=allow_requantize,
                overwrite=force,
                on_progress=report,
            )
    except InvalidRequestError as error:
        if "must be allowed explicitly" in str(error):
            raise InvalidRequestError(f"{error} (--allow-requantize)") from None
        raise
    ordered = dict(sorted(kinds.items(), key=lambda item: -item[1]["bytes"]))
    if as_json:
        facts: dict[str, Any] = {"source": str(source), "target": str(target) if target else None, "recipe": recipe.lower()}
        facts |= as_dict(result) | {"from_bits": round(result.from_bits, 3), "to_bits": round(result.to_bits, 3)}
        print_json(facts | {"seconds": round(result.seconds, 3), "types": ordered})
        return
    rows = [[name, f"{kind['tensors']:,}", f"{kind['elements']:,}", size_text(kind["bytes"])] for name, kind in ordered.items()]
    print_table(["type", "tensors", "weights", "size"], rows, right=(1, 2, 3))
    print(_summary(result, target))


def _pair(text: str) -> tuple[str, str]:
    """ "PATTERN=TYPE" taken apart."""
    pattern, equals, kind = text.rpartition("=")
    if not pattern or not equals or not kind:
        raise typer.BadParameter(f"{text!r} is not of the form PATTERN=TYPE", param_hint="--tensor-type")
    return pattern, kind


def _summary(result: QuantizeResult, target: Path | None) -> str:
    sizes = f"{size_text(result.from_file_bytes)} ({result.from_bits:.2f} bits per weight)"
    sizes += f" -> {size_text(result.to_file_bytes)} ({result.to_bits:.2f} bits per weight)"
    if result.fell_back:
        sizes += f"; {result.fell_back} tensors have rows of a length that made them take another type"
    return f"{sizes}, nothing written" if target is None else f"{sizes} in {result.seconds:.1f} s: {target}"


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Report]:
    """A listener that draws a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda event: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=None)

        def draw(event: QuantizeProgress) -> None:
            description = f"{event.tensor} {event.from_type} -> {event.to_type}"
            bars.update(task, description=description, completed=event.bytes_done, total=event.bytes_total)

        yield draw

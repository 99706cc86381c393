"""All reports of docs/bench in one go: one model in full, then the same model in many formats.

    python scripts/bench/suite.py MODEL.gguf --peer-python PEER_PYTHON --folder FOLDER [--rounds 7]
    python scripts/bench/suite.py MODEL.gguf OTHER.gguf … --peer none

Writes MODEL.{json,md,png} (bench.py --profile full), then times every file by the quick profile and puts them into one table,
formats.{json,md,png}. FOLDER: where the model's files of other formats are, and where missing ones are made (make_models.py, by
PEER_PYTHON). Protocol: bench.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench
from formats import FORMATS, format_of, path_of
from plot import Panel

Documents = dict[str, bench.Document]
"""name of a row -> the report of that file"""


def made(model: Path, folder: Path, peer_python: str | None) -> list[Path]:
    """The model's files of other formats in the folder; missing ones are made first. Raises RuntimeError when that fails."""
    missing = [name for name in FORMATS if not path_of(model, folder, name).exists()]
    if missing:
        if not peer_python:
            raise RuntimeError(f"{folder} has no {', '.join(missing)}, and --peer-python is missing, which could make them")
        command = [peer_python, str(bench.HERE / "make_models.py"), str(model), str(folder), "--formats", *missing]
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"make_models.py ended with {done.returncode}")
    return [path_of(model, folder, name) for name in FORMATS]


def labels(files: list[Path]) -> list[str]:
    """What the rows are called: formats, or names of files where two have the same format."""
    formats = [format_of(file) for file in files]
    return formats if len(set(formats)) == len(formats) else [file.stem for file in files]


def by_measurement(documents: Documents) -> dict[str, dict[str, dict[str, Any]]]:
    """measurement -> name -> row of that file's summary"""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, document in documents.items():
        for row in document["summary"]:
            found.setdefault(row["measurement"], {})[name] = row
    return found


def markdown(document: bench.Document, plot: str | None) -> str:
    """One table: for each measurement a row per format."""
    documents: Documents = document["formats"]
    first = next(iter(documents.values()))
    sides = list(first["rounds"])
    header = ["", "format", *sides, *(["ratio"] if len(sides) > 1 else []), f"share of the limit, {bench.OURS}"]
    lines = [f"# Formats, {first['settings']['threads']} threads", "", *bench.where(first)]
    abouts = {name: d["rounds"] for name, d in documents.items()}
    settings = {name: rounds[sides[-1]][0]["about"].get("options", {}) for name, rounds in abouts.items()}
    lines += [f"{name}: {sides[-1]} with {what}." for name, what in settings.items() if what != settings[next(iter(settings))]]
    mostly = {name: rounds[bench.OURS][0]["about"]["mostly"] for name, rounds in abouts.items()}
    lines += ["", f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for measurement, rows in by_measurement(documents).items():
        for name, row in rows.items():
            cells = [bench.label(measurement), name if mostly[name] == name else f"{name} (mostly {mostly[name]})"]
            cells += [bench.cell_text(row.get(side)) for side in sides]
            if len(sides) > 1:
                cells.append("" if row["ratio"] is None else f"{row['ratio']:.2f}")
            lines.append(f"| {' | '.join([*cells, bench.shares_text(row.get(bench.OURS, {}))])} |")
    if plot:
        lines += ["", f"![the same as bars]({plot})"]
    return "\n".join(lines) + "\n"


def panels(documents: Documents) -> list[Panel]:
    """A panel per measurement, a group of bars per format."""
    sides = list(next(iter(documents.values()))["rounds"])
    return [
        Panel(
            bench.label(measurement),
            list(rows),
            {s: [row[s]["median"] if s in row else 0.0 for row in rows.values()] for s in sides},
        )
        for measurement, rows in by_measurement(documents).items()
    ]


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="+", help="the first is reported in full")
    parser.add_argument("--folder", type=Path, help="where files of other formats of the first model are, or are made")
    parser.add_argument("--formats-only", action="store_true", help="no full report of the first model")
    bench.add_options(parser)
    args = parser.parse_args()
    try:
        files = [*args.model, *(made(args.model[0], args.folder, args.peer_python) if args.folder else [])]
        if not args.formats_only:
            document = bench.run(args, files[0], "full")
            bench.write(args.out, files[0].stem.lower(), document, bench.markdown, bench.panels(document))
        documents = {name: bench.run(args, file, "quick") for name, file in zip(labels(files), files, strict=True)}
    except (RuntimeError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    bench.write(args.out, "formats", {"made_by": "scripts/bench/suite.py", "formats": documents}, markdown, panels(documents))


if __name__ == "__main__":
    main()

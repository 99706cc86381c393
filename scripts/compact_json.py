"""JSON files for the tests' data: indented, but a list of numbers stays on one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(path: Path, document: Any) -> None:
    """Writes `document`, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(compact_lists(json.dumps(document, ensure_ascii=False, indent=1)) + "\n", encoding="utf-8")


def compact_lists(text: str) -> str:
    """Lists of numbers on one line: json's indent puts each number on a line of its own."""
    lines: list[str] = []
    run: list[str] | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if run is None and stripped.endswith("["):
            lines.append(line)
            run = []
        elif run is not None and stripped.rstrip(",").lstrip("-").replace(".", "", 1).replace("e-", "", 1).isdigit():
            run.append(stripped.rstrip(","))
        elif run:
            lines[-1] += ", ".join(run) + stripped
            run = None
        else:
            lines.append(line)
            run = [] if stripped.endswith("[") else None
    return "\n".join(lines)

"""What several commands share: progress bars, tables, JSON, and the words for sizes."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer

from cactus_py.hub.files import size_text

_PHASES = {
    "locate": "Locating",
    "download": "Downloading",
    "unpack": "Unpacking",
    "verify": "Verifying",
    "convert": "Converting",
}

# What `run`, `chat` and `serve` can be told of the router; `router_settings` puts it together.
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="When the cloud answers: local_only, cloud_only, local_first, predictive or early_exit.",
        show_default="the settings'",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", min=0.0, max=1.0, help="Answers of less confidence are handed over.", show_default="by target"),
]
MaxCloudShareOption = Annotated[
    float | None, typer.Option("--max-cloud-share", min=0.0, max=1.0, help="Part of all requests that may be handed over.")
]
MaxCostPerDayOption = Annotated[
    float | None, typer.Option("--max-cost-per-day", min=0.0, help="US dollars that the cloud may cost from midnight, UTC.")
]
MinQualityOption = Annotated[
    float | None, typer.Option("--min-quality", min=0.0, max=1.0, help="Part of the local answers that should be right.")
]
CloudModelOption = Annotated[
    str | None, typer.Option("--cloud-model", help="The model to ask for in the cloud; naming one is what allows it.")
]
LocalOnlyOption = Annotated[bool, typer.Option("--local-only", help="Nothing leaves this device, whatever the settings say.")]
RouteOption = Annotated[
    str, typer.Option("--route", help="Where to answer: auto (the policy decides), local or cloud.", show_default="auto")
]


def router_settings(
    policy: str | None,
    threshold: float | None,
    max_cloud_share: float | None,
    max_cost_per_day: float | None,
    min_quality: float | None,
    cloud_model: str | None,
    local_only: bool,
) -> dict[str, Any]:
    """The options above as arguments of `load_settings`; what is not given says nothing."""
    router = {
        "policy": policy,
        "threshold": threshold,
        "max_cloud_share": max_cloud_share,
        "max_cost_per_day": max_cost_per_day,
        "min_quality": min_quality,
        "privacy": "local_only" if local_only else None,
    }
    given = {name: value for name, value in router.items() if value is not None}
    return {"router": given or None, "cloud_model": cloud_model}


WAITING = "Another process is pulling this model; waiting for it."


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Columns under their heads on stdout; `right` are the columns set to the right. Plain text, whatever the width."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    for row in [heads, *rows]:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """`name  value` lines on stdout, values aligned."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name.ljust(width)}  {value}".rstrip())


@contextlib.contextmanager
def pull_progress(name: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress callback for `cactus_py.hub` that draws on stderr: bars on a terminal, else a line per phase."""
    if not sys.stderr.isatty():
        yield _lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(f"Looking for {name}", total=None)
        current = ""

        def report(phase: str, done_bytes: int, total_bytes: int | None) -> None:
            nonlocal current
            if phase != current:
                current = phase
                description = f"{_PHASES[phase]} {name}" if phase in _PHASES else WAITING
                bars.reset(task, description=description, total=total_bytes)
            bars.update(task, completed=done_bytes, total=total_bytes)

        yield report


def _lines(name: str) -> Callable[[str, int, int | None], None]:
    """The callback for logs and pipes: one line when a phase begins, and one a minute while it lasts."""
    current, spoken = "", 0.0

    def report(phase: str, done_bytes: int, total_bytes: int | None) -> None:
        nonlocal current, spoken
        now = time.monotonic()
        if phase == current and now - spoken < 60:
            return
        going_on = phase == current
        current, spoken = phase, now
        if phase == "wait":
            print(WAITING, file=sys.stderr)
        elif phase in _PHASES:
            amount = f" ({size_text(total_bytes)})" if total_bytes else ""
            state = f" … {size_text(done_bytes)}" if going_on else " …"
            print(f"{_PHASES[phase]} {name}{amount}{state}", file=sys.stderr, flush=True)

    return report


def printable(text: str) -> str:
    """The text with control characters written out: what a file or a server says must not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_dict(value: Any) -> Any:
    """A dataclass, or a tree of them, as what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_dict(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_dict(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

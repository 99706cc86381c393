"""Bars of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COLOURS = ("#1b7837", "#9970ab", "#bdbdbd")  # apart for colour-blind eyes, too
COLUMNS = 3


@dataclass
class Panel:
    """One pair of axes: a group of bars per label, in it one bar per side; 0 where a side has no value."""

    title: str
    labels: list[str]
    values: dict[str, list[float]]


def draw(path: Path, panels: list[Panel]) -> None:
    """Draws the panels into a PNG, three in a row. With two sides, the ratio of first to second stands over the bars. Raises
    ImportError without matplotlib."""
    from matplotlib.figure import Figure

    n_rows = (len(panels) + COLUMNS - 1) // COLUMNS
    figure = Figure(figsize=(10, 2.6 * n_rows), layout="constrained")
    for at, panel in enumerate(panels, 1):
        axes = figure.add_subplot(n_rows, COLUMNS, at)
        width = 0.8 / len(panel.values)
        for i, (side, values) in enumerate(panel.values.items()):
            where = [x + (i - (len(panel.values) - 1) / 2) * width for x in range(len(values))]
            axes.bar(where, values, width, label=side, color=COLOURS[i % len(COLOURS)])
        if len(panel.values) == 2:
            for x, (first, second) in enumerate(zip(*panel.values.values(), strict=True)):
                if first and second:
                    axes.annotate(
                        f"×{first / second:.2g}", (x, max(first, second)), ha="center", va="bottom", fontsize=7, color="#444444"
                    )
        axes.set_xticks(range(len(panel.labels)), panel.labels, fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_title(panel.title, fontsize=9, loc="left")
        axes.margins(y=0.12)
        middle, half = (len(panel.labels) - 1) / 2, max(len(panel.labels), 3) / 2
        axes.set_xlim(middle - half, middle + half)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=len(names), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})

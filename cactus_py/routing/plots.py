"""Pictures of an evaluation, as small SVG files that are legible on white and on black: the ink is grey, the ground is open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ConfigError, MissingExtraError
from .evaluate import BASELINES, CONFIDENCE, ORACLE, RANDOM, STATES, Evaluation, Sample, line_of, roc
from .tables import label

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EXTRA", "draw", "require"]

EXTRA = "router"
_INK = "#7d8590"  # about 4:1 against white and against near-black
_COLOURS = {
    CONFIDENCE: "#e8590c",
    STATES: "#c2255c",
    "mean_logprob": "#1c7ed6",
    "entropy": "#2b9a66",
    "margin": "#9775d8",
    RANDOM: _INK,
    ORACLE: _INK,
}
_DASHES = {RANDOM: (1, 2), ORACLE: (6, 2)}
Corner = Literal["upper left", "lower right"]
_MAX_POINTS = 160  # of a line


def require() -> None:
    """Raises MissingExtraError where nothing can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("drawing plots", EXTRA) from error


def draw(folder: Path, sample: Sample, found: Evaluation, prefix: str = "") -> list[Path]:
    """Writes PREFIXreliability.svg, PREFIXshare.svg and PREFIXroc.svg into a folder. Raises MissingExtraError without
    matplotlib, ConfigError where the files cannot be written."""
    require()
    shown = [name for name in (CONFIDENCE, STATES, *BASELINES) if name in sample.signals]
    pictures: dict[str, Callable[[Any], None]] = {
        "share": lambda axes: _share(axes, sample, [*shown, RANDOM, ORACLE]),
        "reliability": lambda axes: _reliability(axes, found),
        "roc": lambda axes: _roc(axes, sample, shown),
    }
    paths = []
    for name, paint in pictures.items():
        paths.append(folder / f"{prefix}{name}.svg")
        _save(paths[-1], paint, "upper left" if name == "reliability" else "lower right")
    return paths


def _save(path: Path, paint: Callable[[Any], None], corner: Corner) -> None:
    """corner: where the legend is."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": path.name,
        "path.simplify": False,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.tick_params(colors=_INK, labelsize=8)
        axes.grid(color=_INK, alpha=0.2, linewidth=0.6)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_INK)
        paint(axes)
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set_color(_INK)
            text.set_fontsize(9)
        axes.legend(fontsize=8, frameon=False, labelcolor=_INK, loc=corner)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


def _share(axes: Any, sample: Sample, names: list[str]) -> None:
    for name in names:
        line = line_of(sample, name)
        x, y = _thinned(line.shares, line.accuracy)
        axes.plot(100 * x, 100 * y, **_style(name))
    axes.set_xlim(0, 100)
    axes.set_xlabel("sent to the cloud, %")
    axes.set_ylabel("right, %")


def _roc(axes: Any, sample: Sample, names: list[str]) -> None:
    for name in names:
        wrong, right = roc(sample.correct, sample.signals[name].rank)
        x, y = _thinned(wrong, right)
        axes.plot(100 * x, 100 * y, **_style(name))
    axes.plot([0, 100], [0, 100], **_style(RANDOM))
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("wrong answers kept, %")
    axes.set_ylabel("right answers kept, %")


def _reliability(axes: Any, found: Evaluation) -> None:
    """Share right against confidence, with its interval; the dots grow with the answers in a bin."""
    axes.plot([0, 100], [0, 100], **{**_style(RANDOM), "label": "as it should be"})
    for name in (CONFIDENCE, STATES):
        if name not in found.routers:
            continue
        bins = found.routers[name].bins
        x, y = 100 * np.array([b.confidence for b in bins]), 100 * np.array([b.accuracy for b in bins])
        low, high = 100 * np.array([b.low for b in bins]), 100 * np.array([b.high for b in bins])
        errors = np.maximum([y - low, high - y], 0)
        axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=_COLOURS[name], elinewidth=1, alpha=0.7)
        sizes = [12 + 160 * b.items / found.items for b in bins]
        axes.scatter(x, y, s=sizes, color=_COLOURS[name], label=f"{label(name)}, 95 %", zorder=3)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("right, %")


def _style(name: str) -> dict[str, Any]:
    width = 2.0 if name == CONFIDENCE else 1.3
    style: dict[str, Any] = {"color": _COLOURS[name], "linewidth": width, "label": label(name)}
    if name in _DASHES:
        style["dashes"] = _DASHES[name]
    return style


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Few enough points, the ends among them."""
    if len(x) <= _MAX_POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).round().astype(int))
    return x[kept], y[kept]

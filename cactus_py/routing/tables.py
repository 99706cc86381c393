"""An evaluation as tables, for a terminal or a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .evaluate import BASELINES, BEFORE, CONFIDENCE, ORACLE, PARTS, RANDOM, SHARES, STATES, Evaluation, Interval

__all__ = ["Table", "markdown", "summary", "tables", "write_page"]

_LABELS = {
    CONFIDENCE: "confidence",
    STATES: "confidence, with hidden states",
    BEFORE: "confidence before answering",
    "mean_logprob": "mean log-probability",
    "entropy": "mean entropy",
    "margin": "mean margin",
    RANDOM: "random",
    ORACLE: "oracle",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows and columns; the first column holds names, the others figures."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def label(name: str) -> str:
    """What people call a router."""
    return _LABELS.get(name, name)


def summary(found: Evaluation) -> list[str]:
    """What was evaluated, in sentences."""
    groups = f"{len(found.groups)} group{'s' * (len(found.groups) != 1)}"
    lines = [
        f"{found.model}: {found.items:,} answers in {groups}, {_percent(found.local)} of them right; "
        f"the cloud is right in {_percent(found.cloud)}."
    ]
    if found.assumed == found.items:
        lines.append(
            f"No answers of a cloud were recorded: it is assumed to be right with a probability of {found.assume_cloud:g}."
        )
    elif found.assumed:
        lines.append(
            f"For {found.assumed:,} of them no cloud's answer was recorded: it is assumed to be right there with a probability "
            f"of {found.assume_cloud:g}."
        )
    if found.note:
        lines.append(f"Calibration: {found.note.rstrip('.')}.")
    if found.groups_undefined:
        lines.append(f"In {found.groups_undefined} of the groups all answers are right, or all wrong: no AUROC there.")
    return lines


def tables(found: Evaluation) -> list[Table]:
    """All tables of an evaluation."""
    made = [_ranks(found), _calibrated(found), _shares(found), _gains(found), _operating(found), _groups(found)]
    return [table for table in made if table.rows]


def markdown(found: Evaluation) -> str:
    """The sentences and tables as a piece of a page."""
    return "\n\n".join([" ".join(summary(found)), *(as_markdown(table) for table in tables(found))])


def as_markdown(table: Table) -> str:
    """One table."""
    lines = [f"**{table.title}**{' ' + table.note if table.note else ''}", ""]
    lines.append(f"| {' | '.join(map(_escaped, table.heads))} |")
    lines.append(f"|---|{'--:|' * (len(table.heads) - 1)}")
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in table.rows]
    return "\n".join(lines)


def write_page(path: Path, found: Evaluation, pictures: str = "") -> Path:
    """Writes the sentences, the tables and the plots (PICTURESshare.svg and so on) as a page. Raises ConfigError."""
    page = [f"# {_escaped(found.model)}", markdown(found), plots(pictures)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def plots(prefix: str) -> str:
    """The plots of `plots.draw` in Markdown."""
    titles = {"share": "right answers against the share sent", "reliability": "share right against confidence", "roc": "ROC"}
    return "\n".join(f"![{title}]({prefix}{name}.svg)" for name, title in titles.items())


def _ranks(found: Evaluation) -> Table:
    rows = [
        (
            label(name),
            _figure(figures.mean_auroc),
            _range(figures.mean_auroc_interval),
            _figure(figures.auroc),
            _range(figures.auroc_interval),
            _figure(figures.mean_apgr),
            _figure(figures.apgr),
            _range(figures.apgr_interval),
        )
        for name, figures in found.routers.items()
    ]
    heads = ("router", "AUROC, mean of groups", "95 %", "AUROC, pooled", "95 %", "APGR, mean of groups", "APGR, pooled", "95 %")
    return Table("Ranking.", heads, tuple(rows), "Intervals of the means are over groups, the others over answers.")


def _calibrated(found: Evaluation) -> Table:
    rows = [
        (label(name), _figure(f.ece), _figure(f.ece_mass), _figure(f.ece_floor), _figure(f.brier))
        for name, f in found.routers.items()
        if f.ece is not None
    ]
    heads = ("router", "ECE", "ECE, bins of equal mass", "ECE of a perfect forecast", "Brier")
    return Table("Calibration.", heads, tuple(rows), "Baselines by isotonic regression.")


def _shares(found: Evaluation) -> Table:
    rows = [
        (
            label(name),
            *(_percent(f.accuracy_at[f"{share:g}"]) for share in SHARES),
            *(_percent(f.calls_for[f"{part:g}"]) for part in PARTS),
        )
        for name, f in found.routers.items()
    ]
    heads = (
        "router",
        *(f"right, {100 * share:g} % sent" for share in SHARES),
        *(f"calls for {100 * part:g} % of the gap" for part in PARTS),
    )
    return Table("Sending the least sure answers to the cloud.", heads, tuple(rows))


def _gains(found: Evaluation) -> Table:
    rows = [
        (label(name), f"{gain.mean:+.3f}", _range(gain.interval, "+.3f"), f"{gain.better_in} of {gain.of}")
        for name, gain in found.gains.items()
    ]
    heads = ("against", "AUROC, mean of groups", "95 % over groups", "groups in which it is better")
    return Table("What the confidence adds.", heads, tuple(rows))


def _operating(found: Evaluation) -> Table:
    rows = []
    for name, one in found.operating.items():
        kind, _, value = name.partition(" ")
        wanted = f"{'send' if kind == 'share' else 'keep what is right in'} {100 * float(value):g} %"
        rows.append((wanted, *map(_percent, (one.sent, one.kept, one.accuracy, one.recovered))))
    heads = ("asked for", "sent", "right of what was kept", "right in all", "of the gap")
    return Table("The calibration's own thresholds.", heads, tuple(rows))


def _groups(found: Evaluation) -> Table:
    shown = [name for name in (CONFIDENCE, STATES, BEFORE, *BASELINES) if name in found.routers]
    rows = [
        (
            name,
            str(one.items),
            _percent(one.local),
            _percent(one.cloud),
            _percent(one.confidence),
            *(_figure(one.auroc[router]) for router in shown),
            _figure(one.apgr),
        )
        for name, one in sorted(found.groups.items())
    ]
    heads = ("group", "answers", "right", "cloud", "confidence", *(f"AUROC, {label(name)}" for name in shown), "APGR")
    return Table("By group.", heads, tuple(rows))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _range(interval: Interval | None, form: str = ".3f") -> str:
    return "–" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def _escaped(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())

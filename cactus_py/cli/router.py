"""`cactus-py router`: calibrate a model's confidence, measure it, show what it is, and explain it for one prompt."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cactus_py.cli._common import printable

if TYPE_CHECKING:
    from cactus_py.backends.base import Trace
    from cactus_py.routing.confidence import Calibration, Stage
    from cactus_py.routing.evaluate import Evaluation

DataArgument = Annotated[
    list[Path],
    typer.Argument(help="Questions with their answers (JSON lines, .gz or not), or records of earlier answers (.npz)."),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A name, an alias, or the path of a .gguf file.", show_default="the settings'"),
]
RecordsOption = Annotated[
    Path | None,
    typer.Option("--records", help="Keep the model's answers in this file (.npz), and ask only what is not in it."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Only so many questions of each group.")]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", "-c", help="A calibration file.", show_default="the model's own")
]
StatesOption = Annotated[bool, typer.Option("--states", help="Keep hidden states in the records, too.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def calibrate(
    data: DataArgument,
    model: ModelOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write.", show_default="the model's, in the catalog folder"),
    ] = None,
    records: RecordsOption = None,
    states: StatesOption = False,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="A group to test on, and not to learn from; may be repeated.")
    ] = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn how sure to be of a model's answers: ask it questions whose answers are known, and see when it is right.

    The groups that are held out are not learned from; the table says how well the confidence does on them. The result is what
    the router uses for this model from then on."""
    from cactus_py import hub
    from cactus_py.cli._common import as_dict, print_json
    from cactus_py.cli._router import answers, model_name, progress, sha256_of, trainer, words
    from cactus_py.config import load_settings
    from cactus_py.errors import InvalidRequestError
    from cactus_py.routing.confidence import SUFFIX
    from cactus_py.routing.evaluate import evaluate, sample_of

    train = trainer()
    settings = load_settings({"model": model})
    name = model_name(settings)
    answered = answers(data, settings, kept=records, states=states, limit=limit)
    held_out = words(hold_out)
    unknown = set(held_out) - {record.item.group for record in answered}
    if unknown:
        raise InvalidRequestError(f'there is no group "{sorted(unknown)[0]}" in the data to hold out', "hold_out")
    path = output or hub.Store(settings.home).home / "catalog" / f"{name}{SUFFIX}"
    made, report = train(answered, model=name, held_out_groups=held_out, sha256=sha256_of(settings), progress=_say)
    made.save(path)
    tested = [record for record in answered if record.item.group in held_out]
    found = None
    if tested:
        with progress("rating") as rated:
            found = evaluate(sample_of(tested, made, note=f"{made.note} Tested on what was held out", progress=rated))
    if as_json:
        print_json({"path": str(path), "report": as_dict(report), "held_out": as_dict(found)})
        return
    if found is not None:
        _print(found)
        print()
    print(f"The calibration of {printable(name)} is in {printable(str(path))}")


def evaluate(
    data: DataArgument,
    model: ModelOption = None,
    calibration: CalibrationOption = None,
    records: RecordsOption = None,
    groups: Annotated[list[str] | None, typer.Option("--groups", help="Only these groups; may be repeated.")] = None,
    cross_validate: Annotated[
        int | None,
        typer.Option("--cross-validate", min=2, help="Make a calibration for each of so many parts, from the other groups."),
    ] = None,
    assume_cloud: Annotated[
        float, typer.Option("--assume-cloud", min=0, max=1, help="How probably the cloud is right where that is not recorded.")
    ] = 1.0,
    states: StatesOption = False,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", help="A folder for plots (SVG) and the tables (evaluation.md).", show_default=False),
    ] = None,
    limit: LimitOption = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Of the bootstrap; 0: no intervals.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Measure a router: whether its confidence tells right answers from wrong ones and means what it says, and what is gained
    by sending the doubtful ones to a cloud. Compared with chance, an oracle and the usual baselines.

    Answers that the calibration was made from say nothing of how good it is: give others, or --cross-validate."""
    from cactus_py.cli._common import as_dict, print_json
    from cactus_py.cli._router import answers, calibration_of, model_name, progress, trainer, words
    from cactus_py.config import load_settings
    from cactus_py.routing.evaluate import cross_validated, folds, sample_of
    from cactus_py.routing.evaluate import evaluate as measure

    if plots is not None:
        from cactus_py.routing.plots import require

        require()
    if cross_validate is not None and calibration is not None:
        raise typer.BadParameter("--cross-validate makes its own calibrations; leave --calibration out")
    settings = load_settings({"model": model})
    name = model_name(settings)
    used: Calibration | list[Calibration]
    if cross_validate is None:
        used = one = calibration_of(settings, calibration)
        note = one.note
    else:
        train = trainer()
    answered = answers(data, settings, kept=records, states=states, groups=words(groups), limit=limit)
    if cross_validate is not None:
        n_folds = len(folds(answered, cross_validate))
        with progress("calibrating") as done:
            used = cross_validated(answered, cross_validate, lambda part: train(part, model=name)[0], done)
        note = f"each of {n_folds} parts was rated by a calibration made from the groups of the others"
    with progress("rating") as done:
        sample = sample_of(answered, used, assume_cloud=assume_cloud, model=name, note=note, progress=done)
    found = measure(sample, resamples=resamples)
    written: list[Path] = []
    if plots is not None:
        from cactus_py.routing.plots import draw
        from cactus_py.routing.tables import write_page

        written = [*draw(plots, sample, found), write_page(plots / "evaluation.md", found)]
    if as_json:
        print_json({**as_dict(found), "files": [str(path) for path in written]})
        return
    _print(found)
    if written:
        print(f"\nwritten: {', '.join(printable(str(path)) for path in written)}")


def show(
    model: Annotated[str | None, typer.Argument(help="A name or an alias.", show_default="the settings' model")] = None,
    calibration: CalibrationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which calibration a model has, what it was measured on, and the thresholds for shares and qualities."""
    from cactus_py.cli._common import print_json, print_pairs, print_table
    from cactus_py.cli._router import calibration_of, model_name
    from cactus_py.config import load_settings
    from cactus_py.routing.evaluate import QUALITIES, SHARES

    settings = load_settings({"model": model})
    found = calibration_of(settings, calibration)
    stages: tuple[Stage, ...] = ("before", "during", "after")
    shares = {f"{share:g}": {at: found.threshold_for_share(share, at) for at in stages} for share in SHARES}
    qualities = {f"{quality:g}": {at: found.threshold_for_quality(quality, at) for at in stages} for quality in QUALITIES}
    facts = {
        "model": model_name(settings),
        "calibration": "default" if found.is_default else "own",
        "measured_on": found.note,
        "hidden_states": "used" if found.uses_states else "possible" if found.has_states_head else "no",
    }
    if as_json:
        print_json({**facts, "thresholds_for_share": shares, "thresholds_for_quality": qualities})
        return
    print_pairs([(key.replace("_", " "), printable(value)) for key, value in facts.items()])
    rows = [(f"send {100 * float(share):g} %", *_figures(at)) for share, at in shares.items()]
    rows += [(f"keep what is right in {100 * float(quality):g} %", *_figures(at)) for quality, at in qualities.items()]
    print()
    print_table(("least confidence to", *stages), rows, right=(1, 2, 3))


def explain(
    prompt: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    model: ModelOption = None,
    calibration: CalibrationOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Most tokens of the answer.")] = 256,
    states: StatesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt on this machine, and say how sure the router is of the answer, and why. Nothing leaves the device."""
    from cactus_py.cli._common import print_json, print_pairs
    from cactus_py.cli._router import answer_one, calibration_of
    from cactus_py.config import load_settings
    from cactus_py.errors import InvalidRequestError
    from cactus_py.routing.signals import PROMPT_FEATURES, PromptSignals, prompt_features

    if not prompt.strip():
        raise InvalidRequestError("the prompt is empty", "prompt")
    settings = load_settings({"model": model})
    used = calibration_of(settings, calibration)
    record = answer_one(prompt, settings, max_tokens=max_tokens, states=states or used.uses_states)
    asked = PromptSignals.of(record.item.messages)
    noticed = dict(zip(PROMPT_FEATURES, prompt_features(asked).tolist(), strict=True))
    confidence = {
        "before": used.before(asked),
        "after": used.after(asked, record.trace, record.text),
        **({} if record.states is None else {"with_states": used.after(asked, record.trace, record.text, record.states)}),
    }
    facts: dict[str, Any] = {
        "answer": record.text,
        "finish_reason": record.trace.finish_reason,
        "tokens": len(record.trace),
        "total_ms": round(record.total_ms, 1),
        "calibration": "default" if used.is_default else "own",
        "confidence": confidence,
        "baselines": _baselines(used, record.trace),
        "signals": _of_trace(record.trace),
        "prompt": {name: value for name, value in noticed.items() if value},
    }
    if as_json:
        print_json(facts)
        return
    shown: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            shown += [(f"{key} {name}".replace("_", " "), f"{number:.3f}") for name, number in value.items()]
        else:
            shown.append((key.replace("_", " "), printable(str(value))))
    print_pairs(shown)


commands = {"calibrate": calibrate, "eval": evaluate, "show": show, "explain": explain}


def _print(found: Evaluation) -> None:
    """The sentences and tables."""
    from cactus_py.cli._common import print_table
    from cactus_py.routing.tables import summary, tables

    print("\n".join(printable(line) for line in summary(found)))
    for table in tables(found):
        print(f"\n{table.title}{' ' + table.note if table.note else ''}")
        rows = [tuple(printable(cell) for cell in row) for row in table.rows]
        print_table(table.heads, rows, right=range(1, len(table.heads)))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _figures(at: Mapping[Any, float]) -> list[str]:
    return [f"{value:.3f}" for value in at.values()]


def _baselines(used: Calibration, trace: Trace) -> dict[str, float]:
    from cactus_py.routing.confidence import BASELINES

    return {name: used.baseline(name, trace) for name in BASELINES}


def _of_trace(trace: Trace) -> dict[str, float]:
    """The plain numbers of an answer: log-probabilities, entropies (nats), margins (logits)."""
    if not len(trace):
        return {}
    return {
        "mean_logprob": sum(trace.logprobs) / len(trace),
        "least_logprob": min(trace.logprobs),
        "mean_entropy": sum(trace.entropies) / len(trace),
        "most_entropy": max(trace.entropies),
        "mean_margin": sum(trace.margins) / len(trace),
        "least_margin": min(trace.margins),
    }

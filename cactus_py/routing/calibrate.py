"""Fits a `Calibration` to answers that were graded, and reports what it is worth on groups that it has not seen.

What is wanted is a number that also holds for questions of a kind that nobody thought of. So nothing is judged on the groups
it was fitted to: groups are left out in folds, and the curve that makes probabilities of log-odds is fitted to what the heads
said of groups that they had not seen. The share of right answers differs from group to group far more than any signal can
tell; a head that learns these shares knows the groups, and not what hesitation looks like. So each group has an intercept of
its own while the linear member is fitted, which is dropped afterwards, and the trees see right and wrong answers of a group
with equal weight. Where a sign is known beforehand (more entropy never makes an answer likelier right), it is enforced.

Needs scikit-learn (extra "router"); what it makes does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidRequestError, MissingExtraError
from . import signals
from .confidence import BASELINES, FORMAT, FORMAT_VERSION, LEAST, Calibration, baseline_value, quantiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .records import Record

    Matrix = NDArray[np.float64]

__all__ = ["GroupReport", "Report", "auroc", "calibrate", "expected_calibration_error"]

LEAST_ITEMS = 30  # answers below which nothing can be said
LEAST_EACH = 5  # right ones, and wrong ones
LEAST_OWN_ITEMS = 300  # for heads of its own; below, the default is recalibrated
LEAST_OWN_EACH = 40
LEAST_OWN_GROUPS = 4
LEAST_FOR_AUROC = 8  # right ones and wrong ones of a group that has an AUROC
PREFIXES = (1, 2, 4, 8, 16, 32)  # tokens of an answer that `during` learns from
ECE_BINS = 15  # of equal mass

_RIDGE = 33.0
_GROUP_RIDGE = 0.25
_TREES = 80
_LEAVES = 6


@dataclass(frozen=True)
class GroupReport:
    """One group that the heads had not seen. AUROCs are None with too few right or wrong answers."""

    group: str
    items: int
    right: float
    confidence: float  # mean
    auroc: float | None
    baselines: dict[str, float | None]


@dataclass(frozen=True)
class Report:
    """What a calibration is worth, measured on groups that it had not seen. `auroc` and `baseline_auroc` are means over the
    groups that have one; `pooled_*` are over all answers at once; ECE with 15 bins of equal mass."""

    model: str
    items: int
    right: float
    protocol: str
    groups: tuple[GroupReport, ...]
    auroc: float | None
    pooled_auroc: float | None
    ece: float
    baseline_auroc: dict[str, float | None]
    pooled_baseline_auroc: dict[str, float | None]
    baseline_ece: dict[str, float]
    head: str
    stages: dict[str, dict[str, float | None]]
    learning_curve: tuple[dict[str, float], ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def auroc(scores: Sequence[float] | Matrix, right: Sequence[bool] | Matrix) -> float | None:
    """The chance that a right answer scores higher than a wrong one, ties counting half; None if there are none of a kind."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    n_right, n_wrong = int(truth.sum()), int((~truth).sum())
    if not n_right or not n_wrong:
        return None
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[truth].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def expected_calibration_error(
    confidences: Sequence[float] | Matrix, right: Sequence[bool] | Matrix, bins: int = ECE_BINS
) -> float:
    """The mean distance between confidence and share of right answers, over bins that hold equally many answers."""
    values, truth = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if not len(values):
        raise ValueError("an empty list has no calibration error")
    parts = np.array_split(np.argsort(values, kind="stable"), bins)
    return float(sum(abs(values[part].mean() - truth[part].mean()) * len(part) for part in parts if len(part)) / len(values))


@dataclass(frozen=True, slots=True)
class _Data:
    """Answers as numbers: one row each, or one for each prefix of an answer."""

    rows: Matrix  # float64 [n, features]
    right: Matrix  # float64 [n], 0 or 1
    group: NDArray[np.int64]  # [n], a place in `names`
    names: tuple[str, ...]

    def part(self, chosen: NDArray[np.bool_]) -> _Data:
        return _Data(self.rows[chosen], self.right[chosen], self.group[chosen], self.names)


Member = dict[str, Any]


def _signs() -> NDArray[np.int64]:
    """[len(FEATURES)]: 1 where more of it never makes a right answer less likely, -1 the opposite, 0 where nobody knows."""
    up = ("sum", "mean", "min", "first", "margin", "min_margin")
    known = {f"{tokens}_{name}": 1 for tokens in ("all", "content", "new", "key") for name in up}
    known |= {f"{tokens}_{name}": -1 for tokens in ("all", "content", "new", "key") for name in ("entropy", "max_entropy")}
    known |= dict.fromkeys(("low_logprob", "low_margin", "second", "second_margin", "last", "ended"), 1)
    known |= dict.fromkeys(("low_entropy", "unsure", "very_unsure", "cut", "hedges", "repeats"), -1)
    known |= dict.fromkeys(("lacks_number", "too_many_words", "lacks_yes_no", "lacks_json"), -1)
    return np.array([known.get(name, 0) for name in signals.FEATURES])


def _sigmoid(z: Matrix) -> Matrix:
    return 0.5 * (1 + np.tanh(0.5 * z))


def _fit_linear(data: _Data, columns: NDArray[np.int64], signs: NDArray[np.int64], ridge: float) -> Member:
    """Logistic regression with an intercept for each group, which is dropped, and with the signs that are known. Groups weigh
    the same, whatever their size."""
    from scipy.optimize import minimize

    rows = data.rows[:, columns]
    low, high = np.quantile(rows, [0.01, 0.99], axis=0)
    rows = np.clip(rows, low, high)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale < 1e-6, 1.0, scale)
    rows = (rows - mean) / scale
    groups, place, counts = np.unique(data.group, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[place]
    weight *= len(weight) / weight.sum()
    n, k = len(columns), len(groups)

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        slopes, bias, own = theta[:n], theta[n], theta[n + 1 :]
        z = rows @ slopes + bias + own[place]
        residue = weight * (_sigmoid(z) - data.right)
        value = np.sum(weight * (np.logaddexp(0, z) - data.right * z)) + 0.5 * ridge * slopes @ slopes
        value += 0.5 * _GROUP_RIDGE * own @ own
        by_group = np.bincount(place, residue, k) + _GROUP_RIDGE * own
        return float(value), np.concatenate([rows.T @ residue + ridge * slopes, [residue.sum()], by_group])

    limits = [(0, None) if sign > 0 else (None, 0) if sign < 0 else (None, None) for sign in signs[columns]]
    free = [(None, None)] * (1 + k)
    theta = minimize(loss, np.zeros(n + 1 + k), jac=True, method="L-BFGS-B", bounds=limits + free, options={"maxiter": 500}).x
    used = np.abs(theta[:n]) > 1e-4
    if not used.any():
        used[0] = True
    return {
        "kind": "linear",
        "weight": 1.0,
        "features": columns[used].tolist(),
        "low": _rounded(low[used]),
        "high": _rounded(np.maximum(low, high)[used], up=True),
        "mean": _rounded(mean[used]),
        "scale": _rounded(scale[used]),
        "weights": _rounded(theta[:n][used]),
        "bias": float(theta[n]),
    }


def _rounded(values: Matrix, digits: int = 7, up: bool = False) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def _fit_trees(data: _Data, columns: NDArray[np.int64], signs: NDArray[np.int64], n_trees: int, seed: int) -> Member:
    """Gradient-boosted trees. In each group right and wrong answers weigh the same, so that there is nothing to be gained from
    telling groups apart; a group counts by what there is of the rarer kind."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=n_trees,
        learning_rate=0.06,
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=min(40, max(5, len(data.right) // 50)),
        l2_regularization=10.0,
        max_features=0.3,
        monotonic_cst=signs[columns],
        early_stopping=False,
        random_state=seed,
    )
    k = int(data.group.max()) + 1
    n = np.bincount(data.group, minlength=k)
    right = np.bincount(data.group, data.right, k)
    rarer = np.minimum(right, n - right)
    share = (right + 1) / (n + 2)
    weight = np.where(data.right > 0.5, 0.5 / share[data.group], 0.5 / (1 - share[data.group]))
    weight *= np.sqrt(rarer + 0.5)[data.group] / n[data.group]
    model.fit(data.rows[:, columns], data.right > 0.5, sample_weight=weight * len(weight) / weight.sum())
    return export_trees(model, columns)


def export_trees(model: Any, columns: NDArray[np.int64]) -> Member:
    """The trees of a HistGradientBoostingClassifier as a member of a head: children side by side, the left one first."""
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    value: list[float] = []
    roots: list[int] = []

    def place() -> int:
        feature.append(-1)
        threshold.append(0.0)
        left.append(0)
        value.append(0.0)
        return len(feature) - 1

    for (tree,) in model._predictors:
        nodes = tree.nodes
        roots.append(place())
        waiting = [(0, roots[-1])]
        while waiting:
            source, target = waiting.pop(0)
            node = nodes[source]
            if node["is_leaf"]:
                value[target] = float(f"{node['value']:.6g}")
                continue
            feature[target] = int(node["feature_idx"])
            threshold[target] = float(f"{node['num_threshold']:.9g}")
            left[target] = place()
            place()
            waiting += [(int(node["left"]), left[target]), (int(node["right"]), left[target] + 1)]
    return {
        "kind": "trees",
        "weight": 1.0,
        "features": columns.tolist(),
        "roots": roots,
        "feature": feature,
        "threshold": threshold,
        "left": left,
        "value": value,
        "bias": float(np.ravel(model._baseline_prediction)[0]),
    }


def _member_log_odds(member: Member, rows: Matrix) -> Matrix:
    """float64 [n]: what `confidence` computes of one row at a time."""
    values = rows[:, np.array(member["features"])]
    if member["kind"] == "linear":
        cut = np.minimum(np.maximum(values, np.array(member["low"])), np.array(member["high"]))
        linear: Matrix = (cut - np.array(member["mean"])) / np.array(member["scale"]) @ np.array(member["weights"]) + member[
            "bias"
        ]
        return linear
    feature, threshold = np.array(member["feature"]), np.array(member["threshold"])
    leaf = feature < 0
    left = np.where(leaf, np.arange(len(feature)), np.array(member["left"]))
    feature, threshold = np.where(leaf, 0, feature), np.where(leaf, np.inf, threshold)
    nodes = np.tile(np.array(member["roots"]), (len(rows), 1))
    at = np.arange(len(rows))[:, None]
    while not leaf[nodes].all():
        nodes = left[nodes] + (values[at, feature[nodes]] > threshold[nodes])
    summed: Matrix = np.array(member["value"])[nodes].sum(axis=1) + float(member["bias"])
    return summed


def _log_odds(members: Sequence[Member], rows: Matrix) -> Matrix:
    total = sum(member["weight"] for member in members)
    averaged: Matrix = np.sum([member["weight"] / total * _member_log_odds(member, rows) for member in members], axis=0)
    return averaged


def _fit_platt(z: Matrix, right: Matrix, prior: float = 4.0) -> tuple[float, float]:
    """Slope and intercept; the slope is held near 1 with the weight of `prior`, and never negative."""
    from scipy.optimize import minimize

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        q = theta[0] * z + theta[1]
        residue = _sigmoid(q) - right
        value = np.sum(np.logaddexp(0, q) - right * q) + 0.5 * prior * (theta[0] - 1) ** 2
        return float(value), np.array([residue @ z + prior * (theta[0] - 1), residue.sum()])

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.02, 5), (-20, 20)]).x
    return float(slope), float(intercept)


def _platt_curve(slope: float, intercept: float, z: Matrix) -> dict[str, list[float]]:
    low, high = float(z.min()), float(z.max())
    x = np.linspace(low - 0.5, high + 0.5, 65)
    return {"x": _rounded(x), "y": _rounded(np.clip(_sigmoid(slope * x + intercept), LEAST, 1 - LEAST), 5)}


def _fit_isotonic(values: Matrix, right: Matrix) -> dict[str, list[float]]:
    """A rising curve of few points."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(values, right)
    return {"x": [float(x) for x in model.X_thresholds_], "y": [float(f"{y:.5g}") for y in model.y_thresholds_]}


def _fit_members(data: _Data, stage: str, seed: int) -> list[Member]:
    signs = _signs()
    if stage == "before":
        return [_fit_linear(data, np.arange(len(signals.PROMPT_FEATURES)), signs, 4 * _RIDGE)]
    columns = np.arange(len(signals.FEATURES))
    linear = _fit_linear(data, columns, signs, _RIDGE)
    return [linear, _fit_trees(data, columns, signs, _TREES, seed)]


@dataclass(frozen=True, slots=True)
class _Unseen:
    """What heads said of answers of groups that they had not seen."""

    z: Matrix  # log-odds
    confidence: Matrix  # by curves fitted to the other folds
    fold: NDArray[np.int64]


def _folds(data: _Data, seed: int, most: int = 10) -> list[NDArray[np.bool_]]:
    """Which rows are left out in each fold: all rows of some groups."""
    groups = np.unique(data.group)
    order = np.random.default_rng(seed).permutation(len(groups))
    return [np.isin(data.group, groups[part]) for part in np.array_split(order, min(most, len(groups)))]


def _cross_fit(data: _Data, stage: str, seed: int, folds: Sequence[NDArray[np.bool_]]) -> _Unseen:
    z, fold = np.zeros(len(data.right)), np.zeros(len(data.right), dtype=np.int64)
    for index, left_out in enumerate(folds):
        members = _fit_members(data.part(~left_out), stage, seed)
        z[left_out], fold[left_out] = _log_odds(members, data.rows[left_out]), index
    confidence = np.zeros(len(z))
    for left_out in folds:
        slope, intercept = _fit_platt(z[~left_out], data.right[~left_out])
        confidence[left_out] = np.clip(_sigmoid(slope * z[left_out] + intercept), LEAST, 1 - LEAST)
    return _Unseen(z, confidence, fold)


def _fit_head(data: _Data, stage: str, seed: int, unseen: _Unseen) -> dict[str, Any]:
    members = _fit_members(data, stage, seed)
    slope, intercept = _fit_platt(unseen.z, data.right)
    curve = _platt_curve(slope, intercept, np.concatenate([unseen.z, _log_odds(members, data.rows)]))
    return {"members": members, "curve": curve, **quantiles(unseen.confidence, data.right)}


def _table(records: Sequence[Record], names: tuple[str, ...], prefixes: bool = False) -> _Data:
    """prefixes: a row for each of PREFIXES that is shorter than the answer, instead of one for the answer."""
    rows: list[Matrix] = []
    right: list[float] = []
    group: list[int] = []
    place = {name: index for index, name in enumerate(names)}
    for record in records:
        prompt = signals.PromptSignals.of(record.item.messages)
        lengths = [n for n in PREFIXES if n < len(record.trace)] if prefixes else [None]
        for n in lengths:
            trace = record.trace if n is None else _cut(record, n)
            text = record.text if n is None else record.text[: math.ceil(len(record.text) * n / len(record.trace))]
            rows.append(signals.features(prompt, trace, text))
            right.append(float(record.correct))
            group.append(place[record.item.group])
    return _Data(np.array(rows), np.array(right), np.array(group, dtype=np.int64), names)


def _cut(record: Record, n: int) -> Any:
    """The trace as it was after n tokens."""
    from ..backends.base import Trace

    trace = Trace(record.trace.prompt_tokens)
    for name in ("ids", "logprobs", "entropies", "margins"):
        getattr(trace, name).extend(getattr(record.trace, name)[:n])
    return trace


def calibrate(
    records: Sequence[Record],
    model: str,
    *,
    held_out_groups: Collection[str] = (),
    sha256: str | None = None,
    default: Calibration | None = None,
    is_default: bool = False,
    learning_curve: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Calibration, Report]:
    """Fits a calibration to graded answers, and tells what it is worth.

    held_out_groups: groups that are kept out of everything but the report; without any, the report is of folds: each group is
    judged by heads that have not seen it. sha256: of the model's file, kept with the calibration. default: what is recalibrated
    where the answers are too few for heads of their own; None: the package's. is_default: for models that it was not made for.
    learning_curve: also measure with fewer groups, and with fewer answers of each. The same records and seed: the same file.

    Raises InvalidRequestError if there is too little to learn from, MissingExtraError without scikit-learn.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise MissingExtraError("Calibrating", "router") from None
    say = progress or (lambda text: None)
    held = frozenset(held_out_groups)
    missing = held - {record.item.group for record in records}
    if missing:
        raise InvalidRequestError(f"there is no group {sorted(missing)[0]!r} to hold out", "held_out_groups")
    answered = sorted((record for record in records if len(record.trace)), key=lambda r: (r.item.group, r.item.id))
    learnt = [record for record in answered if record.item.group not in held]
    n_right = sum(record.correct for record in learnt)
    n_least = min(n_right, len(learnt) - n_right)
    if len(learnt) < LEAST_ITEMS or n_least < LEAST_EACH:
        raise InvalidRequestError(
            f"a calibration needs at least {LEAST_ITEMS} answers, {LEAST_EACH} of them right and {LEAST_EACH} wrong; "
            f"there are {len(learnt)}, and {n_right} of them are right",
            "records",
        )
    names = tuple(sorted({record.item.group for record in answered}))
    n_groups = len({record.item.group for record in learnt})
    whole = _table(answered, names)
    is_held = np.array([record.item.group in held for record in answered])
    baseline_values = {name: np.array([baseline_value(name, record.trace) for record in answered]) for name in BASELINES}
    curves = {name: _fit_isotonic(values[~is_held], whole.right[~is_held]) for name, values in baseline_values.items()}
    notes: list[str] = []
    data = whole.part(~is_held)
    own = len(learnt) >= LEAST_OWN_ITEMS and n_least >= LEAST_OWN_EACH and n_groups >= LEAST_OWN_GROUPS
    heads: dict[str, Any]
    stages: dict[str, dict[str, float | None]] = {}
    if own:
        folds = _folds(data, seed)
        say(f"{len(learnt)} answers of {n_groups} groups, {len(folds)} folds")
        heads, unseen = {}, {}
        for stage in ("after", "before", "during"):
            say(f"fitting what is said {stage} the answer")
            table = data if stage != "during" else _table(learnt, names, prefixes=True)
            parts = folds if stage != "during" else [np.isin(table.group, np.unique(data.group[fold])) for fold in folds]
            unseen[stage] = _cross_fit(table, stage, seed, parts)
            heads[stage] = _fit_head(table, stage, seed, unseen[stage])
            stages[stage] = _figures(unseen[stage].confidence, table)
        head = "linear + trees"
    else:
        notes.append(
            f"{len(learnt)} answers of {n_groups} groups are too few for heads of their own (from {LEAST_OWN_ITEMS} answers of "
            f"{LEAST_OWN_GROUPS} groups on, {LEAST_OWN_EACH} of them right and {LEAST_OWN_EACH} wrong): "
            "the default calibration was adjusted to them"
        )
        heads = _adjusted(default or _package_default(), data, learnt)
        head = "default, adjusted"
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "signals": signals.VERSION,
        "model": model,
        "sha256": sha256,
        "is_default": is_default,
        "note": "",
        "uses_states": False,
        "heads": {**heads, "states": None},
        "baselines": curves,
    }
    if held:
        judged = whole.part(is_held)
        members, curve = heads["after"]["members"], heads["after"]["curve"]
        confidence = np.interp(_log_odds(members, judged.rows), curve["x"], curve["y"])
        of_baselines = {
            name: np.interp(values[is_held], curves[name]["x"], curves[name]["y"]) for name, values in baseline_values.items()
        }
        protocol = f"{len(held)} groups held out, fitted to the {n_groups} others"
    elif own:
        judged, confidence = data, unseen["after"].confidence
        of_baselines = {
            name: _cross_isotonic(values, data.right, unseen["after"].fold) for name, values in baseline_values.items()
        }
        protocol = f"{len(folds)} folds of groups, each judged by heads that had not seen it"
    else:
        judged, confidence = (
            data,
            np.interp(
                _log_odds(heads["after"]["members"], data.rows), heads["after"]["curve"]["x"], heads["after"]["curve"]["y"]
            ),
        )
        of_baselines = {
            name: np.interp(values, curves[name]["x"], curves[name]["y"]) for name, values in baseline_values.items()
        }
        protocol = "the answers that it was adjusted to"
    curve_rows: tuple[dict[str, float], ...] = ()
    if learning_curve and own:
        curve_rows = tuple(_learning_curve(data, seed, say))
    report = _report(model, judged, confidence, of_baselines, protocol, head, stages, curve_rows, tuple(notes))
    document["note"] = _note(report, notes)
    return Calibration(document), report


def _package_default() -> Calibration:
    from ..hub.catalog import builtin_folder
    from .confidence import DEFAULT_NAME, SUFFIX

    return Calibration.load(builtin_folder() / (DEFAULT_NAME + SUFFIX))


def _adjusted(default: Calibration, data: _Data, records: Sequence[Record]) -> dict[str, Any]:
    """The default's heads, with curves that fit these answers."""
    heads = default.document()["heads"]
    adjusted: dict[str, Any] = {}
    for stage in ("before", "during", "after"):
        table = data if stage != "during" else _table(records, data.names, prefixes=True)
        old = heads[stage]
        if not len(table.right):
            adjusted[stage] = old
            continue
        z = _log_odds(old["members"], table.rows)
        p = np.clip(np.interp(z, old["curve"]["x"], old["curve"]["y"]), LEAST, 1 - LEAST)
        slope, intercept = _fit_platt(np.log(p / (1 - p)), table.right, prior=20.0)
        before = np.clip(np.array(old["curve"]["y"]), LEAST, 1 - LEAST)
        y = np.clip(_sigmoid(slope * np.log(before / (1 - before)) + intercept), LEAST, 1 - LEAST)
        curve = {"x": old["curve"]["x"], "y": _rounded(y, 5)}
        confidence = np.interp(z, curve["x"], curve["y"])
        adjusted[stage] = {"members": old["members"], "curve": curve, **quantiles(confidence, table.right)}
    return adjusted


def _cross_isotonic(values: Matrix, right: Matrix, fold: NDArray[np.int64]) -> Matrix:
    """A baseline under the same protocol: its curve for a fold is fitted to the others."""
    confidence = np.zeros(len(values))
    for index in np.unique(fold):
        curve = _fit_isotonic(values[fold != index], right[fold != index])
        confidence[fold == index] = np.interp(values[fold == index], curve["x"], curve["y"])
    return confidence


def _group_aurocs(confidence: Matrix, data: _Data) -> dict[str, float | None]:
    """By group; None where there are too few of a kind."""
    found: dict[str, float | None] = {}
    for index in np.unique(data.group):
        inside = data.group == index
        right = data.right[inside]
        enough = min(right.sum(), len(right) - right.sum()) >= LEAST_FOR_AUROC
        found[data.names[index]] = auroc(confidence[inside], right) if enough else None
    return found


def _mean(values: Collection[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _figures(confidence: Matrix, data: _Data) -> dict[str, float | None]:
    return {
        "auroc": _mean(_group_aurocs(confidence, data).values()),
        "pooled_auroc": auroc(confidence, data.right),
        "ece": expected_calibration_error(confidence, data.right),
    }


def _report(
    model: str,
    data: _Data,
    confidence: Matrix,
    of_baselines: dict[Any, Matrix],
    protocol: str,
    head: str,
    stages: dict[str, dict[str, float | None]],
    learning_curve: tuple[dict[str, float], ...],
    notes: tuple[str, ...],
) -> Report:
    ours = _group_aurocs(confidence, data)
    theirs = {name: _group_aurocs(values, data) for name, values in of_baselines.items()}
    groups = []
    for index in np.unique(data.group):
        inside, name = data.group == index, data.names[index]
        groups.append(
            GroupReport(
                group=name,
                items=int(inside.sum()),
                right=float(data.right[inside].mean()),
                confidence=float(confidence[inside].mean()),
                auroc=ours[name],
                baselines={baseline: aurocs[name] for baseline, aurocs in theirs.items()},
            )
        )
    figures = _figures(confidence, data)
    return Report(
        model=model,
        items=len(data.right),
        right=float(data.right.mean()),
        protocol=protocol,
        groups=tuple(groups),
        auroc=figures["auroc"],
        pooled_auroc=figures["pooled_auroc"],
        ece=figures["ece"] or 0.0,
        baseline_auroc={name: _mean(aurocs.values()) for name, aurocs in theirs.items()},
        pooled_baseline_auroc={name: auroc(values, data.right) for name, values in of_baselines.items()},
        baseline_ece={name: expected_calibration_error(values, data.right) for name, values in of_baselines.items()},
        head=head,
        stages=stages,
        learning_curve=learning_curve,
        notes=notes,
    )


def _note(report: Report, notes: Sequence[str]) -> str:
    def shown(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.3f}"

    return " ".join(
        [
            f"{report.items} answers of {report.model} in {len(report.groups)} groups ({report.protocol}), "
            f"{report.right:.0%} right: "
            f"AUROC {shown(report.auroc)} within groups, {shown(report.pooled_auroc)} over all, ECE {report.ece:.3f}.",
            *(f"{note}." for note in notes),
        ]
    )


def _learning_curve(data: _Data, seed: int, say: Callable[[str], None]) -> list[dict[str, float]]:
    """AUROC within unseen groups and ECE over them, for fewer groups to learn from and for fewer answers of each."""
    groups = np.unique(data.group)
    most = len(groups) - max(1, len(groups) // 4)
    sizes = sorted({n for n in (4, 8, 12, 16, 24, 32) if n < most} | {most})
    rows: list[dict[str, float]] = []
    for n_groups, per_group in [(n, 0) for n in sizes] + [(most, n) for n in (20, 50, 100)]:
        found: list[tuple[float, float]] = []
        for turn in range(5):
            rng = np.random.default_rng((seed, turn))
            order = rng.permutation(groups)
            chosen = np.isin(data.group, order[:n_groups])
            if per_group:
                chosen = _at_most(data, chosen, per_group, rng)
            learnt, judged = data.part(chosen), data.part(np.isin(data.group, order[most:]))
            if min(learnt.right.sum(), (1 - learnt.right).sum()) < LEAST_EACH or len(learnt.right) < LEAST_ITEMS:
                continue
            unseen = _cross_fit(learnt, "after", seed, _folds(learnt, seed, 5))
            slope, intercept = _fit_platt(unseen.z, learnt.right)
            confidence = _sigmoid(slope * _log_odds(_fit_members(learnt, "after", seed), judged.rows) + intercept)
            value = _mean(_group_aurocs(confidence, judged).values())
            if value is not None:
                found.append((value, expected_calibration_error(confidence, judged.right)))
        if found:
            value, error = np.mean(found, axis=0)
            rows.append({"groups": n_groups, "items_per_group": per_group, "auroc": float(value), "ece": float(error)})
            say(f"{n_groups} groups{f' of {per_group} answers' if per_group else ''}: AUROC {value:.3f}, ECE {error:.3f}")
    return rows


def _at_most(data: _Data, chosen: NDArray[np.bool_], n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Of the chosen rows n of each group, by chance."""
    kept = np.zeros(len(chosen), dtype=bool)
    for group in np.unique(data.group[chosen]):
        places = np.flatnonzero(chosen & (data.group == group))
        kept[rng.permutation(places)[:n]] = True
    return kept

"""How good a router is: whether its confidence tells right answers from wrong ones, whether it means what it says, and what the
answers are worth when the doubtful ones go to the cloud.

All sums are exact over the items; nothing is drawn but for the intervals. What the figures are:

    AUROC         the probability that a right answer is rated above a wrong one, ties counted half (Mann and Whitney, 1947)
    ECE           expected calibration error: the mean distance between confidence and share right in bins, weighted by their
                  items (Naeini et al., AAAI 2015). Finite data keeps it above zero even for a perfect forecast; `ece_floor` is
                  what it would be on average, were every confidence exactly right
    Brier         the mean squared error of the confidence
    PGR, APGR, CPT  as RouteLLM defines them (arXiv 2406.18665): of the gap between the local model's and the cloud's accuracy,
                  the part that is recovered when some share of the calls is sent; its mean over all shares from 0 to 1; and
                  the least share that recovers 50 % or 80 %. A router that draws lots has 0.5, 50 % and 80 % exactly

The accuracy against the share sent is a line through one point for each number of answers sent, the least confident first.
Answers of equal confidence are sent in an order that is drawn, so the line between them is straight: its expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidRequestError
from .confidence import BASELINES, baseline_value
from .signals import PromptSignals

if TYPE_CHECKING:
    from .confidence import Calibration
    from .records import Record

__all__ = [
    "BASELINES",
    "BEFORE",
    "CONFIDENCE",
    "ORACLE",
    "PARTS",
    "QUALITIES",
    "RANDOM",
    "SHARES",
    "STATES",
    "Bin",
    "Curve",
    "Evaluation",
    "Gain",
    "GroupFigures",
    "Operating",
    "Ranking",
    "RouterFigures",
    "Sample",
    "Signal",
    "auroc",
    "brier",
    "calibration_error",
    "calibration_floor",
    "cross_validated",
    "curve",
    "evaluate",
    "folds",
    "line_of",
    "reliability",
    "roc",
    "sample_of",
    "wilson",
]

Array = NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = "confidence"  # the name of ours, after the whole answer
BEFORE = "before"  # ours from the prompt alone
STATES = "with states"  # ours after the whole answer, hidden states and all
RANDOM, ORACLE = "random", "oracle"
SHARES = (0.1, 0.2, 0.3, 0.5)  # of the calls, for which tables give the accuracy
QUALITIES = (0.5, 0.7, 0.9)  # of the answers kept, for which thresholds are tried
PARTS = (0.5, 0.8)  # of the gap, for which tables give the calls
_Z95 = 1.959963984540054


# ---- whether a confidence ranks, and means what it says -------------------------------------------------------------------


class Ranking:
    """Answers in the order in which a router gives them away, the least confident first; equal ones are one step."""

    def __init__(self, score: ArrayLike) -> None:
        """score [n]: confidence, or anything that grows with it."""
        values = _numbers(score, "score")
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))

    def _steps(self, values: Array) -> Array:
        """The sum of a value over the answers of each step."""
        sums: Array = np.add.reduceat(values[self._order], self._starts)
        return sums

    def auroc(self, correct: Array, weights: Array | None = None) -> float | None:
        """None where all answers are right, or all wrong."""
        weights = np.ones(len(correct)) if weights is None else weights
        right, wrong = self._steps(weights * correct), self._steps(weights * (1 - correct))
        pairs = right.sum() * wrong.sum()
        if not pairs:
            return None
        below = np.cumsum(wrong) - wrong
        return float((right * (below + wrong / 2)).sum() / pairs)

    def curve(self, correct: Array, cloud: Array, weights: Array | None = None) -> Curve:
        """The accuracy against the share sent. cloud [n]: the probability that the cloud's answer is right."""
        weights = np.ones(len(correct)) if weights is None else weights
        total = weights.sum()
        shares = np.concatenate(([0.0], np.cumsum(self._steps(weights)) / total))
        gained = np.concatenate(([0.0], np.cumsum(self._steps(weights * (cloud - correct))) / total))
        return Curve(shares, float((weights * correct).sum() / total) + gained)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Accuracy against the share of calls sent to the cloud: straight lines between points, from share 0 to 1."""

    shares: Array
    accuracy: Array

    @property
    def local(self) -> float:
        """The accuracy when nothing is sent."""
        return float(self.accuracy[0])

    @property
    def cloud(self) -> float:
        """The accuracy when everything is sent."""
        return float(self.accuracy[-1])

    def at(self, share: float) -> float:
        """The accuracy when so much is sent."""
        return float(np.interp(share, self.shares, self.accuracy))

    def recovered(self, accuracy: float) -> float | None:
        """PGR: the part of the gap that an accuracy recovers; None where the cloud is not better."""
        gap = self.cloud - self.local
        return (accuracy - self.local) / gap if gap > 1e-12 else None

    def apgr(self) -> float | None:
        """The mean part recovered over all shares; None where the cloud is not better."""
        area = float((np.diff(self.shares) * (self.accuracy[1:] + self.accuracy[:-1]) / 2).sum())
        return self.recovered(area)

    def calls_for(self, part: float) -> float | None:
        """CPT: the least share sent that recovers this part of the gap; None where the cloud is not better."""
        if self.recovered(self.local) is None:
            return None
        wanted = self.local + part * (self.cloud - self.local)
        reached = int(np.argmax(self.accuracy >= wanted - 1e-12))  # the last point reaches every part
        if reached == 0:
            return 0.0
        (x0, x1), (y0, y1) = self.shares[reached - 1 : reached + 1], self.accuracy[reached - 1 : reached + 1]
        return float(min(x1, x0 + (x1 - x0) * (wanted - y0) / (y1 - y0)))


def auroc(correct: ArrayLike, score: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """The area under the ROC curve; None where all answers are right, or all wrong."""
    right = _truths(correct, score)
    return Ranking(score).auroc(right, None if weights is None else _numbers(weights, "weights"))


def curve(correct: ArrayLike, cloud: ArrayLike, score: ArrayLike) -> Curve:
    """The accuracy against the share sent, the answers of the least score first."""
    return Ranking(score).curve(_truths(correct, score), _probabilities(cloud, "cloud", score))


def roc(correct: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    """The ROC curve: of the wrong answers (first) and of the right ones (second), the part rated above each threshold."""
    right, values = _truths(correct, score), -_numbers(score, "score")
    ranking = Ranking(values)
    rates = [np.concatenate(([0.0], np.cumsum(ranking._steps(part)))) for part in (1 - right, right)]
    return rates[0] / max(rates[0][-1], 1.0), rates[1] / max(rates[1][-1], 1.0)


def brier(correct: ArrayLike, probability: ArrayLike) -> float:
    """The mean squared error of a confidence."""
    right = _truths(correct, probability)
    return float(np.square(_probabilities(probability, "probability") - right).mean())


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about one confidence. `low` and `high` bound the share that is right with 95 % (Wilson, 1927)."""

    items: int
    confidence: float
    accuracy: float
    low: float
    high: float


def reliability(correct: ArrayLike, probability: ArrayLike, bins: int = 10, equal: str = "width") -> tuple[Bin, ...]:
    """Bins that are not empty, from the least confidence up. equal: "width", the parts ((i-1)/bins, i/bins] of [0, 1], with 0
    in the first; or "mass", as many items in each as ties allow."""
    right, values = _truths(correct, probability), _probabilities(probability, "probability")
    which = _bins(values, bins, equal)
    found = []
    for number in np.unique(which):
        inside = which == number
        n, n_right = int(inside.sum()), float(right[inside].sum())
        low, high = wilson(n_right, n)
        found.append(Bin(n, float(values[inside].mean()), n_right / n, low, high))
    return tuple(found)


def calibration_error(correct: ArrayLike, probability: ArrayLike, bins: int = 10, equal: str = "width") -> float:
    """ECE, with the bins of `reliability`."""
    right, values = _truths(correct, probability), _probabilities(probability, "probability")
    which = _bins(values, bins, equal)
    return float(np.abs(np.bincount(which, values - right)).sum() / len(values))


def calibration_floor(probability: ArrayLike, bins: int = 10, draws: int = 200, seed: int = 0) -> float:
    """The ECE that so many answers would have on average if every confidence were exactly right (bins of equal width)."""
    values = _probabilities(probability, "probability")
    which = _bins(values, bins, "width")
    draw = np.random.default_rng(seed)
    errors = [np.abs(np.bincount(which, values - (draw.random(len(values)) < values))).sum() for _ in range(draws)]
    return float(np.mean(errors) / len(values))


def wilson(right: float, n: int, z: float = _Z95) -> Interval:
    """The score interval of a share, `right` of `n`."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _bins(values: Array, bins: int, equal: str) -> NDArray[np.intp]:
    if bins < 1 or equal not in ("width", "mass"):
        raise InvalidRequestError('there must be at least one bin, and they are equal in "width" or in "mass"', "bins")
    if equal == "width":
        edges = np.arange(1, bins) / bins
    else:
        ordered = np.sort(values)
        edges = np.unique(ordered[[len(values) * i // bins - 1 for i in range(1, bins) if len(values) * i // bins]])
    return np.searchsorted(edges, values, side="left")


def _numbers(values: ArrayLike, what: str, like: ArrayLike | None = None) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise InvalidRequestError(f"{what} is a list of numbers that is not empty", what)
    if like is not None and len(found) != np.size(np.asarray(like)):
        raise InvalidRequestError(f"{what} has {len(found)} numbers, but there are {np.size(np.asarray(like))} answers", what)
    if not np.isfinite(found).all():
        raise InvalidRequestError(f"{what} holds a number that is not finite", what)
    return found


def _truths(correct: ArrayLike, like: ArrayLike) -> Array:
    found = _numbers(correct, "correct", like)
    if not np.isin(found, (0.0, 1.0)).all():
        raise InvalidRequestError("correct holds something else than true and false", "correct")
    return found


def _probabilities(values: ArrayLike, what: str, like: ArrayLike | None = None) -> Array:
    found = _numbers(values, what, like)
    if found.min() < 0 or found.max() > 1:
        raise InvalidRequestError(f"{what} holds a number outside of 0 to 1", what)
    return found


# ---- a router on a set of answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """What one router says of n answers: numbers that rank them, and the probabilities that they are right, if it has any. The
    baselines rank by the plain signal, which has no ties, and have probabilities by isotonic regression."""

    rank: Array
    probability: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Answers with everything that an evaluation looks at. `cloud`: the probability that the cloud is right, 0 or 1 where that
    was recorded, else the one that is assumed (`n_assumed` of them). `sent`: by the name of a setting, whether the thresholds
    of the calibration send each answer."""

    correct: Array
    cloud: Array
    groups: tuple[str, ...]
    signals: Mapping[str, Signal]
    n_assumed: int = 0
    assume_cloud: float = 1.0
    sent: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    model: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        n = len(self.groups)
        if not n:
            raise InvalidRequestError("there are no answers to evaluate", "records")
        for name, values in (("correct", self.correct), ("cloud", self.cloud)):
            _probabilities(values, name, self.groups)
        for name, signal in self.signals.items():
            _numbers(signal.rank, name, self.groups)
            if signal.probability is not None:
                _probabilities(signal.probability, name, self.groups)


@dataclass(frozen=True, slots=True)
class RouterFigures:
    """One router on all answers. Intervals are of 95 %, by bootstrap: `_interval` over items, `_groups_interval` over groups
    (which other groups would it have met?). None: not defined here, as an AUROC where all is right."""

    calls_for: dict[str, float | None]  # of each of PARTS
    accuracy_at: dict[str, float]  # at each of SHARES
    auroc: float | None = None
    auroc_interval: Interval | None = None
    mean_auroc: float | None = None  # over groups in which it is defined
    mean_auroc_interval: Interval | None = None  # over groups
    ece: float | None = None
    ece_mass: float | None = None
    ece_floor: float | None = None
    brier: float | None = None
    apgr: float | None = None
    apgr_interval: Interval | None = None
    mean_apgr: float | None = None  # over groups in which the cloud is better
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """One group: how right the model and the cloud are, how sure the router was, and the AUROC of each router."""

    items: int
    local: float
    cloud: float
    confidence: float | None
    ece: float | None
    apgr: float | None
    auroc: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more AUROC the confidence has than a baseline, on the mean over groups; its interval is over groups, of the
    paired differences."""

    mean: float
    interval: Interval | None
    better_in: int
    of: int


@dataclass(frozen=True, slots=True)
class Operating:
    """What one of the calibration's thresholds does on these answers. `kept`: the accuracy of those that were not sent."""

    sent: float
    accuracy: float
    recovered: float | None
    kept: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was found."""

    model: str
    note: str
    items: int
    local: float
    cloud: float
    assumed: int
    assume_cloud: float
    routers: dict[str, RouterFigures]
    gains: dict[str, Gain]
    groups: dict[str, GroupFigures]
    operating: dict[str, Operating]
    groups_undefined: int  # without right answers, or without wrong ones

    def best_baseline(self) -> str | None:
        """The baseline with the highest mean AUROC over groups."""
        rated = {name: self.routers[name].mean_auroc for name in BASELINES if name in self.routers}
        known = {name: value for name, value in rated.items() if value is not None}
        return max(known, key=lambda name: known[name]) if known else None


def evaluate(sample: Sample, *, bins: int = 10, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """All figures of a sample. resamples: of the bootstrap; 0 leaves the intervals out."""
    names = list(dict.fromkeys(sample.groups))
    members = {name: np.flatnonzero(np.array([group == name for group in sample.groups])) for name in names}
    draw = np.random.default_rng(seed)
    n = len(sample.groups)
    item_weights = [np.bincount(draw.integers(n, size=n), minlength=n).astype(np.float64) for _ in range(resamples)]
    group_draws = [draw.integers(len(names), size=len(names)) for _ in range(resamples)] if len(names) > 1 else []

    by_group: dict[str, list[float | None]] = {}
    routers: dict[str, RouterFigures] = {}
    for name, signal in sample.signals.items():
        ranking = Ranking(signal.rank)
        line = ranking.curve(sample.correct, sample.cloud)
        per_group = by_group[name] = [auroc(sample.correct[at], signal.rank[at]) for at in members.values()]
        apgrs = [curve(sample.correct[at], sample.cloud[at], signal.rank[at]).apgr() for at in members.values()]
        p = signal.probability
        routers[name] = RouterFigures(
            auroc=ranking.auroc(sample.correct),
            auroc_interval=_interval([ranking.auroc(sample.correct, weights) for weights in item_weights]),
            mean_auroc=_mean(per_group),
            mean_auroc_interval=_interval([_mean([per_group[i] for i in chosen]) for chosen in group_draws]),
            ece=None if p is None else calibration_error(sample.correct, p, bins),
            ece_mass=None if p is None else calibration_error(sample.correct, p, bins, "mass"),
            ece_floor=None if p is None else calibration_floor(p, bins, seed=seed),
            brier=None if p is None else brier(sample.correct, p),
            apgr=line.apgr(),
            apgr_interval=_interval([ranking.curve(sample.correct, sample.cloud, w).apgr() for w in item_weights]),
            mean_apgr=_mean(apgrs),
            bins=() if p is None else reliability(sample.correct, p, bins),
            **_of(line),
        )
    chance = line_of(sample, RANDOM)
    ideal = line_of(sample, ORACLE)
    routers[RANDOM] = RouterFigures(auroc=0.5, mean_auroc=0.5, apgr=chance.apgr(), mean_apgr=chance.apgr(), **_of(chance))
    routers[ORACLE] = RouterFigures(apgr=ideal.apgr(), **_of(ideal))
    return Evaluation(
        model=sample.model,
        note=sample.note,
        items=n,
        local=float(sample.correct.mean()),
        cloud=float(sample.cloud.mean()),
        assumed=sample.n_assumed,
        assume_cloud=sample.assume_cloud,
        routers=routers,
        gains=_gains(by_group, group_draws),
        groups={name: _group(sample, at, bins) for name, at in members.items()},
        operating={name: _operating(sample, sent, chance) for name, sent in sample.sent.items()},
        groups_undefined=sum(sample.correct[at].min() == sample.correct[at].max() for at in members.values()),
    )


def line_of(sample: Sample, name: str) -> Curve:
    """The accuracy against the share sent for a router of the sample, or for `random` and `oracle`."""
    if name == RANDOM:
        return Curve(np.array([0.0, 1.0]), np.array([sample.correct.mean(), sample.cloud.mean()]))
    return curve(sample.correct, sample.cloud, sample.correct - sample.cloud if name == ORACLE else sample.signals[name].rank)


def _of(line: Curve) -> dict[str, Any]:
    """What tables give of a line."""
    return {
        "calls_for": {f"{part:g}": line.calls_for(part) for part in PARTS},
        "accuracy_at": {f"{share:g}": line.at(share) for share in SHARES},
    }


def _gains(by_group: Mapping[str, Sequence[float | None]], group_draws: Sequence[NDArray[Any]]) -> dict[str, Gain]:
    """The confidence against each baseline, in the groups where both are defined."""
    found: dict[str, Gain] = {}
    ours = by_group.get(CONFIDENCE)
    for name in BASELINES:
        theirs = by_group.get(name)
        if ours is None or theirs is None:
            continue
        differences = [a - b if a is not None and b is not None else None for a, b in zip(ours, theirs, strict=True)]
        defined = [value for value in differences if value is not None]
        if defined:
            interval = _interval([_mean([differences[i] for i in chosen]) for chosen in group_draws])
            found[name] = Gain(float(np.mean(defined)), interval, sum(value > 0 for value in defined), len(defined))
    return found


def _group(sample: Sample, at: NDArray[np.intp], bins: int) -> GroupFigures:
    """The figures of one group, whose answers are those at `at`."""
    correct, cloud = sample.correct[at], sample.cloud[at]
    ours = sample.signals.get(CONFIDENCE)
    p = None if ours is None or ours.probability is None else ours.probability[at]
    return GroupFigures(
        items=len(at),
        local=float(correct.mean()),
        cloud=float(cloud.mean()),
        confidence=None if p is None else float(p.mean()),
        ece=None if p is None else calibration_error(correct, p, bins),
        apgr=None if ours is None else curve(correct, cloud, ours.rank[at]).apgr(),
        auroc={name: auroc(correct, signal.rank[at]) for name, signal in sample.signals.items()},
    )


def _operating(sample: Sample, sent: NDArray[np.bool_], chance: Curve) -> Operating:
    accuracy = float(np.where(sent, sample.cloud, sample.correct).mean())
    kept = None if sent.all() else float(sample.correct[~sent].mean())
    return Operating(float(sent.mean()), accuracy, chance.recovered(accuracy), kept)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _interval(values: Sequence[float | None]) -> Interval | None:
    """The middle 95 % of what a bootstrap found; None where it is not defined for more than a twentieth of it."""
    known = [value for value in values if value is not None]
    if not known or len(known) < 0.95 * len(values):
        return None
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


# ---- from records ---------------------------------------------------------------------------------------------------------


def sample_of(
    records: Sequence[Record],
    calibration: Calibration | Sequence[Calibration],
    *,
    assume_cloud: float = 1.0,
    model: str = "",
    note: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Sample:
    """What a calibration says of recorded answers; or one for each record, as cross-validation has them. assume_cloud: the
    probability that the cloud is right where an item does not say. progress(done, total)."""
    if not 0 <= assume_cloud <= 1:
        raise InvalidRequestError(f"the cloud is right with a probability from 0 to 1, not {assume_cloud}", "assume_cloud")
    if not records:
        raise InvalidRequestError("there are no answers to evaluate", "records")
    many = list(calibration) if isinstance(calibration, Sequence) else [calibration] * len(records)
    if len(many) != len(records):
        raise InvalidRequestError(f"{len(many)} calibrations cannot rate {len(records)} answers", "calibration")
    with_states = all(one.has_states_head and record.states is not None for one, record in zip(many, records, strict=True))
    limits = {id(one): _limits(one) for one in many}
    ranks: dict[str, list[float]] = {name: [] for name in BASELINES}
    rated: dict[str, list[float]] = {name: [] for name in (CONFIDENCE, *([STATES] if with_states else []), BEFORE, *BASELINES)}
    sent: dict[str, list[bool]] = {name: [] for name in limits[id(many[0])]}
    for done, (record, one) in enumerate(zip(records, many, strict=True), 1):
        prompt = PromptSignals.of(record.item.messages)
        confidence = one.after(prompt, record.trace, record.text)
        rated[CONFIDENCE].append(confidence)
        if with_states:
            rated[STATES].append(one.after(prompt, record.trace, record.text, record.states))
        rated[BEFORE].append(one.before(prompt))
        for plain in BASELINES:
            ranks[plain].append(baseline_value(plain, record.trace))
            rated[plain].append(one.baseline(plain, record.trace))
        for name, threshold in limits[id(one)].items():
            sent[name].append(confidence < threshold)
        if progress is not None:
            progress(done, len(records))
    clouds = [record.item.cloud_correct for record in records]
    return Sample(
        correct=np.array([record.correct for record in records], np.float64),
        cloud=np.array([assume_cloud if known is None else float(known) for known in clouds]),
        groups=tuple(record.item.group for record in records),
        signals={name: _signal(ranks.get(name, values), values) for name, values in rated.items()},
        n_assumed=sum(known is None for known in clouds),
        assume_cloud=assume_cloud,
        sent={name: np.array(values) for name, values in sent.items()},
        model=model or many[0].model,
        note=note or many[0].note,
    )


def folds(records: Sequence[Record], k: int) -> list[list[int]]:
    """The records in k parts, by number, no group in two of them; the groups go round in the order of their names. Where there
    is one group only its records do, in their order. Never more parts than there are groups."""
    names = sorted({record.item.group for record in records})
    if k < 2 or len(records) < 2:
        raise InvalidRequestError("cross-validation needs two folds or more, and records for each", "cross_validate")
    if len(names) == 1:
        return [list(range(first, len(records), k)) for first in range(min(k, len(records)))]
    place = {name: i % k for i, name in enumerate(names)}
    parts: list[list[int]] = [[] for _ in range(min(k, len(names)))]
    for i, record in enumerate(records):
        parts[place[record.item.group]].append(i)
    return parts


def cross_validated(
    records: Sequence[Record],
    k: int,
    train: Callable[[list[Record]], Calibration],
    progress: Callable[[int, int], None] | None = None,
) -> list[Calibration]:
    """For each record a calibration that was made without its part of `folds`. progress(folds done, of)."""
    parts = folds(records, k)
    found: dict[int, Calibration] = {}
    for done, part in enumerate(parts, 1):
        without = set(part)
        one = train([record for i, record in enumerate(records) if i not in without])
        found |= dict.fromkeys(part, one)
        if progress is not None:
            progress(done, len(parts))
    return [found[i] for i in range(len(records))]


def _limits(calibration: Calibration) -> dict[str, float]:
    """The thresholds to try."""
    found = {f"share {share:g}": calibration.threshold_for_share(share) for share in SHARES}
    return found | {f"quality {quality:g}": calibration.threshold_for_quality(quality) for quality in QUALITIES}


def _signal(ranks: Sequence[float], probabilities: Sequence[float]) -> Signal:
    return Signal(np.array(ranks, np.float64), np.array(probabilities, np.float64))

"""How likely an answer of a local model is right: a calibrated probability, from what `signals` noticed.

A `Calibration` belongs to one model, or is the default for those that have none of their own. It holds up to four heads: for
the prompt alone (`before`), for an answer of which only the beginning is there (`during`), for a whole answer (`after`), and
for a whole answer with hidden states. `calibrate` fits them (scikit-learn is needed there, not here) and writes them as one
file of JSON:

    {"format": "cactus-py calibration", "version": 1, "signals": <signals.VERSION>, "model": "...", "sha256": "..." or null,
     "is_default": false, "note": "...", "uses_states": false,
     "heads": {"before": HEAD, "during": HEAD, "after": HEAD, "states": HEAD or null},
     "baselines": {"mean_logprob": CURVE, "entropy": CURVE, "margin": CURVE}}

    HEAD  = {"members": [MEMBER, ...], "curve": CURVE, "scores": [...], "kept": [...]}
            the members' log-odds are averaged by their weights; the curve makes a probability of them. scores: quantiles of the
            probabilities that answers got from heads which had not seen their group, evenly spaced from the least to the
            largest; kept: the share of right ones among the answers with that score or more
    MEMBER = {"kind": "linear", "weight": w, "features": [place, ...], "low": [...], "high": [...], "mean": [...],
              "scale": [...], "weights": [...], "bias": b}                               values are cut to low..high first
           | {"kind": "trees", "weight": w, "features": [place, ...], "roots": [...], "feature": [...], "threshold": [...],
              "left": [...], "value": [...], "bias": b}      feature -1: a leaf; the right child is behind the left one; x <= t
              goes left
    CURVE = {"x": [...], "y": [...]}   x ascending; straight between the points and level outside
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ConfigError
from . import signals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backends.base import States, Trace
    from .signals import PromptSignals

__all__ = ["BASELINES", "Baseline", "Calibration", "Curve", "Head", "Linear", "Stage", "Trees", "baseline_value", "find"]

Stage = Literal["before", "during", "after"]
Baseline = Literal["mean_logprob", "entropy", "margin"]
BASELINES: tuple[Baseline, ...] = ("mean_logprob", "entropy", "margin")

FORMAT = "cactus-py calibration"
FORMAT_VERSION = 1
SUFFIX = ".calibration.json"
DEFAULT_NAME = "default"
LEAST = 0.005  # nothing is certain; also what an answer gets that breaks the form it was asked for
_MAX_BYTES = 16 << 20
_MAX_NUMBERS = 2_000_000
_MAX_DEPTH = 32


class _DamagedError(Exception):
    """What is wrong with a file, without its name."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A function of one number: straight between its points, level outside."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def __call__(self, value: float) -> float:
        return float(np.interp(value, self.x, self.y))


@dataclass(frozen=True, slots=True)
class Linear:
    """Log-odds as a weighted sum of features, each cut to the range that was seen and scaled."""

    weight: float
    features: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float

    def __call__(self, vector: NDArray[np.float64]) -> float:
        cut = np.minimum(np.maximum(vector[self.features], self.low), self.high)
        return float(((cut - self.mean) / self.scale) @ self.weights) + self.bias


@dataclass(frozen=True, slots=True)
class Trees:
    """Log-odds as a sum over regression trees, which are walked side by side."""

    weight: float
    features: NDArray[np.int64]
    roots: NDArray[np.int64]
    feature: NDArray[np.int64]  # of each node, a place in `features`; -1: a leaf
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    value: NDArray[np.float64]
    bias: float
    depth: int

    def __call__(self, vector: NDArray[np.float64]) -> float:
        values = vector[self.features]
        nodes = self.roots
        for _ in range(self.depth):  # a leaf leads to itself: its feature is 0 here, its threshold infinite
            nodes = self.left[nodes] + (values[self.feature[nodes]] > self.threshold[nodes])
        return float(self.value[nodes].sum()) + self.bias


@dataclass(frozen=True, slots=True)
class Head:
    """What makes a probability of a vector."""

    members: tuple[Linear | Trees, ...]
    curve: Curve
    scores: NDArray[np.float64]
    kept: NDArray[np.float64]

    def __call__(self, vector: NDArray[np.float64]) -> float:
        return self.curve(self.log_odds(vector))

    def log_odds(self, vector: NDArray[np.float64]) -> float:
        """Before the curve."""
        total = sum(member.weight for member in self.members)
        return sum(member.weight * member(vector) for member in self.members) / total


def baseline_value(name: Baseline, trace: Trace) -> float:
    """The number behind a baseline, larger for surer answers: mean log-probability, minus mean entropy, mean margin."""
    if name not in BASELINES:
        raise ValueError(f"there is no baseline {name!r}; there are: {', '.join(BASELINES)}")
    if not len(trace):
        return 0.0
    numbers = {"mean_logprob": trace.logprobs, "entropy": trace.entropies, "margin": trace.margins}[name]
    mean = math.fsum(numbers) / len(numbers)
    if not math.isfinite(mean):
        return -20.0
    return -mean if name == "entropy" else mean


class Calibration:
    """What is known of how often a model is right. Immutable, and free to share between threads."""

    __slots__ = ("_baselines", "_document", "_heads", "has_states_head", "is_default", "model", "note", "sha256", "uses_states")

    model: str
    sha256: str | None  # of the model's file, if that is known
    is_default: bool  # measured on other models than the one that it is used for
    note: str  # what it was measured on, for a person
    uses_states: bool  # whether it pays to read hidden states for `after`
    has_states_head: bool

    def __init__(self, document: Mapping[str, Any]) -> None:
        """From the file's content. Raises ConfigError if that is wrong."""
        try:
            self._read(document)
        except _DamagedError as error:
            raise ConfigError(f"a calibration is damaged: {error}") from None

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "_document"):
            raise AttributeError("a calibration cannot be changed")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a calibration cannot be changed")

    def __repr__(self) -> str:
        return f"Calibration(model={self.model!r}, is_default={self.is_default})"

    def before(self, prompt: PromptSignals) -> float:
        """P(right) of an answer that is still to be made."""
        return self._heads["before"](signals.prompt_features(prompt))

    def during(self, prompt: PromptSignals, trace: Trace, text: str) -> float:
        """P(right) of an answer of which this much is there."""
        if not len(trace):
            return self.before(prompt)
        return self._heads["during"](signals.features(prompt, trace, text))

    def after(
        self, prompt: PromptSignals, trace: Trace, text: str, states: States | None = None, valid: bool | None = None
    ) -> float:
        """P(right) of a whole answer. valid: whether it keeps to its schema, or its calls to the tools' (None: there is nothing
        to keep to); one that does not is not right."""
        if valid is False:
            return LEAST
        head = self._heads.get("states") if states is not None else None
        if head is not None:
            try:
                return head(signals.features(prompt, trace, text, states))
            except IndexError:  # states of another size than those it was fitted to
                pass
        return self._heads["after"](signals.features(prompt, trace, text))

    def baseline(self, name: Baseline, trace: Trace) -> float:
        """P(right) from nothing but one mean over the tokens."""
        value = baseline_value(name, trace)
        return self._baselines[name](value)

    def threshold_for_share(self, share: float, stage: Stage = "after") -> float:
        """The confidence under which that share of answers falls, 0 to 1."""
        if not 0 <= share <= 1:
            raise ValueError(f"a share is a number from 0 to 1, not {share!r}")
        head = self._stage(stage)
        if share == 0:
            return 0.0
        if share == 1:
            return 1.0
        return float(np.interp(share * (len(head.scores) - 1), np.arange(len(head.scores)), head.scores))

    def threshold_for_quality(self, quality: float, stage: Stage = "after") -> float:
        """The least confidence such that answers with that or more are right this often on average; 1 if there is none."""
        if not 0 <= quality <= 1:
            raise ValueError(f"a quality is a number from 0 to 1, not {quality!r}")
        head = self._stage(stage)
        if head.kept[0] >= quality:
            return 0.0
        enough = np.flatnonzero(head.kept >= quality)
        return float(head.scores[enough[0]]) if len(enough) else 1.0

    def as_default(self, note: str) -> Calibration:
        """The same, for a model that it was not fitted to."""
        return Calibration({**self._document, "is_default": True, "note": note})

    def document(self) -> dict[str, Any]:
        """What `save` writes."""
        return json.loads(json.dumps(self._document))  # type: ignore[no-any-return]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, as a whole or not at all. Raises ConfigError if that is not possible."""
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(self._document, separators=(",", ":")) + "\n", encoding="utf-8")
            os.replace(beside, target)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ConfigError(f"the calibration cannot be written to {target}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Raises ConfigError if the file cannot be read or is no calibration for these signals."""
        source = Path(path)
        try:
            with source.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"the calibration {source} cannot be read: {error.strerror or error}") from None
        try:
            if len(raw) > _MAX_BYTES:
                raise _DamagedError(f"it is larger than {_MAX_BYTES >> 20} MB")
            try:
                document = json.loads(raw)
            except (ValueError, RecursionError):
                raise _DamagedError("it is not JSON") from None
            calibration = cls.__new__(cls)
            calibration._read(document)
            return calibration
        except _DamagedError as error:
            raise ConfigError(
                f"the calibration {source} is damaged: {error}; make it again with: cactus-py router calibrate"
            ) from None

    def _stage(self, stage: Stage) -> Head:
        if stage not in ("before", "during", "after"):
            raise ValueError(f"there is no stage {stage!r}; there are: before, during, after")
        return self._heads[stage]

    def _read(self, document: Any) -> None:
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise _DamagedError("it is no calibration")
        if document.get("version") != FORMAT_VERSION or document.get("signals") != signals.VERSION:
            raise _DamagedError("it was made by another version")
        self.model = _text(document, "model")
        self.note = _text(document, "note")
        digest = document.get("sha256")
        if digest is not None and (not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest)):
            raise _DamagedError("sha256 should be 64 hexadecimal digits")
        self.sha256 = digest
        self.is_default = document.get("is_default") is True
        heads = _table(document, "heads")
        self._heads = {}
        for name, width in (("before", len(signals.PROMPT_FEATURES)), ("during", None), ("after", None), ("states", None)):
            if name == "states" and heads.get(name) is None:
                continue
            limit = 1 << 20 if name == "states" else width or len(signals.FEATURES)
            self._heads[name] = _head(_table(heads, name), f"heads.{name}", limit)
        baselines = _table(document, "baselines")
        self._baselines = {name: _curve(_table(baselines, name), f"baselines.{name}") for name in BASELINES}
        self.has_states_head = "states" in self._heads
        self.uses_states = self.has_states_head and document.get("uses_states") is True
        self._document = dict(document)


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or len(value) > 10_000:
        raise _DamagedError(f"{name} should be a text")
    return value


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = table.get(name)
    if not isinstance(value, Mapping):
        raise _DamagedError(f"{name} should be a table")
    return value


def _number(table: Mapping[str, Any], name: str, where: str) -> float:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
        raise _DamagedError(f"{where}.{name} should be a number")
    return float(value)


def _numbers(table: Mapping[str, Any], name: str, where: str, length: int | None = None) -> NDArray[np.float64]:
    """float64 [length]; at least one."""
    value = table.get(name)
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_NUMBERS:
        raise _DamagedError(f"{where}.{name} should be a list of numbers")
    if any(isinstance(item, bool) or not isinstance(item, (int, float)) or not abs(item) < 1e12 for item in value):
        raise _DamagedError(f"{where}.{name} should hold nothing but numbers")
    if length is not None and len(value) != length:
        raise _DamagedError(f"{where}.{name} should hold {length} numbers, not {len(value)}")
    array = np.array(value, dtype=np.float64)
    array.flags.writeable = False
    return array


def _places(
    table: Mapping[str, Any], name: str, where: str, least: int, limit: int, length: int | None = None
) -> NDArray[np.int64]:
    """int64 [length], each from least to limit - 1."""
    numbers = _numbers(table, name, where, length)
    places = numbers.astype(np.int64)
    if (places != numbers).any() or places.min() < least or places.max() >= limit:
        raise _DamagedError(f"{where}.{name} should hold whole numbers from {least} to {limit - 1}")
    return places


def _curve(table: Mapping[str, Any], where: str) -> Curve:
    x = _numbers(table, "x", where)
    y = _numbers(table, "y", where, len(x))
    if (np.diff(x) < 0).any():
        raise _DamagedError(f"{where}.x should ascend")
    if y.min() < 0 or y.max() > 1:
        raise _DamagedError(f"{where}.y should lie between 0 and 1")
    return Curve(x, np.clip(y, LEAST, 1 - LEAST))


def _head(table: Mapping[str, Any], where: str, width: int) -> Head:
    members = table.get("members")
    if not isinstance(members, list) or not 0 < len(members) <= 64:
        raise _DamagedError(f"{where}.members should be a list of 1 to 64 members")
    read = tuple(_member(member, f"{where}.members[{index}]", width) for index, member in enumerate(members))
    scores = _numbers(table, "scores", where)
    kept = _numbers(table, "kept", where, len(scores))
    if (np.diff(scores) < 0).any() or scores[0] < 0 or scores[-1] > 1 or kept.min() < 0 or kept.max() > 1:
        raise _DamagedError(f"{where}.scores should ascend from 0 to 1, and kept should lie between 0 and 1")
    return Head(read, _curve(_table(table, "curve"), f"{where}.curve"), scores, kept)


def _member(table: Any, where: str, width: int) -> Linear | Trees:
    if not isinstance(table, Mapping):
        raise _DamagedError(f"{where} should be a table")
    weight, bias = _number(table, "weight", where), _number(table, "bias", where)
    if weight <= 0:
        raise _DamagedError(f"{where}.weight should be above 0")
    features = _places(table, "features", where, 0, width)
    n = len(features)
    if table.get("kind") == "linear":
        low, high, mean, scale, weights = (
            _numbers(table, name, where, n) for name in ("low", "high", "mean", "scale", "weights")
        )
        if (scale <= 0).any() or (low > high).any():
            raise _DamagedError(f"{where}: scale should be above 0, and low not above high")
        return Linear(weight, features, low, high, mean, scale, weights, bias)
    if table.get("kind") == "trees":
        return _trees(table, where, weight, bias, features)
    raise _DamagedError(f"{where}.kind should be linear or trees")


def _trees(table: Mapping[str, Any], where: str, weight: float, bias: float, features: NDArray[np.int64]) -> Trees:
    feature = _places(table, "feature", where, -1, len(features))
    n = len(feature)
    threshold = _numbers(table, "threshold", where, n).copy()
    left = _places(table, "left", where, 0, n, n)
    value = _numbers(table, "value", where, n)
    roots = _places(table, "roots", where, 0, n)
    own = np.arange(n)
    leaf = feature < 0
    inner = ~leaf
    if (left[inner] <= own[inner]).any() or (left[inner] + 1 >= n).any():  # children come later: no path is a circle
        raise _DamagedError(f"{where}.left should lead on to two later nodes")
    feature = np.where(leaf, 0, feature)
    threshold[leaf] = np.inf
    left = np.where(leaf, own, left)
    depth, nodes = 0, roots
    while not leaf[nodes].all():
        inside = nodes[~leaf[nodes]]
        nodes = np.unique(np.concatenate([left[inside], left[inside] + 1]))
        depth += 1
        if depth > _MAX_DEPTH:
            raise _DamagedError(f"{where}: a tree is deeper than {_MAX_DEPTH}")
    return Trees(weight, features, roots, feature, threshold, left, value, bias, depth)


def find(model_name: str, home: Path | None = None, sha256: str | None = None) -> Calibration:
    """The calibration of a model: the user's, in `home`/catalog, or the package's; otherwise the default one, which is
    measured on other models and says so in its note.

    model_name: a name or an alias of the catalog, or anything else, which has none. sha256: of the model's file; a calibration
    made for other bytes is passed over. Raises ConfigError if a file is damaged.
    """
    from ..hub.catalog import NAME_PATTERN, Catalog, builtin_folder

    folders = [builtin_folder()] if home is None else [home / "catalog", builtin_folder()]
    name = model_name.lower()
    passed_over = False
    if re.fullmatch(NAME_PATTERN, name):
        entry = Catalog.load(home).get(name)
        name = entry.name if entry is not None else name
        for folder in folders:
            path = folder / (name + SUFFIX)
            if name == DEFAULT_NAME or not path.is_file():
                continue
            found = Calibration.load(path)
            if sha256 is None or found.sha256 is None or found.sha256 == sha256:
                return found
            passed_over = True
    why = "its own one was made for another file" if passed_over else "it has none of its own"
    for folder in folders:
        path = folder / (DEFAULT_NAME + SUFFIX)
        if path.is_file():
            default = Calibration.load(path)
            note = f"{model_name}: the default calibration, as {why} (cactus-py router calibrate makes one). {default.note}"
            return default.as_default(note[:10_000])
    raise ConfigError(f"the default calibration is missing from {folders[-1]}; install cactus-py again")


def quantiles(
    scores: Sequence[float] | NDArray[np.float64], right: Sequence[bool] | NDArray[np.float64], n: int = 101
) -> dict[str, list[float]]:
    """`scores` and `kept` of a head, from probabilities and what became of them."""
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    ascending = np.asarray(scores, dtype=np.float64)[order]
    truth = np.asarray(right, dtype=np.float64)[order]
    points = np.interp(np.linspace(0, len(ascending) - 1, n), np.arange(len(ascending)), ascending)
    above = np.cumsum(truth[::-1])[::-1] / np.arange(len(truth), 0, -1)
    first = np.searchsorted(ascending, points - 1e-12)
    kept = above[np.minimum(first, len(above) - 1)]
    return {"scores": [round(float(p), 5) for p in points], "kept": [round(float(k), 5) for k in kept]}

"""Policies: when a request is answered on the device, and when it is handed to the cloud.

A policy sees a request up to three times: before anything is computed, while the local answer is made, and when it is whole. Each
time it returns a `Decision`. What it knows comes from a `Judge`: the calibrated probability that the local answer is right, and
the threshold that the user's targets ask for. Whether the cloud is there, allowed and affordable is not a policy's business; who
carries the decision out looks after that, and keeps to the device where it is not.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from .decision import CalibrationKind, Decision, Route, Stage

__all__ = ["CloudOnly", "EarlyExit", "Judge", "LocalFirst", "LocalOnly", "Policy", "Predictive", "policy_named"]


class Judge(Protocol):
    """What is known of one request. Confidences are None where nothing can judge: no calibration, or no figures to judge by."""

    @property
    def calibration(self) -> CalibrationKind | None:
        """Whose answers the confidence was calibrated with."""
        ...

    def threshold(self, stage: Stage) -> float:
        """The least confidence that is enough."""
        ...

    def before(self) -> float | None:
        """P(the local answer will be right), from the prompt."""
        ...

    def during(self) -> float | None:
        """P(the local answer will be right), from the prompt and what there is of the answer."""
        ...

    def after(self) -> float | None:
        """P(the local answer is right), from all of it."""
        ...


class Policy:
    """The base, which answers on the device whatever comes."""

    name: ClassVar[str]
    watches: ClassVar[bool] = False
    """Whether it wants to see answers that are being made."""
    holds: ClassVar[bool] = False
    """Whether it hands over answers that are whole; a stream must be held back until it has seen them."""

    def begin(self, judge: Judge) -> Decision:
        """Before anything is computed."""
        return Decision(self.name, "local")

    def watch(self, judge: Judge) -> Decision:
        """While the answer is made."""
        return Decision(self.name, "local")

    def end(self, judge: Judge) -> Decision:
        """When the answer is whole."""
        return self._judged(judge, "after", judge.after(), hands_over=False)

    def _judged(self, judge: Judge, stage: Stage, confidence: float | None, *, hands_over: bool = True) -> Decision:
        """Local if the confidence is enough, or unknown."""
        if confidence is None:
            return Decision(self.name, "local", reasons=("no_confidence: nothing here can judge this answer",))
        if not hands_over:
            return Decision(self.name, "local", confidence, calibration=judge.calibration)
        threshold = judge.threshold(stage)
        unsure = confidence < threshold
        route: Route = "cloud" if unsure else "local"
        what = {"before": "expected of the prompt", "during": "of what there is", "after": "of the answer"}[stage]
        reason = f"{'low' if unsure else 'high'}_confidence: {confidence:.2f} {what}, {threshold:.2f} wanted"
        return Decision(self.name, route, confidence, threshold, (reason,), calibration=judge.calibration)


class LocalOnly(Policy):
    """Nothing leaves the device."""

    name = "local_only"


class CloudOnly(Policy):
    """Everything goes to the cloud; the device answers where that fails."""

    name = "cloud_only"

    def begin(self, judge: Judge) -> Decision:
        return Decision(self.name, "cloud", reasons=("policy: every request goes to the cloud",))


class LocalFirst(Policy):
    """The device answers; an answer that is probably wrong is made again by the cloud."""

    name = "local_first"
    holds = True

    def end(self, judge: Judge) -> Decision:
        return self._judged(judge, "after", judge.after())


class Predictive(Policy):
    """The prompt decides. Costs nothing, and knows least."""

    name = "predictive"

    def begin(self, judge: Judge) -> Decision:
        return self._judged(judge, "before", judge.before())


class EarlyExit(Policy):
    """The device begins to answer, and hands over as soon as it is clear that it will not get it right."""

    name = "early_exit"
    watches = True
    holds = True

    def watch(self, judge: Judge) -> Decision:
        return self._judged(judge, "during", judge.during())

    def end(self, judge: Judge) -> Decision:
        return self._judged(judge, "after", judge.after())


_POLICIES: dict[str, type[Policy]] = {kind.name: kind for kind in (LocalOnly, CloudOnly, LocalFirst, Predictive, EarlyExit)}


def policy_named(name: str) -> Policy:
    """The policy of that name. Raises KeyError."""
    return _POLICIES[name]()

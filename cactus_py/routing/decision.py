"""What a policy decides of a request, and on what grounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..types import RouteDecision

__all__ = ["CalibrationKind", "Decision", "Handoff", "Route", "Stage"]

Route = Literal["local", "cloud"]
Stage = Literal["before", "during", "after"]  # of the local answer
Handoff = Literal["restart", "continue"]
CalibrationKind = Literal["own", "default"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request is answered, and why. `RouteDecision` is the same on the wire, and says what the fields mean.

    Each reason is "code: what was found"; codes are stable, the text behind them is for people.
    """

    policy: str
    route: Route
    confidence: float | None = None
    threshold: float | None = None
    reasons: tuple[str, ...] = ()
    estimated_cost_usd: float | None = None
    cost_usd: float | None = None
    estimated_latency_ms: float | None = None
    calibration: CalibrationKind | None = None
    handoff: Handoff | None = None

    def because(self, *reasons: str, route: Route | None = None) -> Decision:
        """The same with further reasons, and another route if one is given."""
        return replace(self, reasons=(*self.reasons, *reasons), route=route or self.route)

    def on_wire(self) -> RouteDecision:
        """The decision as part of a reply; figures rounded to what they are good for."""
        return RouteDecision(
            policy=self.policy,
            route=self.route,
            confidence=_rounded(self.confidence, 4),
            threshold=_rounded(self.threshold, 4),
            reasons=list(self.reasons),
            estimated_cost_usd=_rounded(self.estimated_cost_usd, 8),
            cost_usd=_rounded(self.cost_usd, 8),
            estimated_latency_ms=_rounded(self.estimated_latency_ms, 1),
            calibration=self.calibration,
            handoff=self.handoff,
        )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

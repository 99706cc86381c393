"""Policies as what they are: functions from what is known of a request to a decision."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from cactus_py.config import RouterSettings
from cactus_py.routing.decision import CalibrationKind, Decision, Stage
from cactus_py.routing.policies import Policy, policy_named

NAMES = ("local_only", "cloud_only", "local_first", "predictive", "early_exit")


@dataclass
class Judge:
    """What a test says is known. `asked`: what a policy wanted to know."""

    confidences: dict[str, float | None] = field(default_factory=dict)
    least: float = 0.5
    asked: list[str] = field(default_factory=list)

    @property
    def calibration(self) -> CalibrationKind | None:
        return "own"

    def threshold(self, stage: Stage) -> float:
        self.asked.append(f"threshold {stage}")
        return self.least

    def _told(self, stage: str) -> float | None:
        self.asked.append(stage)
        return self.confidences.get(stage)

    def before(self) -> float | None:
        return self._told("before")

    def during(self) -> float | None:
        return self._told("during")

    def after(self) -> float | None:
        return self._told("after")


def test_each_has_its_name_and_the_settings_know_no_others() -> None:
    assert [policy_named(name).name for name in NAMES] == list(NAMES)
    for name in NAMES:
        assert RouterSettings(policy=name).policy == name  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        policy_named("cheapest")


@pytest.mark.parametrize(
    ("name", "stage", "acts"),
    [
        ("predictive", "begin", "before"),
        ("early_exit", "watch", "during"),
        ("early_exit", "end", "after"),
        ("local_first", "end", "after"),
    ],
)
@pytest.mark.parametrize(("confidence", "route"), [(0.49, "cloud"), (0.5, "local"), (0.51, "local"), (None, "local")])
def test_less_than_the_threshold_is_handed_over(name: str, stage: str, acts: str, confidence: float | None, route: str) -> None:
    judge = Judge({acts: confidence})
    decision: Decision = getattr(policy_named(name), stage)(judge)
    assert (decision.policy, decision.route, decision.confidence) == (name, route, confidence)
    if confidence is None:
        assert decision.reasons[0].startswith("no_confidence: ") and decision.calibration is None
        assert judge.asked == [acts], "a threshold is of no use without a confidence"
    else:
        code = "low_confidence" if route == "cloud" else "high_confidence"
        assert decision.reasons == (f"{code}: {confidence:.2f} {_what(acts)}, 0.50 wanted",)
        assert (decision.threshold, decision.calibration) == (0.5, "own")


def _what(stage: str) -> str:
    return {"before": "expected of the prompt", "during": "of what there is", "after": "of the answer"}[stage]


@pytest.mark.parametrize("name", ["local_only", "predictive", "cloud_only"])
def test_a_whole_answer_is_kept_by_those_who_decide_before(name: str) -> None:
    policy = policy_named(name)
    assert not policy.holds and not policy.watches
    kept = policy.end(Judge({"after": 0.01}))
    assert (kept.route, kept.confidence, kept.threshold) == ("local", 0.01, None)
    assert policy.watch(Judge({"during": 0.01})).route == "local"


def test_the_prompt_alone_decides_for_nobody_else() -> None:
    hopeless = Judge({"before": 0.0})
    for name in ("local_only", "local_first", "early_exit"):
        assert policy_named(name).begin(hopeless).route == "local"
    certain = Judge({"before": 1.0})
    assert policy_named("cloud_only").begin(certain).route == "cloud"
    assert hopeless.asked == certain.asked == [], "nobody pays for what nobody reads"


def test_who_watches_also_holds() -> None:
    watching: list[Policy] = [policy for policy in map(policy_named, NAMES) if policy.watches]
    assert [policy.name for policy in watching] == ["early_exit"] and all(policy.holds for policy in watching)


def test_a_decision_on_the_wire() -> None:
    decision = Decision("local_first", "cloud", 0.123456, 0.5, ("a: b",), 1.23456789e-5, None, 12.345, "default", "restart")
    told = decision.because("c: d", route="local").on_wire()
    assert told.model_dump(exclude_none=True) == {
        "policy": "local_first",
        "route": "local",
        "confidence": 0.1235,
        "threshold": 0.5,
        "reasons": ["a: b", "c: d"],
        "estimated_cost_usd": 1.235e-05,
        "estimated_latency_ms": 12.3,
        "calibration": "default",
        "handoff": "restart",
    }
    assert (decision.route, decision.reasons) == ("cloud", ("a: b",)), "decisions do not change"

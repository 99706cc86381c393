"""Measuring a router: the metrics against scikit-learn, cases by hand and RouteLLM's way of computing, and the command."""

from __future__ import annotations

import numpy as np
import pytest

from cactus_py.errors import InvalidRequestError
from cactus_py.routing.evaluate import (
    BASELINES,
    CONFIDENCE,
    ORACLE,
    RANDOM,
    Sample,
    Signal,
    auroc,
    brier,
    calibration_error,
    calibration_floor,
    curve,
    evaluate,
    line_of,
    reliability,
    roc,
    wilson,
)


def answers(n: int, digits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences of so many digits, hence with ties, and whether each answer is right, as probably as they say."""
    draw = np.random.default_rng(seed)
    confidence = np.round(draw.random(n), digits)
    return (draw.random(n) < confidence).astype(float), confidence


# ---- against scikit-learn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "digits"), [(10, 1), (333, 1), (1000, 2), (4000, 8)])
def test_auroc_brier_and_roc_agree_with_scikit_learn(n: int, digits: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    correct, confidence = answers(n, digits, seed=n)
    weights = np.random.default_rng(1).random(n)
    assert auroc(correct, confidence) == pytest.approx(metrics.roc_auc_score(correct, confidence), abs=1e-12)
    expected = metrics.roc_auc_score(correct, confidence, sample_weight=weights)
    assert auroc(correct, confidence, weights) == pytest.approx(expected, abs=1e-12)
    assert brier(correct, confidence) == pytest.approx(metrics.brier_score_loss(correct, confidence), abs=1e-12)
    wrong, right, _ = metrics.roc_curve(correct, confidence, drop_intermediate=False)
    for ours, theirs in zip(roc(correct, confidence), (wrong, right), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


# ---- by hand --------------------------------------------------------------------------------------------------------------


def test_auroc_by_counting_pairs() -> None:
    # right ones at 3 and 2, wrong ones at 2 and 1: of four pairs three are in order and one is tied
    assert auroc([1, 1, 0, 0], [3, 2, 2, 1]) == 3.5 / 4
    assert auroc([1, 0], [0.5, 0.5]) == 0.5
    assert auroc([1, 1], [0.1, 0.9]) is None and auroc([0, 0], [0.1, 0.9]) is None


def test_bins_of_equal_width_and_mass() -> None:
    confidence, correct = [0.0, 0.1, 0.11, 0.2, 0.9, 1.0], [0, 0, 1, 0, 1, 1]
    tenths = reliability(correct, confidence)
    assert [(b.items, b.accuracy) for b in tenths] == [(2, 0.0), (2, 0.5), (1, 1.0), (1, 1.0)]  # 0 and 0.1 are in the first
    assert tenths[1].confidence == pytest.approx(0.155)
    # |0.1 - 0| + |0.31 - 1| + |0.9 - 1| + 0, over six answers
    assert calibration_error(correct, confidence) == pytest.approx((0.1 + 0.69 + 0.1) / 6)
    halves = reliability(correct, confidence, bins=2, equal="mass")
    assert [(b.items, b.accuracy) for b in halves] == [(3, 1 / 3), (3, 2 / 3)]
    # |0.21 - 1| + |2.1 - 2|
    assert calibration_error(correct, confidence, bins=2, equal="mass") == pytest.approx((0.79 + 0.1) / 6)
    tied = reliability([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.7], bins=4, equal="mass")
    assert [b.items for b in tied] == [3, 1], "equal confidences share a bin"


def test_wilson_interval_by_the_book() -> None:
    # 10 of 20, 95 %: worked out with the closed form by hand, (0.5 ± 0.2192 …/…) = 0.2993 … 0.7007
    assert wilson(10, 20) == pytest.approx((0.29930, 0.70070), abs=1e-5)
    low, high = wilson(0, 10)
    assert low == 0.0 and high == pytest.approx(1.959964**2 / (10 + 1.959964**2), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_perfect_forecast_stays_near_its_floor() -> None:
    correct, confidence = answers(5000, 3, seed=3)
    floor = calibration_floor(confidence)
    assert 0.005 < floor < 0.03
    assert calibration_error(correct, confidence) < 2 * floor
    assert calibration_error(correct, confidence**2) > 5 * floor


def test_the_curve_by_hand() -> None:
    # Four answers, the local model right in the last two, the cloud in all but the third. Sent in the order of their scores:
    # gains of 1, 1, -1, 0.
    line = curve([0, 0, 1, 1], [1, 1, 0, 1], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(line.shares, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(line.accuracy, [0.5, 0.75, 1.0, 0.75, 0.75])
    assert (line.local, line.cloud) == (0.5, 0.75)
    assert line.at(0.125) == pytest.approx(0.625)
    assert line.recovered(line.at(0.5)) == pytest.approx(2.0), "sending only what helps recovers more than all of the gap"
    # area: 0.25 * (0.625 + 0.875 + 0.875 + 0.75) = 0.78125, less 0.5, of a gap of 0.25
    assert line.apgr() == pytest.approx(1.125)
    assert line.calls_for(0.5) == pytest.approx(0.125) and line.calls_for(1.0) == pytest.approx(0.25)


def test_ties_are_sent_in_expectation() -> None:
    draw = np.random.default_rng(5)
    correct, cloud, score = draw.integers(2, size=40), draw.integers(2, size=40), draw.integers(4, size=40).astype(float)
    expected = np.zeros(41)
    for seed in range(3000):  # the same line from orders that are really drawn
        order = np.lexsort((np.random.default_rng(seed).random(40), score))
        expected += np.concatenate(([0.0], np.cumsum((cloud - correct)[order]))) / 40
    line = curve(correct, cloud, score)
    np.testing.assert_allclose([line.at(share) for share in np.arange(41) / 40], correct.mean() + expected / 3000, atol=0.005)


def test_where_the_cloud_is_not_better_there_is_no_gap() -> None:
    line = curve([1, 0], [0, 1], [0.1, 0.9])
    assert line.apgr() is None and line.calls_for(0.5) is None and line.recovered(0.7) is None


def test_agrees_with_routellm_on_fine_grids() -> None:
    """RouteLLM evaluates thresholds at quantiles of the score, joins them by lines, and reads APGR and CPT off those. With one
    quantile per answer that is our curve; with ten, as it is by default, it is near."""
    draw = np.random.default_rng(11)
    n = 2000
    hard = draw.random(n)
    weak, strong = (draw.random(n) > hard).astype(float), (draw.random(n) > hard / 3).astype(float)
    win = np.clip(hard + draw.normal(0, 0.3, n), 0, 1)
    ours = curve(weak, strong, -win)
    for quantiles, tolerance in ((n, 0.002), (10, 0.02)):
        shares, accuracy = [0.0], [weak.mean()]
        for threshold in np.quantile(win, np.linspace(1, 0, quantiles + 1))[1:]:
            sent = win >= threshold
            shares.append(sent.mean())
            accuracy.append(np.where(sent, strong, weak).mean())
        area = sum((b - a) * (y + z) / 2 for a, b, y, z in zip(shares, shares[1:], accuracy, accuracy[1:], strict=False))
        gap = strong.mean() - weak.mean()
        assert ours.apgr() == pytest.approx((area - weak.mean()) / gap, abs=tolerance)
        for part in (0.5, 0.8):
            first = next(i for i, value in enumerate(accuracy) if value >= weak.mean() + part * gap)
            step = (weak.mean() + part * gap - accuracy[first - 1]) / (accuracy[first] - accuracy[first - 1])
            theirs = shares[first - 1] + step * (shares[first] - shares[first - 1])
            assert ours.calls_for(part) == pytest.approx(theirs, abs=2 * tolerance)


# ---- a whole evaluation ---------------------------------------------------------------------------------------------------


def sample(n: int = 1200, n_groups: int = 6) -> Sample:
    """A confidence that is exactly calibrated, and baselines that see it through noise."""
    correct, confidence = answers(n, 6, seed=7)
    draw = np.random.default_rng(8)
    noisy = {name: Signal(confidence + draw.normal(0, 0.5, n), np.full(n, correct.mean())) for name in BASELINES}
    return Sample(
        correct=correct,
        cloud=np.ones(n),
        groups=tuple(f"family {i % n_groups}" for i in range(n)),
        signals={CONFIDENCE: Signal(confidence, confidence), **noisy},
        n_assumed=n,
        sent={"share 0.2": confidence < np.quantile(confidence, 0.2)},
        model="m",
    )


def test_evaluation_of_a_known_router() -> None:
    found = evaluate(sample(), resamples=300)
    ours = found.routers[CONFIDENCE]
    assert ours.auroc is not None and ours.auroc_interval is not None
    assert ours.auroc_interval[0] < 5 / 6 < ours.auroc_interval[1], "a uniform and calibrated confidence has 5/6"
    assert ours.apgr == pytest.approx(2 / 3, abs=0.03)  # the integral of 1 - (1 - s)^2
    assert ours.calls_for["0.5"] == pytest.approx(1 - 0.5**0.5, abs=0.03)
    assert ours.calls_for["0.8"] == pytest.approx(1 - 0.2**0.5, abs=0.04)
    assert ours.ece is not None and ours.ece_floor is not None and ours.ece < 2 * ours.ece_floor
    chance = found.routers[RANDOM]
    assert (chance.apgr, chance.calls_for["0.5"], chance.calls_for["0.8"]) == pytest.approx((0.5, 0.5, 0.8))
    best = found.routers[ORACLE]
    assert best.apgr is not None and best.apgr > ours.apgr
    gain = found.gains["entropy"]
    assert gain.better_in == gain.of == 6 and gain.interval is not None and 0 < gain.interval[0] < gain.mean
    assert found.best_baseline() in BASELINES
    operating = found.operating["share 0.2"]
    assert operating.sent == pytest.approx(0.2, abs=0.01)
    assert operating.accuracy == pytest.approx(ours.accuracy_at["0.2"], abs=0.01)
    assert operating.kept is not None and operating.kept > found.local
    assert found.groups["family 0"].items == 200 and found.groups_undefined == 0


def test_the_mean_over_groups_is_not_the_pooled_figure() -> None:
    """A router that only knows which family an answer is of: useful when pooled, useless within each family."""
    correct = np.array([1.0] * 9 + [0.0] + [0.0] * 9 + [1.0])
    family = np.array([0.9] * 10 + [0.1] * 10)
    found = evaluate(
        Sample(correct, np.ones(20), ("easy",) * 10 + ("hard",) * 10, {CONFIDENCE: Signal(family, family)}), resamples=0
    )
    assert found.routers[CONFIDENCE].auroc == pytest.approx(0.9)
    assert found.routers[CONFIDENCE].mean_auroc == 0.5
    assert found.routers[CONFIDENCE].auroc_interval is None
    assert found.groups["easy"].auroc == {CONFIDENCE: 0.5} and found.groups["hard"].cloud == 1.0


def test_bootstrap_interval_covers() -> None:
    """Of 95 % intervals for a figure that is known, most hold it. 5/6 as above."""
    held = 0
    for seed in range(40):
        correct, confidence = answers(300, 6, seed=100 + seed)
        made = Sample(correct, np.ones(300), ("g",) * 300, {CONFIDENCE: Signal(confidence)})
        interval = evaluate(made, resamples=200).routers[CONFIDENCE].auroc_interval
        assert interval is not None
        held += interval[0] <= 5 / 6 <= interval[1]
    assert held >= 34


def test_same_seed_same_figures() -> None:
    assert evaluate(sample(400), resamples=50) == evaluate(sample(400), resamples=50)


def test_lines_of_the_two_landmarks() -> None:
    made = sample(100)
    assert line_of(made, RANDOM).apgr() == pytest.approx(0.5)
    ideal = line_of(made, ORACLE)
    assert ideal.at(1 - made.correct.mean()) == pytest.approx(1.0), "the oracle sends what is wrong, and no more"


# ---- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: auroc([], []), "not empty"),
        (lambda: auroc([1, 0], [0.5, float("nan")]), "not finite"),
        (lambda: auroc([1, 0, 1], [0.5, 0.1]), "correct has 3 numbers, but there are 2 answers"),
        (lambda: auroc([1, 2], [0.5, 0.1]), "something else than true and false"),
        (lambda: brier([1, 0], [0.5, 1.5]), "outside of 0 to 1"),
        (lambda: reliability([1, 0], [0.5, 0.5], bins=0), "at least one bin"),
        (lambda: reliability([1, 0], [0.5, 0.5], equal="size"), '"width" or in "mass"'),
        (lambda: curve([1, 0], [1, -1], [0.5, 0.5]), "cloud holds a number outside"),
        (lambda: Sample(np.zeros(0), np.zeros(0), (), {}), "no answers"),
        (lambda: Sample(np.zeros(2), np.zeros(1), ("a", "b"), {}), "cloud has 1 numbers, but there are 2"),
    ],
)
def test_bad_arguments_are_refused(call: object, sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        call()  # type: ignore[operator]

"""Targets (what share, what quality) and the ledger of what was spent."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from cactus_py.config import RouterSettings
from cactus_py.errors import ConfigError
from cactus_py.routing.budget import Ledger, Targets
from cactus_py.routing.decision import Stage


class Uniform:
    """What a calibration would know whose scores are spread evenly, and tell exactly how often an answer is right."""

    def threshold_for_share(self, share: float, stage: Stage = "after") -> float:
        return share

    def threshold_for_quality(self, quality: float, stage: Stage = "after") -> float:
        return max(0.0, 2 * quality - 1)


def test_where_a_threshold_comes_from() -> None:
    known = Uniform()
    assert Targets(RouterSettings()).threshold("m", known, "after") == 0.5
    assert Targets(RouterSettings(threshold=0.3, min_quality=0.9, max_cloud_share=0.1)).threshold("m", known, "after") == 0.3
    assert Targets(RouterSettings(min_quality=0.9)).threshold("m", known, "after") == pytest.approx(0.8)
    assert Targets(RouterSettings(max_cloud_share=0.2)).threshold("m", known, "before") == 0.2


Scores = Callable[[random.Random, int], float]
SHAPES: dict[str, Scores] = {
    "as calibrated": lambda draw, i: draw.random(),
    "all are harder": lambda draw, i: 0.3 * draw.random(),
    "all are easier": lambda draw, i: 0.7 + 0.3 * draw.random(),
    "harder from the middle on": lambda draw, i: draw.random() ** (1 if i < 2500 else 4),
    "waves": lambda draw, i: draw.random() * (0.3 if i // 500 % 2 else 1.0),
    "two heaps": lambda draw, i: min(1.0, max(0.0, draw.gauss(0.2 if draw.random() < 0.5 else 0.8, 0.05))),
}


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_share_is_kept_whatever_comes(shape: str, share: float) -> None:
    targets, draw, known = Targets(RouterSettings(max_cloud_share=share)), random.Random(1), Uniform()
    sent: list[bool] = []
    for i in range(5000):
        targets.begin()
        score = SHAPES[shape](draw, i)
        sent.append(score < targets.threshold("m", known, "after") and targets.take())
        targets.observe("m", "after", score)
        assert sum(sent) <= share * len(sent) + 1, "never more than was earned, and one ahead"
    assert sum(sent) / 5000 == pytest.approx(share, abs=0.05), "and not much less: the threshold follows what comes"
    assert max(sum(sent[i : i + 100]) for i in range(0, 5000, 50)) <= 100 * share + 11, "quiet times are no flood later"


def test_nothing_is_handed_over_where_the_share_is_zero() -> None:
    targets = Targets(RouterSettings(max_cloud_share=0.0))
    assert targets.threshold("m", Uniform(), "after") == 0.0
    for _ in range(100):
        targets.begin()
        assert not targets.take()


def test_what_was_not_used_is_given_back() -> None:
    targets = Targets(RouterSettings(max_cloud_share=0.25))
    targets.begin()
    assert targets.take() and not targets.take()
    targets.give_back()
    assert targets.take()
    free = Targets(RouterSettings())
    assert all(free.take() for _ in range(100)), "without a share nothing is counted"


def test_models_and_stages_have_their_own_thresholds() -> None:
    targets, known = Targets(RouterSettings(max_cloud_share=0.5)), Uniform()
    for stage in ("before", "during", "after"):
        targets.threshold("a", known, stage)
        targets.threshold("b", known, stage)
    for _ in range(10):
        targets.observe("a", "after", 0.0)
    assert targets.threshold("a", known, "after") == pytest.approx(0.4)
    assert targets.threshold("a", known, "during") == targets.threshold("b", known, "after") == 0.5


# ---- the ledger --------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, *when: int) -> None:
        self.time = datetime(*when, tzinfo=timezone.utc)  # type: ignore[arg-type, misc]

    def __call__(self) -> datetime:
        return self.time


def test_what_is_set_aside_and_spent(tmp_path: Path) -> None:
    clock = Clock(2030, 5, 1, 12)
    ledger = Ledger(tmp_path / "deep" / "ledger.json", 1.0, now=clock)
    assert ledger.reserve(0.6) and not ledger.reserve(0.6), "what is under way counts"
    ledger.settle(0.6, 0.1)
    assert ledger.reserve(0.6)
    ledger.settle(0.6, 0.6)
    today = ledger.today()
    assert (today.day, today.sent) == ("2030-05-01", 2)
    assert (today.cost_usd, today.reserved_usd) == (pytest.approx(0.7), 0.0)
    assert not ledger.reserve(0.4)
    assert (tmp_path / "deep" / "ledger.json").stat().st_mode & 0o777 == 0o600
    other = Ledger(tmp_path / "deep" / "ledger.json", 1.0, now=clock)
    assert not other.reserve(0.4) and other.reserve(0.25), "another process sees the same"
    clock.time = datetime(2030, 5, 2, tzinfo=timezone.utc)
    assert ledger.reserve(1.0) and ledger.today().sent == 1, "midnight, UTC"


def test_a_limit_of_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json", 0.0)
    assert ledger.reserve(0.0) and not ledger.reserve(1e-9)


_SPENDER = """
import sys, threading
from pathlib import Path
from cactus_py.routing.budget import Ledger

ledger = Ledger(Path(sys.argv[1]), 1.0)
won = []

def spend():
    for _ in range(20):
        if ledger.reserve(0.01):
            ledger.settle(0.01, 0.007)
            won.append(0.007)

threads = [threading.Thread(target=spend) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(won))
"""


def test_the_limit_holds_for_threads_and_processes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    command = [sys.executable, "-c", _SPENDER, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    won = sum(int(process.communicate(timeout=120)[0]) for process in processes)
    spent = Ledger(path, 1.0).today()
    assert spent.sent == won and spent.cost_usd == pytest.approx(0.007 * won) and spent.reserved_usd == pytest.approx(0)
    assert 0.99 - 0.007 < spent.cost_usd <= 1.0, "320 tries for about 142 that there is money for"


def test_threads_of_one_ledger_that_hold_what_they_reserved(tmp_path: Path) -> None:
    ledger, won = Ledger(tmp_path / "ledger.json", 0.1), []

    def spend() -> None:
        won.extend(1 for _ in range(10) if ledger.reserve(0.01))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) in (9, 10) and ledger.today().reserved_usd <= 0.1


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"day": "2030-05-01"}',
        "\xff",
        '{"day":"","requests":0,"sent":0,"cost_usd":-1,"reserved_usd":0}',
        '{"day":"","requests":0,"sent":0,"cost_usd":NaN,"reserved_usd":0}',
        '{"day":"","requests":1e999,"sent":0,"cost_usd":0,"reserved_usd":0}',
        "[" * 30000,
    ],
)
def test_a_damaged_file_allows_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"the ledger ledger\.json is damaged; delete it"):
        Ledger(path, 1.0).reserve(0.01)
    assert path.read_text(encoding="latin-1") == content, "it is left for the user to look at"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.json", 1.0).reserve(0.01)


def test_the_share_that_the_rest_of_the_money_is_enough_for(tmp_path: Path) -> None:
    clock = Clock(2030, 5, 1, 12)
    ledger = Ledger(tmp_path / "ledger.json", 1.0, now=clock)
    assert ledger.affordable_share() is None
    for _ in range(100):
        ledger.count()
    assert ledger.affordable_share() is None, "nobody knows what one costs"
    assert ledger.reserve(0.02)
    ledger.settle(0.02, 0.02)
    share = ledger.affordable_share()
    assert share == pytest.approx(0.98 / (0.02 * 100), rel=0.01), "as many are still to come as there were"
    assert json.loads((tmp_path / "ledger.json").read_text())["requests"] == 100
    targets = Targets(RouterSettings(max_cost_per_day=1.0), ledger)
    assert targets.threshold("m", Uniform(), "after") == pytest.approx(share)
    assert ledger.reserve(0.98)
    ledger.settle(0.98, 0.98)
    assert targets.threshold("m", Uniform(), "after") == 0.0, "when it is spent, every answer is kept"
    clock.time = datetime(2030, 5, 2, 1, tzinfo=timezone.utc)
    assert targets.threshold("m", Uniform(), "after") == 0.5

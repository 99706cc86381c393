"""How much may go to the cloud: thresholds that meet a target, and a ledger of what was spent.

A threshold comes from what the user fixed, or from a target by way of the calibration: the share of answers that falls below a
confidence, or the quality of those above it. What people ask is never quite what the calibration was made with, so the
threshold for a share follows the requests that really come: it is their running quantile, found by stochastic approximation
(Robbins and Monro, 1951), which takes one addition per request.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigError
from .decision import Stage

if TYPE_CHECKING:
    from ..config import RouterSettings

__all__ = ["Ledger", "Spent", "Targets", "Thresholds"]

DEFAULT_THRESHOLD = 0.5
_STEP = 0.02  # of the running quantile, per request
_AHEAD = 1.0  # requests that may be handed over before their share is earned
_SAVED_UP = 10.0  # of them at most later: quiet times do not add up to a flood
_ENOUGH_REQUESTS = 20  # to guess from them how many a day brings


class Thresholds(Protocol):
    """What a calibration knows of its scores."""

    def threshold_for_share(self, share: float, stage: Stage = "after") -> float: ...
    def threshold_for_quality(self, quality: float, stage: Stage = "after") -> float: ...


class Targets:
    """The thresholds of one client, and its account of the share that was handed over. Safe to share between threads."""

    def __init__(self, settings: RouterSettings, ledger: Ledger | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
        self._lock = threading.Lock()
        self._quantiles: dict[tuple[str, Stage, float], float] = {}
        self._earned = _AHEAD if settings.max_cloud_share else 0.0  # requests that may be handed over now

    def threshold(self, model: str, calibration: Thresholds, stage: Stage) -> float:
        """The least confidence with which an answer of this model is kept."""
        settings = self._settings
        if settings.threshold is not None:
            found = settings.threshold
        elif settings.min_quality is not None:
            found = calibration.threshold_for_quality(settings.min_quality, stage)
        elif settings.max_cloud_share is not None:
            return self._quantile(model, calibration, stage, settings.max_cloud_share)
        else:
            found = DEFAULT_THRESHOLD
        affordable = None if self._ledger is None else self._ledger.affordable_share()
        if affordable is not None:
            found = min(found, calibration.threshold_for_share(affordable, stage))
        return found

    def _quantile(self, model: str, calibration: Thresholds, stage: Stage, share: float) -> float:
        with self._lock:
            key = (model, stage, share)
            if key not in self._quantiles:
                self._quantiles[key] = calibration.threshold_for_share(share, stage)
            return self._quantiles[key]

    def observe(self, model: str, stage: Stage, confidence: float) -> None:
        """What a request's confidence was, whatever became of it: the lowest, where there were several."""
        share = self._settings.max_cloud_share
        if share is None:
            return
        with self._lock:
            key = (model, stage, share)
            if key in self._quantiles:
                step = share - (confidence < self._quantiles[key])
                self._quantiles[key] = min(1.0, max(0.0, self._quantiles[key] + _STEP * step))

    def begin(self) -> None:
        """A request that might be handed over: it earns its part of the share."""
        share = self._settings.max_cloud_share
        if share is not None:
            with self._lock:
                self._earned = min(self._earned + share, max(_SAVED_UP, _AHEAD))

    def take(self) -> bool:
        """Whether one request may be handed over now; if so, it counts."""
        if self._settings.max_cloud_share is None:
            return True
        with self._lock:
            if self._earned < 1.0:
                return False
            self._earned -= 1.0
            return True

    def give_back(self) -> None:
        """What was taken was not used: the cloud had no answer."""
        if self._settings.max_cloud_share is not None:
            with self._lock:
                self._earned += 1.0


@dataclass(slots=True)
class Spent:
    """One day of the ledger. `reserved_usd` is for replies that are under way."""

    day: str = ""  # 2030-12-31, UTC
    requests: int = 0
    sent: int = 0
    cost_usd: float = 0.0
    reserved_usd: float = 0.0


class Ledger:
    """What was spent today, in a file that all processes of a user share. A process that dies leaves what it had reserved
    standing until midnight: the limit holds in any case."""

    def __init__(self, path: Path, limit_usd: float, *, now: Callable[[], datetime] | None = None) -> None:
        """path: its folder is made when something is first written. now: the time, UTC."""
        self._path = path
        self._limit = limit_usd
        self._now = now or (lambda: datetime.now(timezone.utc))
        self._lock = threading.Lock()
        self._known = Spent()  # as last seen, for guesses that need no look at the file
        self._waiting = 0  # requests that were not written yet: one write per request would be one too many

    @property
    def limit_usd(self) -> float:
        return self._limit

    def today(self) -> Spent:
        """What the file says. Raises ConfigError if it cannot be read."""
        with self._open() as spent:
            return spent

    def count(self) -> None:
        """One request more, wherever it is answered. Kept in memory until something is sent."""
        with self._lock:
            self._waiting += 1

    def reserve(self, estimated_usd: float) -> bool:
        """Whether the day's limit allows for this much; if so it is set aside."""
        with self._open() as spent:
            if spent.cost_usd + spent.reserved_usd + estimated_usd > self._limit:
                return False
            spent.reserved_usd += estimated_usd
            spent.sent += 1
            return True

    def settle(self, estimated_usd: float, cost_usd: float) -> None:
        """Puts what was really spent in the place of what was set aside."""
        with self._open() as spent:
            spent.reserved_usd = max(0.0, spent.reserved_usd - estimated_usd)
            spent.cost_usd += max(0.0, cost_usd)

    def affordable_share(self) -> float | None:
        """The share of the rest of the day's requests that the rest of the money is enough for, if they go on coming as they
        did today; None while there is too little to tell from."""
        with self._lock:
            spent, requests = self._known, self._known.requests + self._waiting
        now = self._now()
        if spent.day != _day(now) or requests < _ENOUGH_REQUESTS or spent.sent == 0:
            return None
        passed = (now.hour * 3600 + now.minute * 60 + now.second + 1) / 86400
        cost_each = (spent.cost_usd + spent.reserved_usd) / spent.sent
        expected = requests / passed * (1 - passed)
        left = self._limit - spent.cost_usd - spent.reserved_usd
        if cost_each <= 0 or expected <= 0:
            return None
        return min(1.0, max(0.0, left) / (cost_each * expected))

    @contextlib.contextmanager
    def _open(self) -> Iterator[Spent]:
        """Today's account, which nobody else touches until the block ends; what was changed in it is written then."""
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise ConfigError(f"the ledger of what the cloud cost cannot be opened: {error}") from None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                spent = self._read(handle)
                before = asdict(spent)
                today = _day(self._now())
                if spent.day != today:
                    spent = Spent(today)
                spent.requests, self._waiting = spent.requests + self._waiting, 0
                yield spent
                if asdict(spent) != before:
                    data = json.dumps(asdict(spent)).encode()
                    os.pwrite(handle, data, 0)
                    os.ftruncate(handle, len(data))
                self._known = Spent(**asdict(spent))
            except OSError as error:
                raise ConfigError(f"the ledger of what the cloud cost cannot be written: {error}") from None
            finally:
                os.close(handle)

    def _read(self, handle: int) -> Spent:
        data = os.pread(handle, 1 << 16, 0)
        if not data:
            return Spent()
        try:
            found = json.loads(data)
            spent = Spent(
                str(found["day"]),
                int(found["requests"]),
                int(found["sent"]),
                float(found["cost_usd"]),
                float(found["reserved_usd"]),
            )
            whole = all(math.isfinite(value) and value >= 0 for value in (spent.cost_usd, spent.reserved_usd))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            whole = False
        if not whole:
            message = f"the ledger {self._path.name} is damaged; delete it if what was spent today may be forgotten"
            raise ConfigError(message)
        return spent


def _day(now: datetime) -> str:
    return now.strftime("%Y-%m-%d")

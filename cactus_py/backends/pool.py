"""Loaded models: each loaded once, kept while it is used, and closed when room, time or a caller demand it.

A value is taken under a key with `lease` and given back by the lease. Under a limit of bytes, those that were used least
recently are closed to make room; one that is leased never is, and who needs its room waits in line until it is given back. How
many bytes a value takes is known once it was loaded, so a first load is measured before anybody uses it; later ones find their
room before they begin. Nothing slow happens under the lock: loading one value holds up nobody who wants another.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Generic, Literal, TypeVar

from ..errors import OutOfMemoryError, RequestCancelledError, RequestTimeoutError
from ..hub.files import size_text

__all__ = ["CLOSED", "Lease", "Pool"]

CLOSED = "the request was cancelled because its client was closed"

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Lease(Generic[Value]):
    """A value that stays open until it is given back: by `release`, or at the end of a `with` block."""

    def __init__(self, value: Value, waited_s: float, release: Callable[[], None]) -> None:
        self.value = value
        self.waited_s = waited_s  # for others to end or to load; its own loading not counted
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Gives the value back. Again: does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Value:
        return self.value

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class _Entry(Generic[Value]):
    """One value. `need_bytes` counts from the moment it was granted until the value is closed."""

    def __init__(self) -> None:
        self.state: Literal["loading", "open", "closing"] = "loading"
        self.value: Value | None = None
        self.need_bytes = 0
        self.n_users = 0
        self.used_at = self.tended_at = time.monotonic()


class Pool(Generic[Key, Value]):
    """Values by key. Safe to share between threads."""

    def __init__(
        self,
        *,
        size_of: Callable[[Value], int],
        close: Callable[[Value], None],
        limit_bytes: int | None = None,
        idle_seconds: float = 0,
        tend: Callable[[Value], None] | None = None,
        tend_seconds: float = 0,
    ) -> None:
        """idle_seconds: a value that nobody used for so long is closed; 0: never. tend: called with each open value about every
        `tend_seconds` while nobody uses it, and not at all if that is 0."""
        self._size_of = size_of
        self._close = close
        self._limit_bytes = limit_bytes
        self._idle_seconds = idle_seconds
        self._tend = tend
        self._tend_seconds = tend_seconds if tend is not None else 0
        self._changed = threading.Condition()  # over an RLock: a reply may be collected, and given back, anywhere
        self._entries: dict[Key, _Entry[Value]] = {}
        self._needs: dict[Key, int] = {}  # bytes of what was loaded before
        self._line: deque[object] = deque()  # those who wait for room, first come first
        self._closed = False
        self._wake = threading.Event()
        self._keeper_sleeps = False  # until it is woken
        self._keeper: threading.Thread | None = None
        weakref.finalize(self, self._wake.set)

    # ---- use ----

    def lease(self, key: Key, load: Callable[[], Value], *, what: str, timeout_s: float | None = None) -> Lease[Value]:
        """The value of a key, loaded by `load` if it is not there.

        what: its name, for errors. timeout_s: longest wait for others; loading is not counted. Raises RequestTimeoutError when
        it has passed, OutOfMemoryError if the value alone takes more than the limit, RequestCancelledError if the pool is
        closed meanwhile, and what `load` raises.
        """
        clock = _Clock(timeout_s)
        with self._changed:
            while True:
                self._check_open()
                entry = self._entries.get(key)
                if entry is None:
                    break
                if entry.state == "open":
                    return self._taken(key, entry, clock)
                self._wait(clock, what)
            entry = self._entries[key] = _Entry()
            try:
                if key in self._needs:
                    self._reserve(entry, self._needs[key], clock, what)
            except BaseException:
                self._forget(key)
                raise
        value: Value | None = None
        try:
            value = load()
            need_bytes = self._size_of(value)
            with self._changed:
                self._needs[key] = need_bytes
                self._reserve(entry, need_bytes, clock, what)
                entry.value, entry.state = value, "open"
                return self._taken(key, entry, clock)
        except BaseException:
            try:
                if value is not None:
                    self._close(value)
            finally:
                self._forget(key)
            raise

    def _taken(self, key: Key, entry: _Entry[Value], clock: _Clock) -> Lease[Value]:
        assert entry.value is not None
        entry.n_users += 1
        entry.used_at = time.monotonic()
        self._changed.notify_all()
        return Lease(entry.value, clock.waited_s, lambda: self._give_back(entry))

    def _give_back(self, entry: _Entry[Value]) -> None:
        with self._changed:
            entry.n_users -= 1
            entry.used_at = time.monotonic()
            if entry.n_users == 0:
                self._changed.notify_all()
                self._call_keeper()

    def _reserve(self, entry: _Entry[Value], need_bytes: int, clock: _Clock, what: str) -> None:
        """Grants an entry its bytes, closing others for it. Waits in line while those are in use. The lock is held."""
        limit = self._limit_bytes
        if limit is None or need_bytes <= entry.need_bytes:
            self._check_open()
            entry.need_bytes = need_bytes
            return
        if need_bytes > limit:
            raise OutOfMemoryError(
                f'the model "{what}" takes {size_text(need_bytes)}, and memory_limit is {size_text(limit)}; '
                "raise it, or lower kv_memory or context"
            )
        ticket = object()
        self._line.append(ticket)
        try:
            while True:
                self._check_open()
                victims = self._victims(need_bytes - entry.need_bytes) if self._line[0] is ticket else None
                if victims is None:
                    self._wait(clock, what)
                elif victims:
                    self._retire(victims)
                else:
                    entry.need_bytes = need_bytes
                    return
        finally:
            self._line.remove(ticket)
            self._changed.notify_all()

    def _victims(self, need_bytes: int) -> list[Key] | None:
        """The least recently used entries that must go for so many bytes; None if those in use leave too little."""
        assert self._limit_bytes is not None
        excess = sum(entry.need_bytes for entry in self._entries.values()) + need_bytes - self._limit_bytes
        idle = [(entry.used_at, key) for key, entry in self._entries.items() if entry.state == "open" and entry.n_users == 0]
        victims = []
        for _, key in sorted(idle, key=lambda pair: pair[0]):
            if excess <= 0:
                break
            victims.append(key)
            excess -= self._entries[key].need_bytes
        return victims if excess <= 0 else None

    def _retire(self, keys: list[Key]) -> None:
        """Closes idle entries. The lock is held, but not while they close."""
        values = []
        for key in keys:
            entry = self._entries[key]
            entry.state = "closing"
            assert entry.value is not None
            values.append((key, entry.value))
            entry.value = None
        self._changed.release()
        try:
            while values:
                key, value = values[0]
                try:
                    self._close(value)
                finally:
                    values.pop(0)
                    self._forget(key)
        finally:
            self._changed.acquire()

    def _forget(self, key: Key) -> None:
        with self._changed:
            self._entries.pop(key, None)
            self._changed.notify_all()

    def _wait(self, clock: _Clock, what: str) -> None:
        if clock.wait(self._changed):
            return
        if self._limit_bytes is None:
            raise RequestTimeoutError(f'the model "{what}" was not loaded within the request\'s timeout')
        raise RequestTimeoutError(
            f'there was no room for the model "{what}" within the request\'s timeout: the models in use take what memory_limit '
            f"allows ({size_text(self._limit_bytes)})"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise RequestCancelledError(CLOSED)

    # ---- ends ----

    def unload(self, key: Key, *, what: str, timeout_s: float | None = None) -> bool:
        """Closes a value once nobody uses it; whether there was one. Raises RequestTimeoutError if that takes too long."""
        clock = _Clock(timeout_s)
        with self._changed:
            while True:
                self._check_open()
                entry = self._entries.get(key)
                if entry is None:
                    return False
                if entry.state == "open" and entry.n_users == 0:
                    self._retire([key])
                    return True
                if not clock.wait(self._changed):
                    raise RequestTimeoutError(f'the model "{what}" is still in use; end its requests, or allow more time')

    def open(self) -> dict[Key, Value]:
        """What is open now."""
        with self._changed:
            return {key: entry.value for key, entry in self._entries.items() if entry.value is not None}

    def users(self, key: Key) -> tuple[int, float]:
        """How many use a value, and for how many seconds nobody has."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None:
                return 0, 0.0
            return entry.n_users, 0.0 if entry.n_users else time.monotonic() - entry.used_at

    def check_open(self) -> None:
        """Raises RequestCancelledError if the pool was closed."""
        with self._changed:
            self._check_open()

    def close(self) -> None:
        """Closes every value, used or not; those who wait get RequestCancelledError."""
        with self._changed:
            self._closed = True
            values = [entry.value for entry in self._entries.values() if entry.value is not None]
            self._entries = {key: entry for key, entry in self._entries.items() if entry.value is None}
            self._changed.notify_all()
            keeper = self._keeper
        self._wake.set()
        for value in values:
            self._close(value)
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join()

    # ---- the keeper, a thread that closes and tends what is idle ----

    def _call_keeper(self) -> None:
        """Starts the keeper, or wakes it if it has nothing to wait for. The lock is held."""
        if self._closed or not (self._idle_seconds or self._tend_seconds):
            return
        if self._keeper is None:
            arguments = (weakref.ref(self), self._wake)
            self._keeper = threading.Thread(target=_keep, args=arguments, name="cactus-py-models", daemon=True)
            self._keeper.start()
        elif self._keeper_sleeps:
            self._wake.set()

    def _keep_once(self) -> float | None:
        """Closes and tends what is due. Seconds until something is due again; None: nothing is."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                idle = [(key, entry) for key, entry in self._entries.items() if entry.state == "open" and not entry.n_users]
                ends = {key: entry.used_at + self._idle_seconds for key, entry in idle if self._idle_seconds}
                tends = {
                    key: entry.tended_at + self._tend_seconds
                    for key, entry in idle
                    if self._tend_seconds and entry.tended_at <= entry.used_at
                }
                if ended := [key for key, at in ends.items() if at <= now]:
                    self._retire(ended)
                elif tended := [key for key, at in tends.items() if at <= now]:
                    self._tend_to(self._entries[tended[0]])
                else:
                    first = min([*ends.values(), *tends.values()], default=None)
                    self._keeper_sleeps = first is None
                    return None if first is None else first - now
        return None

    def _tend_to(self, entry: _Entry[Value]) -> None:
        """The lock is held, but not while the value is tended."""
        value = entry.value
        assert value is not None and self._tend is not None
        entry.n_users += 1
        entry.tended_at = time.monotonic()
        self._changed.release()
        try:
            self._tend(value)
        finally:
            self._changed.acquire()
            entry.n_users -= 1
            self._changed.notify_all()


class _Clock:
    """Adds up waiting, and says when it was too much."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self.waited_s = 0.0

    def wait(self, condition: threading.Condition) -> bool:
        """Waits for a change; False if there is no time left to."""
        left = None if self._timeout_s is None else self._timeout_s - self.waited_s
        if left is not None and left <= 0:
            return False
        began = time.monotonic()
        condition.wait(left)
        self.waited_s += time.monotonic() - began
        return True


def _keep(reference: weakref.ref[Pool[Key, Value]], wake: threading.Event) -> None:
    """The thread. It holds no reference to the pool while it sleeps, so that a pool that is dropped can go."""
    while True:
        pool = reference()
        if pool is None or pool._closed:
            return
        seconds = pool._keep_once()
        del pool
        wake.wait(seconds)
        wake.clear()

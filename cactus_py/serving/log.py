"""Lines for standard error, written by a thread: whoever reads them may be slow, and the event loop must not wait for that."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["Log"]

_MAX_LINES = 10_000  # that wait to be written; what comes then is lost, and counted


class Log:
    """Takes lines at once and writes them in order. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._lost = 0
        self._runs = False  # a thread is writing

    def write(self, fields: Mapping[str, Any]) -> None:
        """One line of JSON."""
        line = (json.dumps(fields, default=str) + "\n").encode("utf-8", "replace")
        with self._changed:
            if len(self._lines) >= _MAX_LINES:
                self._lost += 1
                return
            if self._lost:
                self._lines.append(b'{"level":"warning","message":"%d lines of this log were lost"}\n' % self._lost)
                self._lost = 0
            self._lines.append(line)
            begins, self._runs = not self._runs, True
        if begins:
            threading.Thread(target=self._run, name="cactus-py-log", daemon=True).start()

    def flush(self, timeout_s: float) -> bool:
        """Waits until all is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._runs, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._lines:
                    self._runs = False
                    self._changed.notify_all()
                    return
                data = b"".join(self._lines)
                self._lines.clear()
            with contextlib.suppress(OSError, ValueError):  # whoever read the log has gone
                _write(data)


def _write(data: bytes) -> None:
    """Past the lock of sys.stderr: held by a thread that waits, it would keep the interpreter from ending."""
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # something else stands in its place
        if sys.stderr is not None:
            sys.stderr.write(data.decode())
        return
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [])

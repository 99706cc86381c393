"""`cactus-py serve` in a process of its own, as a user would start it: what the tests of the server talk to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from conftest import KEPT, ORIGINAL, SECRETS

ROOT = Path(__file__).parents[1]
_MAIN = "from cactus_py.cli import main; main()"


def environment(home: Path) -> dict[str, str]:
    """The environment of the tests' start without keys and settings of the user."""
    kept = {
        name: value
        for name, value in ORIGINAL.items()
        if not name.startswith(SECRETS) and (not name.startswith("CACTUS_PY_") or name in KEPT)
    }
    path = os.pathsep.join(filter(None, (str(ROOT), ORIGINAL.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, "CACTUS_PY_HOME": str(home), "CACTUS_PY_CONFIG": os.devnull, "HF_HUB_OFFLINE": "1"}


def serve_command(*options: str) -> list[str]:
    return [sys.executable, "-c", _MAIN, "serve", *options]


class ServerProcess:
    """A running server. `url` is where; `lines()` what it logged so far. A context manager."""

    def __init__(self, home: Path, *options: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            serve_command("--port", "0", "--json", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(home), **variables},
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first:
            self.process.wait(10)
            self._reader.join(5)
            raise RuntimeError("the server did not start: " + "".join(self._lines))
        self.url: str = json.loads(first)["url"]
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self._lines)]

    def line_of(self, request_id: str, within_s: float = 10.0) -> dict[str, Any]:
        """The log line of one request; waits for it."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            found = [line for line in self.lines() if line.get("request_id") == request_id]
            if found:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no line for {request_id}")

    def idle(self, within_s: float = 5.0) -> dict[str, Any]:
        """What /health says once nothing runs any more."""
        end = time.monotonic() + within_s
        while True:
            found: dict[str, Any] = httpx.get(self.url + "/health", timeout=10).json()
            if not found["requests"] and all(m["running"] == m["waiting"] == 0 for m in found["models"].values()):
                return found
            assert time.monotonic() < end, f"still busy: {found}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM, within_s: float = 20.0) -> int:
        """Sends a signal and waits for the end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(within_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(5)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

"""The audit log: a line of JSON before anything leaves the device, and one afterwards that tells how it ended.

The first line ("event": "leaves") says when, why, what and where to; it is written before a byte is sent, and what cannot be
recorded must not be sent. The second ("returned", same "id") says what came of it; a "leaves" without it is a request that is
under way, or whose process died. No line holds text of a request or of an answer, a key, or what a placeholder stands for.

Lines are appended by one write under a lock of the file, so that threads and processes can share it; half a line that a full
disk left is taken back. The file is readable by its owner only. To rotate it, move it away: the next line begins a new one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import StoreError
from ..types import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, RouteDecision
from .privacy import Request

__all__ = ["AuditLog", "read"]

_LOCK_SECONDS = 2.0
_MAX_TEXT = 300  # characters of any text in a line
_MAX_ITEMS = 16  # of any list in a line
_MAX_LINE = 1 << 20  # bytes; longer ones are none of ours


class AuditLog:
    """Appends to the file `path`, which is made where it is missing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self._mutex = threading.Lock()
        self._fd = -1
        self._pid = os.getpid()

    def leaves(
        self,
        request_id: str,
        request: Request,
        decision: RouteDecision,
        to: Sequence[tuple[str, str]],
        *,
        bytes_sent: int,
        audio_bytes: int = 0,
        redacted: Mapping[str, int] | None = None,
    ) -> None:
        """Records what is about to leave. to: (base URL, model) of every endpoint that may be asked, in order. redacted: how
        many texts of each kind were taken out.

        Raises StoreError if that cannot be written: the request must then stay on the device.
        """
        self._append(
            {
                "event": "leaves",
                "time": _now(),
                "id": request_id,
                **_what(request),
                "policy": decision.policy,
                "reasons": decision.reasons[:_MAX_ITEMS],
                "confidence": decision.confidence,
                "threshold": decision.threshold,
                "estimated_cost_usd": decision.estimated_cost_usd,
                "to": [{"host": _host(url), "model": model} for url, model in to[:_MAX_ITEMS]],
                "bytes_sent": bytes_sent,
                **({"audio_bytes": audio_bytes} if audio_bytes else {}),
                "redacted": dict(redacted or {}),
            }
        )

    def returned(
        self,
        request_id: str,
        outcome: str,
        *,
        host: str | None = None,
        model: str | None = None,
        attempts: int | None = None,
        bytes_sent: int | None = None,
        bytes_received: int | None = None,
        cost_usd: float | None = None,
    ) -> bool:
        """Records how it ended: "ok", "cancelled", or the kind of the error; host (or base URL) and model: who answered;
        bytes_sent: of all attempts. Never raises, as the answer is there by now: whether it could be written."""
        try:
            self._append(
                {
                    "event": "returned",
                    "time": _now(),
                    "id": request_id,
                    "outcome": outcome,
                    "host": None if host is None else _host(host),
                    "model": model,
                    "attempts": attempts,
                    "bytes_sent": bytes_sent,
                    "bytes_received": bytes_received,
                    "cost_usd": cost_usd,
                }
            )
        except StoreError:
            return False
        return True

    def close(self) -> None:
        """Closes the file; the next line opens it again."""
        with self._mutex:
            self._close()

    def _append(self, fields: dict[str, Any]) -> None:
        line = json.dumps(_clipped(fields), separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
        if self._pid != os.getpid():  # a fork shares the open file, and so its lock, and maybe a mutex that nobody releases
            self._mutex, self._fd, self._pid = threading.Lock(), -1, os.getpid()
        with self._mutex:
            try:
                self._open()
                self._lock()
                try:
                    self._write(line)
                finally:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError as error:
                self._close()
                reason = error.strerror or str(error)
                raise StoreError(f"the audit log {self.path} cannot be written: {reason}") from None

    def _open(self) -> None:
        """Opens the file, anew if another one has its name by now."""
        if self._fd >= 0:
            mine = os.fstat(self._fd)
            try:
                named = os.stat(self.path)
            except FileNotFoundError:
                named = None
            if named is not None and (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino):
                return
            self._close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would wait for its other end
        self._fd = os.open(self.path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")

    def _lock(self) -> None:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise OSError(errno.EBUSY, "another process keeps it locked") from None
                time.sleep(0.001)

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":  # somebody died within a line
            line = b"\n" + line
        try:
            written = os.write(self._fd, line)
        except OSError:
            os.ftruncate(self._fd, size)
            raise
        if written != len(line):
            os.ftruncate(self._fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a log, in order. What is no record is passed over: half a line, or one that is being written.

    Raises StoreError if the file cannot be read.
    """
    try:
        with open(Path(path).expanduser(), "rb") as file:
            while line := file.readline(_MAX_LINE):
                if not line.endswith(b"\n"):
                    continue  # the beginning of a line that is too long, or the last one, torn
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError as error:
        raise StoreError(f"the audit log {path} cannot be read: {error.strerror or error}") from None


def _what(request: Request) -> dict[str, Any]:
    """What kind of request it is, and how much of what it has."""
    if isinstance(request, ChatCompletionRequest):
        parts = [part for message in request.messages if isinstance(message.content, list) for part in message.content]
        kinds = [part.type for part in parts]
        return {
            "what": "chat",
            "messages": len(request.messages),
            "tools": len(request.tools or ()) + len(request.functions or ()),
            "images": kinds.count("image_url"),
            "audio": kinds.count("input_audio"),
            "files": kinds.count("file"),
        }
    if isinstance(request, CompletionRequest):
        return {"what": "completion", "prompts": len(request.prompts)}
    if isinstance(request, EmbeddingRequest):
        return {"what": "embedding", "inputs": len(request.inputs)}
    return {"what": "transcription", "audio": 1}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _host(url: str) -> str:
    """Host and port of a URL, without what else it may hold: a user and a password, a path, a query."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if isinstance(value, dict):
        return {str(key)[:_MAX_TEXT]: _clipped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clipped(item) for item in value]
    if isinstance(value, float) and not -1e300 < value < 1e300:
        return None
    return value

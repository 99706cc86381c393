"""Pinned versions: `NAME@SHA`, where SHA is the beginning of the SHA-256 of the model's file, at least 8 hex digits.

What is installed has its hash on record. Any other file is hashed once; the result is kept in HOME/hashes.json with the path,
size and time of change that it belongs to, so that a large file is not read anew in every process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from cactus_py.errors import ConfigError, StoreError, UnknownModelError
from cactus_py.hub.files import ProgressCallback, sha256_of, silent, write_atomically
from cactus_py.hub.store import Store

_PIN = re.compile(r"[0-9a-fA-F]{8,64}")
_KEPT = 1000  # files whose hashes are remembered
_lock = threading.Lock()
_known: dict[tuple[str, int, int], str] = {}


def is_pin(text: str) -> bool:
    """Whether this can stand after the @."""
    return _PIN.fullmatch(text) is not None


def split_pin(text: str) -> tuple[str, str | None]:
    """A name without its pin, and the pin in lower case. The path of a file may hold an @.

    Raises UnknownModelError if what follows the @ is no hash.
    """
    name, at, pin = text.rpartition("@")
    if not at or not name or os.path.isfile(os.path.expanduser(text)):
        return text, None
    if not is_pin(pin):
        if "/" in pin or pin.lower().endswith(".gguf"):
            return text, None  # an @ in a path
        message = f"{text!r} pins no version: after the @ belong 8 to 64 hex digits, the beginning of the file's SHA-256"
        raise UnknownModelError(message, name=text)
    return name, pin.lower()


def check_pin(name: str, pin: str, sha256: str) -> None:
    """Raises UnknownModelError if the hash does not begin as the pin says."""
    if not sha256.startswith(pin):
        message = f"{name}@{pin} is not here: the SHA-256 of {name} begins with {sha256[:12]}"
        raise UnknownModelError(message, name=f"{name}@{pin}")


def file_sha256(path: Path, store: Store, progress: ProgressCallback = silent) -> str:
    """The hash of a model's file: from the store's record, from memory, or by reading it. Raises StoreError."""
    return known_sha256(path, store) or _hashed(path, store, progress)


def known_sha256(path: Path, store: Store) -> str | None:
    """The same, but None where the file would have to be read."""
    with contextlib.suppress(OSError, StoreError, ConfigError):
        path = path.resolve()
        if path.is_relative_to(store.models.resolve()):
            model = store.installed(path.parent.name)
            if model is not None and model.path.resolve() == path:
                return model.sha256
    key = _key(path)
    if key is None:
        return None
    with _lock:
        return _known.get(key) or _read(store).get(key)


def _hashed(path: Path, store: Store, progress: ProgressCallback) -> str:
    before = _key(path)
    sha256 = sha256_of(path, progress)
    if before is not None and before == _key(path):  # else it changed meanwhile
        with _lock:
            _known[before] = sha256
            kept = {**_read(store), before: sha256}
            rows = [[*key, value] for key, value in list(kept.items())[-_KEPT:]]
            with contextlib.suppress(StoreError, OSError):  # without a place to write, the next process reads the file again
                store.home.mkdir(parents=True, exist_ok=True)
                write_atomically(store.home / "hashes.json", json.dumps(rows) + "\n")
    return sha256


def _key(path: Path) -> tuple[str, int, int] | None:
    try:
        found = path.stat()
        return str(path.resolve()), found.st_size, found.st_mtime_ns
    except OSError:
        return None


def _read(store: Store) -> dict[tuple[str, int, int], str]:
    """What earlier processes found; nothing if the file is damaged."""
    try:
        rows: Any = json.loads((store.home / "hashes.json").read_text(encoding="utf-8"))
        good = [row for row in rows if [type(value) for value in row] == [str, int, int, str]]
        return {(path, size, time): sha for path, size, time, sha in good if re.fullmatch(r"[0-9a-f]{64}", sha)}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}

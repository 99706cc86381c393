"""The local store: models that were pulled, each in a folder of its own, next to what is being pulled.

    HOME/models/NAME/FILE.gguf       the weights, complete and verified: they only appear here by a rename
    HOME/models/NAME/FOLDER/         the same, for a model that is several files (CTranslate2)
    HOME/models/NAME/model.json      what they are and where they came from (Record)
    HOME/models/.partial/NAME/       unfinished downloads, which the next pull resumes
    HOME/models/.locks/NAME.lock     held by the process that pulls or removes NAME
    HOME/catalog/*.toml              the user's own catalog entries

HOME is $CACTUS_PY_HOME, else the platform's place for the data of an application. Reading needs no write permission.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cactus_py.errors import ConfigError, StoreError
from cactus_py.hub.files import ProgressCallback, replace, silent, storing, sync_folder, write_atomically

_RECORD = "model.json"
_POLL_SECONDS = 0.1


def default_home() -> Path:
    """Where models and caches live unless a caller says otherwise. Raises ConfigError if no place is known."""
    try:
        configured = os.environ.get("CACTUS_PY_HOME")
        if configured:
            return Path(configured).expanduser().absolute()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "cactus-py"
        data = os.environ.get("XDG_DATA_HOME", "")
        return (Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share") / "cactus-py"
    except RuntimeError as error:  # no home directory
        raise ConfigError("No home directory is known for this user; set CACTUS_PY_HOME to a folder for models.") from error


@dataclass(frozen=True)
class Record:
    """What the store remembers of an installed file."""

    name: str
    file: str
    size_bytes: int
    sha256: str
    source: str
    pulled_at: str  # UTC, ISO 8601


@dataclass(frozen=True)
class InstalledModel:
    """A model in the store. `path`, a file or a CTranslate2 folder, existed, with the recorded size, when this was made."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    source: str
    pulled_at: str


class Store:
    """One store. Cheap to make; looks at the disk only when asked something."""

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = Path(home).expanduser().absolute() if home is not None else default_home()
        self.models = self.home / "models"
        self._partial = self.models / ".partial"
        self._locks = self.models / ".locks"

    def path(self, name: str, file: str = "") -> Path:
        """Where a model, or a file of it, belongs. Raises StoreError for a name that would lead out of the store."""
        return self._inside(self.models, name, file)

    def workspace(self, name: str) -> Path:
        """The folder for what is being pulled. Made by those who write to it."""
        return self._inside(self._partial, name)

    def installed(self, name: str) -> InstalledModel | None:
        """The model of exactly this name, if it is here, whole and recorded."""
        record = self._record(name)
        if record is None:
            return None
        path = self.path(name, record.file)
        try:
            if size_bytes_of(path) != record.size_bytes:
                return None
        except OSError:
            return None
        return InstalledModel(name, path, record.size_bytes, record.sha256, record.source, record.pulled_at)

    def all_installed(self) -> list[InstalledModel]:
        """Every model that is here, by name. Raises StoreError if the store cannot be read."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.models) if entry.is_dir() and not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"The model store {self.models} cannot be read: {error.strerror}.") from error
        return [model for name in names if _is_plain(name) and (model := self.installed(name)) is not None]

    @contextlib.contextmanager
    def lock(self, name: str, progress: ProgressCallback = silent) -> Iterator[None]:
        """Only one process (and one thread) at a time works on a model. Reports phase "wait" if another one does."""
        path = self._inside(self._locks, f"{name}.lock")
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            waiting = False
            while not _try_lock(fd, path):
                if not waiting:
                    progress("wait", 0, None)
                    waiting = True
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(fd)  # frees the lock; the file stays, for removing it would let two processes hold one lock each

    def install(self, finished: Path, name: str, file: str, *, size_bytes: int, sha256: str, source: str) -> InstalledModel:
        """Moves a verified file or folder, written on this store's file system and synced, into place and records it."""
        folder, target = self.path(name), self.path(name, file)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if finished.is_dir():
                for inner in (finished, *(path for path in finished.rglob("*") if path.is_dir())):
                    sync_folder(inner)
                if target != finished and target.exists():  # no rename replaces a folder that holds something
                    (folder / _RECORD).unlink(missing_ok=True)  # first: what is left after a failure is no model
                    shutil.rmtree(target)
        replace(finished, target)
        pulled_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = Record(name=name, file=file, size_bytes=size_bytes, sha256=sha256, source=source, pulled_at=pulled_at)
        write_atomically(folder / _RECORD, json.dumps(asdict(record), indent=2) + "\n")
        sync_folder(self.models)
        return InstalledModel(name, target, size_bytes, sha256, source, pulled_at)

    def remove(self, name: str) -> int:
        """Deletes a model and what was pulled of it; returns the bytes freed. A process that has it open keeps its map."""
        folder, workspace = self.path(name), self.workspace(name)
        if not folder.exists() and not workspace.exists():
            return 0
        with self.lock(name):
            freed = _size_bytes(folder) + _size_bytes(workspace)
            with storing(folder, "remove"):
                with contextlib.suppress(FileNotFoundError):
                    (folder / _RECORD).unlink()  # first, so that what is left after a failure is not taken for a model
                for path in (folder, workspace):
                    with contextlib.suppress(FileNotFoundError):
                        shutil.rmtree(path)
        return freed

    def clear_workspace(self, name: str) -> None:
        """Deletes what a finished pull leaves behind. Never fails: leftovers are found again by the next pull."""
        shutil.rmtree(self.workspace(name), ignore_errors=True)

    def partial_bytes(self) -> int:
        """Disk space held by unfinished downloads."""
        return _size_bytes(self._partial)

    def free_bytes(self) -> int | None:
        """Free space where the store is or will be; None if the file system cannot say."""
        place = self.models
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            return shutil.disk_usage(place).free
        except OSError:
            return None

    def _record(self, name: str) -> Record | None:
        """The record of a model; None if there is none or it is not one of ours: the model is then pulled again."""
        if not _is_plain(name):
            return None
        try:
            values: Any = json.loads((self.path(name) / _RECORD).read_text(encoding="utf-8"))
            record = Record(**values)
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = (record.name, record.file, record.sha256, record.source, record.pulled_at)
        good = all(isinstance(text, str) for text in texts) and isinstance(record.size_bytes, int) and _is_plain(record.file)
        return record if good and record.name == name else None

    def _inside(self, base: Path, *steps: str) -> Path:
        """base/steps, proven to lie inside `base` even after links are followed."""
        path = base
        for step in steps:
            if step:
                if not _is_plain(step):
                    raise StoreError(f"{step!r} cannot be the name of a model or of its file.")
                path = path / step
        with storing(path, "use"):
            inside = path.resolve().is_relative_to(base.resolve())
        if not inside:
            raise StoreError(f"{path} leads out of the model store {self.models}; remove that link.")
        return path


def is_model_folder(path: Path | str) -> bool:
    """Whether this is the path of a folder with a model in the format of CTranslate2."""
    try:
        folder = Path(path).expanduser()
        return (folder / "model.bin").is_file() and (folder / "config.json").is_file()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL
        return False


def size_bytes_of(path: Path) -> int | None:
    """Bytes of a model: of its file, or of all files in its folder; None if there is neither. Raises OSError."""
    if path.is_file():
        return path.stat().st_size
    return _size_bytes(path) if path.is_dir() else None


def _try_lock(fd: int, path: Path) -> bool:
    """Takes the lock if nobody holds it."""
    with storing(path, "lock"):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _is_plain(name: str) -> bool:
    """Whether a name is one step of a path, on every platform, and no hidden file."""
    return 0 < len(name) <= 200 and name[0].isalnum() and all(c.isalnum() or c in "._-" for c in name) and name.isascii()


def _size_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; what cannot be read counts as nothing."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, file)).st_size
    return total

"""Writing files so that a full disk, a crash or a missing permission leaves nothing half-done under a final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cactus_py.errors import StoreError

CHUNK_BYTES = 1 << 20

# What callers are told while they wait: (phase, bytes done, bytes in all or None where unknown). Phases: "wait" (another
# process is pulling the same model), "locate" (asking an index), "download", "unpack", "verify", "convert". Called in the
# caller's own thread, except for hf: sources; an exception it raises ends the pull and is passed on.
ProgressCallback = Callable[[str, int, int | None], None]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_os_write = os.write  # the one place where bytes reach a disk


def silent(phase: str, done_bytes: int, total_bytes: int | None) -> None:
    """The progress callback of those who did not give one."""


def store_error(error: OSError, path: Path, action: str) -> StoreError:
    """`error`, met while doing `action` ("write") at `path`, as a sentence that says what to do."""
    if error.errno in _FULL:
        return StoreError(f"The disk is full: cannot {action} {path}; free some space, or set CACTUS_PY_HOME to a larger disk.")
    if error.errno in _FORBIDDEN:
        return StoreError(f"No permission to {action} {path}; change that, or set CACTUS_PY_HOME to a folder of your own.")
    return StoreError(f"Cannot {action} {path}: {error.strerror or error}.")


@contextlib.contextmanager
def storing(path: Path, action: str = "write") -> Iterator[None]:
    """Turns an OSError of the block into a StoreError."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path, action) from error


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of `data`, however many calls it takes. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[_os_write(fd, view) :]


Mark = tuple[int, "hashlib._Hash"]


class HashingFile:
    """A file being written front to back, whose SHA-256 is known at every point. Errors of the disk are StoreErrors."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """Starts empty; with `resume`, goes on behind what is there, which is read once for the hash."""
        self.path = path
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags if resume else flags | os.O_TRUNC, 0o644)
            try:
                while resume and (chunk := os.read(self._fd, CHUNK_BYTES)):
                    self._hash.update(chunk)
                    self.size_bytes += len(chunk)
            except BaseException:
                self.close()
                raise

    def write(self, data: bytes) -> None:
        with storing(self.path):
            write_all(self._fd, data)
        self._hash.update(data)
        self.size_bytes += len(data)

    def mark(self) -> Mark:
        """The present end, for `rewind`."""
        return self.size_bytes, self._hash.copy()

    def rewind(self, mark: Mark | None = None) -> None:
        """Forgets everything written behind a mark; without one, everything."""
        size_bytes, digest = mark or (0, hashlib.sha256())
        with storing(self.path):
            os.lseek(self._fd, size_bytes, os.SEEK_SET)
            os.ftruncate(self._fd, size_bytes)
        self.size_bytes, self._hash = size_bytes, digest.copy()

    def sync(self) -> None:
        """Returns once the bytes are on the disk."""
        with storing(self.path):
            os.fsync(self._fd)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def digest_of_listing(digests: Mapping[str, str]) -> str:
    """One SHA-256 for the files of a folder: that of the lines `sha256sum` prints of them, sorted by path."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, by path. Raises StoreError if it cannot be read."""
    with storing(folder, "read"):
        return sorted(path for path in folder.rglob("*") if not path.is_dir())


def sha256_of(path: Path, progress: ProgressCallback = silent) -> str:
    """Hash of a file, or of a folder's listing, reporting phase "verify". Raises StoreError if it cannot be read."""
    if path.is_dir():
        return digest_of_listing({file.relative_to(path).as_posix(): sha256_of(file, progress) for file in files_below(path)})
    digest = hashlib.sha256()
    done = 0
    with storing(path, "read"), path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        progress("verify", 0, total)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress("verify", done, total)
    return digest.hexdigest()


def replace(source: Path, target: Path) -> None:
    """Moves a finished file to its final name in one step that survives a crash. Both are on one file system."""
    with storing(target):
        os.replace(source, target)
        sync_folder(target.parent)


def write_atomically(path: Path, text: str) -> None:
    """A small text file that is either the old or the new one, never a part. Raises StoreError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with HashingFile(draft) as file:
            file.write(text.encode())
            file.sync()
        replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable, where the platform can."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def require_space(folder: Path, size_bytes: int, what: str) -> None:
    """Raises StoreError if fewer than `size_bytes` are free where `folder` is or will be."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return  # a file system that cannot say; writing will tell
    if size_bytes > free:
        raise StoreError(
            f"The disk is too full for {what}: it needs {size_text(size_bytes)} in {folder}, where {size_text(free)} are free; "
            "free some space, or set CACTUS_PY_HOME to a larger disk."
        )


def size_text(size_bytes: int) -> str:
    """A size for people, in units of 10^6 or 10^9 bytes."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:,.1f} GB"

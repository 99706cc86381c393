"""Files on the Hugging Face hub, through its own client: tokens, mirrors, offline mode and cache work as users know them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cactus_py.errors import DownloadError
from cactus_py.hub.files import ProgressCallback, require_space, store_error
from cactus_py.hub.sources import HfSource, redact


def fetch_hf(source: HfSource, size_bytes: int, folder: Path, progress: ProgressCallback) -> Path:
    """The file, below `folder`, where a later call resumes an unfinished download. Raises DownloadError or StoreError."""
    from huggingface_hub import hf_hub_download

    require_space(folder, size_bytes, source.file)
    progress("download", 0, size_bytes)
    refused: list[BaseException] = []  # what the callback raised, from among the client's own layers

    def report(phase: str, done_bytes: int, total_bytes: int | None) -> None:
        try:
            progress(phase, done_bytes, total_bytes)
        except BaseException as error:
            refused.append(error)
            raise

    options: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # since 1.0; before, it draws a bar of its own
        options["tqdm_class"] = _bar(report)
    try:
        path = hf_hub_download(source.repo, source.file, revision=source.revision, local_dir=folder, **options)
    except Exception as error:
        if refused:
            raise refused[0] from None
        # Its errors come from three libraries and share no base; those of the disk are the only ones told apart here.
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise store_error(error, Path(error.filename), "write") from error
        raise DownloadError(_reason(error)) from error
    return Path(path)


def fetch_hf_files(repo: str, revision: str, patterns: Sequence[str], progress: ProgressCallback) -> Path:
    """The folder, in the client's own cache, of the files of a repository that match. Raises DownloadError or StoreError."""
    from huggingface_hub import snapshot_download

    progress("download", 0, None)
    try:
        quiet = _bar(lambda phase, done_bytes, total_bytes: None)  # it would count files here, bytes there
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns), tqdm_class=quiet))
    except Exception as error:  # as above
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise store_error(error, Path(error.filename), "write") from error
        raise DownloadError(f"{repo} could not be fetched: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """The first sentence of an error of the client; the rest is advice for callers of that library."""
    text = redact(str(error)).strip()
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first.rstrip(".")[:300] or type(error).__name__


def _bar(progress: ProgressCallback) -> type[Any]:
    """A progress bar for the client that draws nothing and passes on what it is told."""
    bar: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class Reporter(bar):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options["disable"] = True
            super().__init__(*args, **options)
            self._done = int(options.get("initial") or 0)
            self._all: int | None = options.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            progress("download", self._done, self._all)
            return None

    return Reporter

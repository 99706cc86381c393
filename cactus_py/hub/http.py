"""Downloads over HTTP that survive cut connections, and that a later process can take up where an earlier one was stopped.

A download lies in the workspace as KEY.data, with KEY.json beside it: what identifies its bytes. Taking it up again is right
if the bytes on the server are still the same ones. That is known in two ways: the expected SHA-256 is known beforehand (KEY
is then that hash, and a wrong byte is found at the end), or the server gave a strong ETag or a Last-Modified date, which
`If-Range` sends back: the server then answers 206 with the rest, or 200 with everything if the file has changed. Where
neither is known, what an interrupted download leaves is deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cactus_py.errors import ChecksumError, DownloadError
from cactus_py.hub.files import HashingFile, ProgressCallback, require_space, size_text, write_atomically
from cactus_py.hub.sources import redact

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 15.0
STALL_SECONDS = 30.0  # without a byte
FUTILE_ATTEMPTS = 4  # in a row that brought no byte
ATTEMPTS = 60  # in all
FIRST_WAIT_SECONDS = 0.5  # doubled by each futile attempt
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass(frozen=True)
class Wanted:
    """What to download, and what is known about it before."""

    url: str
    size_bytes: int | None = None  # anything else is refused before it is fetched
    sha256: str | None = None
    limit_bytes: int | None = None  # where the size is not known: more than this is refused
    spare_bytes: int = 0  # disk space needed besides, for what the download is unpacked to


@dataclass(frozen=True)
class Fetched:
    path: Path
    sha256: str
    size_bytes: int


class _Transient(Exception):
    """An attempt failed in a way that another attempt may not. The text says how."""


class _Changed(Exception):
    """What lies on the disk does not continue into what the server has: begin anew."""


@dataclass(frozen=True)
class _Identity:
    """What the server said about the bytes of a download; the file KEY.json."""

    etag: str | None = None
    last_modified: str | None = None
    total_bytes: int | None = None

    @property
    def validator(self) -> str | None:
        """For If-Range: a strong ETag, else a date."""
        return self.etag or self.last_modified


def client(*, ca_file: str | None = None, proxy: str | None = None) -> httpx.Client:
    """An HTTP client with this module's limits. Proxies and certificates of the environment apply. Close it."""
    import ssl

    import httpx

    verify: Any = True
    if ca_file is not None:
        verify = ssl.create_default_context(cafile=ca_file)
    return httpx.Client(
        follow_redirects=True,
        timeout=httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS),
        headers={"User-Agent": "cactus-py", "Accept-Encoding": "identity"},
        verify=verify,
        proxy=proxy,
    )


def download(web: httpx.Client, wanted: Wanted, workspace: Path, progress: ProgressCallback) -> Fetched:
    """Fetch `wanted` into the workspace. Raises DownloadError, ChecksumError or StoreError.

    The file stays in the workspace after success (a call with the same hash then needs no network) and, where it can be
    taken up again, after a failure.
    """
    key = wanted.sha256 or "url-" + hashlib.sha256(wanted.url.encode()).hexdigest()
    job = _Job(web, wanted, workspace / f"{key}.data", workspace / f"{key}.json", progress)
    try:
        fetched = job.run()
        if wanted.sha256 is not None and fetched.sha256 != wanted.sha256 and job.resumed:
            job.discard()  # perhaps what lay here was damaged: the bytes of one clean run decide
            fetched = job.run()
    except BaseException:
        if job.is_empty() or not job.can_be_resumed():
            job.discard()
        raise
    finally:
        job.close()
    if wanted.sha256 is not None and fetched.sha256 != wanted.sha256:
        job.discard()
        raise ChecksumError(f"it holds bytes of SHA-256 {fetched.sha256} where {wanted.sha256} is promised")
    return fetched


def forget(data: Path) -> None:
    """Deletes a download that turned out to be worthless, and what was noted about it."""
    for path in (data, data.with_suffix(".json")):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


class _Job:
    """One download: its file, what is known of it, and the attempts."""

    def __init__(self, web: httpx.Client, wanted: Wanted, data: Path, note: Path, progress: ProgressCallback) -> None:
        self.web, self.wanted, self.data, self.note, self.progress = web, wanted, data, note, progress
        self.file: HashingFile | None = None
        self.identity = _Identity()
        self.resumed = False  # whether the file was put together from several answers

    def run(self) -> Fetched:
        file = self._open()
        if self.wanted.sha256 is None or self.wanted.sha256 != file.sha256:
            self._repeat(file)
        file.sync()
        self.close()
        return Fetched(self.data, file.sha256, file.size_bytes)

    def _open(self) -> HashingFile:
        self.close()
        self.identity = self._read_note()
        keep = self.can_be_resumed() and self.data.exists()
        self.file = HashingFile(self.data, resume=keep)
        self.resumed = self.file.size_bytes > 0
        return self.file

    def _repeat(self, file: HashingFile) -> None:
        """Attempts until the file is complete, with growing pauses while they bring nothing."""
        futile = 0
        for _ in range(ATTEMPTS):
            before = file.size_bytes
            try:
                return self._attempt(file)
            except _Changed:
                file.rewind()
                self.identity = _Identity()
                self.resumed = False
                futile += 1
                reason = "the server keeps answering with another part of the file than was asked for"
            except _Transient as error:
                reason = str(error)
                if not self.can_be_resumed():
                    file.rewind()
                futile = 0 if file.size_bytes > before else futile + 1
            if futile >= FUTILE_ATTEMPTS:
                break
            if futile:
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (futile - 1))
        have = f" after {size_text(file.size_bytes)}" if file.size_bytes else ""
        raise DownloadError(f"{reason}{have}")

    def _attempt(self, file: HashingFile) -> None:
        """One request. Returns with the file complete; raises _Transient, _Changed, DownloadError or StoreError."""
        import httpx

        have = file.size_bytes
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.identity.validator:
                headers["If-Range"] = self.identity.validator
        try:
            with self.web.stream("GET", self.wanted.url, headers=headers) as response:
                total = self._begin(file, response)
                if total is None or file.size_bytes < total:
                    self._receive(file, response, total)
        except httpx.TransportError as error:
            raise _Transient(_network_reason(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DownloadError(redact(str(error)) or type(error).__name__) from error

    def _begin(self, file: HashingFile, response: httpx.Response) -> int | None:
        """Judges the head of a response; the file then is as long as the offset of the body. Returns the total length."""
        import httpx

        status = response.status_code
        ranged = "Range" in response.request.headers
        if status in _TRANSIENT:
            raise _Transient(f"the server answered {status} {response.reason_phrase}".rstrip())
        if status == 416 and ranged:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is not None and match[3] == str(file.size_bytes) and self.wanted.size_bytes in (None, file.size_bytes):
                return file.size_bytes  # nothing is missing
            raise _Changed
        if status == 206 and ranged:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or match[1] != str(file.size_bytes):
                raise _Changed
            total = int(match[3]) if match[3] != "*" else self.identity.total_bytes
            if self.identity.total_bytes not in (None, total):
                raise _Changed
            self.resumed = True
        elif status == 200:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            if file.size_bytes:  # the server has no ranges, or the file has changed
                file.rewind()
                self.resumed = False
        else:
            raise DownloadError(f"the server answered {status} {httpx.codes.get_reason_phrase(status)}".rstrip())
        if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise DownloadError("the server sends the file in another encoding than was asked for")
        expected = self.wanted.size_bytes
        if total is None:
            total = expected
        elif expected is not None and total != expected:
            file.rewind()
            raise DownloadError(f"the server has a file of {total:,} bytes where {expected:,} are expected")
        limit = self.wanted.limit_bytes
        if limit is not None and total is not None and total > limit:
            raise DownloadError(f"the server has a file of {total:,} bytes where at most {limit:,} are expected")
        self._note(response, total)
        missing = (total - file.size_bytes if total is not None else 0) + self.wanted.spare_bytes
        require_space(self.data.parent, missing, "this download")
        return total

    def _receive(self, file: HashingFile, response: httpx.Response, total: int | None) -> None:
        most = total if total is not None else self.wanted.limit_bytes
        self.progress("download", file.size_bytes, total)
        for chunk in response.iter_raw():
            if most is not None and file.size_bytes + len(chunk) > most:
                file.rewind()
                raise DownloadError(f"the server sends more than the {most:,} bytes that are expected")
            file.write(chunk)
            self.progress("download", file.size_bytes, total)
        if total is not None and file.size_bytes < total:
            raise _Transient("the connection was cut")

    def can_be_resumed(self) -> bool:
        return self.wanted.sha256 is not None or self.identity.validator is not None

    def is_empty(self) -> bool:
        return self.file is not None and self.file.size_bytes == 0

    def discard(self) -> None:
        self.close()
        forget(self.data)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _note(self, response: httpx.Response, total: int | None) -> None:
        """Remembers, for this and later runs, what identifies the bytes."""
        etag = response.headers.get("ETag")
        if etag is not None and not etag.startswith('"'):
            etag = None  # a weak one says nothing about bytes
        seen = _Identity(etag, response.headers.get("Last-Modified"), total)
        if seen != self.identity:
            self.identity = seen
            write_atomically(self.note, json.dumps(asdict(seen)))

    def _read_note(self) -> _Identity:
        try:
            values: Any = json.loads(self.note.read_text(encoding="utf-8"))
            identity = _Identity(**values)
        except (OSError, ValueError, TypeError, RecursionError):
            return _Identity()
        good = all(text is None or isinstance(text, str) for text in (identity.etag, identity.last_modified))
        return identity if good and isinstance(identity.total_bytes, int | None) else _Identity()


def _network_reason(error: httpx.TransportError) -> str:
    """A failure of the network in a few words."""
    import httpx

    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return "the server did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"no connection could be made ({redact(str(error)) or type(error).__name__})"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "the connection was cut"
    return redact(str(error)) or type(error).__name__

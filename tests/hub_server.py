"""A real HTTP server on the loopback device whose faults are chosen by the test: the other side of the hub's downloads."""

from __future__ import annotations

import http.server
import io
import itertools
import re
import socket
import struct
import threading
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Served:
    """One path: its bytes, and how they are served. Lists are used up, one element per request, the last one for good."""

    data: bytes
    content_type: str = "application/octet-stream"
    ranges: bool = True
    etag: str | None = None
    last_modified: str | None = None
    statuses: list[int] = field(default_factory=lambda: [200])
    cut_after: list[int | None] = field(default_factory=lambda: [None])  # body bytes before the connection is cut
    declared_length: int | None = None  # a lie for Content-Length
    content_range: str | None = None  # a lie for Content-Range
    chunked: bool = False  # no Content-Length
    encoding: str | None = None
    location: str | None = None
    bytes_per_second: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    sent_bytes: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class HubServer:
    """Serves `files`; remembers every request. A context manager."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[Request] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, path: str, data: bytes, **how: Any) -> str:
        """Serve bytes at a path; returns the URL."""
        self.files[path] = Served(data, **how)
        return self.url + path

    def of(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def sent_bytes(self, path: str) -> int:
        return sum(request.sent_bytes for request in self.of(path))

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _next(values: list[Any]) -> Any:
    return values.pop(0) if len(values) > 1 else values[0]


def _handler(hub: HubServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            self.close_connection = True
            request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            hub.requests.append(request)
            served = hub.files.get(self.path)
            if served is None:
                self.begin(404, {"Content-Length": "0"})
                return
            status = _next(served.statuses)
            if served.location is not None:
                self.begin(302, {"Location": served.location, "Content-Length": "0"})
                return
            if status != 200:
                self.begin(status, {"Content-Length": "0"})
                return
            start, status, headers = 0, 200, {"Content-Type": served.content_type, **served.headers}
            if served.etag:
                headers["ETag"] = served.etag
            if served.last_modified:
                headers["Last-Modified"] = served.last_modified
            match = re.fullmatch(r"bytes=(\d+)-", request.range or "")
            condition = request.headers.get("if-range")
            if served.ranges and match and condition in (None, served.etag, served.last_modified):
                start = int(match[1])
                if start >= len(served.data):
                    self.begin(416, {"Content-Range": f"bytes */{len(served.data)}", "Content-Length": "0"})
                    return
                status = 206
                headers["Content-Range"] = served.content_range or f"bytes {start}-{len(served.data) - 1}/{len(served.data)}"
            data = served.data[start:]
            if not served.chunked:
                length = served.declared_length if served.declared_length is not None else len(data)
                headers["Content-Length"] = str(length)
            if served.encoding:
                headers["Content-Encoding"] = served.encoding
            self.begin(status, headers)
            if body:
                self.send(request, data, _next(served.cut_after), served.bytes_per_second)

        def begin(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()

        def send(self, request: Request, data: bytes, cut_after: int | None, bytes_per_second: int | None) -> None:
            end = len(data) if cut_after is None else min(cut_after, len(data))
            step = 1 << 16 if bytes_per_second is None else max(1, bytes_per_second // 20)
            try:
                for offset in range(0, end, step):
                    piece = data[offset : min(end, offset + step)]
                    request.sent_bytes += len(piece)  # before the write: the client may be done as soon as that returns
                    self.wfile.write(piece)
                    if bytes_per_second is not None:
                        time.sleep(0.05)
                if end < len(data):
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side has gone

    return Handler


def patterned(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes that do not repeat with a short period, so that a misplaced piece is noticed."""
    out = bytearray()
    for number in itertools.count(seed * 1_000_003):
        out += struct.pack("<I", (number * 2654435761) & 0xFFFFFFFF)
        if len(out) >= size_bytes:
            return bytes(out[:size_bytes])
    raise AssertionError


def make_wheel(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def complete_wheel(package: str, version: str, files: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts."""
    info = f"{package}-{version}.dist-info"
    return make_wheel(
        {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )


def tree(folder: Path) -> list[str]:
    """Every file below a folder, as paths relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink())

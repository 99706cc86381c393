"""A proxy that breaks things: real TCP between a client and a real server, with one fault for each request.

It reads a whole request, then does what `faults` says next ("pass" where the list is empty): answers itself, or asks the server
behind it and passes on what comes, up to the point where it breaks. Each request has a connection of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from types import TracebackType

EVENTS = "text/event-stream; charset=utf-8"
STATUS = {
    "401": "Unauthorized",
    "403": "Forbidden",
    "404": "Not Found",
    "408": "Request Timeout",
    "500": "Internal Server Error",
}


class FaultProxy:
    """A context manager; `url` is where it listens. `requests`: bodies of all requests that arrived, `heads` their heads."""

    def __init__(self, port: int, certificate: str | None = None) -> None:
        """port: of the server behind, on this machine. certificate: a PEM file; the proxy then speaks TLS."""
        self.faults: list[str] = []
        self.always = "pass"
        self.stall_s = 10.0
        self.requests: list[bytes] = []
        self.heads: list[bytes] = []
        self.n_connections = 0
        self.n_gone = 0  # clients that went away while they were stalled
        self.running = self.most_running = 0
        self._port = port
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                connection, _ = self._listener.accept()
                self.n_connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.settimeout(20)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            head, body = _request(connection)
            with self._lock:
                self.heads.append(head)
                self.requests.append(body)
                fault = self.faults.pop(0) if self.faults else self.always
                self.running += 1
                self.most_running = max(self.most_running, self.running)
            try:
                self._answer(connection, fault, head, body)
            finally:
                with self._lock:
                    self.running -= 1

    # ---- faults ----

    def _answer(self, connection: socket.socket, fault: str, head: bytes, body: bytes) -> None:
        send = connection.sendall
        name, _, detail = fault.partition(":")
        if name == "reset":
            return _reset(connection)
        if name == "close":
            return
        if name == "stall":
            return self._stall(connection)
        if name == "garbage":
            return send(bytes(range(256)) * 8)
        if name == "html":
            return send(_reply(b"<html><body>Please log in</body></html>", "text/html"))
        if name == "empty":
            return send(_reply(b"", EVENTS))
        if name == "empty_json":
            return send(_reply(b"", "application/json"))
        if name == "redirect":
            return send(_reply(b"", EVENTS, "307 Temporary Redirect", f"Location: {detail}"))
        if name == "huge_line":
            send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: ")
            for _ in range(64):
                send(b"x" * (1 << 20))
            return None
        if name == "gzip":
            return send(_reply(b"\x1f\x8b" + b"\0" * 50, EVENTS, "200 OK", "Content-Encoding: gzip"))
        if name == "body":  # any body of events
            return send(_reply(detail.encode("latin-1"), EVENTS))
        if name == "json_body":
            return send(_reply(detail.encode(), "application/json"))
        if name == "drip":
            send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            while not self._stop.wait(0.02):
                send(b":")
            return None
        if name.isdecimal():
            extra = f"Retry-After: {detail}" if detail else ""
            if detail == "date":
                extra = f"Retry-After: {formatdate(time.time() + 1.5, usegmt=True)}"
            key = next((line for line in head.decode().splitlines() if line.lower().startswith("authorization")), "")
            said = json.dumps({"error": {"message": f"no: {key}", "type": "x", "code": None}}).encode()
            return send(_reply(said, "application/json", f"{name} {STATUS.get(name, 'X')}", extra))
        return self._pass(connection, name, detail, head, body)

    def _stall(self, connection: socket.socket) -> None:
        until = time.monotonic() + self.stall_s
        while time.monotonic() < until and not self._stop.is_set():
            if select.select([connection], [], [], 0.02)[0]:  # the client sends no more: it has gone
                self.n_gone += 1
                return

    def _pass(self, connection: socket.socket, name: str, detail: str, head: bytes, body: bytes) -> None:
        """Asks the server; what comes is broken after `detail` events with text."""
        if name == "json":  # as servers that know no streams
            fields = json.loads(body)
            body = json.dumps({k: v for k, v in fields.items() if k not in ("stream", "stream_options")}).encode()
        method, path, _ = head.decode().split("\r\n", 1)[0].split(" ")
        kept = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line]
        headers = {k: v for k, v in kept if k.lower() not in ("host", "content-length", "connection", "authorization")}
        upstream = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        with contextlib.closing(upstream):
            upstream.request(method, path, body, headers)
            reply = upstream.getresponse()
            media = reply.getheader("content-type", "")
            if not media.startswith("text/event-stream"):
                return connection.sendall(_reply(reply.read(), media, f"{reply.status} X"))
            length = {"long_length": "Content-Length: 999999", "short_length": "Content-Length: 700"}.get(name)
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\n".encode())
            connection.sendall((length or "Transfer-Encoding: chunked").encode() + b"\r\nConnection: close\r\n\r\n")

            def send(data: bytes) -> None:
                connection.sendall(data if length else b"%x\r\n%s\r\n" % (len(data), data))

            n_left = int(detail or 0)
            for event in _events(reply):
                if name == "no_usage" and b'"choices":[]' in event:
                    continue
                if name.endswith("_mid") and b'"content":"' in event and b'"content":""' not in event:
                    if n_left == 0:
                        return self._break(connection, name, send)
                    n_left -= 1
                if name == "no_done" and b"[DONE]" in event:
                    break
                if name == "bytewise":
                    for i in range(len(event)):
                        send(event[i : i + 1])
                else:
                    send(event.replace(b"\n", b"\r\n") if name == "crlf" else event)
            if not length:
                connection.sendall(b"0\r\n\r\n")
        return None

    def _break(self, connection: socket.socket, name: str, send: object) -> None:
        assert callable(send)
        if name == "reset_mid":
            time.sleep(0.1)  # a reset takes with it what was not read yet
            _reset(connection)
        elif name == "stall_mid":
            self._stall(connection)
        elif name == "cut_mid":
            connection.sendall(b"0\r\n\r\n")
        elif name == "bad_json_mid":
            send(b'data: {"choices": [{\n\n')
        elif name == "garbage_mid":
            connection.sendall(b"zz\r\n\xff\xfe")
        elif name == "not_text_mid":
            send(b"data: \xff\xfe\n\n")
        elif name == "error_mid":
            send(b'data: {"error": {"message": "out of cheese", "type": "server_error"}}\n\n')


def _reply(body: bytes, media: str, status: str = "200 OK", extra: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {media}", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*lines, *filter(None, [extra]), "", ""]).encode() + body


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _request(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise OSError("no request")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while len(body) < (lengths[0] if lengths else 0):
        body += connection.recv(65536)
    return head, body


def _events(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    event = b""
    while line := reply.readline():
        event += line
        if line == b"\n":
            yield event
            event = b""

"""The door: what holds for every request, before and after what it asks for.

A request gets an id, is refused where it may not be here, and leaves a line in the log. `Guard` is the outermost layer, so that
nothing an application raises leaves it but as JSON; `Doorman`, under the CORS layer, looks at keys, hosts and origins.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import CloudError
from .body import discard, header
from .errors import CLIENT_GONE, Failure, RequestFailure, failure_of, stopping_failure, was_foreseen
from .keys import Keys
from .log import Log
from .metrics import ENDPOINTS, Metrics, Span, kind_of
from .wire import dumps

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..config import Serve
    from ..types import CompletionUsage, Timings

__all__ = ["OPEN_PATHS", "Doorman", "Guard", "Record", "is_loopback", "log_failure"]

OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/health/ready"})  # and /web/: what holds nothing of anybody
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_log = logging.getLogger("cactus_py.serving")


@dataclass
class Record:
    """What is known of a request, for its log line and its metrics."""

    id: str
    path: str
    send: Send
    began_s: float = field(default_factory=time.perf_counter)
    status: int = 0
    answered: bool = False  # the status line has left
    model: str | None = None
    usage: CompletionUsage | None = None
    timings: Timings | None = None
    route: str | None = None
    confidence: float | None = None
    reasons: tuple[str, ...] = ()  # of the router, codes only
    cost_usd: float | None = None
    first_token_s: float | None = None
    n_tokens: int = 0
    failure: Failure | None = None
    error: Exception | None = None
    prompt: Any = None
    span: Span | None = None

    def ms(self, until_s: float | None = None) -> float:
        return round(1000 * ((time.perf_counter() if until_s is None else until_s) - self.began_s), 3)


class Guard:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, settings: Serve, is_stopping: Callable[[], bool], metrics: Metrics, log: Log) -> None:
        self._app = app
        self._settings = settings
        self._is_stopping = is_stopping
        self._metrics = metrics
        self._lines = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = [value for name, value in scope["headers"] if name == b"x-request-id"]
        given = asked[0].decode("latin-1") if len(asked) == 1 else ""
        record = Record(given if _ID.fullmatch(given) else f"req_{token_hex(12)}", scope["path"], send)
        scope["record"] = record

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.answered, record.status = True, message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", record.id.encode()),
                    (b"openai-processing-ms", b"%d" % record.ms()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            stopping = self._is_stopping()
            record.error, record.failure = error, failure_of(error, request_id=record.id, stopping=stopping)
            if record.failure.status >= 500 and not was_foreseen(error):
                log_failure(record)
            if record.answered:
                raise
            await _send_failure(send_with_id, receive, record.failure)
        finally:
            if record.failure is not None and record.failure.status == CLIENT_GONE:
                record.status = CLIENT_GONE
            if record.span is None and record.path in ENDPOINTS:
                record.span = self._metrics.begin(record.path)
            if record.span is not None:
                record.span.end(
                    record.status,
                    usage=record.usage,
                    timings=record.timings,
                    route=record.route,
                    confidence=record.confidence,
                    reasons=record.reasons,
                    cloud_failures=_cloud_failures(record),
                    cost_usd=record.cost_usd,
                    error_kind=_kind_of(record),
                )
            if self._settings.log and not (record.status < 400 and _is_poll(record.path)):
                self._write(scope, record)
            record.error = None  # its traceback leads back here: what the request held would stay until the collector comes

    def _write(self, scope: Scope, record: Record) -> None:
        client = scope.get("client")
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": record.id,
            "method": scope["method"],
            "path": scope["path"],
            "status": record.status,
            "ms": record.ms(),
            "client": client[0] if client else None,
        }
        if record.model is not None:
            line["model"] = record.model
        if record.route is not None:
            line["route"] = record.route
        if record.confidence is not None:
            line["confidence"] = round(record.confidence, 4)
        if record.reasons:
            line["reasons"] = list(record.reasons)
        if record.cost_usd is not None:
            line["cost_usd"] = round(record.cost_usd, 8)
        if record.usage is not None:
            line["prompt_tokens"] = record.usage.prompt_tokens
            line["completion_tokens"] = record.usage.completion_tokens
        if record.first_token_s is not None:
            line["ttft_ms"] = record.ms(record.first_token_s)
        if record.failure is not None:
            line["error"] = record.failure.code or record.failure.kind
        if self._settings.log_prompts and record.prompt is not None:
            line["prompt"] = record.prompt
        self._lines.write(line)


def _is_poll(path: str) -> bool:
    """Whether this is asked for again and again by a page or a supervisor, and says nothing of what the server is used for."""
    return path in ("/stats", "/metrics", "/health") or path.startswith(("/web/", "/health/"))


_KINDS = {  # of failures that only a server knows
    401: "unauthorized",
    403: "permission",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    499: "client_closed",
    503: "unavailable",
}


def _kind_of(record: Record) -> str | None:
    """The failure's name in the metrics."""
    if record.failure is None:
        return None
    if record.error is None or isinstance(record.error, RequestFailure) or record.failure.status in (499, 503):
        return _KINDS.get(record.failure.status, "invalid_request")
    return kind_of(record.error)


def _cloud_failures(record: Record) -> set[str]:
    """How the cloud failed this request: a kind that the router noted, and that the request ended with, counts once."""
    found = {code.removeprefix("cloud_") for code in record.reasons if code.startswith("cloud_")}
    if isinstance(record.error, CloudError):
        found.add(record.error.kind)
    return found


class Doorman:
    """Refuses who may not be here.

    Without keys, a server on this machine's own address is open to every program of this machine; a web page of someone else
    must not become one of them. It could in two ways: by a name that leads to this address (so the header `host` must name
    this machine), and by sending a request without reading its answer (so an `origin` must be this server, or one allowed).
    """

    def __init__(self, app: ASGIApp, settings: Serve, is_stopping: Callable[[], bool]) -> None:
        self._app = app
        self._keys = Keys(settings.api_keys)
        self._origins = settings.cors_origins
        self._host = settings.host.lower()
        self._local_only = not self._keys and is_loopback(settings.host)
        self._is_stopping = is_stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path: str = scope["path"]
        host = header(scope, b"host") or ""
        if self._local_only and not self._is_ours(host):
            raise RequestFailure(
                403, "This server answers only under the names of its own machine, such as localhost.", code="foreign_host"
            )
        if path in OPEN_PATHS or path.startswith("/web/"):
            return
        if self._is_stopping():
            raise _Stopping()
        if not self._keys:
            origin = header(scope, b"origin")
            if origin is not None and not self._may_call(origin, host):
                message = "Web pages of that origin may not call this server; its setting cors_origins can allow it."
                raise RequestFailure(403, message, code="foreign_origin")
        elif not self._keys.accepts(self._key(scope)):
            raise RequestFailure(
                401, "That API key is not known to this server.", code="invalid_api_key", headers={"www-authenticate": "Bearer"}
            )

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name == self._host

    def _may_call(self, origin: str, host: str) -> bool:
        return "*" in self._origins or origin in self._origins or origin in (f"http://{host}", f"https://{host}")

    def _key(self, scope: Scope) -> bytes:
        given = header(scope, b"authorization")
        if given is None:
            message = "This server needs an API key: send the header Authorization: Bearer KEY."
            raise RequestFailure(401, message, code="missing_api_key", headers={"www-authenticate": "Bearer"})
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer":
            message = "The header Authorization should be: Bearer KEY."
            raise RequestFailure(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return key.strip().encode("latin-1", "replace")


class _Stopping(RequestFailure):
    def __init__(self) -> None:
        Exception.__init__(self)
        self.failure = stopping_failure()


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def log_failure(record: Record) -> None:
    """What its caller is not told."""
    _log.error("request %s failed", record.id, exc_info=record.error)


async def _send_failure(send: Send, receive: Receive, failure: Failure) -> None:
    """A whole answer."""
    body = dumps(failure.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), **failure.headers}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": failure.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if failure.status == 413:
        await discard(receive)
    await send({"type": "http.response.body", "body": b""})

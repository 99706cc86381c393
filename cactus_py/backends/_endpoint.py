"""One endpoint of the cloud: its connections, its key, its limit, and the circuit breaker before it.

A request is made by a thread of its own, which hands what comes to whoever waits, piece by piece. So no wait lasts longer than
its consumer allows, whatever the network does (looking up a name cannot be interrupted, nor given a time), and a request ends
for its consumer in the moment it is cancelled; its socket is shut down then, which ends the thread, and the work at the other
end. A connection belongs to a lane, and a lane to one request at a time: that is how the socket is known.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import re
import socket
import ssl
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import Cloud, Endpoint, Price
from ..errors import CloudError, ConfigError, MissingExtraError, RequestCancelledError
from .prices import price_of

if TYPE_CHECKING:
    import httpx

__all__ = ["Breaker", "EndpointHealth", "Exchange", "Failed", "Place", "Ticket"]

MAX_REPLY_BYTES = 64 << 20
_MAX_MESSAGE_CHARS = 300  # of what a server says about an error
_SLICE_S = 0.05  # how often a wait in line looks whether it was cancelled
_DRAIN_S = 0.1  # for what may follow the last event; a connection that is read to its end can be used again
EXTRA = "cloud"
_ABSENT = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


class Failed(Exception):
    """A request failed at one endpoint. `error` is what to tell; `again`: another attempt may help; `counts`: it speaks about
    the endpoint, so that the breaker should know; `at_once`: it says enough for the breaker to open; `final`: it is about the
    request itself, so that no other endpoint needs to be asked."""

    def __init__(
        self, error: CloudError, *, again: bool = True, counts: bool = True, at_once: bool = False, final: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.counts = counts
        self.at_once = at_once
        self.final = final


class Breaker:
    """Leaves an endpoint alone that failed too often in a row: closed (requests go), open (none goes) and, some time later,
    half open (one goes, as a trial). Safe to share between threads."""

    def __init__(self, failures: int, seconds: float) -> None:
        self._limit, self._seconds = failures, seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._trial = False  # one is under way

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "open" if self._left() > 0 else "half_open"

    @property
    def failures(self) -> int:
        """In a row, up to now."""
        return self._failures

    def _left(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._seconds - time.monotonic()

    def refuses(self) -> float | None:
        """Seconds until it is worth to ask again, if no request may go now."""
        with self._lock:
            if self._opened_at is None:
                return None
            left = self._left()
            return left if left > 0 else _SLICE_S if self._trial else None

    def admit(self) -> bool | None:
        """Lets a request go: False, or True if it is the trial; None: it may not."""
        with self._lock:
            if self._opened_at is None:
                return False
            if self._left() > 0 or self._trial:
                return None
            self._trial = True
            return True

    def began(self, trial: bool) -> None:
        """The first piece of an answer came. That closes it again; but the next failure is one too many."""
        with self._lock:
            if trial:
                self._opened_at, self._trial, self._failures = None, False, self._limit - 1

    def passed(self, trial: bool) -> None:
        """A request came to its end, or was refused for its own sake."""
        with self._lock:
            if trial or self._opened_at is None:
                self._opened_at, self._trial, self._failures = None, False, 0

    def failed(self, trial: bool, at_once: bool = False) -> None:
        with self._lock:
            if self._opened_at is not None and not trial:
                return  # one that went before it opened
            self._failures += 1
            if trial or at_once or self._failures >= self._limit:
                self._opened_at, self._trial = time.monotonic(), False

    def dropped(self, trial: bool) -> None:
        """A request ended without saying anything about the endpoint: it was cancelled."""
        with self._lock:
            if trial:
                self._trial = False


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How an endpoint is doing. `first_token_ms`: the median of its last answers; None without any."""

    host: str
    model: str
    state: Literal["closed", "open", "half_open"]
    failures: int  # in a row
    retry_in_s: float | None  # until one may try, while it is open
    running: int
    attempts: int  # requests that were sent, all of them
    first_token_ms: float | None
    last_error: CloudError | None


class _Lane:
    """A client with one connection."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.stream: Any = None  # of the connection, as httpcore has it


class Exchange:
    """One HTTP request, made by a thread. `wait` is for its consumer, `abort` for anyone."""

    def __init__(self, lane: _Lane, request: httpx.Request, host: str, give_back: Callable[[_Lane], None]) -> None:
        self._lane, self._request, self._host, self._give_back = lane, request, host, give_back
        self._arrived: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._aborted = False
        self._ended = False
        self._lock = threading.Lock()
        request.extensions["trace"] = self._trace
        threading.Thread(target=self._run, name="cactus-py-cloud", daemon=True).start()

    def wait(self, until: float) -> tuple[str, Any] | None:
        """The next of: ("sent", None), ("head", response), ("data", bytes), ("end", None); None if nothing comes in time.
        Raises Failed, and RequestCancelledError after `abort`."""
        try:
            kind, value = self._arrived.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None
        if kind == "failed":
            raise value
        if kind == "aborted":
            raise RequestCancelledError("the request was cancelled")
        return kind, value

    def finish(self) -> None:
        """Nothing more is wanted. What is about to end is left to, so that the connection can be used again."""
        until = time.monotonic() + _DRAIN_S
        with contextlib.suppress(Failed, RequestCancelledError):
            while (came := self.wait(until)) is not None and came[0] != "end" and time.monotonic() < until:
                pass
        self.abort()

    def abort(self) -> None:
        """Ends the request now. Again: does nothing."""
        with self._lock:
            if self._aborted or self._ended:
                self._aborted = True
                return
            self._aborted = True
            self._cut()
        self._arrived.put(("aborted", None))

    def _cut(self) -> None:
        """Shuts the socket down: whoever reads from it finds its end. Closing it would not wake anybody."""
        sock = None if self._lane.stream is None else self._lane.stream.get_extra_info("socket")
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would disturb the thread that reads

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """What httpcore tells of its steps: here the socket comes from."""
        made = info.get("return_value")
        if name.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
            with self._lock:
                self._lane.stream = made
                if self._aborted:
                    self._cut()
        elif name.endswith(".send_request_headers.started"):
            self._arrived.put(("sent", None))

    def _run(self) -> None:
        response: httpx.Response | None = None
        last: tuple[str, Any] = ("end", None)
        try:
            response = self._lane.client.send(self._request, stream=True)
            self._arrived.put(("head", response))
            n_bytes = 0
            for piece in response.iter_raw():
                n_bytes += len(piece)
                if n_bytes > MAX_REPLY_BYTES:
                    raise Failed(
                        CloudError(f"{named(self._host)} sent more than {MAX_REPLY_BYTES >> 20} MiB as one reply"), again=False
                    )
                self._arrived.put(("data", piece))
                if self._aborted:
                    break
        except Failed as error:
            last = ("failed", error)
        except Exception as error:
            last = ("failed", failure_of(error, self._host))
        finally:
            if response is not None:
                with contextlib.suppress(Exception):
                    response.close()
            with self._lock:
                self._ended = True
            self._arrived.put(last)
            self._give_back(self._lane)


def named(host: str) -> str:
    return f"the cloud endpoint {host}"


def failure_of(error: Exception, host: str) -> Failed:
    """A failure of the network, in a sentence. What httpx says is not repeated: it may hold headers."""
    import httpx

    who = named(host)
    chain = _chain(error)
    if isinstance(error, httpx.ConnectTimeout):
        return Failed(CloudError(f"{who} could not be reached in time", "timeout"))
    if isinstance(error, httpx.TimeoutException):
        return Failed(CloudError(f"{who} did not answer in time", "timeout"))
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        for cause in chain:
            if isinstance(cause, ssl.SSLError):
                reason = (
                    getattr(cause, "verify_message", "") or (cause.reason or "the handshake failed").replace("_", " ").lower()
                )
                return Failed(CloudError(f"no trusted connection to {who}: {reason}", "tls"), again=False)
            if isinstance(cause, socket.gaierror):
                message = f"{who} is not found; there may be no network"
                return Failed(CloudError(message, "offline"), again=False, at_once=True)
            if isinstance(cause, OSError) and cause.errno in _ABSENT:
                return Failed(CloudError(f"there is no network to {who}", "offline"), again=False, at_once=True)
        refused = any(isinstance(cause, ConnectionRefusedError) for cause in chain)
        what = "nobody answers at" if refused else "no connection could be made to"
        return Failed(CloudError(f"{what} {who}", "offline"))
    if isinstance(error, httpx.RemoteProtocolError) and not any(text in str(error) for text in ("disconnect", "peer closed")):
        return Failed(CloudError(f"{who} did not answer in HTTP"))
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return Failed(CloudError(f"the connection to {who} was cut"))
    return Failed(CloudError(f"{who} could not be asked ({type(error).__name__})"), again=False)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found and len(found) < 20:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@dataclass(slots=True)
class Ticket:
    """The right to make one request."""

    trial: bool
    since: float


class Place:
    """An endpoint, and all that is known of it at run time. Safe to share between threads."""

    def __init__(self, endpoint: Endpoint, cloud: Cloud, fallback_key: str | None) -> None:
        """Touches no network. Raises ConfigError, and MissingExtraError for a key of the keyring without the package."""
        import httpx

        self.endpoint = endpoint
        try:
            self._base = httpx.URL(endpoint.base_url)
            self.host = self._base.host + (f":{self._base.port}" if self._base.port is not None else "")
            good = bool(self._base.host) and self._base.scheme in ("http", "https")
        except (httpx.InvalidURL, ValueError):
            good = False
        if not good:
            raise ConfigError("the base_url of a cloud endpoint is not an http(s) URL that names a host")
        self.is_openai = self._base.host.endswith((".openai.com", ".openai.azure.com"))
        for name, value in endpoint.headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\x20-\x7e]*", value):
                raise ConfigError(f"a header of {named(self.host)} is none: names are tokens, values one line of ASCII")
        if endpoint.keyring is not None:
            _keyring()
        self.price: Price | None = price_of(endpoint, self._base.host)
        self.breaker = Breaker(cloud.breaker_failures, cloud.breaker_s)
        self.last_error: CloudError | None = None
        self.attempts = 0
        self._cloud = cloud
        self._fallback_key = fallback_key
        self._slots = threading.BoundedSemaphore(cloud.max_parallel)
        self._lock = threading.Lock()
        self._running = 0
        self._idle: list[_Lane] = []
        self._first_ms: deque[float] = deque(maxlen=33)
        self._context: ssl.SSLContext | None = None
        self._key: str | None = None
        self._key_is_known = False
        self._closed = False

    # ---- who may go ----

    def enter(self, until: float, cancelled: Callable[[], bool]) -> Ticket:
        """Waits for its turn. Raises Failed: at once if the breaker is open, later if all connections stay busy."""
        self._refuse_if_open()
        while not self._slots.acquire(timeout=max(0.0, min(_SLICE_S, until - time.monotonic()))):
            if cancelled():
                raise RequestCancelledError("the request was cancelled")
            if time.monotonic() >= until:
                n = self._cloud.max_parallel
                raise Failed(
                    CloudError(f"{named(self.host)} is busy with {n} other requests, the most that are allowed", "busy"),
                    again=False,
                    counts=False,
                )
        trial = self.breaker.admit()
        if trial is None:
            self._slots.release()
            self._refuse_if_open()
            raise self._open(_SLICE_S)
        with self._lock:
            self._running += 1
        return Ticket(trial, time.monotonic())

    def _refuse_if_open(self) -> None:
        left = self.breaker.refuses()
        if left is not None:
            raise self._open(left)

    def _open(self, left_s: float) -> Failed:
        last = self.last_error
        why = f" ({last.kind})" if last is not None else ""
        error = CloudError(
            f"{named(self.host)} failed too often just now{why} and is left alone for a while", "open", retry_after_s=left_s
        )
        return Failed(error, again=False, counts=False)

    def leave(self, ticket: Ticket, failure: Failed | None, *, passed: bool) -> None:
        """The request has ended: it passed, or failed, or (neither) says nothing."""
        if passed:
            self.breaker.passed(ticket.trial)
        elif failure is None:
            self.breaker.dropped(ticket.trial)
        else:
            self.last_error = failure.error
            if failure.counts:
                self.breaker.failed(ticket.trial, failure.at_once)
            elif failure.error.status is not None:
                self.breaker.passed(ticket.trial)  # whoever says no is there
            else:
                self.breaker.dropped(ticket.trial)  # nobody was asked
        with self._lock:
            self._running -= 1
        self._slots.release()

    def began(self, ticket: Ticket, first_ms: float) -> None:
        """The first piece of an answer came."""
        self.breaker.began(ticket.trial)
        ticket.trial = False
        with self._lock:
            self._first_ms.append(first_ms)

    # ---- one request ----

    def send(self, path: str, *, body: bytes | None = None, form: Mapping[str, Any] | None = None) -> Exchange:
        """Begins a POST of JSON, or of a form (fields of httpx's build_request). Raises Failed if there is no key."""
        import httpx

        headers = {"Accept-Encoding": "identity", "User-Agent": "cactus-py"}
        key = self._find_key()
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        own = {name.lower(): value for name, value in self.endpoint.headers.items()}
        headers = {**{name: value for name, value in headers.items() if name.lower() not in own}, **self.endpoint.headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        cloud = self._cloud
        # The consumer keeps the times; these end a thread that nobody waits for.
        times = httpx.Timeout(cloud.first_token_timeout_s + 1, connect=cloud.connect_timeout_s)
        lane = self._lane()
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        try:
            request = lane.client.build_request("POST", url, headers=headers, content=body, timeout=times, **(form or {}))
        except BaseException:
            self._give_back(lane)
            raise
        self.attempts += 1
        return Exchange(lane, request, self.host, self._give_back)

    def _lane(self) -> _Lane:
        import httpx

        with self._lock:
            if self._closed:
                raise RequestCancelledError("the request was cancelled because its client was closed")
            if self._idle:
                return self._idle.pop()
            if self._context is None:
                try:
                    self._context = _trusted(self.endpoint.ca_file)
                except (OSError, ssl.SSLError):
                    message = f"the ca_file of {named(self.host)} cannot be read as certificates"
                    raise Failed(CloudError(message, "tls"), again=False, counts=False) from None
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30)
            return _Lane(httpx.Client(verify=self._context, limits=limits, follow_redirects=False))

    def _give_back(self, lane: _Lane) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(lane)
                return
        lane.client.close()

    def _find_key(self) -> str | None:
        """The endpoint's key, looked up once; None: it needs none."""
        with self._lock:
            if self._key_is_known:
                return self._key
        endpoint, key = self.endpoint, self._fallback_key
        if endpoint.api_key is not None:
            key = endpoint.api_key.get_secret_value()
        elif endpoint.api_key_env is not None:
            key = os.environ.get(endpoint.api_key_env)
            if not key:
                raise self._no_key(f"the variable {endpoint.api_key_env}, which should hold it, is not set")
        elif endpoint.keyring is not None:
            service, _, user = endpoint.keyring.partition("/")
            try:
                key = _keyring().get_password(service, user)
            except Exception as error:  # of whatever keeps the system's secrets
                raise self._no_key(f"the keyring cannot be read ({type(error).__name__})") from None
            if not key:
                raise self._no_key(f"the keyring has none for {endpoint.keyring}")
        key = key.strip() if key else None
        if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key):
            raise self._no_key("what is configured as one holds blanks, or characters beyond ASCII")
        with self._lock:
            self._key, self._key_is_known = key, True
        return key

    def _no_key(self, why: str) -> Failed:
        return Failed(CloudError(f"no key for {named(self.host)}: {why}", "auth"), again=False, counts=False)

    def quoted(self, text: str) -> str:
        """What a server says, fit to be told: short, on one line, and without what is secret."""
        for secret in (self._key, *(value for value in self.endpoint.headers.values() if len(value) >= 8)):
            if secret:
                text = text.replace(secret, "***")
        text = re.sub(r"\b(?:sk|pk|key)-[\w*-]{6,}", "***", text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_MESSAGE_CHARS]).split())
        return text if len(text) <= _MAX_MESSAGE_CHARS else text[: _MAX_MESSAGE_CHARS - 1] + "…"

    # ---- how it is doing ----

    @property
    def first_ms(self) -> float | None:
        with self._lock:
            return statistics.median(self._first_ms) if self._first_ms else None

    def health(self) -> EndpointHealth:
        return EndpointHealth(
            self.host,
            self.endpoint.model,
            self.breaker.state,
            self.breaker.failures,
            self.breaker.refuses(),
            self._running,
            self.attempts,
            self.first_ms,
            self.last_error,
        )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for lane in idle:
            lane.client.close()


@lru_cache(maxsize=16)
def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    """The certificates that httpx brings, and those of a file. Reading them takes tens of milliseconds."""
    import httpx

    context = httpx.create_ssl_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _keyring() -> Any:
    try:
        return import_module("keyring")
    except ImportError:
        raise MissingExtraError("a key from the system's keyring", EXTRA) from None

"""Running the application: a socket, signals, and an end that lets go of nobody who is being answered."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingExtraError
from .guard import is_loopback

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..config import Serve
    from .log import Log

__all__ = ["check", "listen", "run", "share_heaps", "url_of"]

_KEEP_ALIVE_SECONDS = 75
_SEND_BUFFER_BYTES = 1 << 17  # of a connection; left alone, the system keeps megabytes for a client that reads nothing
_TURN_SECONDS = 0.05
_LAST_LINES_SECONDS = 2.0  # for the log to be written at the end


_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
_ARENAS = 2


def share_heaps() -> None:
    """Asks glibc for two heaps in all, before there are threads. It would make up to eight per CPU, each keeping the room
    of the greediest request that passed through it. Other C libraries have no such heaps, and are left alone."""
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_ARENA_MAX, _ARENAS)


def check(settings: Serve) -> None:
    """Refuses what would open the server to strangers. Raises ConfigError."""
    if not settings.api_keys and not is_loopback(settings.host):
        raise ConfigError(
            f"the address {settings.host} can be reached by other machines, and the server has no API key; make one with "
            "`cactus-py serve --new-key`, or listen on 127.0.0.1"
        )


def listen(settings: Serve) -> socket.socket:
    """A socket that accepts connections. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"the server cannot listen on {settings.host}, port {settings.port}: {reason}") from None


def url_of(settings: Serve, listener: socket.socket) -> str:
    """Where the server is reached."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


def run(app: FastAPI, settings: Serve, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serves until a signal says stop. `ready` is called once requests are taken."""
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("the server", "server") from None

    from .connection import Connection

    state = app.state.cactus
    times = {"head_timeout_s": settings.head_timeout_s, "stall_timeout_s": settings.stall_timeout_s}

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As in the base class, but a signal that was obeyed is not raised again: there is more to tidy up."""
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """No new requests; those that run may finish, for a while."""
            state.stopping = True
            for server in self.servers:
                server.close()
            deadline_s = time.monotonic() + settings.grace_s
            while state.running and not self.force_exit and time.monotonic() < deadline_s:
                await asyncio.sleep(_TURN_SECONDS)
            state.cancel_all()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=type("Connection", (Connection,), times),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
    )
    _log_as_json(state.log)
    try:
        Server(config).run(sockets=[listener])
    finally:
        state.log.flush(_LAST_LINES_SECONDS)


def _log_as_json(log: Log) -> None:
    """What the server and the library under it have to say goes where the requests' lines go, in their form."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line: dict[str, Any] = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
                "level": record.levelname.lower(),
                "message": record.getMessage(),
            }
            if record.exc_info:
                line["traceback"] = logging.Formatter().formatException(record.exc_info)
            log.write(line)

    handler = Lines(logging.WARNING)
    for name in ("uvicorn", "cactus_py.serving"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False

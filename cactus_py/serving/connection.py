"""A connection, with the patience that uvicorn's own has not: for a request's head, and for a reader that has stopped reading.

What it answers itself, before there is a request, is JSON as everywhere else.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import MissingExtraError
from .errors import Failure
from .wire import dumps

try:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError:
    raise MissingExtraError("the server", "server") from None

__all__ = ["Connection"]


class Connection(H11Protocol):
    """Subclassed with the times, which uvicorn hands to no protocol."""

    head_timeout_s: float
    """For the head of a request to arrive, from its first byte on; of the first one from the connection's beginning."""
    stall_timeout_s: float
    """For a reader to take anything, once what waits for it fills the buffers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.trailing_data[0]:  # the beginning of the next request; without it uvicorn's time for idle ones counts
            self._expect_head()

    def _expect_head(self) -> None:
        waits = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if self._head_timer is not None and not waits:
            self._head_timer.cancel()
            self._head_timer = None
        elif self._head_timer is None and waits:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.conn.trailing_data[0]:
            self.transport.close()  # it never said anything
            return
        message = f"The head of the request did not arrive within {self.head_timeout_s:g} seconds."
        self._refuse(Failure(408, message, code="timeout"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(Failure(400, "That is not valid HTTP/1.1."))

    def _refuse(self, failure: Failure) -> None:
        """The last answer on this connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = dumps(failure.body())
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            for event in (h11.Response(status_code=failure.status, headers=headers), h11.Data(body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _expect_reader(self) -> None:
        """Looks again after a time. Nothing is written meanwhile: what waits only ever gets less."""
        size = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self.stall_timeout_s, self._look, size)

    def _look(self, size: int) -> None:
        if self.transport.get_write_buffer_size() < size:
            self._expect_reader()
        else:
            self._stall_timer = None
            self.transport.abort()  # the request learns that its client has gone

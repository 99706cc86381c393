"""Two ways to drive one exchange: in the caller's thread, and for an event loop.

The asynchronous driver runs the blocking exchange in a thread of its own per request, which hands what it makes to the loop.
The engine waits in C without the interpreter's lock, so such a thread costs next to nothing; the loop is never blocked, and
its shared executor stays free for others.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from ._exchange import Work
from .errors import RequestCancelledError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncDriver", "AsyncStream", "Bridge", "Driver", "Stream", "SyncDriver"]

Item = TypeVar("Item")
Value = TypeVar("Value")
Result = TypeVar("Result")

_STEP_SECONDS = 0.02  # how long one request may keep its thread from looking at those beside it


class Driver(Protocol):
    """What a client's resources are driven by. `make` checks the request and may raise; nothing has begun when it returns."""

    def whole(self, make: Callable[[], Work[Any, Any, Any]]) -> Any:
        """The finished reply."""
        ...

    def stream(self, make: Callable[[], Work[Any, Any, Any]]) -> Any:
        """The reply piece by piece, once it has begun."""
        ...

    def call(self, function: Callable[[], Any]) -> Any:
        """Any other work that may block."""
        ...


class Stream(Generic[Item]):
    """A reply that arrives piece by piece: an iterator of chunks. Closing or dropping it cancels what is still to come."""

    def __init__(self, exchange: Work[Any, Any, Item]) -> None:
        self._exchange = exchange
        self._items = exchange.items()
        self._lock = threading.Lock()
        self._done = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        if self._done:
            raise StopIteration
        with self._lock:
            try:
                return next(self._items)
            except RequestCancelledError:
                if self._done:  # by our own close()
                    raise StopIteration from None
                raise

    def close(self) -> None:
        """Ends the reply. Safe to call from another thread while this one waits for a chunk."""
        self._done = True
        self._exchange.cancel()
        with self._lock:
            self._items.close()  # type: ignore[attr-defined]
            self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_done"):
            self.close()


class SyncDriver:
    """Everything in the thread that asks."""

    def whole(self, make: Callable[[], Work[Any, Result, Any]]) -> Result:
        exchange = make()
        exchange.open()
        return exchange.result()

    def stream(self, make: Callable[[], Work[Any, Any, Item]]) -> Stream[Item]:
        exchange = make()
        exchange.open()
        return Stream(exchange)

    def call(self, function: Callable[[], Value]) -> Value:
        return function()


# ---- for an event loop -------------------------------------------------------------------------------------------------


class _Mailbox:
    """What a thread hands to an event loop, in order. However much is put in at once, the loop is woken but once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.items: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None  # touched by the loop only
        self._announced = False  # the loop was told, and has not looked yet

    def put(self, item: Any) -> None:
        """For the thread. Raises RuntimeError if the loop is closed."""
        self.items.append(item)
        if not self._announced:
            self._announced = True
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._announced = False  # from here on the thread announces anew; what it put in before, the reader will see
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def wait(self) -> None:
        """For the loop: until there is something."""
        while not self.items:
            self._reader = self.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None


def _wake_all(mailboxes: list[_Mailbox]) -> None:
    for mailbox in mailboxes:
        mailbox._wake()


class _End:
    """Marks the end of a bridged stream."""


class Shared(Protocol[Item]):
    """Work that was begun, and needs no thread of its own any more: it only waits for what comes at its pace."""

    @property
    def pace(self) -> object: ...

    def poll(self, wait_seconds: float) -> tuple[list[Item], bool]:
        """What is there, waiting for a while at most; and whether that was all. Raises what ends the work."""
        ...


class Bridge(Generic[Item]):
    """Runs blocking work in a thread of its own and hands what it yields to the event loop that asked.

    The thread holds no reference to whoever reads, so a reader that is dropped can still cancel it.
    """

    def __init__(
        self, work: Callable[[], Iterator[Item] | Generator[Item, None, Shared[Item] | None]], cancel: Callable[[], None]
    ) -> None:
        """A generator may return `Shared` work at its end: what that makes goes on in a thread with others."""
        loop = asyncio.get_running_loop()
        self._mailbox = _Mailbox(loop)
        self.cancel = cancel
        self.finished: Future[None] = Future()
        arguments = (self._mailbox, work, cancel, self.finished)
        threading.Thread(target=_pump, args=arguments, name="cactus-py-request", daemon=True).start()

    async def next(self) -> Item:
        """The next value. Raises StopAsyncIteration at the end, and what the work raised. Cancelling it cancels the work."""
        items = self._mailbox.items
        if not items:
            try:
                await self._mailbox.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        item = items[0]
        if item is _End:
            raise StopAsyncIteration
        items.popleft()
        if isinstance(item, BaseException):
            items.append(_End)
            raise item
        return item  # type: ignore[no-any-return]

    async def available(self) -> list[Item]:
        """All values that are there, at least one of them. Ends and raises as `next` does."""
        found = [await self.next()]
        items = self._mailbox.items
        while items and items[0] is not _End and not isinstance(items[0], BaseException):
            found.append(items.popleft())
        return found


def _pump(mailbox: _Mailbox, work: Callable[[], Iterator[Any]], cancel: Callable[[], None], finished: Future[None]) -> None:
    """The thread of a bridge."""

    def post(item: Any) -> None:
        try:
            mailbox.put(item)
        except RuntimeError:  # the loop is closed: nobody will ever read this
            cancel()

    shared: Shared[Any] | None = None
    try:
        items = work()
        try:
            while True:
                post(next(items))
        except StopIteration as end:
            shared = end.value
        if shared is None:
            post(_End)
    except BaseException as error:
        post(error)
    finally:
        if shared is None:
            finished.set_result(None)
    if shared is not None:
        _Together.join(_Member(shared, mailbox, cancel, finished))


@dataclass(eq=False)
class _Member:
    """Shared work, and who reads what it makes."""

    work: Shared[Any]
    mailbox: _Mailbox
    cancel: Callable[[], None]
    finished: Future[None]


class _Together:
    """One thread for all work of one pace.

    An engine makes a token for each of its requests in one step. With a thread for each of them, a step would wake all those
    threads, and each of them the event loop, and waking is what costs most. Here a step wakes one thread, which waits for
    one of the requests, finds the tokens of the others there too, and wakes the loop once for all of them.
    """

    _lock = threading.Lock()  # guards all there is of these, which is little
    _all: ClassVar[weakref.WeakKeyDictionary[Any, _Together]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._members: list[_Member] = []
        self._runs = False

    @classmethod
    def join(cls, member: _Member) -> None:
        """Takes over a member until its end."""
        with cls._lock:
            together = cls._all.setdefault(member.work.pace, cls())
            together._members.append(member)
            begins, together._runs = not together._runs, True
        if begins:
            threading.Thread(target=together._run, name="cactus-py-requests", daemon=True).start()

    def _run(self) -> None:
        leader: _Member | None = None
        while True:
            with self._lock:
                if not self._members:
                    self._runs = False
                    return
                members = list(self._members)
            if leader is not None and leader in members:
                members.remove(leader)
                members.insert(0, leader)
            leader = self._read(members)

    def _read(self, members: list[_Member]) -> _Member:
        """What one step brought; waits for the first member only. Returns whom to wait for next."""
        busy: _Member | None = None
        rung: dict[asyncio.AbstractEventLoop, list[_Member]] = {}
        for member in members:
            wait_seconds = _STEP_SECONDS if member is members[0] else 0.0
            try:
                items, ended = member.work.poll(wait_seconds)
            except BaseException as error:
                items, ended = [error], True
            else:
                if ended:
                    items.append(_End)
            if items:
                busy = member
                member.mailbox.items.extend(items)
                rung.setdefault(member.mailbox.loop, []).append(member)
            if ended:
                with self._lock:
                    self._members.remove(member)
                member.finished.set_result(None)
        for loop, readers in rung.items():
            try:
                loop.call_soon_threadsafe(_wake_all, [member.mailbox for member in readers])
            except RuntimeError:  # the loop is closed: nobody will ever read this
                for member in readers:
                    member.cancel()
        return busy or members[-1]  # one that is making tokens; else somebody else's turn to be waited for


class AsyncStream(Generic[Item]):
    """A reply that arrives piece by piece: an async iterator of chunks. Closing or dropping it, or cancelling the task that
    waits for a chunk, cancels what is still to come."""

    def __init__(self, bridge: Bridge[Any]) -> None:
        self._bridge = bridge
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._done:
            raise StopAsyncIteration
        try:
            item: Item = await self._bridge.next()
            return item
        except RequestCancelledError:
            if self._done:  # by our own close()
                raise StopAsyncIteration from None
            raise

    async def close(self) -> None:
        """Ends the reply and waits until it has ended."""
        self._done = True
        self._bridge.cancel()
        await asyncio.shield(asyncio.wrap_future(self._bridge.finished))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if hasattr(self, "_done") and not self._done:
            self._bridge.cancel()


class AsyncDriver:
    """Everything in threads, awaited from the running event loop."""

    async def whole(self, make: Callable[[], Work[Any, Result, Any]]) -> Result:
        exchange = make()

        def work() -> Iterator[Result]:
            exchange.open()
            yield exchange.result()

        bridge: Bridge[Result] = Bridge(work, exchange.cancel)
        return await bridge.next()

    async def stream(self, make: Callable[[], Work[Any, Any, Item]]) -> AsyncStream[Item]:
        exchange = make()

        def work() -> Iterator[Any]:
            exchange.open()
            yield None  # it has begun: errors of the request itself belong to the call that made it
            yield from exchange.items()

        bridge: Bridge[Any] = Bridge(work, exchange.cancel)
        await bridge.next()
        return AsyncStream(bridge)

    async def call(self, function: Callable[[], Value]) -> Value:
        def work() -> Iterator[Value]:
            yield function()

        bridge: Bridge[Value] = Bridge(work, lambda: None)
        return await bridge.next()

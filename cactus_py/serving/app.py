"""The application: OpenAI's endpoints over an `AsyncClient`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._drive import Bridge
from .._exchange import Exchange
from ..errors import MissingExtraError, UnknownModelError
from ..types import (
    ChatCompletion,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
)
from . import openapi
from .body import limited, read_json
from .errors import Failure, failure_of
from .guard import Doorman, Guard, Record
from .metrics import CONTENT_TYPE, Metrics, Span
from .wire import EventWriter, dumps, error_event

try:
    from fastapi import FastAPI, Request, Response
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
except ImportError:
    raise MissingExtraError("the server", "server") from None

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ..client import AsyncClient
    from ..config import Settings

__all__ = ["State", "create_app"]

_BEGUN = b""  # a stream has begun: what is wrong with the request itself would have been said
_WEB = Path(__file__).parent / "web"
_PAGE = {"/": ("index.html", "text/html"), "/app.js": ("app.js", "text/javascript"), "/style.css": ("style.css", "text/css")}
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class State:
    """What the requests of one application share. Belongs to the event loop."""

    def __init__(self, settings: Settings, client: AsyncClient) -> None:
        self.settings = settings
        self.client = client
        self.stopping = False
        self.running: set[Callable[[], None]] = set()  # what cancels each request that is being answered
        self._known: set[str] = set()

    @property
    def default_model(self) -> str:
        return self.settings.serve.models[0] if self.settings.serve.models else self.settings.model

    def cancel_all(self) -> None:
        for cancel in list(self.running):
            cancel()

    async def check_model(self, name: Any) -> None:
        """Whether requests may ask for it: what is on this machine, and was named at the start. A name must neither open a
        file nor start a download. Raises UnknownModelError."""
        if not isinstance(name, str) or name in self._known or name == self.default_model or name in self.settings.serve.models:
            return  # what is no name at all is refused with the rest of the request
        cards = (await self.client.models.list()).data
        aliases = getattr(self.settings, "aliases", None) or {}
        known = {*aliases, *(card.id for card in cards), *(alias for card in cards for alias in card.aliases)}
        if name.partition("@")[0] not in known:
            names = ", ".join(card.id for card in cards) or "none"
            raise UnknownModelError(f'There is no model "{name[:200]}" on this server; there are: {names}.', name=name)
        self._known.add(name)


class _Answer(Response):
    """Lets a handler write the answer itself."""

    def __init__(self, handler: Callable[[Scope, Receive, Send], Any]) -> None:
        self._handler = handler
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope, receive, send)


def create_app(settings: Settings, client: AsyncClient) -> FastAPI:
    """The server's application. Its `state.cactus` is the `State`; whoever runs it closes the client."""
    state = State(settings, client)
    serve = settings.serve
    metrics = Metrics([state.default_model, *serve.models, *(getattr(settings, "aliases", None) or ())])

    def is_stopping() -> bool:
        return state.stopping

    layers = [Middleware(Guard, settings=serve, is_stopping=is_stopping, metrics=metrics)]
    if serve.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=serve.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "openai-processing-ms", "retry-after"],
            )
        )
    layers.append(Middleware(Doorman, settings=serve, is_stopping=is_stopping))
    app = FastAPI(title="cactus-py", docs_url=None, redoc_url=None, redirect_slashes=False, middleware=layers)
    app.state.cactus = state

    async def failed(request: Request, error: HTTPException) -> Response:
        words = {
            404: f"There is no {request.url.path[:200]} on this server.",
            405: f"{request.url.path[:200]} does not take {request.method}.",
        }
        text = words.get(error.status_code, str(error.detail))
        failure = Failure(error.status_code, text, code={404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code))
        request.scope["record"].failure = failure
        return Response(dumps(failure.body()), failure.status, {**(error.headers or {})}, "application/json")

    app.add_exception_handler(HTTPException, failed)  # type: ignore[arg-type]

    def post(path: str, handler: Callable[[Scope, Receive, Send], Any], **described: Any) -> None:
        async def endpoint(request: Request) -> Response:
            return _Answer(handler)

        app.add_api_route(path, endpoint, methods=["POST"], **described)

    core = client._core

    def generation(make: Callable[[Mapping[str, Any]], Exchange[Any, Any]]) -> Callable[..., Any]:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            record: Record = scope["record"]
            receive = limited(scope, receive, serve.max_body_bytes)
            fields = await read_json(scope, receive)
            await state.check_model(fields.get("model"))
            if fields.get("model") is None:
                fields["model"] = state.default_model
            timeout_s = fields.get("timeout")
            if timeout_s is None or (isinstance(timeout_s, (int, float)) and timeout_s > serve.timeout_s):
                fields["timeout"] = serve.timeout_s
            if serve.log_prompts:
                record.prompt = fields.get("messages", fields.get("prompt"))
            exchange = make(fields)
            record.model = fields["model"]
            span = record.span = metrics.begin(scope["path"], record.model, choices=exchange.n_answers)
            answer = _stream if exchange.request.stream else _whole
            await answer(state, exchange, span, scope, receive, send)

        return handler

    post("/v1/chat/completions", generation(core.chat), **openapi.operation(ChatCompletionRequest, ChatCompletion))
    post("/v1/completions", generation(core.complete), **openapi.operation(CompletionRequest, Completion))

    @app.get("/v1/models", responses=openapi.answers(ModelList))
    async def models() -> Response:
        return Response(dumps(await client.models.list()), media_type="application/json")

    @app.get("/v1/models/{model:path}", responses=openapi.answers(ModelCard))
    async def model(model: str) -> Response:
        return Response(dumps(await client.models.retrieve(model)), media_type="application/json")

    @app.get("/health")
    async def health() -> Response:
        """Whether the server is well, and what it is doing."""
        found: dict[str, Any] = {"status": "stopping" if state.stopping else "ok"}
        if not serve.api_keys:
            found["requests"] = len(state.running)
            found["models"] = {name: _activity(value) for name, value in (await _activities(client)).items()}
        return Response(dumps(found), media_type="application/json")

    @app.get("/health/live")
    async def live() -> Response:
        """Whether the process answers at all."""
        return Response(b'{"status":"live"}', media_type="application/json")

    @app.get("/health/ready")
    async def ready() -> Response:
        """Whether new requests are taken."""
        if state.stopping:
            return Response(b'{"status":"stopping"}', 503, media_type="application/json")
        return Response(b'{"status":"ready"}', media_type="application/json")

    @app.get("/metrics")
    async def measured() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(await _activities(client)), media_type=CONTENT_TYPE)

    for path, (name, kind) in _PAGE.items():
        if (_WEB / name).is_file():
            app.add_api_route(path, _page(_WEB / name, kind), methods=["GET"], include_in_schema=False)

    openapi.install(app)
    return app


def _page(path: Path, kind: str) -> Callable[[], Any]:
    content = path.read_bytes()

    async def page() -> Response:
        return Response(content, media_type=kind, headers=_PAGE_HEADERS)

    return page


async def _activities(client: AsyncClient) -> Mapping[str, Any]:
    backend = client._core.backend
    activity = getattr(backend, "activity", None)
    found: Mapping[str, Any] = {} if activity is None else await client._driver.call(activity)
    return found


def _activity(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


# ---- replies -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _watched(state: State, receive: Receive, cancel: Callable[[], None]) -> Any:
    """While the block runs, the reply is cancelled at once when its reader goes away, and when the server stops at last."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        cancel()

    watcher = asyncio.ensure_future(watch())
    state.running.add(cancel)
    try:
        yield
    finally:
        state.running.discard(cancel)
        watcher.cancel()
        cancel()


async def _whole(state: State, exchange: Exchange[Any, Any], span: Span, scope: Scope, receive: Receive, send: Send) -> None:
    """The reply in one piece."""
    record: Record = scope["record"]

    def work() -> Iterator[tuple[Any, bytes]]:
        exchange.open()
        result = exchange.result()
        yield result, dumps(result)

    bridge = Bridge(work, exchange.cancel)
    async with _watched(state, receive, exchange.cancel):
        result, body = await bridge.next()
    record.model, record.usage, record.timings = result.model, result.usage, result.timings
    record.route, record.confidence = result.route, result.confidence
    span.serves(result.model)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(state: State, exchange: Exchange[Any, Any], span: Span, scope: Scope, receive: Receive, send: Send) -> None:
    """The reply as events."""
    record: Record = scope["record"]

    def work() -> Iterator[tuple[int, bytes]]:
        exchange.open()
        writer = EventWriter(exchange)
        yield 0, _BEGUN
        for deltas in exchange.batches():
            if data := writer.write(deltas):
                yield len(deltas), data
        yield 0, writer.end()

    bridge = Bridge(work, exchange.cancel)
    async with _watched(state, receive, exchange.cancel):
        await bridge.next()
        record.model, record.route = exchange.reply.model, exchange.reply.route
        span.serves(record.model)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    found = await bridge.available()
                    n_tokens = sum(n for n, _ in found)
                    if n_tokens:
                        if record.first_token_s is None:
                            record.first_token_s = time.perf_counter()
                        span.tokens(n_tokens)
                    data = b"".join([data for _, data in found]) if len(found) > 1 else found[0][1]
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as error:
            record.failure = failure_of(error, request_id=record.id, stopping=state.stopping)
            await send({"type": "http.response.body", "body": error_event(record.failure.body()), "more_body": True})
        finally:
            record.usage, record.timings = exchange.frame.usage(), exchange.frame.timings()
        await send({"type": "http.response.body", "body": b""})

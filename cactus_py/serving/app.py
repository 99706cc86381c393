"""The application: OpenAI's endpoints over an `AsyncClient`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .._drive import Bridge
from .._exchange import Exchange, Work
from ..errors import MissingExtraError, UnknownModelError
from ..hub import is_pin
from ..types import (
    ChatCompletion,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    CompletionUsage,
    EmbeddingRequest,
    EmbeddingResponse,
    EmbeddingUsage,
    ModelCard,
    ModelList,
    Transcription,
    TranscriptionRequest,
    Translation,
    TranslationRequest,
)
from . import openapi, web
from .body import check_pictures, limited, read_form, read_json
from .errors import Failure, failure_of, was_foreseen
from .guard import Doorman, Guard, Record, log_failure
from .log import Log
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

    from .._audio import SpeechWork
    from ..backends.cloud import EndpointHealth
    from ..client import AsyncClient
    from ..config import Settings
    from ..engine import EngineActivity

__all__ = ["State", "create_app"]

_PATIENCE_SECONDS = 0.2  # longest wait for a first token without a look at the time


class State:
    """What the requests of one application share. Belongs to the event loop."""

    def __init__(self, settings: Settings, client: AsyncClient) -> None:
        self.settings = settings
        self.client = client
        self.log = Log()
        self.stopping = False
        self.running: set[Callable[[], None]] = set()  # what cancels each request that is being answered
        self.named = {client.settings.model, *settings.serve.models}  # at the start, so they are known
        self._known: set[str] = set()

    def cancel_all(self) -> None:
        for cancel in list(self.running):
            cancel()

    async def check_model(self, name: Any) -> None:
        """Whether requests may ask for it: what is on this machine, and was named at the start. A name must neither open a
        file nor start a download. Raises UnknownModelError."""
        if not isinstance(name, str) or name in self._known or name in self.named:
            return  # what is no name at all is refused with the rest of the request
        cards = (await self.client.models.list()).data
        known = {name for card in cards for name in (card.id, *card.aliases)}
        base, _, pin = name.rpartition("@")
        if name in known:
            self._known.add(name)
        elif base not in known or not is_pin(pin):  # what is no pin could be the path of a file; of pins there is no end
            names = ", ".join(card.id for card in cards) or "none"
            raise UnknownModelError(f'there is no model "{name[:200]}" on this server; there are: {names}', name=name)


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
    core, serve = client._core, settings.serve
    metrics = Metrics([*state.named, *settings.aliases, *settings.pipelines])

    def is_stopping() -> bool:
        return state.stopping

    def cloud() -> list[EndpointHealth]:
        return [] if core._hybrid.cloud is None else core._hybrid.cloud.health()

    layers = [Middleware(Guard, settings=serve, is_stopping=is_stopping, metrics=metrics, log=state.log)]
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

    def generation(make: Callable[[Mapping[str, Any]], Exchange[Any, Any]]) -> Callable[..., Any]:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            receive = limited(scope, receive, serve.max_body)
            fields = await read_json(scope, receive)
            await begin(scope["record"], fields)
            exchange = make(fields)
            span = scope["record"].span = metrics.begin(scope["path"], scope["record"].model, choices=exchange.n_answers)
            if exchange.request.stream:
                await _stream(state, _events(exchange), exchange, span, scope, receive, send)
            else:
                await _whole(state, exchange, span, scope, receive, send)

        return handler

    def vectors(make: Callable[[Mapping[str, Any]], Work[Any, Any, Any]]) -> Callable[..., Any]:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            receive = limited(scope, receive, serve.max_body)
            fields = await read_json(scope, receive)
            await begin(scope["record"], fields)
            work = make(fields)
            span = scope["record"].span = metrics.begin(scope["path"], scope["record"].model)
            await _whole(state, work, span, scope, receive, send)

        return handler

    def speech(make: Callable[[Any, Mapping[str, Any]], SpeechWork]) -> Callable[..., Any]:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            receive = limited(scope, receive, serve.max_body)
            fields, file = await read_form(scope, receive, "file")
            await begin(scope["record"], fields)
            work = make(file, fields)
            span = scope["record"].span = metrics.begin(scope["path"], scope["record"].model)
            if fields.get("stream"):
                await _stream(state, _spoken(work), work, span, scope, receive, send)
            else:
                await _whole(state, work, span, scope, receive, send)

        return handler

    async def begin(record: Record, fields: dict[str, Any]) -> None:
        """What all requests have in common once they are read."""
        check_pictures(fields.get("messages"))
        await state.check_model(fields.get("model"))
        record.model = fields["model"] if isinstance(fields.get("model"), str) else client.settings.model
        timeout_s = fields.get("timeout")
        if timeout_s is None or (isinstance(timeout_s, (int, float)) and timeout_s > serve.timeout_s):
            fields["timeout"] = serve.timeout_s
        if serve.log_prompts:
            record.prompt = next((fields[name] for name in ("messages", "prompt", "input") if name in fields), None)

    post("/v1/chat/completions", generation(core.chat), **openapi.operation(ChatCompletionRequest, ChatCompletion))
    post("/v1/completions", generation(core.complete), **openapi.operation(CompletionRequest, Completion))
    post("/v1/embeddings", vectors(core.embed), **openapi.operation(EmbeddingRequest, EmbeddingResponse, streams=False))
    heard = openapi.operation(TranscriptionRequest, Transcription, file="file")
    post("/v1/audio/transcriptions", speech(core.transcribe), **heard)
    translated = openapi.operation(TranslationRequest, Translation, file="file", streams=False)
    post("/v1/audio/translations", speech(core.translate), **translated)

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
            found["models"] = {name: asdict(value) for name, value in (await _activities(client)).items()}
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

    @app.get("/stats")
    async def stats() -> Response:
        """The same figures as /metrics, in short and as JSON, as the page shows them."""
        return Response(dumps(metrics.stats(await _activities(client), cloud())), media_type="application/json")

    @app.get("/metrics")
    async def measured() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(await _activities(client), cloud()), media_type=CONTENT_TYPE)

    for name in web.FILES:
        for path in ("/web/" + name, "/") if name == "index.html" else ("/web/" + name,):
            app.add_api_route(path, _page(name), methods=["GET"], include_in_schema=False)

    openapi.install(app)
    return app


def _page(name: str) -> Callable[[], Any]:
    content = web.read(name)

    async def page() -> Response:
        return Response(content, headers={**web.HEADERS, "content-type": web.FILES[name]})

    return page


async def _activities(client: AsyncClient) -> Mapping[str, EngineActivity]:
    """What the loaded models do."""
    found: Mapping[str, EngineActivity] = await client._driver.call(lambda: client._core.router.activity())
    return found


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


async def _whole(state: State, work: Work[Any, Any, Any], span: Span, scope: Scope, receive: Receive, send: Send) -> None:
    """The reply in one piece."""
    record: Record = scope["record"]

    def run() -> Iterator[tuple[Any, bytes]]:
        work.open()
        result = work.result()
        yield result, result.encode("utf-8") if isinstance(result, str) else dumps(result)

    bridge = Bridge(run, work.cancel)
    async with _watched(state, receive, work.cancel):
        result, body = await bridge.next()
    record.usage, record.timings = _tokens(getattr(result, "usage", None)), getattr(result, "timings", None)
    _note_route(record, work, span)
    kind = b"text/plain; charset=utf-8" if isinstance(result, str) else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _note_route(record: Record, work: Work[Any, Any, Any], span: Span) -> None:
    """Where the answer was made in the end, and why: the codes of the reasons, which hold nothing of the request."""
    reply = work.reply
    record.model, record.route = reply.model, reply.route
    span.serves(reply.model)
    record.confidence, record.cost_usd = getattr(reply, "confidence", None), getattr(reply, "cost_usd", None)
    decision = getattr(reply, "decision", None)
    if decision is not None:
        record.reasons = tuple(reason.partition(":")[0] for reason in decision.reasons)


def _tokens(usage: Any) -> CompletionUsage | None:
    """What a reply cost in tokens, if that is what it cost."""
    if isinstance(usage, EmbeddingUsage):
        return CompletionUsage(prompt_tokens=usage.prompt_tokens, total_tokens=usage.total_tokens)
    return usage if isinstance(usage, CompletionUsage) else None


def _events(exchange: Exchange[Any, Any]) -> Generator[tuple[int, bytes], None, EventWriter | None]:
    """A generation that was opened, as tokens and bytes of a stream. Once tokens come, reading them can go on elsewhere."""
    writer = EventWriter(exchange)
    if writer.pace is not None:
        ended = False
        while not ended:
            found, ended = writer.poll(_PATIENCE_SECONDS)
            yield from found
            if found and not ended:
                return writer
        return None
    for deltas in exchange.batches():
        yield len(deltas), writer.write(deltas)
    yield 0, writer.end()
    return None


def _spoken(work: SpeechWork) -> Generator[tuple[int, bytes], None, None]:
    """The same of speech, whose last event says itself that it is the last."""
    for event in work.items():
        yield 1, b"data: " + dumps(event) + b"\n\n"


async def _stream(
    state: State,
    events: Generator[tuple[int, bytes], None, EventWriter | None],
    work: Work[Any, Any, Any],
    span: Span,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """The reply as events. `events` is iterated once `work` is open."""
    record: Record = scope["record"]

    def run() -> Generator[tuple[int, bytes], None, EventWriter | None]:
        work.open()
        yield 0, b""  # it has begun: what is wrong with the request itself would have been said
        return (yield from events)

    bridge = Bridge(run, work.cancel)
    async with _watched(state, receive, work.cancel):
        await bridge.next()
        record.model, record.route = work.reply.model, work.reply.route
        span.serves(work.reply.model)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        send = scope["record"].send  # what was wrapped around it had to do with the status line
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    found = await bridge.available()
                    n_tokens = sum([n for n, _ in found])
                    if n_tokens:
                        if record.first_token_s is None:
                            record.first_token_s = time.perf_counter()
                        span.tokens(n_tokens)
                    data = b"".join([data for _, data in found]) if len(found) > 1 else found[0][1]
                    if data:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as error:
            record.error, record.failure = error, failure_of(error, request_id=record.id, stopping=state.stopping)
            if record.failure.status >= 500 and not was_foreseen(error):
                log_failure(record)
            await send({"type": "http.response.body", "body": error_event(record.failure.body()), "more_body": True})
        finally:
            if isinstance(work, Exchange):
                record.usage, record.timings = work.frame.usage(), work.frame.timings()
            _note_route(record, work, span)
        await send({"type": "http.response.body", "body": b""})

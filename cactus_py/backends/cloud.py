"""The cloud: endpoints that speak OpenAI's protocol, asked in order until one answers.

Not a backend by name: the router owns it and decides what is sent. Nothing leaves before the user configured a cloud: without
`cloud.endpoints` and `cloud_model` there are no endpoints, whatever key the environment holds.

Every request goes out as a stream, also where the whole reply is wanted: so the wait for the first piece is known from the wait
for the last, and cancelling ends the work at the other end. A server that answers with one JSON object is understood, too.

What goes wrong is a `CloudError`, from `chat` itself or from the first read: `chat` returns once an endpoint has answered with
a good head, but the stream may still fail before its first piece. Up to there another attempt is made where it may help (no
connection, 408, 409, 429, 5xx, a stream that was cut), after a pause that doubles and is drawn at random, or as long as
Retry-After says if that fits; then the next endpoint is asked, unless the request itself was refused (400, 413, 422). Once a
piece was given to the consumer nothing is asked again: what fails then is raised.

The breaker counts what speaks about the endpoint: no connection, time-outs, 5xx, replies that are none, 403. It opens at once
on 401 (the next request would carry the same key), where there is no network, and where nobody listened at the last attempt.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import SecretStr, ValidationError

from ..config import Cloud, Endpoint, Settings
from ..errors import CloudError, ConfigError, RequestCancelledError
from ..types import ModelCard, TranslationRequest
from ._cloud_wire import (
    ChatReader,
    CompletionReader,
    Reader,
    chat_body,
    completion_body,
    embedding_body,
    parsed,
    speech_form,
    spoken,
    vectors,
)
from ._endpoint import EndpointHealth, Exchange, Failed, Place, Ticket, named
from ._sse import Events
from .base import Delta, EmbeddingReply, Reply, ReplyStats, SpokenSegment, SpokenText
from .prices import tokens_in

if TYPE_CHECKING:
    from ..types import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, GenerationRequest, TranscriptionRequest

__all__ = ["CloudBackend", "CloudReply", "EndpointHealth", "Sent", "endpoints_of"]

FIRST_WAIT_S = 0.5  # doubled by each attempt; the pause is drawn from zero to that
LONGEST_WAIT_S = 8.0
_MAX_ERROR_BYTES = 64 << 10
_EXPECTED_TOKENS = 256  # of an answer without a limit, for estimates
_AGAIN = {408, 409, 425, 429}
_FINAL = {400, 413, 422}
_NEVER_AGAIN = {501, 505}

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Sent:
    """What is about to leave the device: for the log of what did."""

    host: str
    model: str
    path: str  # as "/chat/completions"
    n_bytes: int
    attempt: int  # 1: the first at this endpoint


OnSend = Callable[[Sent], None]


_OPENAI = Endpoint.model_fields["base_url"].default


def endpoints_of(settings: Settings) -> list[Endpoint]:
    """The endpoints that the user configured, in order: none without `cloud_model` and `cloud.endpoints`. Raises ConfigError
    for a base URL that is none."""
    endpoints = list(settings.cloud.endpoints)
    if settings.cloud_model is not None:
        where: dict[str, Any] = {} if settings.openai_base_url is None else {"base_url": settings.openai_base_url}
        try:
            endpoints.insert(0, Endpoint(model=settings.cloud_model, **where))
        except ValidationError as error:
            field = "OPENAI_BASE_URL" if error.errors()[0]["loc"][0] == "base_url" else "cloud_model"
            what = "an http(s) URL" if field == "OPENAI_BASE_URL" else "the name of a model"
            raise ConfigError(f"the setting {field} is wrong: it should be {what}") from None
    key = {"api_key": settings.openai_api_key}
    trusted = {_OPENAI, settings.openai_base_url or _OPENAI}  # OPENAI_API_KEY is for these, and nobody else gets to see it
    return [each.model_copy(update=key) if each.base_url in trusted and not _names_key(each) else each for each in endpoints]


def _names_key(endpoint: Endpoint) -> bool:
    return any(source is not None for source in (endpoint.api_key, endpoint.api_key_env, endpoint.keyring))


class CloudBackend:
    """All endpoints. Safe to share between threads; making one touches no network."""

    name = "cloud"

    def __init__(self, cloud: Cloud, *, fallback_key: SecretStr | str | None = None) -> None:
        """fallback_key: for endpoints that name none. Raises ConfigError, MissingExtraError."""
        if not cloud.endpoints:
            raise ConfigError("there is no cloud: set cloud_model, or endpoints in the table [cloud]")
        key = fallback_key.get_secret_value() if isinstance(fallback_key, SecretStr) else fallback_key
        self.cloud = cloud
        self.last_error: CloudError | None = None
        self._places = [Place(endpoint, cloud, key) for endpoint in cloud.endpoints]
        self._calls: weakref.WeakSet[_Call[Any]] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def from_settings(cls, settings: Settings) -> CloudBackend | None:
        """The cloud that the settings describe; None without one."""
        endpoints = endpoints_of(settings)
        if not endpoints:
            return None
        return cls(settings.cloud.model_copy(update={"endpoints": endpoints}))

    # ---- requests ----

    def chat(self, request: ChatCompletionRequest, *, wait: bool = True, on_send: OnSend | None = None) -> CloudReply:
        """Starts a reply. wait=False: returns at once, and everything happens at the first read, so that `cancel` of the reply
        can end that, too. on_send: called before each attempt. Raises CloudError."""
        reader = lambda: ChatReader(request.n or 1, bool(request.logprobs))  # noqa: E731

        def body(place: Place) -> dict[str, Any]:
            return chat_body(request, place.endpoint.model, is_openai=place.is_openai)

        return self._reply("/chat/completions", request, body, reader, _length_of(request), wait, on_send)

    def complete(self, request: CompletionRequest, *, wait: bool = True, on_send: OnSend | None = None) -> CloudReply:
        """Starts a continuation of plain prompts. Else as `chat`."""
        n_answers = len(request.prompts) * (request.n or 1)
        reader = lambda: CompletionReader(n_answers, request.logprobs is not None)  # noqa: E731

        def body(place: Place) -> dict[str, Any]:
            return completion_body(request, place.endpoint.model)

        n_prompt = sum(tokens_in(prompt) if isinstance(prompt, str) else len(prompt) for prompt in request.prompts)
        return self._reply("/completions", request, body, reader, n_prompt, wait, on_send)

    def _reply(
        self,
        path: str,
        request: GenerationRequest,
        body: Callable[[Place], dict[str, Any]],
        reader: Callable[[], Reader],
        n_prompt: int,
        wait: bool,
        on_send: OnSend | None,
    ) -> CloudReply:
        call: _Call[list[Delta]] = _Call(self, self._places, path, request.timeout, on_send)
        reply = CloudReply(call, body, reader, n_prompt)
        self._begin(call)
        if wait:
            reply.open()
        return reply

    def embed(
        self, request: EmbeddingRequest, cancelled: Callable[[], bool] | None = None, *, on_send: OnSend | None = None
    ) -> EmbeddingReply:
        """The vectors of texts, from the first endpoint that has an embedding model. Raises CloudError."""
        places = [place for place in self._places if place.endpoint.embedding_model is not None]
        if not places:
            raise CloudError("no endpoint of the cloud has an embedding_model", "refused")
        call: _Call[tuple[Place, Any]] = _Call(self, places, "/embeddings", request.timeout, on_send, cancelled)

        def attempt(place: Place, ticket: Ticket, n: int) -> Iterator[tuple[Place, Any]]:
            body = json.dumps(embedding_body(request, place.endpoint.embedding_model or "")).encode()
            with _exchange(call, place, n, len(body), body=body) as exchange:
                yield place, call.read(place, exchange, lambda reply: vectors(reply, len(request.inputs)))

        place, (found, n_tokens) = self._one(call, attempt)
        n_tokens = n_tokens or sum(tokens_in(text) if isinstance(text, str) else len(text) for text in request.inputs)
        return EmbeddingReply(place.endpoint.embedding_model or "", self.name, "cloud", found, n_tokens)

    def transcribe(
        self, request: TranscriptionRequest | TranslationRequest, audio: bytes, *, on_send: OnSend | None = None
    ) -> SpokenText:
        """The speech of an audio file, from the first endpoint that has a transcription model: all of it when this returns.
        Raises CloudError."""
        places = [place for place in self._places if place.endpoint.transcription_model is not None]
        if not places:
            raise CloudError("no endpoint of the cloud has a transcription_model", "refused")
        path = "/audio/translations" if isinstance(request, TranslationRequest) else "/audio/transcriptions"
        call: _Call[tuple[Place, Any]] = _Call(self, places, path, request.timeout, on_send)

        def attempt(place: Place, ticket: Ticket, n: int) -> Iterator[tuple[Place, Any]]:
            form = speech_form(request, place.endpoint.transcription_model or "", audio)
            with _exchange(call, place, n, len(audio), form=form) as exchange:
                yield place, call.read(place, exchange, spoken)

        place, (language, duration_s, segments) = self._one(call, attempt)
        language = getattr(request, "language", None) or language
        return _CloudSpoken(place.endpoint.transcription_model or "", language, duration_s, segments)

    def _one(
        self, call: _Call[tuple[Place, Any]], attempt: Callable[[Place, Ticket, int], Iterator[tuple[Place, Any]]]
    ) -> tuple[Place, Any]:
        self._begin(call)
        found = list(call.tries(attempt))
        return found[0]

    def _begin(self, call: _Call[Any]) -> None:
        with self._lock:
            if self._closed:
                raise RequestCancelledError("the request was cancelled because its client was closed")
            self._calls.add(call)

    # ---- what is known without asking ----

    def models(self) -> list[ModelCard]:
        """What the endpoints are configured to be asked for; no network."""
        cards: dict[str, ModelCard] = {}
        for place in self._places:
            endpoint = place.endpoint
            able = [
                (endpoint.model, ["chat", "completions"]),
                (endpoint.embedding_model, ["embeddings"]),
                (endpoint.transcription_model, ["transcription"]),
            ]
            for model, capabilities in able:
                if model is not None:
                    card = cards.setdefault(model, ModelCard(id=model, owned_by=place.host))
                    card.capabilities += [each for each in capabilities if each not in card.capabilities]
        return list(cards.values())

    def estimate_cost(self, prompt: str | int, max_tokens: int | None = None) -> float | None:
        """US dollars for a prompt (its text, or its tokens) and an answer of so many tokens (256 without a limit), at the
        endpoint that would be asked first; None where no price is known."""
        place = next((each for each in self._places if each.breaker.refuses() is None), self._places[0])
        n_prompt = tokens_in(prompt) if isinstance(prompt, str) else prompt
        return _cost(place, n_prompt, 0, _EXPECTED_TOKENS if max_tokens is None else max_tokens)

    def health(self) -> list[EndpointHealth]:
        """How each endpoint is doing, in order."""
        return [place.health() for place in self._places]

    def close(self) -> None:
        """Cancels everything that is under way. What is asked afterwards raises RequestCancelledError."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()
        for place in self._places:
            place.close()


def _cost(place: Place, n_prompt: int, n_cached: int, n_answer: int) -> float | None:
    price = place.price
    if price is None:
        return None
    cached = price.input if price.cached_input is None else price.cached_input
    n_cached = min(n_cached, n_prompt)
    return ((n_prompt - n_cached) * price.input + n_cached * cached + n_answer * price.output) / 1e6


def _length_of(request: ChatCompletionRequest) -> int:
    """Tokens of a conversation, estimated, in case the server does not say."""
    n = 0
    for message in request.messages:
        content = getattr(message, "content", None)
        parts = content if isinstance(content, list) else [content]
        n += 4 + sum(tokens_in(part if isinstance(part, str) else getattr(part, "text", "") or "") for part in parts)
    return n


# ---- one request, however often it is sent -------------------------------------------------------------------------------


class _Call(Generic[Item]):
    """A request on its way: the attempts, the endpoints, the time it has. For one consumer; `cancel` is for anyone."""

    def __init__(
        self,
        owner: CloudBackend,
        places: list[Place],
        path: str,
        timeout_s: float | None,
        on_send: OnSend | None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.begun_at = time.monotonic()
        self.deadline = self.begun_at + min(timeout_s or math.inf, owner.cloud.timeout_s)
        self.delivered = False
        self.attempts = 0
        self.sent_bytes = 0
        self._owner, self._places, self.path = owner, places, path
        self._on_send, self._asked = on_send, cancelled
        self._gone = threading.Event()
        self._exchange: Exchange | None = None
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        return self._gone.is_set() or (self._asked is not None and self._asked())

    def cancel(self) -> None:
        with self._lock:
            self._gone.set()
            exchange = self._exchange
        if exchange is not None:
            exchange.abort()

    def tries(self, attempt: Callable[[Place, Ticket, int], Iterator[Item]]) -> Generator[Item, None, None]:
        """What the first attempt that succeeds yields. Raises CloudError, RequestCancelledError."""
        cloud = self._owner.cloud
        errors: list[CloudError] = []
        for place in self._places:
            failure: Failed | None = None
            for n in range(1 + cloud.retries):
                if self.cancelled:
                    raise RequestCancelledError("the request was cancelled")
                try:
                    if failure is not None and not self._pause(n, failure):
                        break
                    ticket = place.enter(self.deadline, lambda: self.cancelled)
                except Failed as error:
                    failure = failure or error  # one that was sent says more than a breaker that opened upon it
                    break
                failure, passed = None, False
                try:
                    yield from attempt(place, ticket, n + 1)
                    passed = True
                    return
                except Failed as error:
                    failure = error
                    refused = error.error.kind == "offline" and n == cloud.retries
                    failure.at_once = failure.at_once or refused
                finally:
                    place.leave(ticket, failure, passed=passed)
                if self.delivered or failure.final:
                    raise self._told([failure.error])
                if not failure.again:
                    break
            if failure is not None:
                errors.append(failure.error)
            if time.monotonic() >= self.deadline:
                break
        raise self._told(errors)

    def _told(self, errors: list[CloudError]) -> CloudError:
        """One error for all."""
        last = errors[-1]
        if len(errors) > 1:
            waits = [error.retry_after_s for error in errors if error.retry_after_s is not None]
            text = "; ".join(str(error) for error in errors)
            last = CloudError(text, last.kind, status=last.status, retry_after_s=min(waits, default=None))
        self._owner.last_error = last
        return last

    def _pause(self, n: int, failure: Failed) -> bool:
        """Waits before attempt n + 1; False if there is no time for that."""
        asked_s = failure.error.retry_after_s
        wait_s = random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (n - 1))) if asked_s is None else asked_s
        until = time.monotonic() + wait_s
        if until >= self.deadline:
            return False
        while (left := until - time.monotonic()) > 0:
            if self._gone.wait(left if self._asked is None else min(left, 0.05)) or self.cancelled:
                raise RequestCancelledError("the request was cancelled")
        return True

    def send(self, place: Place, n: int, n_bytes: int, **what: Any) -> Exchange:
        """Begins an attempt."""
        if self._on_send is not None:
            endpoint = place.endpoint
            model = {"/embeddings": endpoint.embedding_model}.get(self.path, endpoint.model)
            model = endpoint.transcription_model if self.path.startswith("/audio") else model
            self._on_send(Sent(place.host, model or "", self.path, n_bytes, n))
        with self._lock:
            if self._gone.is_set():
                raise RequestCancelledError("the request was cancelled")
            self._exchange = place.send(self.path, **what)
        self.attempts += 1
        self.sent_bytes += n_bytes
        return self._exchange

    def wait(self, place: Place, exchange: Exchange, until: float, what: str) -> tuple[str, Any]:
        """The next thing that comes, by `until` and by the deadline. Raises Failed."""
        until = min(until, self.deadline)
        while True:
            now = time.monotonic()
            came = None
            if now < self.deadline:  # what is there already may be had a little late, but not after the end
                came = exchange.wait(until if self._asked is None else min(until, now + 0.05))
            if came is not None:
                return came
            if self.cancelled:
                raise RequestCancelledError("the request was cancelled")
            if time.monotonic() >= until:
                over = time.monotonic() >= self.deadline
                text = "did not finish in the time there was" if over else what
                raise Failed(CloudError(f"{named(place.host)} {text}", "timeout"), again=not over)

    def head(self, place: Place, exchange: Exchange) -> tuple[Literal["events", "json"], float]:
        """Waits for the head of the reply and judges it. Returns what the body is, and when the first piece is due. Raises
        Failed."""
        cloud = self._owner.cloud
        due = time.monotonic() + cloud.connect_timeout_s
        what = "could not be reached in time"
        while True:
            kind, value = self.wait(place, exchange, due, what)
            if kind == "sent":
                due = time.monotonic() + cloud.first_token_timeout_s
                what = "did not begin to answer in time"
            elif kind == "head":
                break
        status = value.status_code
        if status != 200:
            raise self._refusal(place, exchange, status, value.headers, due)
        media = value.headers.get("content-type", "").partition(";")[0].strip().lower()
        if value.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise Failed(CloudError(f"{named(place.host)} answered in an encoding that was not asked for", status=status))
        if media == "text/event-stream":
            return "events", due
        if media == "application/json":
            return "json", due
        shown = place.quoted(media)[:60] or "nothing"
        message = f"{named(place.host)} answered with {shown} where event-stream or JSON was expected"
        raise Failed(CloudError(message, status=status), again=False)

    def body(self, place: Place, exchange: Exchange, due: float, limit: int | None = None) -> bytes:
        """What is left of the body, at most `limit` bytes of it. Raises Failed."""
        parts: list[bytes] = []
        n = 0
        while limit is None or n < limit:
            kind, value = self.wait(place, exchange, due, "stopped in the middle of its answer")
            if kind == "end":
                break
            if kind == "data":
                parts.append(value)
                n += len(value)
                due = time.monotonic() + self._owner.cloud.first_token_timeout_s
        return b"".join(parts)[:limit]

    def read(self, place: Place, exchange: Exchange, make: Callable[[dict[str, Any]], Any]) -> Any:
        """A reply that is one JSON object, made into something. Raises Failed."""
        kind, due = self.head(place, exchange)
        if kind != "json":
            raise Failed(CloudError(f"{named(place.host)} answered with events where JSON was expected"), again=False)
        try:
            reply = parsed(self.body(place, exchange, due))
            if reply.get("error"):
                raise self.told_error(place, reply["error"])
            return make(reply)
        except ValueError as error:
            raise Failed(CloudError(f"{named(place.host)} answered with {error}")) from None

    def _refusal(self, place: Place, exchange: Exchange, status: int, headers: Any, due: float) -> Failed:
        """What a status other than 200 means."""
        who = named(place.host)
        if 300 <= status < 400:
            message = f"{who} answered {status}, a redirection, which is not followed: the key must not reach another host"
            return Failed(CloudError(message, status=status), again=False)
        said, code = "", ""
        try:
            reply = parsed(self.body(place, exchange, min(due, time.monotonic() + 2.0), _MAX_ERROR_BYTES))
            error = reply.get("error", reply)
            error = error if isinstance(error, dict) else {"message": error}
            said = place.quoted(str(error.get("message") or "")) if isinstance(error.get("message"), str) else ""
            code = str(error.get("code") or "")
        except (ValueError, Failed):
            pass  # the status says enough
        message = f"{who} answered {status}" + (f": {said}" if said else "")
        wait_s = _retry_after(headers.get("retry-after"))
        if status == 429:
            kind: CloudError.Kind = "rate_limited"
        else:
            kind = "auth" if status in (401, 403) else "timeout" if status == 408 else "server" if status >= 500 else "refused"
        return Failed(
            CloudError(message, kind, status=status, retry_after_s=wait_s),
            again=(status in _AGAIN or status >= 500) and status not in _NEVER_AGAIN and code != "insufficient_quota",
            counts=status in (401, 403, 408) or status >= 500 or status < 200,
            at_once=status == 401,
            final=status in _FINAL,
        )

    @staticmethod
    def told_error(place: Place, error: Any) -> Failed:
        """An error that came where an answer should have been."""
        said = error.get("message") if isinstance(error, dict) else error
        text = place.quoted(said) if isinstance(said, str) else ""
        return Failed(CloudError(f"{named(place.host)} reported an error" + (f": {text}" if text else ""), "server"))


class _exchange:
    """An attempt, ended in any case."""

    def __init__(self, call: _Call[Any], place: Place, n: int, n_bytes: int, **what: Any) -> None:
        self._exchange = call.send(place, n, n_bytes, **what)

    def __enter__(self) -> Exchange:
        return self._exchange

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._exchange.finish()
        else:
            self._exchange.abort()


def _retry_after(text: str | None) -> float | None:
    """Seconds from now, given as seconds or as a date."""
    if text is None:
        return None
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        return min(1e9, max(0.0, parsedate_to_datetime(text).timestamp() - time.time()))
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None


# ---- replies -------------------------------------------------------------------------------------------------------------


class CloudReply(Reply):
    """A reply from the cloud. `host`: the endpoint that answers; `attempts`, `sent_bytes`: what was sent for it, in all."""

    backend = "cloud"
    route: Literal["local", "cloud"] = "cloud"

    def __init__(
        self,
        call: _Call[list[Delta]],
        body: Callable[[Place], dict[str, Any]],
        reader: Callable[[], Reader],
        n_prompt: int,
    ) -> None:
        self._call, self._body, self._new_reader, self._n_prompt = call, body, reader, n_prompt
        self._reader: Reader | None = None
        self._place = call._places[0]
        self.model = self._place.endpoint.model
        self._waiting: list[Delta] = []
        self._sent_at = self._first_at = self._last_at = 0.0
        self._closed = False
        self._lock = threading.Lock()  # a generator runs in one thread at a time
        self._events = call.tries(self._attempt)

    @property
    def host(self) -> str:
        return self._place.host

    @property
    def attempts(self) -> int:
        return self._call.attempts

    @property
    def sent_bytes(self) -> int:
        return self._call.sent_bytes

    def open(self) -> None:
        """Waits until an endpoint has begun to answer. Raises CloudError, RequestCancelledError."""
        self._waiting += self._next() or []

    def __next__(self) -> Delta:
        while not self._waiting:
            deltas = self._next()
            if deltas is None:
                raise StopIteration
            self._waiting = deltas
        self._call.delivered = True
        return self._waiting.pop(0)

    def read(self) -> list[Delta]:
        first = next(self, None)
        if first is None:
            return []
        rest, self._waiting = self._waiting, []
        return [first, *rest]

    def _next(self) -> list[Delta] | None:
        """What comes next, perhaps nothing but the head; None at the end."""
        with self._lock:
            if self._closed:
                return None
            if self._call.cancelled:
                self._events.close()
                raise RequestCancelledError("the request was cancelled")
            return next(self._events, None)

    def _attempt(self, place: Place, ticket: Ticket, n: int) -> Iterator[list[Delta]]:
        call = self._call
        body = json.dumps(self._body(place), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        self._place, self.model = place, place.endpoint.model
        self._reader = reader = self._new_reader()
        self._sent_at, self._first_at = time.monotonic(), 0.0
        with _exchange(call, place, n, len(body), body=body) as exchange:
            kind, due = call.head(place, exchange)
            yield []
            try:
                for chunk in self._chunks(place, exchange, kind, due):
                    if chunk.get("error"):
                        raise call.told_error(place, chunk["error"])
                    deltas = reader.read(chunk)
                    if deltas:
                        self._last_at = time.monotonic()
                        if not self._first_at:
                            self._first_at = self._last_at
                            place.began(ticket, 1000 * (self._first_at - self._sent_at))
                        yield deltas
            except ValueError as error:
                raise Failed(CloudError(f"{named(place.host)} answered with {error}")) from None
            except Failed as failure:  # a stream that is cut after all was said has said all
                if not (reader.complete and failure.error.kind == "invalid"):
                    raise
            if not reader.complete:
                what = f"without {reader.missing} of its answers" if kind == "json" else "before its answer was complete"
                raise Failed(CloudError(f"{named(place.host)} ended {what}"))

    def _chunks(self, place: Place, exchange: Exchange, kind: str, due: float) -> Iterator[dict[str, Any]]:
        """The JSON objects of the reply: many of a stream, one of a whole reply."""
        call = self._call
        if kind == "json":
            yield parsed(call.body(place, exchange, due))
            return
        gap_s = call._owner.cloud.first_token_timeout_s
        events = Events()
        while True:
            what = "stopped in the middle of its answer" if self._first_at else "did not begin to answer in time"
            came, value = call.wait(place, exchange, due, what)
            if came == "end":
                return
            for event in events.feed(value) if came == "data" else ():
                if event.strip() == "[DONE]":
                    return
                yield parsed(event)
                if self._first_at:  # until then neither heads of answers nor comments count
                    due = time.monotonic() + gap_s

    def cancel(self) -> None:
        self._call.cancel()

    def close(self) -> None:
        if self._closed:
            return
        self._call.cancel()
        with self._lock:
            self._closed = True
            self._events.close()
        self._waiting = []

    def __del__(self) -> None:
        if hasattr(self, "_events"):
            self.close()

    @property
    def stats(self) -> ReplyStats:
        n_prompt, n_cached, n_answer, n_thought = self._counts()
        first, last = self._first_at or time.monotonic(), max(self._last_at, self._first_at)
        return ReplyStats(
            prompt_tokens=n_prompt,
            cached_tokens=n_cached,
            completion_tokens=n_answer,
            reasoning_tokens=n_thought,
            queue_ms=1000 * max(0.0, (self._sent_at or first) - self._call.begun_at),
            prompt_ms=1000 * (first - self._sent_at) if self._sent_at else 0.0,
            decode_ms=1000 * (last - first) if self._first_at else 0.0,
        )

    def _counts(self) -> tuple[int, int, int, int]:
        """Tokens as the server counted them, or else estimated from the text."""
        reader = self._reader
        if reader is not None and reader.usage is not None:
            return reader.usage
        return self._n_prompt if self._sent_at else 0, 0, reader.n_tokens if reader is not None else 0, 0

    @property
    def cost_usd(self) -> float | None:  # type: ignore[override]
        """Of the attempt that answered, at the known price; what failed attempts cost nobody tells."""
        n_prompt, n_cached, n_answer, _ = self._counts()
        return _cost(self._place, n_prompt, n_cached, n_answer)


# ---- speech ----------------------------------------------------------------------------------------------------------------


class _CloudSpoken(SpokenText):
    """A text that is all there."""

    backend = "cloud"
    route: Literal["local", "cloud"] = "cloud"

    def __init__(self, model: str, language: str, duration_s: float, segments: list[SpokenSegment]) -> None:
        self.model, self.language, self.duration_s = model, language, duration_s
        self._segments = iter(segments)

    def __next__(self) -> SpokenSegment:
        return next(self._segments)

    def cancel(self) -> None:
        pass  # nothing is under way any more

    def close(self) -> None:
        self._segments = iter(())

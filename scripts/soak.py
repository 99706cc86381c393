"""A server under everything at once: requests of all kinds that come and go at random, readers that leave or dawdle, and
senders of rubbish. What must hold meanwhile and afterwards is checked.

    python scripts/soak.py [--model MODEL] [--seconds N] [--workers N] [--seed N] [--json FILE] [--markdown FILE]

A real `cactus-py serve` runs in a process of its own, with so little memory for keys and values that requests are put off and
kept prefixes are given up all the time. At the start each of the CASES is asked alone; whatever is asked later has to be
answered the same, token for token, whether whole or as a stream and whoever else is there. The run has four quarters. Between
them everybody falls silent, and the server has to give back what it took: pages, connections, threads. Its memory after the
first quarter, which fills what fills once, is compared with its memory at the end. Last it is stopped in the middle of answers.

The memory is Private_Dirty of /proc/PID/smaps_rollup (Linux): what the server wrote. Private_Clean, the model's mapped file, is
shown; it says more about who else has that file mapped. Exit status 0: all checks passed.

A server built with AddressSanitizer: --env CACTUS_PY_LIBRARY=FILE --env LD_PRELOAD=libasan.so
--env ASAN_OPTIONS=detect_leaks=0, and a larger --growth, since that keeps what was freed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

QUARTERS = 4
MAX_BODY = 1 << 20
PATIENCE_S = 300.0  # longest time that any one answer may take; a sanitizer is slow
CALM_S = 60.0  # longest time to fall silent
GRACE_S = 3
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

_TEXT = """river stone window garden letter morning paper bridge silver market winter candle harbour forest engine mirror
village mountain question answer summer teacher number music kitchen doctor island travel picture memory"""
WORDS = _TEXT.split()


def words(draw: random.Random, n: int) -> str:
    """About n tokens of text."""
    return " ".join(draw.choice(WORDS) for _ in range(n))


# ---- what is asked and has one right answer ----------------------------------------------------------------------------

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "mood": {"enum": ["good", "bad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def _schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "form", "strict": True, "schema": schema}}


def _chat(question: str, max_tokens: int, **options: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": [{"role": "user", "content": question}], "max_tokens": max_tokens, "temperature": 0, **options}


def _complete(prompt: Any, max_tokens: int, **options: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **options}


def _turns(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


_LONG = random.Random(17)
_STORY = words(_LONG, 400)
_RED, _BLUE = "What is red?", "Name three blue things."
_REPEATS = "one two three four one two three four one two three four one two"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": _chat("Why is the sky blue?", 40),
    "chat, short": _chat("Say hello.", 6),
    "chat, one token": _chat(_RED, 1),
    "chat, second turn": (
        CHAT,
        {"messages": _turns(_RED, "A rose.", _BLUE), "max_completion_tokens": 24, "temperature": 0},
    ),
    "chat, two stops": _chat("Count from one to ten.", 40, stop=["5", "five"]),
    "chat, n greedy": _chat("Tell me a story of a dog.", 20, n=3),
    "chat, n seeded": _chat("Tell me a story of a cat.", 20, n=2, seed=11, temperature=1.0, top_p=0.9),
    "chat, seeded": _chat("Tell me a joke.", 32, seed=5, temperature=0.8, top_k=40, min_p=0.02),
    "chat, penalties": _chat("Repeat the word tea.", 32, frequency_penalty=0.7, presence_penalty=0.3),
    "chat, bias": _chat("Say anything.", 12, logit_bias={"2": -100, "28": 5}),
    "chat, schema": _chat("Describe a person.", 60, response_format=_schema(_PERSON)),
    "chat, object": _chat("Give me some JSON.", 24, response_format={"type": "json_object"}),
    "chat, regex": _chat("A date, please.", 24, response_format={"type": "regex", "regex": r"\d{4}-\d\d-\d\d"}),
    "chat, tool": _chat("How is the weather in Paris?", 64, tools=[_WEATHER], tool_choice="required"),
    "chat, tool or not": _chat("How is the weather in Rome?", 24, tools=[_WEATHER]),
    "chat, long": _chat("Sum this up: " + _STORY, 12),
    "chat, long too": _chat("Sum this up: " + _STORY + " and then? " + words(_LONG, 200), 12),
    "text": _complete("The capital of France is", 24),
    "text, repeats": _complete(_REPEATS, 60),
    "text, two prompts": _complete(["Once upon a time", "In the beginning"], 16),
    "text, ids": _complete([504, 3575, 282, 4649, 314], 12),
    "text, echo": _complete("Roses are red,", 8, echo=True),
    "text, seeded": _complete("My favourite", 24, n=2, seed=3, temperature=1.2),
    "text, schema": _complete("A person as JSON: ", 60, response_format=_schema(_PERSON)),
    "text, long": _complete(words(_LONG, 700), 8),
    "text, many tokens": _complete("It was a dark night, and", 160),
}


@dataclass
class Said:
    """The part of a reply that has to be the same each time."""

    choices: list[dict[str, Any]]
    usage: tuple[int, int] | None = None

    def differs(self, other: Said) -> str | None:
        """What is not the same; fields that only one of them was asked for do not count."""
        if len(self.choices) != len(other.choices):
            return f"{len(other.choices)} choices, not {len(self.choices)}"
        for i, (ours, theirs) in enumerate(zip(self.choices, other.choices, strict=True)):
            for name in ours.keys() & theirs.keys():
                if ours[name] != theirs[name]:
                    return f"{name} of choice {i} is {theirs[name]!r:.300}, not {ours[name]!r:.300}"
        if self.usage and other.usage and self.usage != other.usage:
            return f"usage {other.usage}, not {self.usage}"
        return None


def said_by(choices: Sequence[dict[str, Any]], usage: dict[str, Any] | None) -> Said:
    """A whole reply, or a stream put together, in the form that is compared."""
    found = []
    for choice in sorted(choices, key=lambda item: int(item["index"])):
        message = choice.get("message")
        text = choice.get("text") if message is None else message.get("content")
        calls = [call["function"] for call in (message or {}).get("tool_calls") or []]
        one: dict[str, Any] = {"text": text or "", "finish": choice["finish_reason"], "calls": calls}
        if choice.get("logprobs"):
            one["tokens"] = _tokens(choice["logprobs"])
        found.append(one)
    return Said(found, (usage["prompt_tokens"], usage["completion_tokens"]) if usage else None)


def _tokens(logprobs: dict[str, Any]) -> list[Any]:
    if "content" in logprobs:
        return [[one["token"], one["logprob"]] for one in logprobs["content"] or []]
    return list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))


class Wrong(Exception):
    """Something that must never happen; says what."""


class Busy(Exception):
    """The queue is full: 429."""


def checked(path: str, status: int, body: bytes, allowed: Sequence[int]) -> dict[str, Any]:
    """A reply's JSON. Raises Busy, or Wrong unless its status is one of those allowed."""
    try:
        value = json.loads(body)
    except ValueError:
        raise Wrong(f"{path}: status {status} with a body that is no JSON: {body[:200]!r}") from None
    if status == 429:
        raise Busy
    if status not in allowed:
        raise Wrong(f"{path}: status {status}: {body[:300]!r}")
    if status >= 400 and set(value.get("error", ())) != {"message", "type", "param", "code"}:
        raise Wrong(f"{path}: status {status} without an error in OpenAI's form: {body[:300]!r}")
    return dict(value)


async def whole(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Said:
    response = await client.post(path, json=body)
    if response.status_code == 429 and "retry-after" not in response.headers:
        raise Wrong(f"{path}: 429 without Retry-After")
    value = checked(path, response.status_code, response.content, (200,))
    return said_by(value["choices"], value["usage"])


class Gathered:
    """A stream's chunks, put together."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.choices: dict[int, dict[str, Any]] = {}
        self.usage: dict[str, Any] | None = None
        self.done = False

    def take(self, line: str) -> None:
        """One line of the stream. Raises Wrong, Busy."""
        if not line:
            return
        if self.done or not line.startswith("data: "):
            raise Wrong(f"{self.path}: a line of a stream that does not belong there: {line[:200]!r}")
        if line == "data: [DONE]":
            self.done = True
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise Wrong(f"{self.path}: a stream broke off: {chunk['error']}")
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self._add(choice)

    def _add(self, choice: dict[str, Any]) -> None:
        index = choice["index"]
        one = self.choices.setdefault(index, {"index": index, "text": [], "calls": {}, "logprobs": None, "finish_reason": None})
        if one["finish_reason"] is not None:
            raise Wrong(f"{self.path}: choice {index} went on after its end")
        one["finish_reason"] = choice.get("finish_reason")
        delta = choice.get("delta") or choice
        one["text"].append(delta.get("content") or delta.get("text") or "")
        for call in delta.get("tool_calls") or []:
            known = one["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
            for name, piece in call["function"].items():
                known[name] += piece
        if choice.get("logprobs"):
            kept = one["logprobs"] = one["logprobs"] or {}
            for name, values in choice["logprobs"].items():
                if isinstance(values, list):
                    kept.setdefault(name, []).extend(values)

    def said(self) -> Said:
        if not self.done:
            raise Wrong(f"{self.path}: a stream ended without [DONE]")
        choices = []
        for one in self.choices.values():
            calls = [{"function": call} for _, call in sorted(one["calls"].items())]
            message = {"content": "".join(one["text"]), "tool_calls": calls}
            choices.append({**one, "message": message})
        return said_by(choices, self.usage)


async def streamed(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Said:
    gathered = Gathered(path)
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", path, json=asked) as response:
        if response.status_code != 200:
            checked(path, response.status_code, await response.aread(), (200,))
        async for line in response.aiter_lines():
            gathered.take(line)
    return gathered.said()


def with_logprobs(path: str, body: dict[str, Any], top: int) -> dict[str, Any]:
    return {**body, "logprobs": True, "top_logprobs": top} if path == CHAT else {**body, "logprobs": top}


# ---- what is no request ------------------------------------------------------------------------------------------------

_HI = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def _nested(depth: int) -> bytes:
    return b'{"messages":' + b"[" * depth + b"]" * depth + b"}"


def _with(**fields: Any) -> bytes:
    return json.dumps({**_HI, **fields}).encode()


def _raw(fields: bytes) -> bytes:
    return b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":2,' + fields + b"}"


BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b'{"messages": [',
    "a list": b"[]",
    "null": b"null",
    "UTF-8": b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
    "surrogate": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "NaN": _raw(b'"temperature":NaN'),
    "infinity": _raw(b'"temperature":1e999'),
    "huge integer": _raw(b'"seed":' + b"9" * 5000),
    "huge limit": _raw(b'"max_tokens":' + b"9" * 30),
    "depth": _nested(200),
    "great depth": _nested(100_000),
    "unknown field": _with(foo=1),
    "wrong type": _with(temperature="hot"),
    "a switch": _with(stream="yes"),
    "out of range": _with(top_p=3),
    "no choices": _with(n=0),
    "many choices": _with(n=10_000),
    "negative": _with(max_tokens=-1),
    "no role": _with(messages=[{"content": "Hi"}]),
    "unknown role": _with(messages=[{"role": "king", "content": "Hi"}]),
    "no messages": _with(messages=[]),
    "a picture": _with(
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    ),
    "unknown model": _with(model="../../etc/passwd"),
    "NUL in a model": _with(model="a\0b"),
    "model as a list": _with(model=["a"]),
    "too long": _with(messages=[{"role": "user", "content": "word " * 20_000}]),
    "empty stop": _with(stop=[""]),
    "many stops": _with(stop=["a"] * 100),
    "token id": _with(logit_bias={"99999999": 1}),
    "no token id": _with(logit_bias={"x": 1}),
    "schema": _with(response_format=_schema({"type": "nonsense"})),
    "schema that loops": _with(response_format=_schema({"$ref": "#"})),
    "regex": _with(response_format={"type": "regex", "regex": "(((a{1000}){1000}){1000}"}),
    "grammar": _with(response_format={"type": "grammar", "grammar": "start: nowhere"}),
    "unknown tool": _with(tools=[_WEATHER], tool_choice={"type": "function", "function": {"name": "nobody"}}),
    "tool name": _with(tools=[{"type": "function", "function": {"name": "no spaces"}}]),
    "timeout": _with(timeout=-1),
}

BAD_HTTP: dict[str, bytes] = {
    "noise": b"\x00\x01\x02\xff\xfe" * 40 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "no version": b"GET /health\r\n\r\n",
    "bad version": b"GET /health HTTP/9.9\r\nhost: localhost\r\n\r\n",
    "bad header": b"GET /health HTTP/1.1\r\nhost localhost\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "foreign host": b"GET /health HTTP/1.1\r\nhost: example.org\r\n\r\n",
    "long line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
    "bad length": b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
    "two lengths": b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    "bad chunk": b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "unknown method": b"BREW /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "pipeline": b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" * 5,
    "upgrade": b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "foreign origin": b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\norigin: http://example.org\r\n"
    b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    "silence": b"",
}

PINGS = ("/health", "/health/live", "/health/ready", "/metrics", "/stats", "/v1/models", "/", "/web/app.js")
NOWHERE = ("/v1/nothing", "/v1/models/nothing", "/%00", "/../../etc/passwd", "/web/../app.py", "/" + "x" * 3000)


# ---- the server --------------------------------------------------------------------------------------------------------


@dataclass
class Held:
    """What the server holds at one time."""

    at_s: float
    dirty_kib: int
    clean_kib: int
    threads: int
    files: int
    engine: dict[str, int] | None = None  # when it was silent


class Server:
    """`cactus-py serve` in a process of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "cactus_py", "serve", "--model", options.model, "--port", "0", "--json", "--quiet"]
        command += ["--kv-memory", options.kv_memory, "--context", str(options.context), "--max-queue", str(options.max_queue)]
        command += ["--max-body", str(MAX_BODY), "--grace", str(GRACE_S)]
        given = dict(pair.split("=", 1) for pair in options.env)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env={**os.environ, **given}
        )
        self.began_s = time.monotonic()
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first:
            raise SystemExit("the server did not start:\n" + "".join(self.lines))
        self.url: str = json.loads(first)["url"]
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def held(self) -> Held:
        folder = Path(f"/proc/{self.process.pid}")
        rows = (line.split() for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
        kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
        threads, files = (len(os.listdir(folder / name)) for name in ("task", "fd"))
        return Held(time.monotonic() - self.began_s, kib["Private_Dirty"], kib["Private_Clean"], threads, files)

    def stop(self) -> int:
        """Sends SIGTERM unless that was done, waits, and returns the exit status."""
        try:
            status = self.process.wait(CALM_S + GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = -int(signal.SIGKILL)
        self._reader.join(5)
        return status


# ---- who talks to it ---------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """What became of one kind of visit."""

    n: int = 0
    busy: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)


class Soak:
    """The visitors, and what they saw."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server = server
        self.options = options
        self.draw = random.Random(options.seed)
        self.counts: dict[str, Count] = collections.defaultdict(Count)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.stopping = False
        self.wrong: list[str] = []
        self.right: dict[str, Said] = {}
        self.slowest: dict[str, float] = {}  # seconds, of every case
        self.vector: Any = None
        self.curve: list[Held] = []
        self.calm: list[Held] = []
        self.visits: list[tuple[str, int, Callable[[httpx.AsyncClient], Awaitable[None]]]] = [
            ("whole", 22, self.ask_whole),
            ("stream", 26, self.ask_stream),
            ("fresh prompt, twice", 6, self.ask_twice),
            ("gone while it streams", 10, self.leave_stream),
            ("gone while it reads the prompt", 8, self.leave_prompt),
            ("slow reader", 4, self.read_slowly),
            ("out of time", 4, self.run_out),
            ("bad body", 18, self.send_bad),
            ("bad content type", 3, self.send_untyped),
            ("oversize body", 3, self.send_oversize),
            ("half a body", 5, self.send_half),
            ("bad HTTP", 8, self.send_noise),
            ("ping", 14, self.ping),
            ("wrong address", 4, self.go_nowhere),
        ]

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async def count(response: httpx.Response) -> None:
            if not self.stopping:  # 503 is right then
                self.statuses[response.status_code] += 1

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.options.workers)
        hooks = {"response": [count]}
        async with httpx.AsyncClient(
            base_url=self.server.url, timeout=PATIENCE_S, limits=limits, event_hooks=hooks, trust_env=False
        ) as client:
            yield client

    # -- right requests --

    async def prepare(self) -> None:
        """Asks every case alone, and fills the memory for prefixes."""
        async with self.client() as client:
            for name, (path, body) in CASES.items():
                self.right[name] = await whole(client, path, with_logprobs(path, body, 1))
            response = await client.post(EMBEDDINGS, json={"input": "a river", "model": self.options.model})
            if response.status_code == 200:
                self.vector = response.json()["data"]
                self.visits.append(("embedding", 8, self.embed))
            draw = random.Random(-1)
            for _ in range(1000):
                engine = await self.engine(client)
                if engine["kv_pages_cached"] >= 0.9 * engine["kv_pages"] or engine["evicted_pages"]:
                    break
                await whole(client, *_complete(words(draw, self.options.context // 2), 1))

    async def engine(self, client: httpx.AsyncClient) -> dict[str, int]:
        engines = (await client.get("/stats")).json()["engines"]
        return {name: sum(engine[name] for engine in engines.values()) for name in next(iter(engines.values()))}

    def same(self, name: str, right: Said, found: Said) -> None:
        difference = right.differs(found)
        if difference:
            raise Wrong(f"{name}: a wrong answer: {difference}")

    def case(self) -> tuple[str, str, dict[str, Any]]:
        name = self.draw.choice(list(CASES))
        path, body = CASES[name]
        if self.draw.random() < 0.4:
            body = with_logprobs(path, body, self.draw.randint(0, 5))
        return name, path, body

    async def ask_whole(self, client: httpx.AsyncClient) -> None:
        name, path, body = self.case()
        with self.timed(name):
            self.same(name, self.right[name], await whole(client, path, body))

    async def ask_stream(self, client: httpx.AsyncClient) -> None:
        name, path, body = self.case()
        with self.timed(name):
            self.same(name + ", stream", self.right[name], await streamed(client, path, body))

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self.slowest[name] = max(self.slowest.get(name, 0.0), time.perf_counter() - began_s)

    async def ask_twice(self, client: httpx.AsyncClient) -> None:
        """A prompt that nobody sent before, twice at once: kept prefixes have to make room."""
        context = self.options.context
        path, body = _complete(words(self.draw, self.draw.randint(context // 20, context // 2)), self.draw.randint(1, 24))
        body = with_logprobs(path, body, 0)
        answers = await asyncio.gather(whole(client, path, body), streamed(client, path, body), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        first, second = answers
        assert isinstance(first, Said) and isinstance(second, Said)
        self.same("a fresh prompt", first, second)

    async def embed(self, client: httpx.AsyncClient) -> None:
        response = await client.post(EMBEDDINGS, json={"input": "a river", "model": self.options.model})
        if checked(EMBEDDINGS, response.status_code, response.content, (200,))["data"] != self.vector:
            raise Wrong("an embedding differs")

    # -- readers who do not stay, or do not hurry --

    async def leave_stream(self, client: httpx.AsyncClient) -> None:
        path, body = CASES["text, many tokens"] if self.draw.random() < 0.7 else CASES["chat, n greedy"]
        left = self.draw.randint(1, 40)
        async with client.stream("POST", path, json={**body, "stream": True}) as response:
            if response.status_code != 200:
                checked(path, response.status_code, await response.aread(), (200,))
            async for _ in response.aiter_lines():
                left -= 1
                if not left:
                    return

    async def leave_prompt(self, client: httpx.AsyncClient) -> None:
        context = self.options.context
        path, body = _complete(words(self.draw, self.draw.randint(context // 4, context - context // 4)), 16)
        body["stream"] = self.draw.random() < 0.5
        with contextlib.suppress(asyncio.TimeoutError):
            response = await asyncio.wait_for(client.post(path, json=body), self.draw.uniform(0.001, 0.4))
            if response.status_code != 200:
                checked(path, response.status_code, response.content, (200,))

    async def read_slowly(self, client: httpx.AsyncClient) -> None:
        """Through a receive buffer of a few kB, with more bytes to come than fit on the way."""
        path, body = CASES["text, many tokens"]
        body = {**with_logprobs(path, body, 5), "stream": True}
        data = bytearray()
        async with self.connection(buffer=4096) as (reader, writer):
            writer.write(_post(path, json.dumps(body).encode()))
            await writer.drain()
            while piece := await asyncio.wait_for(reader.read(2048), PATIENCE_S):
                data += piece
                await asyncio.sleep(self.draw.uniform(0, 0.02))
        status, content = _parsed(bytes(data))
        self.statuses[status] += 1
        if status != 200:
            checked(path, status, content, (200,))
        gathered = Gathered(path)
        for line in content.decode().split("\n"):
            gathered.take(line)
        self.same("a slow reader", self.right["text, many tokens"], gathered.said())

    async def run_out(self, client: httpx.AsyncClient) -> None:
        """So little time that it may end before the answer does; here 504 is right."""
        path, body = _complete(words(self.draw, self.options.context // 2), 40, timeout=self.draw.uniform(0.001, 0.3))
        if self.draw.random() < 0.5:
            response = await client.post(path, json=body)
            checked(path, response.status_code, response.content, (200, 504))
            return
        async with client.stream("POST", path, json={**body, "stream": True}) as response:
            if response.status_code != 200:
                checked(path, response.status_code, await response.aread(), (504,))
                return
            lines = [line async for line in response.aiter_lines() if line]
        last = lines[-1]
        if last != "data: [DONE]" and json.loads(last.removeprefix("data: "))["error"]["code"] != "timeout":
            raise Wrong(f"a stream that ran out of time ended with {last[:300]!r}")

    # -- rubbish --

    async def send_bad(self, client: httpx.AsyncClient) -> None:
        name = self.draw.choice(list(BAD_BODIES))
        response = await client.post(CHAT, content=BAD_BODIES[name], headers={"content-type": "application/json"})
        try:
            checked(CHAT, response.status_code, response.content, (400, 404, 422))
        except Wrong as error:
            raise Wrong(f"bad body ({name}): {error}") from None

    async def send_untyped(self, client: httpx.AsyncClient) -> None:
        kind = self.draw.choice(
            ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "\xff"]
        )
        response = await client.post(CHAT, content=json.dumps(_HI), headers=[(b"content-type", kind.encode("latin-1"))])
        checked(CHAT, response.status_code, response.content, (415,))

    async def send_oversize(self, client: httpx.AsyncClient) -> None:
        """A body that is too large, announced or not."""
        size = MAX_BODY + self.draw.randint(1, 4 * MAX_BODY)

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(size // 65536 + 1):
                yield b" " * 65536

        content: Any = b" " * size if self.draw.random() < 0.5 else chunks()
        response = await client.post(CHAT, content=content, headers={"content-type": "application/json"})
        checked(CHAT, response.status_code, response.content, (413,))

    async def send_half(self, client: httpx.AsyncClient) -> None:
        body = json.dumps(_HI).encode()
        request = _post(CHAT, body)
        async with self.connection() as (_, writer):
            writer.write(request[: self.draw.randint(1, len(request) - 1)])
            await writer.drain()
            await asyncio.sleep(self.draw.uniform(0, 0.5))

    async def send_noise(self, client: httpx.AsyncClient) -> None:
        name = self.draw.choice(list(BAD_HTTP))
        data = bytearray()
        async with self.connection() as (reader, writer):
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                writer.write(BAD_HTTP[name])
                await writer.drain()
                while piece := await asyncio.wait_for(reader.read(65536), 0.3):
                    data += piece
        if data:
            status, _ = _parsed(bytes(data))
            self.statuses[status] += 1
            if status >= 500 or (status < 300 and name not in ("pipeline", "upgrade", "many headers", "bad version")):
                raise Wrong(f"bad HTTP ({name}): {bytes(data[:300])!r}")

    async def ping(self, client: httpx.AsyncClient) -> None:
        path = self.draw.choice(PINGS)
        response = await client.get(path)
        if response.status_code != 200 or not response.content:
            raise Wrong(f"{path}: status {response.status_code}: {response.content[:300]!r}")

    async def go_nowhere(self, client: httpx.AsyncClient) -> None:
        path = self.draw.choice(NOWHERE)
        if self.draw.random() < 0.3:
            response = await client.request(self.draw.choice(["PUT", "DELETE", "PATCH", "GET"]), CHAT)
            checked(CHAT, response.status_code, response.content, (405,))
        else:
            response = await client.get(path)
            checked(path, response.status_code, response.content, (400, 404))

    @contextlib.asynccontextmanager
    async def connection(self, buffer: int = 0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        connection = socket.socket()
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, self.server.address)
        reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    # -- all together --

    async def visitor(self, client: httpx.AsyncClient, end_s: float) -> None:
        names, weights = [name for name, *_ in self.visits], [weight for _, weight, _ in self.visits]
        calls = {name: call for name, _, call in self.visits}
        while time.monotonic() < end_s and self.server.process.poll() is None:
            name = self.draw.choices(names, weights)[0]
            count = self.counts[name]
            count.n += 1
            began_s = time.perf_counter()
            try:
                await calls[name](client)
                count.seconds.append(time.perf_counter() - began_s)
            except Busy:
                count.busy += 1
                await asyncio.sleep(self.draw.uniform(0.05, 0.3))
            except Wrong as error:
                count.wrong += 1
                self.wrong.append(str(error))
            except (httpx.HTTPError, OSError, asyncio.TimeoutError, ValueError, KeyError, EOFError) as error:
                count.wrong += 1
                self.wrong.append(f"{name}: {type(error).__name__}: {error}")
            if self.draw.random() < 0.3:
                await asyncio.sleep(self.draw.uniform(0, 0.2))

    async def observer(self) -> None:
        with contextlib.suppress(OSError):  # the process is gone, which others will say
            while True:
                self.curve.append(self.server.held())
                await asyncio.sleep(max(0.5, self.options.seconds / 60))

    async def quarter(self) -> None:
        """A time of visits, then silence, and what the server holds then."""
        end_s = time.monotonic() + self.options.seconds / QUARTERS
        observer = asyncio.ensure_future(self.observer())
        async with self.client() as client:
            await asyncio.gather(*(self.visitor(client, end_s) for _ in range(self.options.workers)))
        observer.cancel()
        if self.server.process.poll() is not None:
            raise Wrong("the server died")
        await self.fall_silent()

    async def fall_silent(self) -> None:
        """Waits until nothing runs and nobody is connected; what is held then is kept. Raises Wrong."""
        end_s = time.monotonic() + CALM_S
        files = self.calm[0].files if self.calm else None
        while True:
            async with self.client() as client:
                engine = await self.engine(client)
            await asyncio.sleep(0.2)
            held = self.server.held()
            busy = engine["running"] or engine["waiting"] or engine["kv_pages_used"]
            if not busy and (files is None or held.files <= files):
                break
            if time.monotonic() > end_s:
                break  # the checks say what is wrong
        if self.calm or not busy:
            await asyncio.sleep(0.3)
        held = self.server.held()
        held.engine = engine
        self.calm.append(held)

    async def stop(self) -> int:
        """SIGTERM while answers are under way; returns the exit status."""
        self.stopping = True
        started = asyncio.Event()

        async def ask(client: httpx.AsyncClient, i: int) -> None:
            path, body = _complete(words(random.Random(i), 60 * i + 5), 600, stream=i % 2 == 0)
            with contextlib.suppress(httpx.HTTPError):  # it may be cut off
                async with client.stream("POST", path, json=body) as response:
                    if response.status_code == 503 or response.status_code == 429:
                        return
                    async for _ in response.aiter_lines():
                        started.set()

        async with self.client() as client:
            asks = [asyncio.ensure_future(ask(client, i)) for i in range(6)]
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(started.wait(), 60)
            self.server.process.terminate()
            status = await asyncio.to_thread(self.server.stop)
            await asyncio.gather(*asks)
        return status


def _post(path: str, body: bytes) -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return lines.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def _parsed(data: bytes) -> tuple[int, bytes]:
    """Status and body of a reply that was read until its connection closed."""
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        raise Wrong(f"no HTTP: {data[:200]!r}")
    if b"transfer-encoding: chunked" in head.lower():
        pieces = []
        while body:
            size, _, rest = body.partition(b"\r\n")
            n = int(size, 16)
            pieces.append(rest[:n])
            body = rest[n + 2 :]
        body = b"".join(pieces)
    return int(head[9:12]), body


# ---- the verdict -------------------------------------------------------------------------------------------------------


def _harmless(line: str) -> bool:
    """Whether a line of the log is a warning about what a client sent."""
    try:
        return bool(json.loads(line)["level"] == "warning")
    except (ValueError, KeyError):
        return False


async def run(soak: Soak) -> int:
    """The whole run; returns the server's exit status."""
    await soak.prepare()
    try:
        for _ in range(QUARTERS):
            await soak.quarter()
    except (Wrong, httpx.HTTPError) as error:
        soak.wrong.append(f"{error or type(error).__name__}")
    return await soak.stop()


def verdict(soak: Soak, status: int) -> list[tuple[str, bool, str]]:
    """Every check: what it says, whether it held, and the figures."""
    options, server = soak.options, soak.server
    checks = [
        ("every answer right, no visitor saw anything wrong", not soak.wrong, f"{len(soak.wrong)} wrong"),
        (
            "the log tells of bad HTTP at most",
            not [line for line in server.lines if not _harmless(line)],
            f"{len(server.lines)} lines",
        ),
        ("exit status 0 after SIGTERM in the middle of answers", status == 0, str(status)),
    ]
    failed = {code: n for code, n in soak.statuses.items() if code >= 500 and code != 504}
    checks.append(("no 5xx but 504 where it was asked for", not failed, str(failed or "none")))
    if len(soak.calm) < QUARTERS:
        return [*checks, ("all quarters were run", False, f"{len(soak.calm)} of {QUARTERS}")]
    first, last = soak.calm[0], soak.calm[-1]
    engines = [held.engine or {} for held in soak.calm]
    idle = all(not engine[name] for engine in engines for name in ("running", "waiting", "kv_pages_used"))
    checks.append(("between quarters nothing ran, waited or held pages", idle, f"{engines[-1]['kv_pages_used']} pages"))
    short = engines[-1]["preemptions"] > 0 and engines[-1]["evicted_pages"] > 0
    figures = f"{engines[-1]['preemptions']} put off, {engines[-1]['evicted_pages']} pages given up"
    checks.append(("memory for keys and values was short", short or options.seconds < 30, figures))
    growth = 100 * (last.dirty_kib / first.dirty_kib - 1)
    figures = f"{first.dirty_kib / 1024:.1f} MiB to {last.dirty_kib / 1024:.1f} MiB, {growth:+.1f} %"
    checks.append((f"memory grew by at most {options.growth:g} %", growth <= options.growth, figures))
    checks.append(("no more files and connections open", last.files <= first.files, f"{first.files} to {last.files}"))
    checks.append(("no more threads", last.threads <= first.threads, f"{first.threads} to {last.threads}"))
    return checks


def table(soak: Soak, checks: Sequence[tuple[str, bool, str]]) -> str:
    options = soak.options
    lines = [f"# The server in {options.seconds:g} s of everything: {options.model}", ""]
    lines += [f"{options.workers} visitors at once, seed {options.seed}, {options.kv_memory} for keys and values. "]
    lines[-1] += "Made by `scripts/soak.py`."
    lines += ["", "| visit | times | full queue | wrong | median ms | p95 ms |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, *_ in soak.visits:
        count = soak.counts[name]
        times = sorted(1e3 * value for value in count.seconds)
        middle = f"{statistics.median(times):.0f} | {times[int(0.95 * (len(times) - 1))]:.0f}" if times else "– | –"
        lines.append(f"| {name} | {count.n} | {count.busy} | {count.wrong} | {middle} |")
    total = [sum(getattr(count, name) for count in soak.counts.values()) for name in ("n", "busy", "wrong")]
    lines.append(f"| all | {total[0]} | {total[1]} | {total[2]} | | |")
    lines += ["", "Statuses: " + ", ".join(f"{code}: {n}" for code, n in sorted(soak.statuses.items())) + ".", ""]
    lines += ["| silence after quarter | MiB written | MiB mapped | threads | files | read | found | generated | kept pages |"]
    lines += ["| --- | " + " | ".join(["---:"] * 8) + " |"]
    for i, held in enumerate(soak.calm):
        engine = held.engine or {}
        names = ("prompt_tokens", "cached_tokens", "generated_tokens", "kv_pages_cached")
        figures = " | ".join(str(engine[name]) for name in names)
        memory = f"{held.dirty_kib / 1024:.1f} | {held.clean_kib / 1024:.1f}"
        lines.append(f"| {i + 1} | {memory} | {held.threads} | {held.files} | {figures} |")
    slowest = sorted(soak.slowest.items(), key=lambda item: -item[1])[:6]
    lines += ["", "Slowest answers: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest) + "."]
    step = max(1, len(soak.curve) // 24)
    lines += ["", "MiB written, over time: " + " ".join(f"{held.dirty_kib / 1024:.0f}" for held in soak.curve[::step]) + "."]
    lines += ["", "| check | | |", "| --- | --- | --- |"]
    lines += [f"| {what} | {'yes' if held else '**NO**'} | {figures} |" for what, held, figures in checks]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=14, help="visitors at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kv-memory", default="48MiB")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--max-queue", type=int, default=4)
    parser.add_argument("--growth", type=float, default=5.0, help="percent that memory may grow by after the first quarter")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the server")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    server = Server(options)
    try:
        soak = Soak(server, options)
        status = asyncio.run(run(soak))
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
    checks = verdict(soak, status)
    text = table(soak, checks)
    print(text)
    told = collections.Counter(message[:400] for message in soak.wrong)
    for message, n in told.most_common(20):
        print(f"wrong, {n} times: {message}")
    print("".join([line for line in server.lines if not _harmless(line)][:60]), end="")
    if options.json is not None:
        curve = [[round(held.at_s, 1), held.dirty_kib, held.clean_kib, held.threads, held.files] for held in soak.curve]
        found = {"checks": checks, "curve": curve, "statuses": soak.statuses, "wrong": soak.wrong}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(text)
    return 0 if all(held for _, held, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())

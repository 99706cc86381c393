"""Parts of the server that need no process: keys, settings, the JSON of replies, and what the command refuses."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from pathlib import Path
from typing import Any

import pytest

from cactus_py._exchange import CHAT, COMPLETION, Exchange, Kind
from cactus_py.backends.base import Delta, Reply, ReplyStats, TokenInfo
from cactus_py.cli import main
from cactus_py.config import Serve, load_settings
from cactus_py.errors import ConfigError
from cactus_py.serving.body import limited, read_json
from cactus_py.serving.errors import RequestFailure
from cactus_py.serving.guard import Guard, is_loopback
from cactus_py.serving.keys import Keys, hash_of, new_key, read_hashes
from cactus_py.serving.log import Log
from cactus_py.serving.metrics import Metrics
from cactus_py.serving.run import check
from cactus_py.serving.wire import EventWriter
from cactus_py.types import ChatCompletionRequest, CompletionRequest, parse_request


def test_keys(tmp_path: Path) -> None:
    key, hashed = new_key()
    assert key != new_key()[0] and hashed == hash_of(key)
    keys = Keys([hash_of("other"), hashed])
    assert keys and keys.accepts(key.encode()) and keys.accepts(b"other") and not keys.accepts(b"") and not Keys([])
    file = tmp_path / "keys"
    for text, words in (("", "no hash"), (key, "line 1"), (f"{hashed}\n{hashed}0", "line 2")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words) as error:
            read_hashes(file)
        assert key not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hashes(tmp_path)


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[serve]\nport = 1\nhost = "::1"\nmax_body = "1MiB"\n')
    monkeypatch.setenv("CACTUS_PY_CONFIG", str(file))
    monkeypatch.setenv("CACTUS_PY_SERVE_PORT", "2")
    monkeypatch.setenv("CACTUS_PY_SERVE_CORS_ORIGINS", "https://a.example, https://b.example")
    serve = load_settings({"serve": {"grace_s": 3}}).serve
    assert (serve.port, serve.host, serve.grace_s, serve.max_body) == (2, "::1", 3, 1 << 20)
    assert serve.cors_origins == ["https://a.example", "https://b.example"]
    monkeypatch.setenv("CACTUS_PY_SERVE_PORT", "70000")
    with pytest.raises(ConfigError, match="CACTUS_PY_SERVE_PORT"):
        load_settings()


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.8.8.8", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("example.com", False),
    ],
)
def test_an_address_that_others_reach_needs_a_key(host: str, local: bool) -> None:
    assert is_loopback(host) == local
    if not local:
        with pytest.raises(ConfigError, match="no API key"):
            check(Serve(host=host))
        check(Serve(host=host, api_keys=[hash_of("key")]))
    else:
        check(Serve(host=host))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--new-key", "--json"])
    assert ended.value.code == 0
    made = json.loads(capsys.readouterr().out)
    assert hash_of(made["key"]) == made["hash"]
    for words, message in (
        (["--host", "0.0.0.0"], "no API key"),
        (["--max-body", "lots"], "max_body"),
        (["--cors-origin", "example.com"], "cors_origins"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(["serve", *words])
        assert refused.value.code == 1 and message in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(SystemExit):
            main(["serve", "--port", str(taken.getsockname()[1])])
        assert "cannot listen" in capsys.readouterr().err


# ---- the JSON of streams -------------------------------------------------------------------------------------------------


class _Reply(Reply):
    model, backend, route = "a model", "native", "local"

    def __next__(self) -> Delta:
        raise StopIteration

    def cancel(self) -> None: ...

    def close(self) -> None: ...

    @property
    def stats(self) -> ReplyStats:
        return ReplyStats(prompt_tokens=3, completion_tokens=4)


def _writer(kind: Kind[Any, Any], request: Any) -> EventWriter:
    exchange: Exchange[Any, Any] = Exchange(request, kind, _Reply, lambda _: None, lambda _: None)
    exchange.open()
    exchange.frame._key, exchange.frame._created = "0", 1
    return EventWriter(exchange)


TEXTS = [
    "Hello",
    " wörld",
    "",
    '"quoted" \\ back',
    "\x00\x01\n\r\t\x7f",
    "\u2028\u2029",
    "🌵",
    "</script>",
    "data: [DONE]\n\n",
    "a" * 9999,
]
TOKEN = TokenInfo(1, b"\xf0\x9f", -0.5, (TokenInfo(2, b"b", -0.25),))


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("kind", ["chat", "completion", "logprobs"])
def test_the_short_way_writes_what_the_long_way_writes(kind: str, usage: bool) -> None:
    fields: dict[str, Any] = {"model": "m", "n": 2, "stream": True, "stream_options": {"include_usage": usage}}
    if kind == "completion":
        request: Any = parse_request(CompletionRequest, {**fields, "prompt": "a"})
    else:
        message = [{"role": "user", "content": "a"}]
        request = parse_request(ChatCompletionRequest, {**fields, "messages": message, "logprobs": kind == "logprobs"})
    tokens = (TOKEN,) if kind == "logprobs" else ()
    deltas = [Delta(i % 2, text, tokens) for i, text in enumerate(TEXTS * 2)]
    if kind != "completion":
        deltas[4:4] = [
            Delta(0, "thinking", tokens, None, True),
            Delta(0, " on", tokens, None, True),
            Delta(1, "", tokens, None, True),
        ]
    deltas += [Delta(0, "the end", tokens, "stop"), Delta(1, "", (), "length")]
    wire = COMPLETION if kind == "completion" else CHAT
    short, long = _writer(wire, request), _writer(wire, request)
    expected = "".join(event for delta in deltas for event in long.objects(delta)).encode()
    for n in (1, 3, len(deltas)):
        short = _writer(wire, request)
        assert b"".join(short.write(deltas[i : i + n]) for i in range(0, len(deltas), n)) == expected
    assert short.end() == long.end()
    events = [json.loads(event[6:]) for event in (expected + long.end()).decode().split("\n\n")[:-2]]
    texts = ["", ""]
    for event in events:
        assert ("usage" in event) == usage
        for choice in event["choices"]:
            texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
    assert texts[0] == "".join((TEXTS * 2)[::2]) + "the end"


def test_a_refused_request_is_freed_at_once() -> None:
    """Without the collector: neither a failure's traceback nor the record holds what the request held."""
    metrics, settings = Metrics([]), Serve(max_body=1024, log=False)
    held: list[weakref.ref[Any]] = []

    class Body(bytearray):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = Body(b"x" * 64)
        held.extend((weakref.ref(scope["record"]), weakref.ref(body)))
        await limited(scope, receive, settings.max_body)()

    async def ask(headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 2048, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
        await Guard(app, settings, lambda: False, metrics, Log())(scope, receive, send)
        return sent

    gc.collect()
    gc.disable()
    try:
        for headers in ([], [(b"content-length", b"2048")]):
            assert asyncio.run(ask(headers))[0]["status"] == 413
        assert len(held) == 4 and not any(one() for one in held)
    finally:
        gc.enable()


@pytest.mark.parametrize("value", [b"1,", b"[],", b'{"a":1},'])
def test_a_body_of_countless_values_is_refused_unread(value: bytes) -> None:
    """Thirty megabytes of them would keep the event loop, and all other streams with it, for seconds."""

    async def read(data: bytes) -> Any:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        return await read_json({"headers": [(b"content-type", b"application/json")]}, receive)

    end = value.rstrip(b",")
    with pytest.raises(RequestFailure) as refused:
        asyncio.run(read(b'{"prompt":[' + value * 1_000_001 + end + b"]}"))
    assert (refused.value.failure.status, refused.value.failure.code) == (400, "body_too_large")
    assert len(asyncio.run(read(b'{"prompt":[' + value * 100_000 + end + b"]}"))["prompt"]) == 100_001


def test_a_reply_that_cannot_be_written_is_closed() -> None:
    """Else its model would be kept for it for ever."""
    ended: list[Any] = []

    class Unwritable(_Reply):
        def poll(self, wait_seconds: float) -> list[Delta]:
            return [Delta(0, "a", (TokenInfo(1, b"a", float("-inf")),))]

        def close(self) -> None:
            ended.append(self)

    request = parse_request(ChatCompletionRequest, {"messages": [{"role": "user", "content": "a"}], "logprobs": True})
    exchange: Exchange[Any, Any] = Exchange(request, CHAT, Unwritable, lambda _: None, ended.append)
    exchange.open()
    with pytest.raises(ValueError, match="JSON"):
        EventWriter(exchange).poll(0)
    assert ended == [exchange.reply, exchange]

"""The server with a cloud behind it: a scripted endpoint of OpenAI's protocol in this process, the server in one of its own."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="the server extra is not installed")
pytest.importorskip("uvicorn", reason="the server extra is not installed")

from server_process import ServerProcess

from cactus_py._exchange import CHAT, COMPLETION, Exchange, Kind
from cactus_py.backends.base import Delta, Reply, ReplyStats
from cactus_py.errors import CloudError
from cactus_py.serving.errors import failure_of, was_foreseen
from cactus_py.serving.wire import EventWriter
from cactus_py.types import ChatCompletionRequest, CompletionRequest, parse_request

ASKED = {"messages": [{"role": "user", "content": "What is seven times six?"}], "max_tokens": 8, "temperature": 0}


class Cloud(ThreadingHTTPServer):
    """Answers as `mode` says: well, with 500, or with a stream that is cut."""

    daemon_threads = True
    mode = "well"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Cloud

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.server.mode == "500":
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for piece in ("Forty", "-two."):
            self._event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        if self.server.mode == "cut":
            return
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._event({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 2, "total_tokens": 1002}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "big", **chunk}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        threading.Thread(target=cloud.serve_forever, daemon=True).start()
        yield cloud
        cloud.shutdown()


@pytest.fixture(scope="module")
def server(cloud: Cloud, zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    place = {"base_url": f"http://127.0.0.1:{cloud.server_port}/v1", "model": "big", "price": {"input": 1, "output": 1}}
    variables = {"CACTUS_PY_CLOUD_ENDPOINTS": json.dumps([place]), "CACTUS_PY_CLOUD_RETRIES": "0"}
    variables |= {"CACTUS_PY_CLOUD_BREAKER_FAILURES": "1000", "CACTUS_PY_SERVE_LOG": "true"}
    model = str(zoo / "llama" / "llama.f32.gguf")
    home = tmp_path_factory.mktemp("home")
    with ServerProcess(home, "-m", model, "--policy", "early_exit", "--threshold", "1", **variables) as server:
        yield server


@contextlib.contextmanager
def acting(cloud: Cloud, mode: str) -> Iterator[None]:
    cloud.mode = mode
    try:
        yield
    finally:
        cloud.mode = "well"


def ask(server: ServerProcess, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    return httpx.post(server.url + path, json={**ASKED, **fields}, timeout=60)


def events(reply: Any) -> list[dict[str, Any]]:
    assert reply.text.endswith("data: [DONE]\n\n"), reply.text
    return [json.loads(line[6:]) for line in reply.text.split("\n\n")[:-2]]


def test_handed_over_whole(server: ServerProcess) -> None:
    reply = ask(server)
    body = reply.json()
    assert (body["route"], body["model"], body["choices"][0]["message"]["content"]) == ("cloud", "big", "Forty-two.")
    line = server.line_of(reply.headers["x-request-id"])
    assert (line["route"], line["model"], line["cost_usd"]) == ("cloud", "big", 0.001002)
    assert "low_confidence" in line["reasons"] and not any(":" in reason for reason in line["reasons"])
    metrics = httpx.get(server.url + "/metrics").text
    assert 'cactus_routed_requests_total{model="big",route="cloud"}' in metrics
    assert 'cactus_cloud_breaker{host="127.0.0.1:' in metrics or 'cactus_cloud_breaker{host="127.0.0.1"' in metrics
    assert 'cactus_handovers_total{reason="low_confidence"} 0.0' not in metrics


def test_handed_over_in_a_stream(server: ServerProcess) -> None:
    reply = ask(server, stream=True, handoff="restart", max_tokens=64, stream_options={"include_usage": True})
    text, routes = "", []
    found = events(reply)
    for event in found[:-1]:
        text = "" if event.get("replaces") else text + (event["choices"][0]["delta"].get("content") or "")
        routes.append(event["route"])
    assert text == "Forty-two."
    assert routes[-1] == "cloud" and found[-2]["decision"]["route"] == "cloud"
    assert found[-1]["usage"]["completion_tokens"] == 2
    line = server.line_of(reply.headers["x-request-id"])
    assert (line["route"], line["model"], line["completion_tokens"]) == ("cloud", "big", 2)


def test_a_cloud_that_fails_costs_nothing_but_a_reason(server: ServerProcess, cloud: Cloud) -> None:
    with acting(cloud, "500"):
        reply = ask(server)
    assert (reply.status_code, reply.json()["route"]) == (200, "local")
    line = server.line_of(reply.headers["x-request-id"])
    assert "cloud_server" in line["reasons"] and line["route"] == "local" and 0 <= line["confidence"] <= 1


def test_who_insists_on_the_cloud_gets_its_error(server: ServerProcess, cloud: Cloud) -> None:
    with acting(cloud, "500"):
        reply = ask(server, route="cloud")
    assert reply.status_code == 502
    assert (reply.json()["error"]["type"], reply.json()["error"]["code"]) == ("cloud_error", "server")
    with acting(cloud, "cut"):
        reply = ask(server, route="cloud", stream=True)
    last = json.loads(reply.text.rstrip().rpartition("data: ")[2])
    assert reply.status_code == 200 and (last["error"]["type"], last["error"]["code"]) == ("cloud_error", "invalid")


def test_local_only_sends_nothing(server: ServerProcess, cloud: Cloud) -> None:
    n_sent = len(cloud.bodies)
    assert ask(server, privacy="local_only").json()["route"] == "local"
    assert ask(server, route="cloud", privacy="local_only").status_code == 400
    assert len(cloud.bodies) == n_sent


@pytest.mark.parametrize(
    ("kind", "status"),
    [("timeout", 504), ("rate_limited", 429), ("open", 503), ("busy", 503), ("refused", 400)]
    + [(kind, 502) for kind in ("auth", "server", "invalid", "offline", "tls")],
)
def test_failures_of_the_cloud(kind: Any, status: int) -> None:
    error = CloudError("what it said of KEY_VARIABLE", kind, retry_after_s=2.5)
    failure = failure_of(error, request_id="req_1")
    assert (failure.status, failure.kind, failure.code) == (status, "cloud_error", kind)
    assert failure.headers == ({"retry-after": "3"} if status in (429, 503) else {})
    secret = kind in ("auth", "tls")  # the log says more
    assert ("KEY_VARIABLE" in failure.message) != secret and was_foreseen(error) != secret


# ---- the events of a reply that begins anew --------------------------------------------------------------------------------


class _Changing(Reply):
    model, backend, route = "small", "native", "local"
    confidence = 0.25

    def __next__(self) -> Delta:
        raise StopIteration

    def cancel(self) -> None: ...

    def close(self) -> None: ...

    @property
    def stats(self) -> ReplyStats:
        return ReplyStats()


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_the_verdict_comes_with_the_last_event_also_after_a_fresh_start(kind: str) -> None:
    """Of two answers one has ended when both begin anew."""
    fields: dict[str, Any] = {"model": "m", "n": 2, "stream": True}
    wire: Kind[Any, Any] = CHAT if kind == "chat" else COMPLETION
    if kind == "chat":
        request: Any = parse_request(ChatCompletionRequest, {**fields, **ASKED})
    else:
        request = parse_request(CompletionRequest, {**fields, "prompt": "a"})
    reply: Any = _Changing()
    exchange: Exchange[Any, Any] = Exchange(request, wire, lambda: reply, lambda _: None, lambda _: None)
    exchange.open()
    writer = EventWriter(exchange)
    data = writer.write([Delta(0, "wrong"), Delta(1, "wrong"), Delta(0, "", (), "stop")])
    reply.route, reply.model = "cloud", "big"
    data += writer.write(
        [Delta(0, "", replaces=True), Delta(1, "", replaces=True), Delta(0, "a"), Delta(1, "b"), Delta(1, "c")]
    )
    data += writer.write([Delta(0, "", (), "stop"), Delta(1, "", (), "stop")])
    found = [json.loads(event[6:]) for event in data.decode().split("\n\n")[:-1]]
    texts: dict[int, str] = {}
    for event in found:
        choice = event["choices"][0]
        piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
        texts[choice["index"]] = "" if event.get("replaces") else texts.get(choice["index"], "") + piece
    assert texts == {0: "a", 1: "bc"}
    first = next(i for i, event in enumerate(found) if event.get("replaces"))
    assert all((event["route"], event["model"]) == ("cloud", "big") for event in found[first:])
    assert [("confidence" in event) for event in found] == [False] * (len(found) - 1) + [True]

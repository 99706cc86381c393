"""The server against clients that are slow, that stall, or that speak no HTTP, and a log that nobody reads."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_process import ServerProcess, environment, serve_command

MODEL = "smollm2-135m-instruct"
CHAT = "/v1/chat/completions"
COUNT = [{"role": "user", "content": "Count from one to ten in words."}]
END_IDS = {"0": -100, "2": -100}  # SmolLM2's tokens that end a text: without them it goes on


@pytest.fixture(scope="module")
def impatient(smollm2_path: Path, weights_home: Path) -> Iterator[ServerProcess]:
    times = {"CACTUS_PY_SERVE_HEAD_TIMEOUT_S": "0.6", "CACTUS_PY_SERVE_STALL_TIMEOUT_S": "0.6"}
    with ServerProcess(weights_home, **times) as server:
        yield server


def until_closed(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while more := connection.recv(65536):
            answer += more
    except ConnectionResetError:
        pass
    return answer


def alive(connection: socket.socket) -> bool:
    """Whether the answer of /health/live comes."""
    answer = b""
    while not answer.endswith(b"}") and (more := connection.recv(65536)):
        answer += more
    return answer.endswith(b'{"status":"live"}')


def test_slow_heads(impatient: ServerProcess) -> None:
    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", impatient.port), timeout=20)

    with connect() as silent, connect() as slow, connect() as second, connect() as idle:
        began = time.monotonic()
        drip = threading.Event()

        def go_on() -> None:  # a byte now and then wins no time
            for letter in b"x-slow: " + b"a" * 1000:
                if drip.wait(0.1):
                    return
                try:
                    slow.sendall(bytes([letter]))
                except OSError:
                    return

        slow.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n")
        for connection in (second, idle):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert alive(connection)
        second.sendall(b"GET /he")
        sender = threading.Thread(target=go_on)
        sender.start()
        assert until_closed(silent) == b"", "who never says anything is left without a word"
        for connection in (slow, second):
            head, _, body = until_closed(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ") and json.loads(body)["error"]["code"] == "timeout"
        assert time.monotonic() - began < 10
        drip.set()
        sender.join(5)
        idle.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert alive(idle), "between two requests a connection may rest for longer"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET / HTTP/1.1\r\n\r\n",  # without host
        b"GET / HTTP/9\r\nhost: a\r\n\r\n",
        b"GET  /\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (1 << 17),
    ],
)
def test_what_is_no_http(impatient: ServerProcess, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as connection:
        connection.sendall(data)
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/json" in head.lower()
    assert json.loads(body)["error"]["message"] == "That is not valid HTTP/1.1."


def test_a_reader_that_stops_reading(impatient: ServerProcess) -> None:
    body = {"messages": COUNT, "max_tokens": 8000, "stream": True, "logit_bias": END_IDS, "temperature": 0, "n": 2}
    data = json.dumps({**body, "logprobs": True, "top_logprobs": 20}).encode()  # much to send
    impatient.idle()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", impatient.port))
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-request-id: stalled\r\n"
        connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        assert b" 200 " in connection.recv(100)
        line = impatient.line_of("stalled", within_s=40)
    assert line["status"] == 499 and line["completion_tokens"] < 16000
    assert impatient.idle(within_s=2)["models"][MODEL]["kv_pages_used"] == 0


def test_pictures_are_never_fetched(server: ServerProcess) -> None:
    def ask(url: str) -> dict[str, Any]:
        content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        reply = httpx.post(server.url + CHAT, json={"messages": [{"role": "user", "content": content}]}, timeout=30)
        assert reply.status_code == 400
        return dict(reply.json()["error"])

    for url in ("http://127.0.0.1:1/a.png", "https://example.com/a.png", "/etc/passwd", "file:///etc/passwd", ""):
        error = ask(url)
        assert error["message"].endswith("should be a data: URL; this server fetches no pictures.")
        assert error["param"] == "messages[0].content[1].image_url"
    assert "fetches" not in ask("data:image/png;base64,iVBORw0KGgo=")["message"]


def test_polls_are_not_logged(server: ServerProcess) -> None:
    for path in ("/stats", "/metrics", "/health", "/health/ready", "/web/app.js", "/", "/web/nothing"):
        httpx.get(server.url + path, headers={"x-request-id": "poll" + path})
    assert server.line_of("poll/web/nothing")["status"] == 404
    ids = [line.get("request_id", "") for line in server.lines()]
    assert [name for name in ids if name.startswith("poll")] == ["poll/", "poll/web/nothing"]


def test_a_log_that_nobody_reads(smollm2_path: Path, weights_home: Path) -> None:
    process = subprocess.Popen(
        serve_command("--port", "0", "--json", "--log-prompts"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(weights_home),
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        url = json.loads(process.stdout.readline())["url"]
        body = {"messages": COUNT, "max_tokens": 1, "n": 0, "user": "u", "prompt": "p"}
        long = {**body, "messages": [{"role": "user", "content": "word " * 20000}]}  # 100 kB a line: more than a pipe holds
        with httpx.Client(base_url=url, timeout=10) as client:
            for _ in range(4):
                assert client.post(CHAT, json=long).status_code == 400
            assert client.get("/health/live").status_code == 200
        process.terminate()
        assert process.wait(15) == 0, "nor does it keep the server from ending"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()

"""The server as its callers see it: the official `openai` client, and raw HTTP, against `cactus-py serve` with real weights."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_process import ServerProcess

MODEL = "smollm2-135m-instruct"
CHAT = "/v1/chat/completions"
COUNT = [{"role": "user", "content": "Count from one to ten in words."}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}
END_IDS = {"0": -100, "2": -100}  # SmolLM2's tokens that end a text: without them it goes on


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def post(server: ServerProcess, path: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60, **options)


# ---- the openai client -------------------------------------------------------------------------------------------------


def test_chat_is_the_same_whole_streamed_and_asynchronous(server: ServerProcess, client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=COUNT, max_completion_tokens=24, **GREEDY)
    assert whole.object == "chat.completion" and whole.id.startswith("chatcmpl-") and whole.model == MODEL
    assert whole.choices[0].finish_reason == "length" and whole.choices[0].message.role == "assistant"
    assert whole.usage is not None and whole.usage.completion_tokens == 24
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24

    chunks = list(client.chat.completions.create(messages=COUNT, max_tokens=24, stream=True, **GREEDY))
    assert chunks[0].choices[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "length"]
    assert all(chunk.usage is None for chunk in chunks)

    async def asked() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as other:
            reply = await other.chat.completions.create(messages=COUNT, max_tokens=24, **GREEDY)
            stream = await other.chat.completions.create(messages=COUNT, max_tokens=24, stream=True, **GREEDY)
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return reply.choices[0].message.content, "".join(parts)

    assert asyncio.run(asked()) == (text, text)


def test_a_model_is_not_needed(server: ServerProcess) -> None:
    reply = post(server, CHAT, {"messages": COUNT, "max_tokens": 1})
    assert reply.status_code == 200 and reply.json()["model"] == MODEL


def test_usage_at_the_end_of_a_stream(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(messages=COUNT, max_tokens=5, stream=True, stream_options=options, **GREEDY))
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_answers(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=8, temperature=1, seed=7, **more)

    whole = ask(n=3)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in ask(n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert ask().choices[0].message.content == texts[0], "a seed repeats an answer"


def test_logprobs(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.chat.completions.create(messages=COUNT, max_tokens=6, logprobs=True, top_logprobs=3, **GREEDY, **more)

    whole = ask().choices[0]
    entries = whole.logprobs.content
    assert len(entries) == 6 and "".join(entry.token for entry in entries) == whole.message.content
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3 and bytes(entry.bytes).decode() == entry.token
        assert entry.top_logprobs[0].token == entry.token, "greedy takes the likeliest"
    chunks = [chunk.choices[0] for chunk in ask(stream=True)]
    streamed = [entry for choice in chunks if choice.logprobs for entry in choice.logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    assert [entry.logprob for entry in streamed] == [entry.logprob for entry in entries]


def test_stop_and_bias(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.chat.completions.create(messages=COUNT, max_tokens=20, **GREEDY, **more).choices[0]

    free = ask().message.content
    word = free.split()[3]
    stopped = ask(stop=[word])
    assert stopped.finish_reason == "stop" and stopped.message.content == free[: free.index(word)]
    first = client.chat.completions.create(messages=COUNT, max_tokens=1, logprobs=True, **GREEDY).choices[0]
    tokens = client.completions.create(
        model=MODEL, prompt=first.message.content, max_tokens=1, temperature=0, logprobs=0, echo=True
    )
    assert tokens.choices[0].logprobs.tokens[0] == first.message.content
    forced = (
        client.chat.completions.create(messages=COUNT, max_tokens=3, logit_bias={"1000": 100}, **GREEDY)
        .choices[0]
        .message.content
    )
    assert forced and forced == forced[: len(forced) // 3] * 3


def test_plain_completions(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0, **more)

    whole = ask(logprobs=2)
    choice = whole.choices[0]
    assert whole.id.startswith("cmpl-") and "Paris" in choice.text and len(choice.logprobs.tokens) == 6
    assert "".join(chunk.choices[0].text for chunk in ask(stream=True)) == choice.text
    both = client.completions.create(model=MODEL, prompt=["One, two,", "Red, green,"], max_tokens=3, temperature=0, n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text != both.choices[2].text


def test_models(client: openai.OpenAI, server: ServerProcess) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == client.models.retrieve("smollm2").id == MODEL
    for name in ("nothing", "of/some/folder", "%2e%2e%2fetc"):
        reply = httpx.get(f"{server.url}/v1/models/{name}")
        assert reply.status_code == 404 and reply.json()["error"]["code"] == "model_not_found"


def test_embeddings(client: openai.OpenAI) -> None:
    both = client.embeddings.create(model=MODEL, input=["a cat", "a stone"])
    assert [item.index for item in both.data] == [0, 1] and both.model == MODEL and both.usage.prompt_tokens > 2
    for item in both.data:
        assert sum(value * value for value in item.embedding) == pytest.approx(1, abs=1e-4)
    plain = client.embeddings.create(model=MODEL, input="a cat", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(both.data[0].embedding, abs=1e-6)
    with pytest.raises(openai.BadRequestError) as empty:
        client.embeddings.create(model=MODEL, input=[])
    assert empty.value.param == "input"


def test_speech(client: openai.OpenAI, server: ServerProcess, whisper_path: Path, data: Path) -> None:
    clip = data / "speech" / "asterisk_en_dir-nomore.wav"
    spoken = client.audio.transcriptions.create(model="whisper-tiny.en", file=clip)
    assert len(spoken.text.split()) > 2
    verbose = client.audio.transcriptions.create(
        model="whisper-tiny.en", file=clip, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert verbose.words and verbose.segments and verbose.text == spoken.text
    text = client.audio.transcriptions.create(model="whisper-tiny.en", file=clip, response_format="text")
    assert text == spoken.text + "\n"
    events = list(client.audio.transcriptions.create(model="whisper-tiny.en", file=clip, stream=True))
    assert events[-1].type == "transcript.text.done" and events[-1].text == spoken.text
    assert "".join(event.delta for event in events[:-1]) == spoken.text
    form = {"model": "whisper-tiny.en"}
    english = httpx.post(server.url + "/v1/audio/translations", data=form, files={"file": clip.read_bytes()}, timeout=60)
    assert english.status_code == 400 and "multilingual" in english.json()["error"]["message"]
    with pytest.raises(openai.BadRequestError) as broken:
        client.audio.transcriptions.create(model="whisper-tiny.en", file=("a.wav", b"no sound"))
    assert broken.value.param == "file"
    two = {"file": ("a.wav", b"RIFF"), "other": ("b.wav", b"RIFF")}
    assert httpx.post(server.url + "/v1/audio/transcriptions", files=two).status_code == 400
    assert httpx.post(server.url + "/v1/audio/transcriptions", files={"x": b"a"}).json()["error"]["param"] == "file"
    twice = {"model": ["a", "b"]}
    assert httpx.post(server.url + "/v1/audio/transcriptions", files={"file": b"a"}, data=twice).status_code == 400


def test_errors_of_the_openai_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model") as unknown:
        client.chat.completions.create(model="gpt-9", messages=COUNT)
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="temperature") as hot:
        client.chat.completions.create(model=MODEL, messages=COUNT, temperature=3)
    assert hot.value.param == "temperature" and hot.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=MODEL, prompt="word " * 20000)
    assert long.value.code == "context_length_exceeded"


def test_time_runs_out(client: openai.OpenAI, server: ServerProcess) -> None:
    endless: dict[str, Any] = {"messages": COUNT, "logit_bias": END_IDS, "extra_body": {"timeout": 0.3}, **GREEDY}
    with pytest.raises(openai.APIStatusError) as late:
        client.chat.completions.create(**endless)
    assert late.value.status_code == 504 and late.value.code == "timeout"
    with pytest.raises(openai.APIError, match="not answered within its timeout"):
        list(client.chat.completions.create(stream=True, **endless))
    assert server.idle(within_s=2)["models"][MODEL]["kv_pages_used"] == 0


# ---- bytes -------------------------------------------------------------------------------------------------------------


def test_events_are_those_of_openai(server: ServerProcess) -> None:
    body = {"messages": COUNT, "max_tokens": 4, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    reply = post(server, CHAT, body)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = reply.content.split(b"\n\n")
    assert events[-1] == b"" and events[-2] == b"data: [DONE]" and all(event.startswith(b"data: ") for event in events[:-1])
    assert b"\n" not in b"".join(events)
    chunks = [json.loads(event[6:]) for event in events[:-2]]
    openings = {"object": "chat.completion.chunk", "model": MODEL, "id": chunks[0]["id"], "created": chunks[0]["created"]}
    assert all(chunk.items() >= openings.items() and "usage" in chunk for chunk in chunks)
    first, *middle, last, usage = chunks
    delta = {"role": "assistant", "content": "", "refusal": None}
    assert first["choices"] == [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]
    assert len(middle) == 4
    for chunk in middle:
        text = chunk["choices"][0]["delta"]["content"]
        assert chunk["choices"] == [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 4 and last["usage"] is None


HOSTILE = [
    (b"", 400, "empty"),
    (b"{", 400, "not valid JSON"),
    (b'{"messages": [], "messages"}', 400, "not valid JSON"),
    (b"[1]", 400, "JSON object"),
    (b'"text"', 400, "JSON object"),
    (b'{"temperature": NaN}', 400, "not valid JSON"),
    (b'{"temperature": 1e999, "messages": [{"role": "user", "content": "a"}]}', 400, "temperature"),
    (b'{"prompt": "\xff"}', 400, "not UTF-8"),
    (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, 400, "recursion"),
    (b'{"a": ' + b"[" * 150 + b"]" * 150 + b"}", 400, "levels deep"),
    (b'{"messages": "\\ud800"}', 400, "not valid JSON"),
    (b'{"messages": [{"role": "user", "content": "a"}], "n": 1' + b"0" * 5000 + b"}", 400, ""),
    (b'{"messages": [{"role": "robot", "content": "a"}]}', 400, "role"),
    (b'{"messages": []}', 400, ""),
    (b'{"mesages": [{"role": "user", "content": "a"}]}', 400, "did you mean"),
    (b'{"messages": [{"role": "user", "content": "a"}], "self": 1}', 400, "unknown field"),
    (b'{"messages": [{"role": "user", "content": "a"}], "model": 7}', 400, "model"),
    (b'{"messages": [{"role": "user", "content": "a"}], "timeout": -1}', 400, "timeout"),
    (b'{"messages": [{"role": "user", "content": "a"}], "model": "/etc/passwd"}', 404, "no model"),
    (b'{"messages": [{"role": "user", "content": "a"}], "model": "qwen2.5-coder-0.5b-instruct"}', 404, "no model"),
    (b'{"messages": [{"role": "user", "content": "a"}], "model": "smollm2-135m-instruct@a.gguf"}', 404, "no model"),
    (b'{"messages": [{"role": "user", "content": "a"}], "model": "smollm2-135m-instruct@/../a"}', 404, "no model"),
    (b'{"messages": [{"role": "user", "content": "a"}], "model": "smollm2-135m-instruct@00000000"}', 404, "00000000"),
]


@pytest.mark.parametrize(("body", "status", "words"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies(server: ServerProcess, body: bytes, status: int, words: str) -> None:
    reply = httpx.post(server.url + CHAT, content=body, headers={"content-type": "application/json"}, timeout=30)
    error = reply.json()["error"]
    assert reply.status_code == status and words in error["message"] and set(error) == {"message", "type", "param", "code"}


def talk(server: ServerProcess, data: bytes) -> bytes:
    """What comes back for raw bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR) if data.endswith(b"!") else None
        answer = b""
        while b"}}" not in answer and (more := connection.recv(65536)):
            answer += more
        return answer


def raw(*headers: str, body: str = "{}", path: str = CHAT) -> bytes:
    head = [f"POST {path} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        head.append("host: localhost")
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


JSON_TYPE = "content-type: application/json"
RAW = [
    (raw("content-length: 2", "content-type: text/plain"), b" 415 "),
    (raw("content-length: 2"), b" 415 "),
    (raw("content-length: 2", JSON_TYPE, JSON_TYPE), b" 400 "),
    (raw("content-length: 2", JSON_TYPE, "authorization: a", "authorization: b"), b" 400 "),
    (raw("content-length: 2", JSON_TYPE, "host: example.com"), b" 403 "),
    (raw("content-length: 2", JSON_TYPE, "host: localhost.example.com"), b" 403 "),
    (raw("content-length: 2", JSON_TYPE, "host: [::1"), b" 403 "),
    (raw("content-length: 2", JSON_TYPE, "origin: http://example.com"), b" 403 "),
    (raw("content-length: 2", JSON_TYPE, "origin: null"), b" 403 "),
    (raw("content-length: 2", JSON_TYPE, "host: 127.0.0.1:1", "origin: http://127.0.0.1:1"), b" 400 "),
    (raw("content-length: 2", path="/v2/nothing"), b" 404 "),
    (raw("content-length: 2", path="/v1/models"), b" 405 "),
    (raw("content-length: 99999999999", JSON_TYPE, body=""), b" 413 "),
    (raw("content-length: 2", "content-type: multipart/form-data", path="/v1/audio/transcriptions"), b" 400 "),
    (raw("content-length: 2", JSON_TYPE, path="/v1/audio/transcriptions"), b" 415 "),
]


@pytest.mark.parametrize(("request_bytes", "status"), RAW, ids=range(len(RAW)))
def test_hostile_requests(server: ServerProcess, request_bytes: bytes, status: bytes) -> None:
    if b"999999" in request_bytes:
        request_bytes += b" " * 100
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(request_bytes)
            answer = connection.recv(65536)
    else:
        answer = talk(server, request_bytes)
    assert status in answer.partition(b"\r\n")[0], answer


def test_ids_and_log_lines(server: ServerProcess) -> None:
    secret = "a word that no log should hold"
    body = {"messages": [{"role": "user", "content": secret}], "max_tokens": 3}
    reply = post(server, CHAT, body, headers={"x-request-id": "my-id.1"})
    assert reply.headers["x-request-id"] == "my-id.1" and int(reply.headers["openai-processing-ms"]) >= 0
    line = server.line_of("my-id.1")
    assert line["status"] == 200 and line["path"] == CHAT and line["completion_tokens"] == 3 and line["model"] == MODEL
    assert line["ms"] > 0 and line["client"] == "127.0.0.1" and line["method"] == "POST"
    strange = post(server, CHAT, {**body, "stream": True}, headers={"x-request-id": "a b\tc"})
    made = strange.headers["x-request-id"]
    assert re.fullmatch("req_[0-9a-f]{24}", made)
    assert 0 < server.line_of(made)["ttft_ms"] <= server.line_of(made)["ms"]
    assert secret not in json.dumps(server.lines())


# ---- many at once ------------------------------------------------------------------------------------------------------


def test_sixteen_at_once_answer_as_each_alone(client: openai.OpenAI, server: ServerProcess) -> None:
    def ask(i: int) -> list[str]:
        words = " ".join(["and so on"] * (i * 3))
        messages: Any = [{"role": "user", "content": f"Tell me about the number {i}. {words}"}]
        reply = client.chat.completions.create(messages=messages, max_tokens=12, logprobs=True, **GREEDY)
        assert reply.choices[0].logprobs is not None
        return [entry.token for entry in reply.choices[0].logprobs.content or ()]

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(16)))
    assert together == [ask(i) for i in range(16)]
    assert len({"".join(tokens) for tokens in together}) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_no_longer_computed(server: ServerProcess, stream: bool) -> None:
    body = {"messages": COUNT, "max_tokens": 8000, "stream": stream, "logit_bias": END_IDS, "temperature": 0, "n": 2}
    before = server.idle()["models"][MODEL]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        data = json.dumps(body).encode()
        connection.sendall(
            raw(f"content-length: {len(data)}", JSON_TYPE, "x-request-id: gone" + str(stream), body=data.decode())
        )
        if stream:
            assert b" 200 " in connection.recv(100)
        while httpx.get(server.url + "/health").json()["models"][MODEL]["running"] < 2:
            time.sleep(0.02)
    after = server.idle(within_s=2)["models"][MODEL]
    assert after["kv_pages_used"] == 0 and after["generated_tokens"] > before["generated_tokens"]
    assert server.line_of("gone" + str(stream))["status"] == 499


def test_metrics(server: ServerProcess, client: openai.OpenAI) -> None:
    client.chat.completions.create(messages=COUNT, max_tokens=2, **GREEDY)
    text = httpx.get(server.url + "/metrics").text
    found = re.search(r'cactus_requests_total\{[^}]*endpoint="chat"[^}]*status="200"[^}]*\} ([0-9.]+)', text)
    assert found is not None and float(found[1]) >= 1, text[:2000]
    assert f'cactus_kv_pages_used{{model="{MODEL}"}} 0.0' in text
    assert httpx.get(server.url + "/stats").json()["requests"]["finished"] >= 1


# ---- another one: keys, limits, the end ----------------------------------------------------------------------------------


def test_keys_limits_and_origins(smollm2_path: Path, weights_home: Path, tmp_path: Path) -> None:
    from cactus_py.serving.keys import hash_of, new_key

    key, hashed = new_key()
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{hashed}  # laptop\n\n{hash_of('other')}\n")
    options = ["--api-key-file", str(file), "--max-body", "2KiB", "--log-prompts", "--cors-origin", "https://example.com"]
    with ServerProcess(weights_home, *options, CACTUS_PY_SERVE_TIMEOUT_S="0.5") as server:
        body = {"messages": COUNT, "max_tokens": 1}
        keys = {"authorization": f"Bearer {key}"}
        for headers, code in (({}, "missing_api_key"), ({"authorization": "Basic x"}, "invalid_api_key")):
            reply = post(server, CHAT, body, headers=headers)
            assert reply.status_code == 401 and reply.json()["error"]["code"] == code
            assert reply.headers["www-authenticate"] == "Bearer"
        for wrong in (key[:-1], key + "x", hashed, "ÿ"):
            assert post(server, CHAT, body, headers={"authorization": b"Bearer " + wrong.encode("latin-1")}).status_code == 401
        for path in ("/v1/models", "/metrics", "/stats", "/openapi.json"):
            assert httpx.get(server.url + path).status_code == 401
            assert httpx.get(server.url + path, headers=keys).status_code == 200
        for path in ("/health", "/health/live", "/health/ready"):
            assert set(httpx.get(server.url + path).json()) == {"status"}
        reply = post(server, CHAT, body, headers={**keys, "host": "somewhere.example", "x-request-id": "good"})
        assert reply.status_code == 200, "who has a key may call the server by any name"
        assert server.line_of("good")["prompt"] == COUNT
        assert post(server, CHAT, body, headers={"authorization": "Bearer other"}).status_code == 200

        large = post(server, CHAT, {**body, "user": "u" * 3000}, headers=keys)
        assert large.status_code == 413 and large.json()["error"]["code"] == "body_too_large"

        def pieces() -> Iterator[bytes]:
            yield b'{"user": "'
            for _ in range(64):
                yield b"u" * 100

        assert (
            httpx.post(server.url + CHAT, content=pieces(), headers={**keys, "content-type": "application/json"}).status_code
            == 413
        )
        endless = {"messages": COUNT, "logit_bias": END_IDS, "timeout": 60, "temperature": 0}
        assert post(server, CHAT, endless, headers=keys).status_code == 504, "no request gets more than the server's limit"

        asks = {
            "origin": "https://example.com",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        allowed = httpx.options(server.url + CHAT, headers=asks)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://example.com"
        other = httpx.options(server.url + CHAT, headers={**asks, "origin": "https://example.org"})
        assert "access-control-allow-origin" not in other.headers


def test_the_end_lets_requests_finish(smollm2_path: Path, weights_home: Path) -> None:
    with ServerProcess(weights_home, "--grace", "10") as server:
        body = {"messages": COUNT, "max_tokens": 60, "logit_bias": END_IDS, "temperature": 0, "stream": True}
        with (
            httpx.Client(timeout=30) as kept,
            httpx.stream("POST", server.url + CHAT, json=body, timeout=30) as reply,
        ):
            assert kept.get(server.url + "/health/ready").status_code == 200
            lines = reply.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""] and sum('"delta":{"content"' in line for line in rest) >= 59
        assert server.stop() == 0


def test_the_end_does_not_wait_for_ever(smollm2_path: Path, weights_home: Path) -> None:
    with ServerProcess(weights_home, "--grace", "0.2") as server:
        body = {"messages": COUNT, "max_tokens": 8000, "logit_bias": END_IDS, "temperature": 0, "stream": True}
        with httpx.stream("POST", server.url + CHAT, json=body, timeout=30) as reply:
            lines = reply.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            rest = [line for line in lines if line]
        assert json.loads(rest[-1][6:])["error"]["code"] == "shutting_down"
        assert server.stop() == 0

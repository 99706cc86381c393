"""The cloud backend against a real server (ours, in a process of its own) and a proxy that breaks things on the way."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openai
import pytest
from conftest import fetched
from fault_proxy import FaultProxy
from hypothesis import given, settings
from hypothesis import strategies as st
from server_process import ServerProcess

from cactus_py.backends import cloud as module
from cactus_py.backends._cloud_wire import chat_body
from cactus_py.backends._endpoint import Breaker
from cactus_py.backends._sse import Events
from cactus_py.backends.cloud import CloudBackend, CloudReply, endpoints_of
from cactus_py.config import Cloud, Endpoint, Price, load_settings
from cactus_py.errors import CloudError, ConfigError, InvalidRequestError, MissingExtraError, RequestCancelledError
from cactus_py.types import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    TranscriptionRequest,
    TranslationRequest,
    parse_request,
)

MODEL = "smollm2-135m-instruct"
KEY = "sk-test-0123456789abcdef"
ASK = [{"role": "user", "content": "Name three colours, please."}]
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
SLACK_S = 4.0  # for a machine that does other things, too; whatever hangs here hangs for 10 s at least
PRICE = Price(input=1.0, cached_input=0.5, output=2.0)

Make = Callable[..., CloudBackend]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Short pauses; and whatever a test logs, at any level, holds no key."""
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.02)
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as running:
        yield running


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes backends: of URLs, with fields of `Cloud`."""
    made: list[CloudBackend] = []

    def backend(*urls: str, model: str = MODEL, price: Price | None = PRICE, **fields: Any) -> CloudBackend:
        endpoints = [Endpoint(base_url=url, model=model, price=price, embedding_model="all-minilm-l6-v2") for url in urls]
        times = {"connect_timeout_s": 2.0, "first_token_timeout_s": 15.0, "timeout_s": 30.0}
        made.append(CloudBackend(Cloud(endpoints=endpoints, **{**times, **fields}), fallback_key=KEY))
        return made[-1]

    yield backend
    for each in made:
        each.close()


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse_request(ChatCompletionRequest, {"messages": ASK, **OPTIONS, **fields})


def text_of(reply: CloudReply, index: int = 0) -> str:
    return "".join(delta.text for delta in reply if delta.index == index)


def failure(backend: CloudBackend, request: ChatCompletionRequest | None = None) -> tuple[CloudError, str]:
    """How a request fails, and the text that came before. Nothing about it holds the key or the prompt."""
    said: list[str] = []
    with pytest.raises(CloudError) as raised:
        for delta in backend.chat(request or chat()):
            said.append(delta.text)
    error = raised.value
    seen: BaseException | None = error
    while seen is not None:
        assert KEY not in repr(seen) + str(seen) and "three colours" not in str(seen)
        seen = seen.__cause__
    assert str(error).count("\n") == 0 and "127.0.0.1" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, again.status, str(again)) == (error.kind, error.status, str(error))
    return error, "".join(said)


# ---- what works ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_same_text_as_the_official_client(make: Make, server: ServerProcess, official: openai.OpenAI) -> None:
    backend = make(server.url + "/v1")
    for options in ({"temperature": 0}, {"temperature": 1, "seed": 5}):
        theirs = official.chat.completions.create(model=MODEL, messages=ASK, max_tokens=12, **options)  # type: ignore[call-overload]
        reply = backend.chat(chat(**options))
        assert text_of(reply) == theirs.choices[0].message.content
        assert (reply.model, reply.backend, reply.route, reply.attempts) == (MODEL, "cloud", "cloud", 1)
        stats, usage = reply.stats, theirs.usage
        assert (stats.prompt_tokens, stats.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
        paid = stats.prompt_tokens - stats.cached_tokens + 0.5 * stats.cached_tokens + 2 * stats.completion_tokens
        assert reply.cost_usd == pytest.approx(paid / 1e6)
        assert stats.prompt_ms > 0 and stats.decode_ms > 0
    assert backend.health()[0].first_token_ms is not None and backend.health()[0].state == "closed"


def test_a_connection_is_used_again(make: Make, proxy: FaultProxy, server: ServerProcess) -> None:
    backend = make(server.url + "/v1", max_parallel=1)
    for _ in range(3):
        assert text_of(backend.chat(chat()))
    place = backend._places[0]
    until = time.monotonic() + 2
    while not place._idle and time.monotonic() < until:
        time.sleep(0.01)
    [lane] = place._idle
    first = lane.stream
    assert text_of(backend.chat(chat())) and lane.stream is first


def test_several_answers_and_logprobs(make: Make, server: ServerProcess, official: openai.OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 1, "seed": 3, "max_tokens": 8, "n": 2, "logprobs": True, "top_logprobs": 2}
    theirs = official.chat.completions.create(model=MODEL, messages=ASK, **options)  # type: ignore[call-overload]
    deltas = list(make(server.url + "/v1").chat(chat(**options)))
    for index in range(2):
        mine = [delta for delta in deltas if delta.index == index]
        choice = theirs.choices[index]
        assert "".join(delta.text for delta in mine) == choice.message.content
        assert [delta.finish_reason for delta in mine if delta.finish_reason] == [choice.finish_reason]
        tokens = [token for delta in mine for token in delta.tokens]
        assert [token.logprob for token in tokens] == [token.logprob for token in choice.logprobs.content]
        assert [token.raw for token in tokens] == [bytes(token.bytes) for token in choice.logprobs.content]
        assert all(len(token.top) == 2 for token in tokens)
    assert not any(delta.tokens for delta in make(server.url + "/v1").chat(chat()))


def test_tools_and_forms(make: Make, server: ServerProcess) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    schema["additionalProperties"] = False
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    backend = make(server.url + "/v1")
    deltas = list(backend.chat(chat(tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=80)))
    calls = [delta.tool_call for delta in deltas if delta.tool_call is not None]
    assert calls[0].id and calls[0].name == "weather" and all(call.id is None for call in calls[1:])
    assert json.loads("".join(call.arguments for call in calls))["city"] in ("Paris", "Rome")
    assert deltas[-1].finish_reason == "tool_calls"
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for fields in ({"response_format": form}, {"guided_json": schema}, {"guided_json": json.dumps(schema)}):
        assert json.loads(text_of(backend.chat(chat(max_tokens=60, **fields))))["city"] in ("Paris", "Rome")


def test_plain_completions(make: Make, server: ServerProcess, official: openai.OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "logprobs": 2, "echo": True}
    prompts = ["The sky is", "One, two,"]
    theirs = official.completions.create(model=MODEL, prompt=prompts, **options)
    request = parse_request(CompletionRequest, {"prompt": prompts, **options})
    deltas = list(make(server.url + "/v1").complete(request))
    for index, choice in enumerate(theirs.choices):
        mine = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.text for delta in mine) == choice.text
        assert choice.logprobs is not None
        assert [token.logprob for delta in mine for token in delta.tokens] == choice.logprobs.token_logprobs


def test_embeddings(make: Make, server: ServerProcess, official: openai.OpenAI, weights_home: Path) -> None:
    fetched("all-minilm-l6-v2", weights_home)
    texts = ["a cat", "a dog"]
    theirs = official.embeddings.create(model="all-minilm-l6-v2", input=texts)
    reply = make(server.url + "/v1").embed(parse_request(EmbeddingRequest, {"input": texts}))
    assert np.allclose(reply.vectors, [item.embedding for item in theirs.data], atol=1e-6)
    assert np.allclose(np.linalg.norm(reply.vectors, axis=1), 1) and reply.prompt_tokens == theirs.usage.prompt_tokens
    with pytest.raises(RequestCancelledError):
        make(server.url + "/v1").embed(parse_request(EmbeddingRequest, {"input": texts}), lambda: True)


def test_speech(proxy: FaultProxy) -> None:
    endpoint = Endpoint(base_url=proxy.url, model=MODEL, transcription_model="whisper-1")
    backend = CloudBackend(Cloud(endpoints=[endpoint], retries=1))
    said: dict[str, Any] = {"language": "german", "duration": 4.0, "text": "Eins. Zwei."}
    said["segments"] = [
        {"id": 0, "start": 0, "end": 2.0, "text": " Eins."},
        {"id": 1, "start": 2.0, "end": 4, "text": " Zwei."},
    ]
    said["words"] = [{"word": "Eins", "start": 0.1, "end": 1}, {"word": "Zwei", "start": 2.5, "end": 3}]
    fields = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
    proxy.faults = ["503", f"json_body:{json.dumps(said)}", 'json_body:{"text": "two"}', 'json_body:{"segments": 3}', "html"]
    sound = b"RIFF" + b"\0" * 100
    text = backend.transcribe(parse_request(TranscriptionRequest, fields), sound)
    assert (text.language, text.duration_s, text.route, text.model) == ("de", 4.0, "cloud", "whisper-1")
    assert [(each.segment.text, [word.word for word in each.words]) for each in text] == [
        (" Eins.", ["Eins"]),
        (" Zwei.", ["Zwei"]),
    ]
    assert len(proxy.requests) == 2 and sound in proxy.requests[1] and b'filename="audio.wav"' in proxy.requests[1]
    assert proxy.requests[1].count(b'name="timestamp_granularities[]"') == 2
    [only] = list(backend.transcribe(parse_request(TranslationRequest, {}), sound))
    assert only.segment.text == "two" and b"/v1/audio/translations" in proxy.heads[-1]
    with pytest.raises(CloudError) as raised:
        backend.transcribe(parse_request(TranscriptionRequest, {}), sound)
    assert raised.value.kind == "invalid"
    backend.close()


@pytest.mark.parametrize("way", ["json", "no_usage", "no_done", "bytewise", "crlf"])
def test_other_ways_to_answer(way: str, make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url)
    plain = text_of(backend.chat(chat()))
    proxy.faults = [way]
    reply = backend.chat(chat())
    assert text_of(reply) == plain and plain
    assert 1 <= reply.stats.completion_tokens <= 40 and reply.stats.prompt_tokens > 5 and reply.cost_usd


def test_what_leaves(make: Make, proxy: FaultProxy, tmp_path: Path) -> None:
    sent: list[module.Sent] = []
    reply = make(proxy.url).chat(chat(top_k=3, route="cloud", handoff="restart", stop=["x"]), on_send=sent.append)
    assert sent[0].n_bytes == len(proxy.requests[0]) == reply.sent_bytes and sent[0].path == "/chat/completions"
    fields = json.loads(proxy.requests[0])
    names = {"model", "messages", "stream", "stream_options", "temperature", "max_tokens", "stop"}
    assert set(fields) == names and fields["stream_options"] == {"include_usage": True}
    assert f"Authorization: Bearer {KEY}".encode() in proxy.heads[0]

    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (str(picture), "https://example.com/a.png")]
    parts.append({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})  # type: ignore[dict-item]
    messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]
    body = chat_body(chat(messages=messages), "m", is_openai=False)
    assert body["messages"][0]["role"] == "system"
    urls = [part["image_url"]["url"] for part in body["messages"][1]["content"][:2]]
    assert urls[0].startswith("data:image/png;base64,") and urls[1] == "https://example.com/a.png"
    assert body["messages"][1]["content"][2]["input_audio"]["data"] == "AAAA"
    secret = tmp_path / "secret.txt"
    secret.write_text("not a picture")
    for path in (secret, tmp_path / "missing.png"):
        wrong = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": str(path)}}]}]
        with pytest.raises(InvalidRequestError):
            chat_body(chat(messages=wrong), "m", is_openai=False)
    assert "max_completion_tokens" in chat_body(chat(), "m", is_openai=True)


# ---- what breaks ---------------------------------------------------------------------------------------------------------

BEFORE = {  # broken before the first piece, and then all is well
    "reset": 2,
    "close": 2,
    "500": 2,
    "503": 2,
    "408": 2,
    "429": 2,
    "429:1": 2,
    "429:date": 2,
    "garbage": 2,
    "empty": 2,
    "empty_json": 2,
    "cut_mid": 2,
    "reset_mid": 2,
    "bad_json_mid": 2,
    "garbage_mid": 2,
    "not_text_mid": 2,
    "error_mid": 2,
    "huge_line": 2,
    "body:data: [DONE]\n\n": 2,
    "gzip": 2,
    "json_body:[]": 2,
    'json_body:{"choices": 3}': 2,
}


@pytest.mark.parametrize("fault", BEFORE)
def test_tried_again_before_the_first_piece(fault: str, make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url, breaker_failures=5)
    proxy.faults = [fault]
    begun = time.monotonic()
    reply = backend.chat(chat())
    text = text_of(reply)
    took = time.monotonic() - begun
    assert text and reply.attempts == len(proxy.requests) == BEFORE[fault]
    assert backend.health()[0].failures == 0 and backend.health()[0].last_error is not None
    if fault == "429:1":
        assert took >= 1.0
    if fault == "429:date":  # whole seconds, and up to one is lost to rounding
        assert took >= 0.4


MID = ["reset_mid:2", "cut_mid:2", "bad_json_mid:2", "garbage_mid:2", "not_text_mid:2", "error_mid:2", "stall_mid:2"]


@pytest.mark.parametrize("fault", [*MID, "short_length", "long_length"])
def test_never_answered_twice(fault: str, make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url)
    plain = text_of(backend.chat(chat()))
    proxy.faults = [fault]
    begun = time.monotonic()
    if fault == "long_length":  # all was said before the connection was cut
        assert text_of(backend.chat(chat())) == plain and len(proxy.requests) == 2
        return
    error, said = failure(backend, chat(timeout=3.0))
    assert error.kind == ("timeout" if "stall" in fault else "server" if "error" in fault else "invalid")
    assert plain.startswith(said) and said != plain and len(proxy.requests) == 2 and time.monotonic() - begun < 5
    if fault != "short_length":
        assert said


HOPELESS = {
    "html": "invalid",
    "redirect:http://127.0.0.1:1/": "invalid",
    "404": "refused",
    "401": "auth",
    "403": "auth",
    "501": "server",
    "429:3600": "rate_limited",
    "422": "refused",
}


@pytest.mark.parametrize("fault", HOPELESS)
def test_given_up_at_once(fault: str, make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url)
    proxy.faults = [fault]
    begun = time.monotonic()
    error, said = failure(backend)
    assert error.kind == HOPELESS[fault] and said == "" and len(proxy.requests) == 1 and time.monotonic() - begun < 5
    assert backend.last_error is error
    if fault == "429:3600":
        assert error.retry_after_s == 3600
    assert backend.health()[0].state == ("open" if fault == "401" else "closed")


@pytest.mark.parametrize("fault", ["stall", "stall_mid:0", "stall_mid:1", "drip"])
def test_the_deadline_holds(fault: str, make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url)
    proxy.always = fault
    begun = time.monotonic()
    error, _ = failure(backend, chat(timeout=1.0))
    assert error.kind == "timeout" and 0.9 < time.monotonic() - begun < 1.0 + SLACK_S
    if fault != "drip":
        gone_by(lambda: proxy.n_gone == 1)


def test_each_wait_has_its_own_limit(make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url, first_token_timeout_s=0.4, retries=1, breaker_failures=9)
    proxy.always = "stall"
    begun = time.monotonic()
    error, _ = failure(backend)
    assert error.kind == "timeout" and len(proxy.requests) == 2 and 0.7 < time.monotonic() - begun < 0.8 + SLACK_S
    proxy.always = "drip"
    assert failure(backend)[0].kind == "timeout" and len(proxy.requests) == 4
    proxy.always, proxy.faults = "500", []
    begun = time.monotonic()
    assert failure(make(proxy.url, retries=10), chat(timeout=0.6))[0].kind == "server"
    assert time.monotonic() - begun < 0.6 + SLACK_S


def is_cancelled(reply: CloudReply) -> None:
    """Waits for a reply that is cancelled. For threads, in which pytest makes an error of whatever is raised."""
    with pytest.raises(RequestCancelledError):
        next(reply)


def gone_by(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_message_of_a_refusal(make: Make, server: ServerProcess) -> None:
    backend = make(server.url + "/v1", server.url + "/v1", model="no-such-model")
    error, _ = failure(backend)
    assert error.kind == "refused" and error.status == 404 and "no-such-model" in str(error)
    assert [place.attempts for place in backend.health()] == [1, 1]  # another endpoint may have the model
    backend = make(server.url + "/v1", server.url + "/v1")
    error, _ = failure(backend, chat(messages=ASK * 1500))
    assert error.kind == "refused" and error.status == 400 and "context" in str(error)
    assert [place.attempts for place in backend.health()] == [1, 0]  # the request itself was refused
    assert backend.health()[0].state == "closed" and backend.health()[0].failures == 0


def test_only_a_local_model_can(make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url)
    for fields in ({"guided_regex": "a+"}, {"guided_choice": ["a", "b"]}, {"modalities": ["audio"], "audio": {}}):
        with pytest.raises(CloudError) as raised:
            backend.chat(chat(**fields))
        assert raised.value.kind == "refused"
    with pytest.raises(CloudError):
        backend.complete(parse_request(CompletionRequest, {"prompt": [1, 2, 3]}))
    assert proxy.n_connections == 0 and backend.health()[0].running == 0


# ---- no way there --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def test_nobody_there(make: Make) -> None:
    backend = make(f"http://127.0.0.1:{free_port()}/v1", breaker_s=60.0)
    error, _ = failure(backend)
    assert error.kind == "offline" and backend.health()[0].state == "open"
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        with pytest.raises(CloudError) as raised:
            backend.chat(chat())
        times.append(time.perf_counter() - begun)
        assert raised.value.kind == "open" and raised.value.retry_after_s is not None
    assert sorted(times)[10] < 0.05 and backend.health()[0].attempts == 3


def test_no_network(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    backend = make("http://cloud.invalid/v1")
    monkeypatch.setattr(socket, "getaddrinfo", absent)
    with pytest.raises(CloudError) as raised:
        backend.chat(chat())
    assert raised.value.kind == "offline" and backend.health()[0].attempts == 1 and backend.health()[0].state == "open"


def test_a_name_that_is_looked_up_for_ever(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        stop.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "slow")

    backend = make("http://cloud.invalid/v1", connect_timeout_s=0.3, retries=0)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    begun = time.monotonic()
    with pytest.raises(CloudError) as raised:
        backend.chat(chat())
    assert raised.value.kind == "timeout" and time.monotonic() - begun < 0.3 + SLACK_S
    stop.set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the program openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(path), "-out", str(path) + ".crt"]
    subprocess.run([*command, "-days", "2", *names], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(str(path) + ".crt").read_bytes())
    return path


def test_tls(make: Make, server: ServerProcess, certificate: Path) -> None:
    with FaultProxy(server.port, str(certificate)) as secure:
        error, _ = failure(make(secure.url))
        assert error.kind == "tls" and secure.requests == []
        trusting = Endpoint(base_url=secure.url, model=MODEL, ca_file=certificate)
        backend = CloudBackend(Cloud(endpoints=[trusting], first_token_timeout_s=15), fallback_key=KEY)
        assert text_of(backend.chat(chat()))
        secure.faults = ["stall"]
        cancels_quickly(backend, lambda: secure.running == 1)
        gone_by(lambda: secure.running == 0)
        backend.close()
    error, _ = failure(make(server.url.replace("http:", "https:") + "/v1"))
    assert error.kind == "tls"


# ---- breaker, endpoints, limits ------------------------------------------------------------------------------------------


def test_the_breaker_opens_and_closes(make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url, breaker_failures=2, breaker_s=0.4, retries=0)
    proxy.always = "500"
    assert [failure(backend)[0].kind for _ in range(3)] == ["server", "server", "open"] and len(proxy.requests) == 2
    time.sleep(0.45)
    assert backend.health()[0].state == "half_open"
    assert [failure(backend)[0].kind for _ in range(2)] == ["server", "open"] and len(proxy.requests) == 3
    time.sleep(0.45)
    proxy.always = "stall"
    trial = backend.chat(chat(), wait=False)
    thread = threading.Thread(target=lambda: is_cancelled(trial))
    thread.start()
    gone_by(lambda: proxy.running == 1)
    assert failure(backend)[0].kind == "open" and len(proxy.requests) == 4  # one trial at a time
    trial.cancel()
    thread.join(SLACK_S)
    assert not thread.is_alive() and backend.health()[0].state == "half_open"  # it said nothing
    proxy.always = "pass"
    assert text_of(backend.chat(chat())) and backend.health()[0].state == "closed"
    assert text_of(backend.chat(chat())) and backend.health()[0].failures == 0


def test_a_breaker_of_its_own() -> None:
    breaker = Breaker(3, 0.05)
    for _ in range(2):
        breaker.failed(breaker.admit() is True)
    breaker.passed(False)
    for _ in range(3):
        assert breaker.admit() is False
        breaker.failed(False)
    assert breaker.state == "open" and breaker.admit() is None
    breaker.failed(False)  # one that went before: does not prolong it
    time.sleep(0.06)
    assert breaker.admit() is True and breaker.admit() is None
    breaker.began(True)
    assert breaker.state == "closed"
    breaker.failed(False)
    assert breaker.state == "open"


def test_endpoints_in_order(make: Make, proxy: FaultProxy, server: ServerProcess) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    backend = make(dead, proxy.url, server.url + "/v1", retries=1)
    proxy.always = "500"
    reply = backend.chat(chat())
    assert text_of(reply) and reply.host == server.url.removeprefix("http://") and reply.attempts == 5
    assert text_of(backend.chat(chat())) and [each.attempts for each in backend.health()] == [2, 3, 2]
    proxy.always = "stall_mid:1"
    error, said = failure(make(proxy.url, server.url + "/v1"), chat(timeout=2.0))
    assert said and error.kind == "timeout"  # no other endpoint finishes what one has begun
    both, _ = failure(make(dead, dead.replace("/v1", "/v2"), retries=0))
    assert str(both).count("nobody answers") == 2


def test_the_limit_holds(make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url, max_parallel=2)
    proxy.always = "stall"
    proxy.stall_s = 0.3
    errors: list[CloudError] = []

    def ask(timeout: float) -> None:
        with pytest.raises(CloudError) as raised:
            backend.chat(chat(timeout=timeout))
        errors.append(raised.value)

    threads = [threading.Thread(target=ask, args=(1.0,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(errors) == 6 and proxy.most_running == 2
    assert {error.kind for error in errors} <= {"busy", "timeout", "invalid", "open"}
    gone_by(lambda: backend.health()[0].running == 0)

    proxy.always, proxy.stall_s = "stall", 10
    backend = make(proxy.url, max_parallel=1)
    held = backend.chat(chat(), wait=False)
    thread = threading.Thread(target=lambda: is_cancelled(held))
    thread.start()
    gone_by(lambda: proxy.running == 1)
    begun = time.monotonic()
    assert failure(backend, chat(timeout=0.3))[0].kind == "busy" and time.monotonic() - begun < 0.3 + SLACK_S
    held.cancel()
    thread.join(SLACK_S)


def cancels_quickly(backend: CloudBackend, waits: Callable[[], bool]) -> None:
    reply = backend.chat(chat(max_tokens=2000), wait=False)
    seen: list[BaseException] = []

    def consume() -> None:
        try:
            for _ in reply:
                pass
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    gone_by(waits)
    begun = time.monotonic()
    reply.cancel()
    thread.join(SLACK_S)
    assert not thread.is_alive() and time.monotonic() - begun < SLACK_S
    assert len(seen) == 1 and isinstance(seen[0], RequestCancelledError)
    reply.close()
    assert list(reply) == []


def test_cancelling(make: Make, proxy: FaultProxy, server: ServerProcess) -> None:
    backend = make(proxy.url)
    for n, fault in enumerate(("stall", "stall_mid:0", "stall_mid:1", "drip", "429:5")):
        proxy.faults = [fault]
        cancels_quickly(backend, lambda n=n: len(proxy.requests) > n and (proxy.running == 1 or n == 4))
        gone_by(lambda: proxy.running == 0)
    gone_by(lambda: backend.health()[0].running == 0)
    assert backend.health()[0].failures == 0
    direct = make(server.url + "/v1")
    reply = direct.chat(chat(max_tokens=2000))
    next(reply)
    reply.close()  # the server hears of it
    server.idle()
    assert text_of(direct.chat(chat()))
    dropped = direct.chat(chat(max_tokens=2000))
    next(dropped)
    del dropped
    server.idle()
    gone_by(lambda: gc.collect() >= 0 and direct.health()[0].running == 0)


def test_closing_ends_all(make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url)
    proxy.always = "stall"
    reply = backend.chat(chat(), wait=False)
    thread = threading.Thread(target=lambda: is_cancelled(reply))
    thread.start()
    gone_by(lambda: proxy.running == 1)
    backend.close()
    thread.join(SLACK_S)
    assert not thread.is_alive()
    with pytest.raises(RequestCancelledError):
        backend.chat(chat())


def test_many_at_once(make: Make, proxy: FaultProxy) -> None:
    backend = make(proxy.url, max_parallel=3, breaker_failures=100)
    proxy.faults = ["500", "reset", "pass", "cut_mid", "429"]
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(text_of(backend.chat(chat())))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(25)
    assert len(texts) == 8 and len(set(texts)) == 1 and texts[0] and len(proxy.requests) == 12 and proxy.most_running <= 3


async def test_from_threads_of_a_loop(make: Make, server: ServerProcess) -> None:
    backend = make(server.url + "/v1")
    texts = await asyncio.gather(*(asyncio.to_thread(lambda: text_of(backend.chat(chat()))) for _ in range(4)))
    assert len(set(texts)) == 1


# ---- settings, keys, prices ----------------------------------------------------------------------------------------------


def test_which_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1234/v1")
    assert endpoints_of(load_settings()) == [] and CloudBackend.from_settings(load_settings()) is None
    monkeypatch.setenv("CACTUS_PY_CLOUD_MODEL", "gpt-x")
    monkeypatch.setenv("CACTUS_PY_CLOUD_ENDPOINTS", '[{"model": "gpt-4o", "embedding_model": "e"}]')
    settings = load_settings()
    assert [(each.base_url, each.model) for each in endpoints_of(settings)] == [
        ("http://localhost:1234/v1", "gpt-x"),
        ("https://api.openai.com/v1", "gpt-4o"),
    ]
    backend = CloudBackend.from_settings(settings)
    assert backend is not None
    assert [(card.id, card.owned_by, card.capabilities) for card in backend.models()] == [
        ("gpt-x", "localhost:1234", ["chat", "completions"]),
        ("gpt-4o", "api.openai.com", ["chat", "completions"]),
        ("e", "api.openai.com", ["embeddings"]),
    ]
    assert backend.estimate_cost(1000, 100) is None  # nobody knows what runs there
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL"):
        endpoints_of(load_settings())


def test_prices() -> None:
    def estimate(**fields: Any) -> float | None:
        return CloudBackend(Cloud(endpoints=[Endpoint(**fields)])).estimate_cost("x" * 4000, 100)

    assert estimate(model="gpt-4o-mini-2024-07-18") == pytest.approx((1000 * 0.15 + 100 * 0.6) / 1e6)
    assert estimate(model="gpt-4o-mini", base_url="http://localhost/v1") is None
    assert estimate(model="x", price=PRICE) == pytest.approx(1200 / 1e6)
    assert estimate(model="unheard-of") is None


def test_keys(make: Make, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    def key_sent(fallback: str | None = None, **fields: Any) -> bytes | None:
        endpoint = Endpoint(base_url=proxy.url, model=MODEL, **fields)
        backend = CloudBackend(Cloud(endpoints=[endpoint], first_token_timeout_s=15), fallback_key=fallback)
        text_of(backend.chat(chat(max_tokens=1)))
        assert KEY not in repr(backend) + repr(vars(backend)) + repr(backend.health())
        backend.close()
        lines = [line for line in proxy.heads[-1].split(b"\r\n") if line.lower().startswith(b"authorization")]
        return lines[0].partition(b"Bearer ")[2] if lines else None

    assert key_sent() is None  # as local servers want it
    assert key_sent(KEY) == KEY.encode()
    assert key_sent("other", api_key=KEY) == KEY.encode()
    monkeypatch.setenv("MY_KEY", f"  {KEY}\n")
    assert key_sent("other", api_key_env="MY_KEY") == KEY.encode()
    assert key_sent("other", headers={"authorization": "Bearer mine"}) == b"mine"
    for fields in ({"api_key_env": "NOT_SET"}, {"api_key": KEY + " \r\nX: y"}, {"api_key": KEY + "\u00e9"}):
        with pytest.raises(CloudError) as raised:
            key_sent(**fields)
        assert raised.value.kind == "auth" and KEY not in str(raised.value)

    monkeypatch.setitem(sys.modules, "keyring", None)  # as if it were not installed
    with pytest.raises(MissingExtraError) as missing:
        key_sent(keyring="cactus/me")
    assert missing.value.extra == "cloud"
    fake = ModuleType("keyring")
    fake.get_password = lambda service, user: KEY if (service, user) == ("cactus", "me") else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", fake)
    assert key_sent("other", keyring="cactus/me") == KEY.encode()
    with pytest.raises(CloudError, match="keyring has none"):
        key_sent(keyring="cactus/you")
    with pytest.raises(ConfigError):
        key_sent(headers={"X": "a\r\nb"})


# ---- events --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="aé€:\U0001f600 ", max_size=8), max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
@settings(max_examples=60, deadline=None)
def test_events_however_they_are_cut(texts: list[str], end: str, data: st.DataObject) -> None:
    stream = "".join(f": note{end}event: x{end}data: {text}{end}data{end}{end}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    events, found = Events(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += events.feed(stream[start:stop])
    assert found == [text + "\n" for text in texts]


def test_events_beyond_measure() -> None:
    for stream in (b"data: " + b"x" * 99, b"data: x\n" * 60, b"data: \xff\n\n"):
        events = Events(max_bytes=50)
        with pytest.raises(ValueError):
            events.feed(stream)
    assert Events().feed(b"\xef\xbb\xbfdata:x\n\ndata: unfinished\n") == ["x"]

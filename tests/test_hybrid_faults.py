"""A cloud that fails in every way it can, behind a client that routes: an answer or a typed error, in time, and only once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy
from hybrid_models import CLOUD_SAYS, DEVICE_SAYS, cloud_model, device_model, write_calibration
from server_process import ServerProcess
from test_hybrid import FLOW, GREEDY, Maker, check_stream

from cactus_py.errors import CloudError
from cactus_py.routing import audit

DEADLINE_S = 6.0
DEVICE, CLOUD = f" {DEVICE_SAYS}", f" {CLOUD_SAYS}"  # both begin with a blank
BEFORE = {  # the fault, and how it is called
    "reset": "invalid",
    "close": "invalid",
    "429:30": "rate_limited",
    "500": "server",
    "401": "auth",
    "stall": "timeout",
    "garbage": "invalid",
    "html": "invalid",
    "empty": "invalid",
    "empty_json": "invalid",
    "json_body:{": "invalid",
    "body:data: {\n\n": "invalid",
}
IN_THE_MIDDLE = ("reset_mid:2", "stall_mid:2", "cut_mid:2", "bad_json_mid:2", "garbage_mid:2", "error_mid:2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return device_model(folder), cloud_model(folder)


@pytest.fixture(scope="module")
def behind(tiny: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("behind"), CACTUS_PY_MODEL=str(tiny[1])) as running:
        yield running


@pytest.fixture
def proxy(behind: ServerProcess) -> Iterator[FaultProxy]:
    with FaultProxy(behind.port) as running:
        yield running


@pytest.fixture
def make(tiny: tuple[Path, Path], proxy: FaultProxy, tmp_path: Path) -> Iterator[Maker]:
    maker = Maker(tiny, proxy.url.removesuffix("/v1"), tmp_path)
    write_calibration(tmp_path, before=0.1, during=0.1, after=0.1)  # whatever the device says is not enough
    yield maker
    for made in maker.made:
        made.close()


def ask(client: Any, **options: Any) -> Any:
    return client.chat("Hello", **GREEDY, timeout=DEADLINE_S, **options)


def codes(decision: Any) -> list[str]:
    return [reason.partition(":")[0] for reason in decision.reasons]


SHORT: dict[str, Any] = {"first_token_timeout_s": 0.5}


@pytest.mark.parametrize("policy", ["local_first", "cloud_only", "early_exit"])
@pytest.mark.parametrize("fault", BEFORE)
def test_before_the_first_word(make: Maker, proxy: FaultProxy, fault: str, policy: Any, tmp_path: Path) -> None:
    client = make(cloud=SHORT, policy=policy, audit_log=tmp_path / "audit", max_cost_per_day=1.0)
    for stream in (False, True):
        proxy.faults[:] = [fault]
        began, before = time.monotonic(), len(proxy.requests)
        if stream:
            chunks = list(ask(client, **{k: v for k, v in FLOW.items() if k not in GREEDY}))
            [text] = check_stream(chunks, replaces=False)
            decision = chunks[-2].decision
        else:
            reply = ask(client)
            text, decision = reply.text, reply.decision
            assert reply.route == "local" and reply.choices[0].finish_reason == "stop"
        assert time.monotonic() - began < DEADLINE_S
        assert text == DEVICE, "the device's answer, and only once"
        assert decision.route == "local" and f"cloud_{BEFORE[fault]}" in codes(decision), decision.reasons
        assert len(proxy.requests) == before + 1, "asked once"
        if BEFORE[fault] == "auth":
            break  # the breaker opens at once
    lines = list(audit.read(tmp_path / "audit"))
    left = [line["id"] for line in lines if line["event"] == "leaves"]
    back = {line["id"]: line["outcome"] for line in lines if line["event"] == "returned"}
    assert set(left) == set(back) and set(back.values()) == {BEFORE[fault]}
    ledger = client._core._hybrid._ledger
    assert ledger is not None
    spent = ledger.today()
    assert (spent.cost_usd, spent.reserved_usd) == (0.0, 0.0), "what failed costs nothing"


@pytest.mark.parametrize("fault", IN_THE_MIDDLE)
def test_in_the_middle_of_the_answer(make: Maker, proxy: FaultProxy, fault: str) -> None:
    client = make(cloud={**SHORT, "breaker_failures": 100}, policy="cloud_only")
    proxy.faults[:] = [fault]
    reply = ask(client)
    assert (reply.text, reply.route) == (DEVICE, "local"), "a whole reply is one answer"
    proxy.faults[:] = [fault]
    flow = {k: v for k, v in FLOW.items() if k not in GREEDY}
    chunks = list(ask(client, handoff="restart", **flow))
    assert check_stream(chunks, replaces=True) == [DEVICE]
    assert chunks[-2].route == "local"
    proxy.faults[:] = [fault]
    said = ""
    with pytest.raises(CloudError) as raised:  # nothing of this stream can be taken back
        for chunk in ask(client, **flow):
            said += chunk.text
            assert not any(choice.finish_reason for choice in chunk.choices)
    assert CLOUD.startswith(said) and said
    assert raised.value.kind in ("invalid", "timeout", "offline", "server")


@pytest.mark.parametrize("fault", [*BEFORE, "reset_mid:2"])
def test_who_demands_the_cloud_is_told(make: Maker, proxy: FaultProxy, fault: str) -> None:
    client = make(cloud=SHORT)
    proxy.faults[:] = [fault]
    began = time.monotonic()
    with pytest.raises(CloudError) as raised:
        ask(client, route="cloud")
    assert time.monotonic() - began < DEADLINE_S
    expected = BEFORE.get(fault)
    assert expected is None or raised.value.kind == expected
    assert len(proxy.requests) == 1


def test_a_deadline_holds_over_a_stalled_cloud(make: Maker, proxy: FaultProxy) -> None:
    client = make(policy="local_first")
    proxy.always = "stall"
    began = time.monotonic()
    reply = client.chat("Hello", **GREEDY, timeout=1.5)
    assert time.monotonic() - began < 5
    assert reply.text == DEVICE and "cloud_timeout" in codes(reply.decision)


def test_the_breaker_opens_and_closes(make: Maker, proxy: FaultProxy) -> None:
    client = make(cloud={**SHORT, "breaker_failures": 2, "breaker_s": 0.6})
    proxy.always = "500"
    for _ in range(2):
        assert "cloud_server" in codes(ask(client).decision)
    asked = len(proxy.requests)
    for _ in range(5):
        began = time.monotonic()
        reply = ask(client)
        assert reply.text == DEVICE and "cloud_open" in codes(reply.decision)
        if time.monotonic() - began > 0.6:
            pytest.skip("the machine is too slow to see an open breaker")
    assert len(proxy.requests) == asked, "an open breaker asks nobody"
    proxy.always = "pass"
    time.sleep(0.7)
    reply = ask(client)
    assert (reply.text, reply.route) == (CLOUD, "cloud")
    assert ask(client).route == "cloud"


def test_tls_fails(make: Maker, behind: ServerProcess) -> None:
    client = make(url=behind.url.replace("http://", "https://") + "/v1", cloud=SHORT)  # it speaks no TLS at all
    reply = ask(client)
    assert reply.text == DEVICE and "cloud_tls" in codes(reply.decision)


def test_nobody_listens(make: Maker) -> None:
    client = make(url="http://127.0.0.1:9/v1")
    assert "cloud_offline" in codes(ask(client).decision)
    began = time.monotonic()
    for _ in range(20):
        assert "cloud_open" in codes(ask(client).decision)
    assert time.monotonic() - began < 20 * DEADLINE_S / 4, "no call waits for a network that is not there"


def test_redacted_texts_come_back(make: Maker, proxy: FaultProxy) -> None:
    mail = "jane.doe@mail.example.org"
    client = make(policy="cloud_only", redact=["email"])
    pieces = ["Write to <", "EMA", "IL_1", "> today"]
    events = [f'data: {{"choices": [{{"index": 0, "delta": {{"content": "{piece}"}}}}]}}\n\n' for piece in pieces]
    events += ['data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n', "data: [DONE]\n\n"]
    proxy.always = "body:" + "".join(events)
    assert client.chat(f"Whom do I ask? It is {mail}.").text == f"Write to {mail} today"
    chunks = list(client.chat(f"Whom do I ask? It is {mail}.", stream=True))
    assert "".join(chunk.text for chunk in chunks) == f"Write to {mail} today"
    assert all(mail.encode() not in body and b"EMAIL_1" in body for body in proxy.requests)

"""Replies that begin on the device and may end in the cloud, which is our own server with another model, in another process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hybrid_models import CLOUD_SAYS, DEVICE_SAYS, Slowly, cloud_model, device_model, write_calibration
from server_process import ServerProcess

from cactus_py import AsyncClient, Client
from cactus_py.errors import CloudError, InvalidRequestError, RequestCancelledError, RequestTimeoutError
from cactus_py.routing import Hybrid, audit

GREEDY: dict[str, Any] = {"temperature": 0}
FLOW: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, **GREEDY}
MAIL = "jane.doe@mail.example.org"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return device_model(folder), cloud_model(folder)


@pytest.fixture(scope="module")
def cloud(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    variables = {"CACTUS_PY_MODEL": str(models[1])}
    with ServerProcess(tmp_path_factory.mktemp("cloud"), "--log-prompts", **variables) as running:
        yield running


class Maker:
    """Makes clients of the device's model whose cloud is the server; closed at the end of the test."""

    def __init__(self, models: tuple[Path, Path], url: str, home: Path) -> None:
        self.models, self.url, self.home = models, url, home
        self.made: list[Client] = []

    def options(self, url: str | None = None, price: bool = True, **options: Any) -> dict[str, Any]:
        where: dict[str, Any] = {"base_url": url or self.url + "/v1", "model": str(self.models[1]), "api_key": "none"}
        if price:
            where["price"] = {"input": 1.0, "output": 2.0}
        cloud = {"endpoints": [where], "retries": 0, "connect_timeout_s": 2.0, **options.pop("cloud", {})}
        return {"home": self.home, "threads": 1, "cloud": cloud, **options}

    def __call__(self, **options: Any) -> Client:
        made = Client(self.models[0], **self.options(**options))
        self.made.append(made)
        return made


@pytest.fixture
def client(models: tuple[Path, Path], cloud: ServerProcess, tmp_path: Path) -> Iterator[Maker]:
    maker = Maker(models, cloud.url, tmp_path)
    write_calibration(tmp_path)
    yield maker
    for made in maker.made:
        made.close()


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device answers token by token."""
    generate = Hybrid.generate

    def instead(self: Hybrid, request: Any, model: str, start: Any) -> Any:
        return generate(self, request, model, lambda asked, kind: Slowly(start(asked, kind)))

    monkeypatch.setattr(Hybrid, "generate", instead)


@pytest.fixture
def silent() -> Iterator[str]:
    """Where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def check_stream(chunks: list[Any], n: int = 1, *, replaces: bool = False) -> list[str]:
    """Whether it is one well-formed stream; the texts that its reader ends up with."""
    assert len({chunk.id for chunk in chunks}) == 1 and len({chunk.created for chunk in chunks}) == 1
    texts, ended = [""] * n, [False] * n
    roles = [0] * n
    assert chunks[-1].usage is not None and not chunks[-1].choices
    for chunk in chunks[:-1]:
        assert chunk.usage is None and len(chunk.choices) == 1
        choice = chunk.choices[0]
        assert not ended[choice.index], "nothing comes behind the end of an answer"
        if getattr(chunk, "replaces", None):
            assert replaces and choice.delta.role is None
            texts[choice.index] = ""
        roles[choice.index] += choice.delta.role is not None
        assert roles[choice.index] == 1, "the role comes first, and once"
        texts[choice.index] += choice.delta.content or ""
        ended[choice.index] = choice.finish_reason is not None
    assert all(ended)
    last = chunks[-2]
    assert last.decision is not None, "the last answer's end says how it was decided"
    return texts


# policy, confidences, the route, the code of the last reason
CASES: list[tuple[str, dict[str, float], str, str | None]] = [
    ("local_only", {"after": 0.1}, "local", "policy"),
    ("cloud_only", {"before": 0.9}, "cloud", "policy"),
    ("local_first", {"after": 0.9}, "local", "high_confidence"),
    ("local_first", {"after": 0.1}, "cloud", "low_confidence"),
    ("predictive", {"before": 0.9}, "local", "high_confidence"),
    ("predictive", {"before": 0.1}, "cloud", "low_confidence"),
    ("early_exit", {"during": 0.9, "after": 0.9}, "local", "high_confidence"),
    ("early_exit", {"during": 0.1, "after": 0.1}, "cloud", "low_confidence"),
]


@pytest.mark.parametrize(("policy", "known", "route", "reason"), CASES)
def test_policies(client: Maker, policy: Any, known: dict[str, float], route: str, reason: str) -> None:
    write_calibration(client.home, **known)
    asked = client(policy=policy)
    expected = CLOUD_SAYS if route == "cloud" else DEVICE_SAYS
    whole = asked.chat("hello", **GREEDY)
    chunks = list(asked.chat("hello", **FLOW))
    texts = check_stream(chunks)
    assert whole.text.strip() == expected and texts[0].strip() == expected
    for reply in (whole, chunks[-2]):
        assert (reply.route, reply.backend) == (route, "cloud" if route == "cloud" else "native")
        assert reply.decision is not None and reply.decision.policy == policy and reply.decision.route == route
        assert reply.decision.reasons[-1].partition(":")[0] == reason, reply.decision.reasons
        if route == "cloud":
            assert reply.confidence is None and reply.decision.cost_usd and reply.decision.cost_usd > 0
        else:
            assert reply.confidence == pytest.approx(known.get("after", 0.9)) and reply.decision.cost_usd is None
            assert reply.decision.calibration == "default"
    assert whole.usage is not None and chunks[-1].usage is not None
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens == len(expected.split()) + 1

    async def both() -> tuple[str, list[Any]]:
        async with AsyncClient(client.models[0], **client.options(policy=policy)) as other:
            reply = await other.chat("hello", **GREEDY)
            return reply.text, [chunk async for chunk in await other.chat("hello", **FLOW)]

    text, pieces = asyncio.run(both())
    assert text.strip() == expected and check_stream(pieces)[0].strip() == expected
    plain = asked.completions.create(prompt="<|im_start|>", **GREEDY)
    assert plain.text.strip() == expected and plain.route == route


@pytest.mark.usefixtures("slowly")
def test_handed_over_in_the_middle(client: Maker) -> None:
    write_calibration(client.home, during=0.1, falls_at=8)
    kept = list(client(policy="early_exit").chat("hello", **FLOW))
    text = check_stream(kept)[0]
    begun = [word for word in text.split() if word in DEVICE_SAYS.split()]
    assert DEVICE_SAYS.startswith(" ".join(begun)) and len(begun) >= 4
    assert text.strip().endswith(CLOUD_SAYS) and not any(chunk.replaces for chunk in kept)
    assert kept[0].route == "local" and kept[-2].route == "cloud" and kept[-2].decision.handoff == "continue"
    anew = list(client(policy="early_exit", handoff="restart").chat("hello", **FLOW))
    assert check_stream(anew, replaces=True)[0].strip() == CLOUD_SAYS
    assert sum(bool(chunk.replaces) for chunk in anew) == 1 and anew[-2].decision.handoff == "restart"
    whole = client(policy="early_exit").chat("hello", **GREEDY)
    assert whole.text.strip() == CLOUD_SAYS and whole.decision is not None and whole.decision.handoff == "restart"
    short = list(client(policy="early_exit").chat("hello", max_tokens=12, **FLOW))
    check_stream(short)
    assert short[-1].usage is not None and short[-1].usage.completion_tokens <= 12


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("handoff", ["restart", "continue"])
def test_several_answers(client: Maker, handoff: Any) -> None:
    write_calibration(client.home, during=0.1, falls_at=8)
    asked = client(policy="early_exit", handoff=handoff)
    chunks = list(asked.chat("hello", n=2, **FLOW))
    assert [text.strip() for text in check_stream(chunks, 2, replaces=handoff == "restart")] == [CLOUD_SAYS] * 2
    whole = asked.chat("hello", n=2, **GREEDY)
    assert [choice.message.content.strip() for choice in whole.choices] == [CLOUD_SAYS] * 2


@pytest.mark.usefixtures("slowly")
def test_logprobs_are_those_of_the_answer(client: Maker) -> None:
    write_calibration(client.home, during=0.1, falls_at=8)
    for handoff in ("restart", "continue"):
        asked = client(policy="early_exit", handoff=handoff)
        whole = asked.chat("hello", logprobs=True, **GREEDY).choices[0]
        assert whole.logprobs is not None and "".join(e.token for e in whole.logprobs.content or []).strip() == CLOUD_SAYS
        texts = check_stream(list(asked.chat("hello", logprobs=True, **FLOW)), replaces=handoff == "restart")
        assert texts[0].strip() == CLOUD_SAYS


def test_what_cannot_leave_says_why(client: Maker) -> None:
    asked = client(policy="cloud_only")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"route": "local"}, "route: "),
        ({"privacy": "local_only"}, "privacy: "),
        ({"logit_bias": {"5": 1}}, "local_feature: "),
    ]
    for options, reason in cases:
        reply = asked.chat("hello", **options, **GREEDY)
        assert reply.route == "local" and reply.decision is not None and reply.decision.reasons[0].startswith(reason)
    with pytest.raises(InvalidRequestError, match="contradicts"):
        asked.chat("hello", route="cloud", privacy="local_only")


def test_too_long_for_the_device(client: Maker, models: tuple[Path, Path]) -> None:
    reply = client(policy="local_first", context=32).chat("hello " * 30, **GREEDY)
    assert reply.route == "cloud" and reply.text.strip() == CLOUD_SAYS
    assert reply.decision is not None and reply.decision.reasons[0].startswith("local_refused: ")


def test_the_cloud_is_not_there(client: Maker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    for policy, known in (("cloud_only", {}), ("local_first", {"after": 0.1}), ("early_exit", {"during": 0.1, "after": 0.1})):
        write_calibration(client.home, **known)
        asked: Any = client(url=url, policy=policy)
        for _ in range(4):
            reply = asked.chat("hello", **GREEDY)
            assert (reply.route, reply.text.strip()) == ("local", DEVICE_SAYS)
            assert reply.decision is not None and any(r.startswith("cloud_") for r in reply.decision.reasons)
        chunks = list(asked.chat("hello", **FLOW))
        assert check_stream(chunks)[0].strip() == DEVICE_SAYS
        with pytest.raises(CloudError):
            asked.chat("hello", route="cloud", stream=True)


def test_a_cloud_that_says_nothing(client: Maker, silent: str) -> None:
    asked = client(url=silent, policy="cloud_only")
    begun = time.monotonic()
    reply = asked.chat("hello", timeout=4.0, **GREEDY)
    assert reply.route == "local" and time.monotonic() - begun < 4.0
    begun = time.monotonic()
    with pytest.raises((CloudError, RequestTimeoutError)):
        asked.chat("hello", route="cloud", timeout=0.5)
    assert time.monotonic() - begun < 5


def test_cancelling_while_the_cloud_is_slow(client: Maker, silent: str) -> None:
    async def cancelled() -> float:
        async with AsyncClient(client.models[0], **client.options(url=silent, policy="cloud_only")) as asked:
            task = asyncio.create_task(asked.chat("hello", **GREEDY))
            await asyncio.sleep(0.5)
            begun = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            exchange = list(asked._core._running.values())
            while any(reference() is not None for reference in exchange) and time.monotonic() - begun < 10:
                await asyncio.sleep(0.01)
                exchange = list(asked._core._running.values())
            return time.monotonic() - begun

    assert asyncio.run(cancelled()) < 5


def test_closing_the_client_while_the_cloud_is_slow(client: Maker, silent: str) -> None:
    asked = client(url=silent, policy="cloud_only")
    timer = threading.Timer(0.5, asked.close)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(RequestCancelledError):
        asked.chat("hello", **GREEDY)
    assert time.monotonic() - begun < 10
    timer.join()


def test_a_damaged_ledger_keeps_requests_here(client: Maker) -> None:
    (client.home / "router").mkdir()
    (client.home / "router" / "ledger.json").write_text("{")
    asked = client(policy="cloud_only", max_cost_per_day=1.0)
    reply = asked.chat("hello", **GREEDY)
    assert reply.route == "local" and reply.decision is not None
    assert any(reason.startswith("budget: the ledger ledger.json is damaged") for reason in reply.decision.reasons)
    with pytest.raises(CloudError, match="damaged"):
        asked.chat("hello", route="cloud")
    free = client(policy="cloud_only", max_cost_per_day=1.0, price=False)
    reply = free.chat("hello", **GREEDY)
    assert reply.decision is not None and "price" in reply.decision.reasons[-1]


def test_what_is_redacted_and_written_down(client: Maker, cloud: ServerProcess, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    asked = client(policy="cloud_only", redact=["email"], audit_log=log)
    assert asked.chat(f"write to {MAIL}", **GREEDY).route == "cloud"
    check_stream(list(asked.chat(f"write to {MAIL}", **FLOW)))
    sent = json.dumps(cloud.lines())
    assert "write to <EMAIL_1>" in sent and MAIL not in sent
    records = list(audit.read(log))
    assert [record["event"] for record in records] == ["leaves", "returned"] * 2 and MAIL not in log.read_text()
    assert [record["outcome"] for record in records[1::2]] == ["ok", "ok"] and records[0]["redacted"] == {"email": 1}
    full = client(policy="cloud_only", audit_log="/dev/full")
    reply = full.chat("hello", **GREEDY)
    assert reply.route == "local" and reply.decision is not None and "audit_failed" in reply.decision.reasons[-1]


def test_the_official_client_over_our_server_with_a_cloud(client: Maker, tmp_path: Path) -> None:
    write_calibration(client.home, after=0.1)
    variables = {
        "CACTUS_PY_MODEL": str(client.models[0]),
        "CACTUS_PY_CLOUD_MODEL": str(client.models[1]),
        "OPENAI_BASE_URL": client.url + "/v1",
        "OPENAI_API_KEY": "none",
        "CACTUS_PY_ROUTER_POLICY": "local_first",
    }
    with (
        ServerProcess(client.home, **variables) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as official,
    ):
        ask: Any = {"model": str(client.models[0]), "messages": [{"role": "user", "content": "hello"}]}
        whole = official.chat.completions.create(**ask, **GREEDY)
        assert (whole.choices[0].message.content or "").strip() == CLOUD_SAYS and whole.model_extra is not None
        assert whole.model_extra["route"] == "cloud" and whole.model_extra["decision"]["handoff"] == "restart"
        flow: Any = official.chat.completions.create(**ask, **FLOW, extra_body={"handoff": "continue"})
        assert check_stream(list(flow))[0].strip().endswith(CLOUD_SAYS)

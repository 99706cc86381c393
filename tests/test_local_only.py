"""What must not leave the device does not: no name is looked up and no connection made, with any policy.

Two witnesses: the functions of the socket module that begin something are watched, and the configured cloud is a socket that
listens, in whose queue nobody may be waiting at the end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hybrid_models import DEVICE_SAYS, device_model, write_calibration

from cactus_py import AsyncClient, Client
from cactus_py.errors import CloudError, ConfigError, ContextLengthError, InvalidRequestError

POLICIES: Any = ("local_only", "cloud_only", "local_first", "predictive", "early_exit")
GREEDY: dict[str, Any] = {"temperature": 0}
SECRET = "project Halcyon"


class Guard:
    """Notes whoever begins to talk to somebody, and refuses. `url`: where a cloud could be."""

    def __init__(self, server: socket.socket, patch: pytest.MonkeyPatch) -> None:
        self.server, self.tried = server, list[str]()
        self.url = f"http://localhost:{server.getsockname()[1]}/v1"

        def refuse(name: str) -> Any:
            def instead(*arguments: Any, **options: Any) -> Any:
                self.tried.append(name)
                raise OSError(f"{name}: no connections here")

            return instead

        class Watched(socket.socket):
            connect = refuse("connect")
            connect_ex = refuse("connect_ex")
            sendto = refuse("sendto")

        patch.setattr(socket, "socket", Watched)
        for name in ("create_connection", "getaddrinfo", "gethostbyname"):
            patch.setattr(socket, name, refuse(name))

    def check(self) -> None:
        """Whether nobody tried."""
        assert self.tried == []
        self.server.settimeout(0)
        with pytest.raises(BlockingIOError):
            self.server.accept()


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-that-nobody-may-see")
        with pytest.MonkeyPatch.context() as patch:
            yield Guard(server, patch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return device_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_calibration(tmp_path, before=0.01, during=0.01, after=0.01)  # every policy would hand over
    return tmp_path


def cloud_of(guard: Guard) -> dict[str, Any]:
    return {"endpoints": [{"base_url": guard.url, "model": "m", "embedding_model": "e", "api_key": "none"}], "retries": 0}


def ask_everything(client: Client, text: str = "hello", **options: Any) -> None:
    """Every kind of request, whole and as a stream."""
    asked: Any = {**GREEDY, **options}
    whole = client.chat(text, **asked)
    assert (whole.text.strip(), whole.route) == (DEVICE_SAYS, "local")
    chunks = list(client.chat(text, stream=True, **asked))
    assert "".join(chunk.text for chunk in chunks).strip() == DEVICE_SAYS and {chunk.route for chunk in chunks} == {"local"}
    plain = client.completions.create(prompt=f"{text}<|im_start|>", **asked)
    assert (plain.text.strip(), plain.route) == (DEVICE_SAYS, "local")
    assert {piece.route for piece in client.completions.create(prompt=text, stream=True, max_tokens=3, **asked)} == {"local"}
    client.models.list()


def test_the_guard_sees_what_is_sent(guard: Guard, model: Path, home: Path) -> None:
    with Client(model, home=home, threads=1, cloud=cloud_of(guard), policy="cloud_only") as client:
        assert client.chat("hello", **GREEDY).route == "local"
        with pytest.raises(CloudError):
            client.chat("hello", route="cloud")
    assert guard.tried


@pytest.mark.parametrize("policy", POLICIES)
def test_without_a_cloud(guard: Guard, model: Path, home: Path, policy: Any) -> None:
    with Client(model, home=home, threads=1, policy=policy) as client:
        ask_everything(client)
        with pytest.raises(ConfigError, match="needs a cloud"):
            client.chat("hello", route="cloud")
        with pytest.raises(ConfigError, match="needs a cloud"):
            client.embeddings.create(input="hello", model="e", route="cloud")
    guard.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_of_a_client(guard: Guard, model: Path, home: Path, policy: Any) -> None:
    with Client(model, home=home, threads=1, cloud=cloud_of(guard), policy=policy, privacy="local_only") as client:
        ask_everything(client)
        for ask in (client.chat, lambda text, **options: client.embeddings.create(input=text, model="e", **options)):
            with pytest.raises(InvalidRequestError, match="local_only"):
                ask("hello", route="cloud")

        async def streamed() -> list[str]:
            async with AsyncClient(config=client.settings, model=model, threads=1) as other:
                return [chunk.text async for chunk in await other.chat("hello", stream=True, **GREEDY)]

        assert "".join(asyncio.run(streamed())).strip() == DEVICE_SAYS
    guard.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_of_a_request(guard: Guard, model: Path, home: Path, policy: Any) -> None:
    cloud = cloud_of(guard)
    with Client(
        model, home=home, threads=1, cloud=cloud, policy=policy, router={"private_patterns": ["(?i)halcyon"]}
    ) as client:
        ask_everything(client, privacy="local_only")
        ask_everything(client, route="local")
        ask_everything(client, f"about {SECRET.upper()}")
        for options in ({"privacy": "local_only"}, {}):
            with pytest.raises(InvalidRequestError):
                client.chat(SECRET, route="cloud", **options)  # type: ignore[arg-type]
    guard.check()


def test_of_the_policy(guard: Guard, model: Path, home: Path) -> None:
    with Client(model, home=home, threads=1, cloud=cloud_of(guard), policy="local_only", context=32) as client:
        ask_everything(client)
        with pytest.raises(ContextLengthError):  # which is no reason to send it elsewhere
            client.chat("hello " * 30, **GREEDY)
    guard.check()


def test_embeddings(guard: Guard, minilm_path: Path, home: Path) -> None:
    with Client(minilm_path, home=home, threads=1, cloud=cloud_of(guard), policy="cloud_only") as client:
        for options in ({}, {"privacy": "local_only"}, {"route": "local"}):
            found: Any = client.embeddings.create(input="hello", **options)  # type: ignore[arg-type]
            assert np.linalg.norm(found.data[0].embedding) == pytest.approx(1, abs=1e-3)
    guard.check()

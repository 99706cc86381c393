"""What the server can be told: queue, memory, prefix cache, and a configuration file with aliases, splits and pipelines."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf_edit
import httpx
import openai
import pytest
import tiny_models
from server_process import ServerProcess

from cactus_py.engine import Model as Engine

MODEL = "smollm2-135m-instruct"
CHAT = "/v1/chat/completions"
COUNT: Any = [{"role": "user", "content": "Count from one to ten in words."}]
END_IDS = {"0": -100, "2": -100}  # SmolLM2's tokens that end a text: without them it goes on
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tiny(folder: Path, name: str) -> Path:
    """The golden llama, able to chat."""
    gguf = gguf_edit.read(tiny_models.BASE)
    gguf.set("tokenizer.chat_template", gguf_edit.STRING, TEMPLATE)
    gguf.set("general.name", gguf_edit.STRING, name)
    path = folder / f"tiny-{name}.gguf"
    path.write_bytes(gguf.to_bytes())
    return path


def openai_client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def health(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(server.url + "/health", timeout=10).json()
    return found


def test_a_full_queue_and_a_hard_limit_of_memory(smollm2_path: Path, weights_home: Path) -> None:
    """Room for few sequences at once: the others wait, in a queue that takes twelve."""
    options = ["--max-queue", "12", "--kv-memory", "24MB", "--context", "512"]
    with ServerProcess(weights_home, *options) as server, openai_client(server) as client:

        def ask(i: int) -> str | None:
            words = " ".join([f"number {i} and so on"] * 30)
            messages: Any = [{"role": "user", "content": words}]
            reply = client.chat.completions.create(
                model=MODEL, messages=messages, max_tokens=24, temperature=0, logit_bias=END_IDS
            )
            return reply.choices[0].message.content

        alone = [ask(i) for i in range(10)]
        limit = health(server)["models"][MODEL]["kv_pages"]
        with ThreadPoolExecutor(10) as pool:
            together = [pool.submit(ask, i) for i in range(10)]
            seen = []
            while not all(future.done() for future in together):
                seen.append(health(server)["models"][MODEL])
                time.sleep(0.05)
        assert [future.result() for future in together] == alone
        assert all(found["kv_pages_used"] + found["kv_pages_cached"] <= found["kv_pages"] == limit for found in seen)
        assert max(found["kv_pages_used"] for found in seen) > limit / 2, "memory was short"

        endless = {"messages": COUNT, "logit_bias": END_IDS, "stream": True}
        with contextlib.ExitStack() as held:
            for _ in range(60):
                reply = held.enter_context(httpx.stream("POST", server.url + CHAT, json=endless, timeout=60))
                if reply.status_code != 200:
                    break
            assert reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1
            error = json.loads(reply.read())["error"]
            assert error["code"] == "overloaded" and error["type"] == "rate_limit_error" and set(error) >= {"message", "param"}
            assert health(server)["models"][MODEL]["waiting"] >= 12, "and those that had to give up their pages"
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=1)
            assert refused.value.code == "overloaded" and int(refused.value.response.headers["retry-after"]) >= 1
        after = server.idle(10)["models"][MODEL]
        assert after["kv_pages_used"] == 0
        assert ask(3) == alone[3]


def test_a_prefix_outlives_the_server(smollm2_path: Path, weights_home: Path, tmp_path: Path) -> None:
    options = ["--prefix-cache", str(tmp_path / "prefixes")]
    messages: list[Any] = [{"role": "user", "content": "Here is a list. " + " ".join(f"item {i}," for i in range(250))}]

    def turn(server: ServerProcess) -> Any:
        with openai_client(server) as client:
            return client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8, temperature=0)

    with ServerProcess(weights_home, *options) as server:
        first = turn(server)
        messages += [first.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "Go on."}]
        second = turn(server)
        assert first.usage.prompt_tokens > 900
        assert second.usage.prompt_tokens_details.cached_tokens > second.usage.prompt_tokens - 96
        assert server.stop() == 0
    with ServerProcess(weights_home, *options) as server:
        again = turn(server)
        assert again.usage.prompt_tokens_details.cached_tokens > again.usage.prompt_tokens - 96
        assert again.choices[0].message.content == second.choices[0].message.content


def test_a_configuration_over_http(tmp_path: Path) -> None:
    paths = {name: tiny(tmp_path, name) for name in "ab"}
    file = tmp_path / "config.toml"
    file.write_text(
        f"""
        [serve]
        models = [{", ".join(json.dumps(str(path)) for path in paths.values())}]
        [aliases]
        plain = {json.dumps(str(paths["a"]))}
        test = {{ {json.dumps(str(paths["a"]))} = 0.5, {json.dumps(str(paths["b"]))} = 0.5 }}
        [pipelines.both]
        steps = [
            {{ model = {json.dumps(str(paths["a"]))}, max_tokens = 3 }},
            {{ model = {json.dumps(str(paths["b"]))}, system = "Say more:" }},
        ]
        """
    )
    with ServerProcess(tmp_path / "home", CACTUS_PY_CONFIG=str(file)) as server, openai_client(server) as client:

        def ask(model: str, **more: Any) -> Any:
            return client.chat.completions.create(model=model, messages=COUNT, max_tokens=4, temperature=0, **more)

        names = {card.id for card in client.models.list()}
        assert {"plain", "test", "both", "tiny-a", "tiny-b"} <= names
        assert ask("plain").model == ask("tiny-a").model == "tiny-a"
        by_user = {f"user {i}": ask("test", user=f"user {i}").model for i in range(12)}
        assert set(by_user.values()) == {"tiny-a", "tiny-b"}
        assert all(ask("test", user=user).model == model for user, model in by_user.items()), "who asks again gets the same"
        reply = ask("both")
        assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens >= 4
        text = "".join(chunk.choices[0].delta.content or "" for chunk in ask("both", stream=True) if chunk.choices)
        assert text == reply.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="pipeline"):
            client.completions.create(model="both", prompt="a")


def test_the_least_recently_used_is_unloaded(tmp_path: Path) -> None:
    models = [option for name in "abc" for option in ("--model", str(tiny(tmp_path, name)))]
    with ServerProcess(tmp_path / "home", *models) as server, openai_client(server) as client:
        assert set(health(server)["models"]) == {"tiny-a", "tiny-b", "tiny-c"}, "without a limit all stay"
    with Engine.load(tmp_path / "tiny-a.gguf") as model:
        memory = model.memory()
    limit = str(5 * (memory.scratch_bytes + memory.kv_pages * memory.kv_page_bytes) // 2)  # two of them
    with ServerProcess(tmp_path / "home", *models, "--memory-limit", limit) as server, openai_client(server) as client:

        def ask(model: str) -> None:
            client.chat.completions.create(model=model, messages=COUNT, max_tokens=2)

        assert set(health(server)["models"]) == {"tiny-b", "tiny-c"}
        ask("tiny-b")
        ask("tiny-a")
        assert set(health(server)["models"]) == {"tiny-a", "tiny-b"}, "c was used before b"
        ask("tiny-c")
        assert set(health(server)["models"]) == {"tiny-a", "tiny-c"}
        with ThreadPoolExecutor(6) as pool:  # who is in use is not unloaded: the others wait for room
            list(pool.map(ask, ["tiny-a", "tiny-b", "tiny-c"] * 2))
        assert len(health(server)["models"]) <= 2

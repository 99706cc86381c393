"""Many models behind one client: loading, room, unloading, names, pinned versions, pipelines, prefixes on disk."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from test_client import FOREVER

from cactus_py import (
    AsyncClient,
    Client,
    ConfigError,
    InvalidRequestError,
    ModelFormatError,
    OutOfMemoryError,
    RequestCancelledError,
    RequestTimeoutError,
    UnknownModelError,
)
from cactus_py.backends.pool import Lease, Pool
from cactus_py.config import PipelineSettings, load_settings
from cactus_py.engine import Model
from cactus_py.hub import Store, file_sha256, known_sha256
from cactus_py.routing import Names
from cactus_py.routing.pipeline import Pipeline
from cactus_py.types import ChatCompletionRequest, parse_request

LLAMA = Path(__file__).parent / "data" / "zoo" / "llama" / "llama.f32.gguf"


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """The tiny llama under three names."""
    paths = [tmp_path / f"{name}.gguf" for name in "abc"]
    for path in paths:
        shutil.copyfile(LLAMA, path)
    return paths


@pytest.fixture(scope="module")
def one() -> int:
    """Room for one tiny llama: bytes that it may take for itself, and a few more."""
    with Model.load(LLAMA, threads=1) as model:
        memory = model.memory()
        return memory.scratch_bytes + memory.kv_pages * memory.kv_page_bytes + 100_000


def loaded(client: Client) -> list[str]:
    return [info.name for info in client.models.loaded()]


def ask(client: Client, model: Path | str, **options: Any) -> str:
    return str(client.chat("Hello", model=str(model), **{"max_tokens": 2, **options}).model)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Loads:
    """Counts loads by file name, and lets a test hold one up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        self.gates: dict[str, threading.Event] = {}
        load = Model.load.__func__  # type: ignore[attr-defined]

        def counted(cls: type[Model], /, path: Path, **options: Any) -> Model:
            self.counts[Path(path).stem] += 1
            gate = self.gates.get(Path(path).stem)
            assert gate is None or gate.wait(20)
            model: Model = load(cls, path, **options)
            return model

        monkeypatch.setattr(Model, "load", classmethod(counted))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs work; its result or exception comes into the list."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


# ---- loading -----------------------------------------------------------------------------------------------------------


def test_a_load_holds_up_no_other_model_and_happens_once(three: list[Path], loads: Loads) -> None:
    a, b, _ = three
    with Client(a, threads=1) as client:
        ask(client, a)
        gate = loads.gates["b"] = threading.Event()
        waiting = [in_thread(lambda: ask(client, b)) for _ in range(3)]
        until(lambda: loads.counts["b"] == 1)
        assert ask(client, a) == "a"  # while b is being loaded
        assert loaded(client) == ["a"]
        gate.set()
        for thread, results in waiting:
            thread.join()
            assert results == ["b"]
    assert loads.counts == {"a": 1, "b": 1}


def test_a_failed_load_is_the_failure_of_each_and_can_be_repeated(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no model")
    with Client(bad, threads=1) as client:
        for _ in range(2):
            with pytest.raises(ModelFormatError):
                ask(client, bad)
        shutil.copyfile(LLAMA, bad)
        assert ask(client, bad) == "bad"


# ---- room --------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_model_makes_room(three: list[Path], loads: Loads, one: int) -> None:
    a, b, c = three
    with Client(a, threads=1, memory_limit=2 * one) as client:
        for path, expected in ((a, ["a"]), (b, ["a", "b"]), (a, ["a", "b"]), (c, ["a", "c"]), (b, ["b", "c"]), (c, ["b", "c"])):
            ask(client, path)
            assert loaded(client) == expected
        assert [info.n_users for info in client.models.loaded()] == [0, 0]
        assert sum(info.private_bytes for info in client.models.loaded()) <= 2 * one
    assert loads.counts == {"a": 1, "b": 2, "c": 1}


def test_mapped_files_count_if_asked_for(three: list[Path], one: int) -> None:
    with Client(three[0], threads=1, memory_limit=2 * one, memory_counts_files=True) as client:
        for path in three:
            ask(client, path)
            assert loaded(client) == [path.stem]


def test_a_model_in_use_stays_and_its_room_is_waited_for(three: list[Path], one: int) -> None:
    a, b, _ = three
    with Client(a, threads=1, memory_limit=one) as client:
        stream = client.chat("Hello", stream=True, **FOREVER)
        next(stream)
        began = time.monotonic()
        with pytest.raises(
            RequestTimeoutError, match='no room for the model "b" within the request\'s timeout: the models in use'
        ):
            ask(client, b, timeout=0.2)
        assert 0.2 <= time.monotonic() - began < 5
        assert loaded(client) == ["a"]
        thread, results = in_thread(lambda: ask(client, b, timeout=60))
        time.sleep(0.05)
        assert ask(client, a) == "a"  # what is loaded answers meanwhile
        assert not results
        stream.close()
        thread.join()
        assert results == ["b"]
        assert loaded(client) == ["b"]


def test_those_who_wait_for_room_get_it_in_order(three: list[Path], one: int) -> None:
    a, b, c = three
    with Client(a, threads=1, memory_limit=one) as client:
        stream = client.chat("Hello", stream=True, **FOREVER)
        next(stream)
        order: list[str] = []
        waiting = []
        for path in (b, c):
            waiting.append(in_thread(lambda path=path: order.append(ask(client, path))))  # type: ignore[misc]
            time.sleep(0.05)
        stream.close()
        for thread, _ in waiting:
            thread.join()
        assert order == ["b", "c"]


def test_closing_the_client_ends_the_wait_for_room(three: list[Path], one: int) -> None:
    client = Client(three[0], threads=1, memory_limit=one)
    next(client.chat("Hello", stream=True, **FOREVER).__iter__())
    stream = client.chat("Hello", stream=True, **FOREVER)
    next(stream)
    thread, results = in_thread(lambda: ask(client, three[1]))
    time.sleep(0.05)
    client.close()
    thread.join()
    assert isinstance(results[0], RequestCancelledError)


def test_a_model_that_never_fits_is_refused(three: list[Path], one: int) -> None:
    with Client(three[0], threads=1, memory_limit="1MB") as client:
        for _ in range(2):
            with pytest.raises(
                OutOfMemoryError, match=r'the model "a" takes [0-9.]+ MB, and memory_limit is 1\.0 MB; raise it'
            ):
                ask(client, three[0])
        assert loaded(client) == []
    with Client(three[0], threads=1, memory_limit=one - 2_000_000, kv_memory="1MB") as client:
        assert ask(client, three[0]) == "a"


def test_random_users_of_a_small_room(three: list[Path], loads: Loads, one: int) -> None:
    """Eight threads, three models, room for one or two: everybody is answered, and rightly."""
    for limit in (one, 2 * one):
        with Client(three[0], threads=1, memory_limit=limit) as client:
            expected = client.chat("Hello", max_tokens=8, temperature=0).text

            def work(seed: int, client: Client = client) -> list[tuple[str, str]]:
                found = []
                for i in range(6):
                    reply = client.chat("Hello", max_tokens=8, temperature=0, model=str(three[(seed * 7 + i * i) % 3]))
                    found.append((str(reply.model), reply.text))
                return found

            threads = [in_thread(lambda seed=seed: work(seed)) for seed in range(8)]  # type: ignore[misc]
            for thread, _ in threads:
                thread.join()
            for seed, (_, results) in enumerate(threads):
                assert results[0] == [("abc"[(seed * 7 + i * i) % 3], expected) for i in range(6)]


# ---- unloading ---------------------------------------------------------------------------------------------------------


def test_unloading_by_name(three: list[Path], loads: Loads) -> None:
    a, b, _ = three
    with Client(a, threads=1, aliases={"other": str(b)}) as client:
        assert client.models.unload(str(a)) is False
        ask(client, a)
        ask(client, "other")
        assert (client.models.unload("a"), client.models.unload("other")) == (True, True)
        assert loaded(client) == []
        assert ask(client, "a") == "a"  # the name that this client gave it still leads to it
        with pytest.raises(UnknownModelError):
            client.models.unload("nobody")
        stream = client.chat("Hello", stream=True, **FOREVER)
        next(stream)
        with pytest.raises(RequestTimeoutError, match='"a" is still in use'):
            client.models.unload("a", timeout=0.1)
        stream.close()
        assert client.models.unload("a", timeout=20)
    assert loads.counts == {"a": 2, "b": 1}


async def test_the_async_client_does_the_same(three: list[Path]) -> None:
    async with AsyncClient(three[0], threads=1) as client:
        await client.chat("Hello", max_tokens=1)
        assert [info.name for info in await client.models.loaded()] == ["a"]
        assert await client.models.unload("a")
        assert await client.models.loaded() == []


def test_idle_models_are_unloaded(three: list[Path]) -> None:
    a, b, _ = three
    with Client(a, threads=1, idle_seconds=0.2) as client:
        stream = client.chat("Hello", stream=True, **FOREVER)
        next(stream)
        ask(client, b)
        until(lambda: loaded(client) == ["a"])  # which is in use
        stream.close()
        until(lambda: loaded(client) == [])
        assert ask(client, a) == "a"


def test_a_client_that_is_dropped_takes_its_keeper_along(three: list[Path]) -> None:
    client = Client(three[0], threads=1, idle_seconds=3600)
    ask(client, three[0])
    keepers = [thread for thread in threading.enumerate() if thread.name == "cactus-py-models"]
    assert len(keepers) == 1
    del client
    import gc

    gc.collect()
    keepers[0].join(20)
    assert not keepers[0].is_alive()


def test_a_reply_that_fails_to_start_gives_its_model_back(three: list[Path]) -> None:
    with Client(three[0], threads=1) as client:
        with pytest.raises(InvalidRequestError):
            client.chat("word " * 500)
        with pytest.raises(InvalidRequestError):
            client.completions.create(prompt=[512])
        assert [info.n_users for info in client.models.loaded()] == [0]


def test_the_pool_tends_what_is_idle() -> None:
    tended: list[str] = []
    pool: Pool[str, str] = Pool(size_of=len, close=lambda _: None, tend=tended.append, tend_seconds=0.05)
    lease: Lease[str] = pool.lease("k", lambda: "value", what="k")
    time.sleep(0.15)
    assert tended == []  # in use
    lease.release()
    lease.release()
    until(lambda: tended == ["value"])
    time.sleep(0.15)
    assert tended == ["value"]  # nobody used it since
    pool.lease("k", lambda: "other", what="k").release()
    until(lambda: tended == ["value", "value"])
    pool.close()


# ---- names -------------------------------------------------------------------------------------------------------------


def test_aliases_lead_to_models(three: list[Path]) -> None:
    a, b, _ = three
    with Client("small", threads=1, aliases={"gpt-4o-mini": "small", "small": str(a), "large": str(b)}) as client:
        assert client.chat("Hello", max_tokens=1).model == "a"
        assert ask(client, "gpt-4o-mini") == "a"
        assert client.completions.create(prompt="x", model="large", max_tokens=1).model == "b"
        client.warm_up("large")
        cards = {card.id: card for card in client.models.list().data}
        assert list(cards) == ["a", "b", "gpt-4o-mini", "large", "small"]
        assert cards["gpt-4o-mini"].targets == [str(a)]


def test_splits_stick_to_users() -> None:
    names = Names({"trial": {"a": 0.9, "b": 0.1, "never": 0}})
    users = [f"user-{i}" for i in range(4000)]
    first = {user: names.resolve("trial", user) for user in users}
    assert first == {user: names.resolve("trial", user) for user in users}
    assert 0.08 < Counter(first.values())["b"] / len(users) < 0.12
    drawn = Counter(names.resolve("trial") for _ in range(4000))
    assert 0.08 < drawn["b"] / 4000 < 0.12 and set(drawn) == {"a", "b"}
    # Another order of the table moves nobody; a larger share of b moves users to b only; a new target takes from both.
    assert first == {user: Names({"trial": {"b": 0.1, "a": 0.9}}).resolve("trial", user) for user in users}
    more = {user: Names({"trial": {"a": 0.8, "b": 0.2}}).resolve("trial", user) for user in users}
    assert all(more[user] == "b" for user in users if first[user] == "b")
    third = {user: Names({"trial": {"a": 0.9, "b": 0.1, "c": 0.5}}).resolve("trial", user) for user in users}
    assert all(third[user] in (first[user], "c") for user in users)


def test_the_hash_of_a_user_is_the_same_everywhere() -> None:
    """Expected: the formula of the module, computed here by its definition."""
    import math

    weights = {"a": 0.7, "b": 0.3}

    def lot(target: str) -> float:
        number = int(hashlib.sha256(f"t\0{target}\0me".encode()).hexdigest()[:14], 16)
        return -math.log((number + 1) / 2**56) / weights[target]

    assert Names({"t": weights}).resolve("t", "me") == min(weights, key=lot)


def test_a_split_through_the_client(three: list[Path]) -> None:
    a, b, _ = three
    with Client("trial", threads=1, aliases={"trial": {str(a): 1, str(b): 1}}) as client:
        found = {user: {ask(client, "trial", user=user) for _ in range(2)} for user in map(str, range(12))}
        assert all(len(models) == 1 for models in found.values())
        assert set.union(*found.values()) == {"a", "b"}
        assert client.models.unload("trial")
        assert loaded(client) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"aliases": {"x": "x"}}, r'"x" leads back to itself \(x -> x\)'),
        ({"aliases": {"x": "y", "y": {"z": 1, "m": 1}, "z": "x"}}, r"leads back to itself \(x -> y -> z -> x\)"),
        ({"aliases": {"x": {"y": -1}}}, "gives y the weight -1.0"),
        ({"aliases": {"x": {"y": float("inf")}}}, "gives y the weight inf"),
        ({"aliases": {"x": {"y": 0}}}, "gives no model a weight above 0"),
        ({"aliases": {"x": {}}}, "aliases.x is wrong: an alias stands for"),
        ({"aliases": {"x": ["y"]}}, "aliases.x is wrong: an alias stands for"),
        ({"aliases": {"x": {"y": "much"}}}, "the weight of y should be a number"),
        ({"aliases": {"x": {"y": True}}}, "the weight of y should be a number"),
        ({"aliases": {"": "y"}}, "a text that is not empty"),
        ({"aliases": {"x@12345678": "y"}}, "holds an @"),
        ({"aliases": {"p": "y"}, "pipelines": {"p": {"steps": ["y"]}}}, '"p" is both an alias and a pipeline'),
        ({"aliases": "x"}, "aliases= is wrong: it should be a valid dictionary"),
        ({"pipelines": {"p": {"steps": []}}}, r"pipelines.p.steps is wrong: it should have at least 1 item"),
        ({"pipelines": {"p": {}}}, r"pipelines.p.steps is wrong: it is missing"),
        ({"pipelines": {"p": {"steps": [7]}}}, r"pipelines.p.steps\[0\] is wrong: a step is a model's name"),
        ({"pipelines": {"p": {"steps": [{"modle": "x"}]}}}, r"pipelines.p.steps\[0\].modle is wrong: there is no such field"),
        ({"pipelines": {"p": {"steps": ["q"]}, "q": {"steps": ["x"]}}}, 'has the step "q", a pipeline itself'),
        ({"pipelines": {"p": {"steps": ["r"]}}, "aliases": {"r": "p"}}, 'has the step "r", a pipeline itself'),
        ({"pipelines": {"p": {"steps": ["x", {"model": "y", "task": "transcribe"}]}}}, "only the first one can"),
        ({"pipelines": {"p": {"steps": [{"model": "y", "task": "transcribe"}]}}}, "only transcribes"),
        ({"memory_limit": "2 potatoes"}, "memory_limit= is wrong: it should be a size such as"),
        ({"memory_limit": 0}, "greater than 0"),
        ({"kv_memory": True}, "kv_memory= is wrong: it should be a size"),
        ({"idle_seconds": -1}, "idle_seconds= is wrong"),
        ({"idle_seconds": float("nan")}, "idle_seconds= is wrong"),
        ({"max_queue": 0}, "max_queue= is wrong"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_one_sentence(options: dict[str, Any], words: str) -> None:
    for base in (None, load_settings()):
        with pytest.raises(ConfigError, match=words) as caught:
            Client("x", config=base, **options)
        assert "\n" not in str(caught.value)


def test_the_configuration_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        'memory_limit = "1.5GB"\nidle_seconds = 300\n[aliases]\ngpt = "small"\ntrial = {small = 0.9, "other@12345678" = 0.1}\n'
        '[pipelines.voice]\nsteps = ["whisper-tiny", {model = "small", system = "Be brief."}]\n'
    )
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    settings = load_settings({"home": tmp_path})
    assert (settings.memory_limit, settings.idle_seconds) == (1_500_000_000, 300)
    assert settings.aliases == {"gpt": "small", "trial": {"small": 0.9, "other@12345678": 0.1}}
    assert [step.model for step in settings.pipelines["voice"].steps] == ["whisper-tiny", "small"]
    monkeypatch.setenv("CACTUS_PY_MEMORY_LIMIT", "2GiB")
    monkeypatch.setenv("CACTUS_PY_ALIASES", '{"a": "b"}')
    settings = load_settings()
    assert (settings.memory_limit, settings.aliases) == (2 << 30, {"a": "b"})
    monkeypatch.setenv("CACTUS_PY_ALIASES", "{a = b}")
    with pytest.raises(ConfigError, match="CACTUS_PY_ALIASES is wrong: it should be JSON"):
        load_settings()


# ---- pinned versions ---------------------------------------------------------------------------------------------------


def test_a_pinned_version_answers_or_is_refused(three: list[Path], private_home: Path) -> None:
    a, b, _ = three
    tiny_models.random_mpt(b)
    sha = hashlib.sha256(a.read_bytes()).hexdigest()
    with Client(a, threads=1, aliases={"it": str(a), "both": {str(a): 1, str(b): 1}}) as client:
        assert ask(client, f"{a}@{sha[:8]}") == "a"
        assert ask(client, f"{a}@{sha.upper()}") == "a"
        assert ask(client, f"it@{sha[:12]}") == "a"
        assert client.models.retrieve("a").sha256 == sha
        with pytest.raises(UnknownModelError, match=rf"b.gguf@{sha[:8]} is not here: the SHA-256 of .* begins with"):
            ask(client, f"{b}@{sha[:8]}")
        with pytest.raises(UnknownModelError, match="after the @ belong 8 to 64 hex digits"):
            ask(client, f"{a}@{sha[:7]}")
        with pytest.raises(InvalidRequestError, match='"both" is a split between models'):
            ask(client, f"both@{sha[:8]}")
        assert loaded(client) == ["a"]


def test_an_installed_version_is_known_by_its_record(private_home: Path) -> None:
    store = Store()
    draft = store.home / "draft"
    draft.parent.mkdir(parents=True)
    shutil.copyfile(LLAMA, draft)
    sha = hashlib.sha256(LLAMA.read_bytes()).hexdigest()
    store.install(draft, "mine", "mine.gguf", size_bytes=LLAMA.stat().st_size, sha256=sha, source="file:")
    with Client("mine", threads=1) as client:
        assert ask(client, f"mine@{sha[:10]}") == "mine"
        with pytest.raises(UnknownModelError, match="mine@ffffffff is not here"):
            ask(client, "mine@ffffffff")
        (card,) = client.models.list().data
        assert (card.id, card.sha256, card.loaded, card.context) == ("mine", sha, True, 256)
        assert (card.quantisation, card.capabilities) == ("F32", ["chat", "completions"])
    assert not (store.home / "hashes.json").exists()


def test_a_file_is_hashed_once(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from cactus_py.hub import pins

    store, path = Store(), three[0]
    monkeypatch.setattr(pins, "_known", {})
    assert known_sha256(path, store) is None
    sha = file_sha256(path, store)
    assert sha == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(pins, "_known", {})  # another process
    assert known_sha256(path, store) == sha
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert known_sha256(path, store) is None
    assert file_sha256(path, store) != sha
    for damage in (b"", b"[[1]]", b"{}", b'[["p", 1, 1, "zz"]]', b"\xff"):
        (store.home / "hashes.json").write_bytes(damage)
        monkeypatch.setattr(pins, "_known", {})
        assert known_sha256(path, store) is None


# ---- pipelines ---------------------------------------------------------------------------------------------------------


def speaker(path: Path, *words: str) -> Path:
    """A model that says the words, whatever it is told, and whose template shows what it was told."""
    script = ["<|im_start|>", *words, "<|im_end|>"]
    source = "{% for m in messages %}{{ m.role[0] }}[{{ m.content }}]{% endfor %}<|im_start|>"
    return tiny_models.scripted_llama(path, script, special={}, template=source)


@pytest.fixture
def speakers(tmp_path: Path) -> tuple[Path, Path]:
    return speaker(tmp_path / "first.gguf", "H", "e", "l"), speaker(tmp_path / "second.gguf", "w", "o", "r")


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every prompt that reaches an engine."""
    seen: list[str] = []
    generate = Model.generate

    def noted(self: Model, ids: list[int], **options: Any) -> Any:
        seen.append(self.detokenize(ids))
        return generate(self, ids, **options)

    monkeypatch.setattr(Model, "generate", noted)
    return seen


def test_a_pipeline_of_chats(speakers: tuple[Path, Path], prompts: list[str]) -> None:
    first, second = (str(path) for path in speakers)
    steps = [{"model": first, "system": "One."}, {"model": "then", "system": "Two."}]
    options: dict[str, Any] = {"temperature": 0, "n": 2, "logprobs": True}
    with Client("duo", threads=1, pipelines={"duo": {"steps": steps}}, aliases={"then": second}) as client:
        reply = client.chat("Hi", **options)
        assert prompts == ["s[One.]u[Hi]", "s[Two.]u[Hel]", "s[Two.]u[Hel]"]
        assert [choice.message.content for choice in reply.choices] == ["wor", "wor"]
        assert (reply.model, reply.backend, reply.choices[0].finish_reason) == ("second", "native", "stop")
        assert reply.choices[0].logprobs is not None
        alone = [
            client.chat("Hi", system="One.", model=first, temperature=0).usage,
            client.chat("Hel", system="Two.", model=second, **options).usage,
        ]
        assert reply.usage is not None and None not in alone
        assert reply.usage.prompt_tokens == sum(usage.prompt_tokens for usage in alone if usage)
        assert reply.usage.completion_tokens == sum(usage.completion_tokens for usage in alone if usage)
        prompts.clear()
        chunks = list(client.chat("Hi", system="Be kind.", temperature=0, stream=True, stream_options={"include_usage": True}))
        assert prompts[0] == "s[One.\n\nBe kind.]u[Hi]"
        assert "".join(chunk.text for chunk in chunks) == "wor"
        assert {chunk.model for chunk in chunks} == {"second"}
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8
        card = client.models.retrieve("duo")
        assert (card.targets, card.capabilities) == ([first, "then"], ["chat"])
        assert loaded(client) == ["first", "second"]
        assert client.models.unload("duo") and loaded(client) == []


def test_limits_of_a_pipeline(speakers: tuple[Path, Path], prompts: list[str]) -> None:
    """The request's limit holds for the last step only; those before it have their own."""
    first, second = (str(path) for path in speakers)
    steps = [{"model": first, "max_tokens": 2}, second]
    with Client("duo", threads=1, pipelines={"duo": {"steps": steps}}) as client:
        reply = client.chat("Hi", temperature=0, max_tokens=1)
        assert prompts == ["u[Hi]", "u[He]"]
        assert (reply.text, reply.choices[0].finish_reason) == ("w", "length")


@pytest.mark.parametrize("endless", [0, 1])
def test_time_and_cancelling_reach_the_step_at_work(endless: int, speakers: tuple[Path, Path], tmp_path: Path) -> None:
    steps: list[Any] = [str(speakers[0]), str(LLAMA)]  # the answers of the second have no end
    if endless == 0:
        steps.reverse()  # the request's logit_bias is not the inner step's: its end token comes after some 1400 others
    with Client("duo", threads=1, pipelines={"duo": {"steps": steps}}) as client:
        client.warm_up()
        with pytest.raises(RequestTimeoutError):
            client.chat("Hi", **{**FOREVER, "timeout": 0.01})
        stream = client.chat("Hi", stream=True, **FOREVER)
        if endless:
            next(stream)
        stream.close()
        assert [info.n_users for info in client.models.loaded()] == [0, 0]


def test_cancelling_between_steps(speakers: tuple[Path, Path]) -> None:
    settings = PipelineSettings.model_validate({"steps": ["a", "b"]})
    request = parse_request(ChatCompletionRequest, {"messages": [{"role": "user", "content": "x"}]})
    begun: list[str] = []
    with Client(speakers[0], threads=1) as client:

        def start(step: ChatCompletionRequest) -> Any:
            begun.append(str(step.model))
            return client._core.backend.chat(step.model_copy(update={"model": str(speakers[0])}))

        def unheard(*_: Any) -> Any:
            raise AssertionError

        reply = Pipeline("p", settings).chat(request, hears=False, start=start, transcribe=unheard)
        reply.cancel()
        with pytest.raises(RequestCancelledError):
            next(reply)
        reply.close()
        assert begun == ["a"]
        assert [info.n_users for info in client.models.loaded()] == [0]


def test_a_pipeline_needs_chat_requests(speakers: tuple[Path, Path]) -> None:
    with (
        Client("duo", threads=1, pipelines={"duo": {"steps": [str(speakers[0])]}}) as client,
        pytest.raises(InvalidRequestError, match='"duo" is a pipeline; pipelines answer chat requests only'),
    ):
        client.completions.create(prompt="x")


def sound_part(sound: bytes) -> dict[str, Any]:
    data = base64.b64encode(sound).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def wav(path: Path, seconds: float) -> bytes:
    """A wave file of a quiet tone."""
    import wave

    import numpy as np

    samples = 300 * np.sin(np.arange(int(16000 * seconds)) * 0.17)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
    return path.read_bytes()


def test_speech_in_a_conversation_becomes_text(
    whisper_path: Path, speakers: tuple[Path, Path], prompts: list[str], weights_home: Path, tmp_path: Path
) -> None:
    """Expected: the transcript that the same model gives by itself."""
    sound = wav(tmp_path / "tone.wav", 1.5)
    steps = {"voice": {"steps": [str(whisper_path), str(speakers[0])]}, "named": {"steps": ["whisper-tiny", str(speakers[0])]}}
    content = [{"type": "text", "text": "Listen:"}, sound_part(sound), {"type": "text", "text": "Well?"}]
    with Client("voice", threads=1, pipelines=steps, home=weights_home) as client:
        text = client.audio.transcriptions.create(file=("tone.wav", sound), model=str(whisper_path)).text
        for name in steps:
            prompts.clear()
            reply = client.chat([{"role": "user", "content": content}], model=name, temperature=0)
            assert prompts == [f"u[Listen:\n{text.strip()}\nWell?]"]
            assert (reply.text, reply.model) == ("Hel", "first")
        assert client.chat("No sound", temperature=0).text == "Hel"
        for data, words in (("$", "is not base64"), ("", "is empty"), ("AAAA", "input_audio: ")):
            part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
            with pytest.raises(InvalidRequestError, match=words) as caught:
                client.chat([{"role": "user", "content": [part]}])
            assert str(caught.value.param).startswith("messages[0].content[0].input_audio")


# ---- prefixes on disk --------------------------------------------------------------------------------------------------

LONG = [{"role": "user", "content": "word " * 30}]


def cached(client: Client) -> int:
    usage = client.chat(LONG, max_tokens=1, temperature=0).usage
    assert usage is not None and usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens


def test_a_second_process_starts_warm(tmp_path: Path, private_home: Path) -> None:
    folder = tmp_path / "prefixes"
    code = (
        "import sys, json; from cactus_py import Client\n"
        "with Client(sys.argv[1], threads=1, prefix_cache=sys.argv[2]) as client:\n"
        "    reply = client.chat(json.loads(sys.argv[3]), max_tokens=1, temperature=0)\n"
        "    print(reply.usage.prompt_tokens_details.cached_tokens)"
    )
    command = [sys.executable, "-c", code, str(LLAMA), str(folder), json.dumps(LONG)]
    found = [int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(2)]
    assert found[0] == 0 and found[1] >= 32
    assert [path.suffix for path in folder.iterdir()] == [".prefixes"]
    with Client(LLAMA, threads=1) as client:
        assert cached(client) == 0


def test_prefixes_are_saved_when_a_model_is_unloaded(tmp_path: Path) -> None:
    with Client(LLAMA, threads=1, prefix_cache=tmp_path / "p") as client:
        assert cached(client) == 0
        client.models.unload(str(LLAMA))
        (file,) = (tmp_path / "p").iterdir()
        assert cached(client) >= 32
        written = file.stat().st_mtime_ns
        client.models.unload(str(LLAMA))
        client.warm_up()
        changed = file.stat().st_mtime_ns
        client.models.unload(str(LLAMA))
        assert file.stat().st_mtime_ns == changed >= written  # nothing was read since


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty", "folder"])
def test_damaged_prefixes_are_ignored_with_a_warning(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Client(LLAMA, threads=1, prefix_cache=tmp_path / "p") as client:
        cached(client)
    (file,) = (tmp_path / "p").iterdir()
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(
            {"cut": bytes(raw[: len(raw) // 3]), "flipped": bytes(raw), "foreign": b"GGUF" * 99, "empty": b""}[damage]
        )
    with Client(LLAMA, threads=1, prefix_cache=tmp_path / "p") as client:
        assert cached(client) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    if damage != "folder":
        with Client(LLAMA, threads=1, prefix_cache=tmp_path / "p") as client:
            assert cached(client) >= 32  # written anew


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p").write_text("a file")
    with Client(LLAMA, threads=1, prefix_cache=tmp_path / "p") as client:
        assert cached(client) == 0
    assert ["cannot be saved" in record.message for record in caplog.records] == [True]


# ---- real weights ------------------------------------------------------------------------------------------------------


def test_real_weights_share_a_room(smollm2_path: Path, weights_home: Path, loads: Loads) -> None:
    """SmolLM2 under an alias of its catalog name with its hash (the catalog's); a tiny model takes its room in between."""
    question: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
    with Client(smollm2_path) as client:
        text = client.chat("What is the capital of France?", **question).text
        (info,) = client.models.loaded()
    aliases = {"gpt-4o-mini": "smollm2-135m-instruct@b179c952"}
    with Client("gpt-4o-mini", memory_limit=info.private_bytes, aliases=aliases, home=weights_home) as client:
        for _ in range(2):
            reply = client.chat("What is the capital of France?", **question)
            assert (reply.text, reply.model) == (text, "smollm2-135m-instruct")
            assert ask(client, LLAMA) == "llama.f32"
            assert loaded(client) == ["llama.f32"]
        assert loads.counts == {"SmolLM2-135M-Instruct.Q4_1": 3, "llama.f32": 2}
        with pytest.raises(UnknownModelError, match="smollm2-135m-instruct@b179c953 is not here"):
            client.chat("Hi", model="smollm2-135m-instruct@b179c953")

"""The backend over llama.cpp, and the choice between it and our engine.

What llama.cpp computes is compared with our engine where both run a file. A file that only llama.cpp runs is made here: a
random decoder of the mpt architecture.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CONTROL, random_mpt, scripted_llama

import cactus_py
from cactus_py import (
    Client,
    ContextLengthError,
    InvalidRequestError,
    MissingExtraError,
    RequestCancelledError,
    UnsupportedModelError,
)
from cactus_py.backends import choose
from cactus_py.backends.llama_cpp import LlamaModel
from cactus_py.engine import Model

ROOT = str(Path(cactus_py.__file__).parents[1])
INSTALLED = importlib.util.find_spec("llama_cpp") is not None
with_llama = pytest.mark.skipif(not INSTALLED, reason="llama-cpp-python is not installed (the extra llama-cpp)")
without_llama = pytest.mark.skipif(INSTALLED, reason="llama-cpp-python is installed: there is nothing to miss")
USER = [{"role": "user", "content": "Hello"}]
ENDLESS: dict[str, Any] = {"max_tokens": 60, "temperature": 0.0, "logit_bias": {1: -100, 4: -100}}  # it can say no end token


@pytest.fixture(scope="module")
def both(zoo: Path) -> Path:
    """A file that both run."""
    return zoo / "llama" / "llama.f32.gguf"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that only llama.cpp runs."""
    path = random_mpt(tmp_path_factory.mktemp("mpt") / "mpt.gguf")
    try:
        Model.load(path, threads=1).close()
    except UnsupportedModelError:
        return path
    pytest.skip("the engine runs the architecture mpt, which these tests take for one that it does not")


@pytest.fixture
def client(foreign: Path) -> Iterator[Client]:
    with Client(foreign, threads=1) as client:
        yield client


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


# ---- which backend -----------------------------------------------------------------------------------------------------


def test_the_engine_comes_first(both: Path) -> None:
    assert choose(both) == ("native", "the engine runs it")
    for options in ({}, {"backend": "auto"}, {"backend": "native"}):
        with Client(both, threads=1, **options) as client:  # type: ignore[arg-type]
            assert client.chat("Hello", max_tokens=2).backend == "native"
            assert {chunk.backend for chunk in client.chat("Hello", max_tokens=2, stream=True)} == {"native"}


def test_native_means_native(foreign: Path) -> None:
    with (
        Client(foreign, backend="native") as client,
        pytest.raises(UnsupportedModelError, match='"mpt" is not supported') as error,
    ):
        client.warm_up()
    assert "pip" not in str(error.value)


@without_llama
def test_without_the_extra_the_error_says_what_is_missing(foreign: Path, both: Path) -> None:
    with Client(foreign) as client, pytest.raises(UnsupportedModelError) as error:
        client.chat("Hello")
    assert '"mpt" is not supported' in str(error.value)
    assert str(error.value).endswith("llama.cpp may run it: pip install 'cactus-py[llama-cpp]'")
    with Client(both, backend="llama_cpp") as client, pytest.raises(MissingExtraError, match="cactus-py\\[llama-cpp\\]"):
        client.chat("Hello")
    backend, why = choose(foreign)
    assert backend is None
    assert "pip install 'cactus-py[llama-cpp]'" in why
    result = python("from cactus_py.cli import main; main()", "show", str(foreign))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    report = json.loads(python("from cactus_py.cli import main; main()", "doctor", "--json").stdout)
    assert report["llama_cpp"] == {"installed": False, "extra": "llama-cpp"}


def test_a_damaged_file_is_not_tried_elsewhere(tmp_path: Path, both: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(both.read_bytes()[:5000])
    with Client(damaged) as client, pytest.raises(cactus_py.ModelFormatError):
        client.warm_up()


@with_llama
def test_a_file_that_the_engine_does_not_run(client: Client, foreign: Path) -> None:
    reply = client.chat("Hello", max_tokens=5)
    assert (reply.backend, reply.route, reply.model) == ("llama_cpp", "local", "mpt")
    assert {chunk.backend for chunk in client.chat("Hello", max_tokens=2, stream=True)} == {"llama_cpp"}
    assert client.completions.create(prompt="Hello", max_tokens=2).backend == "llama_cpp"
    backend, why = choose(foreign)
    assert backend == "llama_cpp"
    assert '"mpt" is not supported' in why


@with_llama
def test_the_command_line_says_which(foreign: Path, both: Path) -> None:
    main = "from cactus_py.cli import main; main()"
    facts = json.loads(python(main, "show", str(foreign), "--json").stdout)
    assert (facts["backend"], facts["file_info"]["architecture"]) == ("llama_cpp", "mpt")
    assert "not supported" in facts["backend_reason"]
    assert json.loads(python(main, "show", str(both), "--json").stdout)["backend"] == "native"
    report = json.loads(python(main, "doctor", "--json").stdout)
    assert report["llama_cpp"]["installed"]
    assert report["llama_cpp"]["version"]
    answer = python(main, "run", "-m", str(both), "--backend", "llama_cpp", "-n", "4", "--json", "Hello")
    assert json.loads(answer.stdout)["backend"] == "llama_cpp"
    assert answer.stderr == ""


@with_llama
def test_what_neither_runs_is_one_sentence(tmp_path: Path, both: Path) -> None:
    import gguf_edit

    gguf = gguf_edit.read(both)
    gguf.set("general.architecture", gguf_edit.STRING, "nonesuch")
    path = tmp_path / "nonesuch.gguf"
    path.write_bytes(gguf.to_bytes())
    result = python("from cactus_py.cli import main; main()", "run", "-m", str(path), "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "is not supported" in result.stderr
    assert "unknown model architecture" in result.stderr
    assert choose(path)[0] is None


@with_llama
def test_nothing_is_written_to_the_terminal(foreign: Path) -> None:
    code = "import sys; from cactus_py import Client\nwith Client(sys.argv[1]) as c: c.chat('Hello', max_tokens=3)"
    result = python(code, str(foreign))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@with_llama
def test_a_process_may_end_in_the_middle_of_an_answer(foreign: Path) -> None:
    code = """
import sys
from cactus_py import Client
client = Client(sys.argv[1], threads=1)
stream = client.chat('Hello', stream=True, context_policy='shift', logit_bias={1: -100, 4: -100})
print(next(iter(stream)).backend, flush=True)
"""
    result = python(code, str(foreign))
    assert (result.returncode, result.stdout, result.stderr) == (0, "llama_cpp\n", "")


# ---- against our engine ------------------------------------------------------------------------------------------------


@with_llama
def test_tokens_are_those_of_the_engine(both: Path) -> None:
    with Model.load(both, threads=1) as ours:
        theirs = LlamaModel.load(both, threads=1)
        for text in ("Hello you", "<|im_start|>user\nx<|im_end|>", "é🌵 你好", ""):
            for add, parse in ((True, True), (False, True), (False, False)):
                assert theirs.tokenize(text, add, parse) == ours.tokenize(text, add, parse)
        # Which of two ends is that of a turn, llama.cpp guesses in its own way; both end an answer here.
        assert dataclasses.replace(theirs.tokenizer.info, eot_id=ours.tokenizer.info.eot_id) == ours.tokenizer.info
        for token in range(ours.tokenizer.info.n_vocab):
            assert theirs.tokenizer.token_bytes(token) == ours.tokenizer.token_bytes(token)
            assert theirs.tokenizer.attributes(token) == ours.tokenizer.attributes(token)
        theirs.close()


@with_llama
def test_scores_and_answers_are_those_of_the_engine(both: Path) -> None:
    """The same float32 weights; llama.cpp rounds on the way (its attention to float16), so scores differ in the third digit."""
    options: dict[str, Any] = {**ENDLESS, "max_tokens": 24, "logprobs": True, "top_logprobs": 4}
    replies = []
    for backend in ("native", "llama_cpp"):
        with Client(both, threads=1, backend=backend, kv_type="f32") as client:
            replies.append(client.chat("Hello", **options))
            score = client.completions.create(prompt="Hello you there", max_tokens=0, echo=True, logprobs=0).choices[0].logprobs
            assert score is not None
            replies[-1].scores = score.token_logprobs  # type: ignore[attr-defined]
    ours, theirs = replies
    assert ours.text == theirs.text
    assert ours.usage == theirs.usage
    assert ours.choices[0].finish_reason == theirs.choices[0].finish_reason == "length"
    pairs = zip(ours.choices[0].logprobs.content, theirs.choices[0].logprobs.content, strict=True)  # type: ignore[union-attr,arg-type]
    for a, b in pairs:
        assert (a.token, a.bytes) == (b.token, b.bytes)
        assert [top.token for top in a.top_logprobs] == [top.token for top in b.top_logprobs]
        assert a.logprob == pytest.approx(b.logprob, abs=2e-2)
    assert ours.scores[1:] == pytest.approx(theirs.scores[1:], abs=2e-2)  # type: ignore[attr-defined]


@with_llama
@pytest.mark.parametrize(
    "option",
    [
        {"repetition_penalty": 3.0},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 1.5},
        {"logit_bias": {300: 4.0}},
    ],
)
def test_penalties_and_bias_are_those_of_the_engine(option: dict[str, Any], both: Path) -> None:
    texts = []
    for backend in ("native", "llama_cpp"):
        with Client(both, threads=1, backend=backend, kv_type="f32") as client:
            texts.append(client.completions.create(prompt="Hello", temperature=0, max_tokens=16, **option).text)
            plain = client.completions.create(prompt="Hello", temperature=0, max_tokens=16).text
            assert texts[-1] != plain
    assert texts[0] == texts[1]


@with_llama
def test_signals_come_from_the_scores(foreign: Path) -> None:
    """log-probability, entropy in nats and margin, computed here once more from the scores of the same positions."""
    model = LlamaModel.load(foreign, threads=1)
    ids = model.tokenize("Hello you")
    generation = model.generate(ids, max_tokens=10, sampling={"temperature": 1.0, "seed": 3, "top_logprobs": 3})
    tokens = []
    while True:
        try:
            token = generation.wait(5.0)
        except StopIteration:
            break
        assert token is not None
        tokens.append(token)
    rows = model.logits([*ids, *(token.id for token in tokens)])[len(ids) - 1 :].astype(np.float64)
    for row, token in zip(rows, tokens, strict=False):
        scores = row - row.max() - np.log(np.exp(row - row.max()).sum())
        best = np.sort(row)[::-1]
        assert token.logprob == pytest.approx(scores[token.id], abs=1e-2)
        assert token.entropy == pytest.approx(-(np.exp(scores) * scores).sum(), abs=1e-2)
        assert token.margin == pytest.approx(best[0] - best[1], abs=1e-2)
        assert [i for i, _ in token.top] == list(np.argsort(-row)[:3])
    stats = generation.stats
    assert (stats.prompt_tokens, stats.generated_tokens) == (len(ids), len(tokens))
    model.close()


# ---- the client's surface ----------------------------------------------------------------------------------------------


@with_llama
def test_a_stream_says_the_same_as_a_reply(client: Client) -> None:
    options: dict[str, Any] = {**ENDLESS, "logprobs": True, "top_logprobs": 1}
    whole = client.chat("Hello", **options)
    chunks = list(client.chat("Hello", stream=True, stream_options={"include_usage": True}, **options))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 60
    pieces = [c.logprobs for chunk in chunks for c in chunk.choices if c.logprobs]
    assert whole.choices[0].logprobs is not None
    told = [entry for piece in pieces for entry in piece.content or []]
    assert [entry.token for entry in told] == [entry.token for entry in whole.choices[0].logprobs.content or []]
    assert whole.timings is not None and whole.timings.decode_ms > 0
    whole.text.encode("utf-8")


@with_llama
def test_stop_strings_and_end_tokens(client: Client) -> None:
    text = client.chat("Hello", **ENDLESS).text
    stop = text[8:11]
    reply = client.chat("Hello", stop=["never", stop], **ENDLESS)
    assert (reply.text, reply.choices[0].finish_reason) == (text[: text.index(stop)], "stop")
    assert "".join(c.text for c in client.chat("Hello", stop=stop, stream=True, **ENDLESS)) == reply.text
    ended = client.chat("Hello", max_tokens=5, logit_bias={"4": 100}, logprobs=True)
    assert (ended.text, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.choices[0].logprobs is not None
    assert ended.choices[0].logprobs.content == []


@with_llama
def test_seeds_and_several_answers(client: Client) -> None:
    options: dict[str, Any] = {**ENDLESS, "max_tokens": 12, "temperature": 1.5}
    assert client.chat("Hello", seed=7, **options).text == client.chat("Hello", seed=7, **options).text
    assert client.chat("Hello", seed=7, **options).text != client.chat("Hello", seed=8, **options).text
    assert client.chat("Hello", **options).text != client.chat("Hello", **options).text
    reply = client.chat("Hello", n=3, seed=5, **options)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    for offset, choice in enumerate(reply.choices):
        assert choice.message.content == client.chat("Hello", seed=5 + offset, **options).text
    assert reply.usage is not None and reply.usage.completion_tokens == 36
    greedy = client.chat("Hello", **ENDLESS).text
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert client.chat("Hello", **{**ENDLESS, "temperature": 2, **narrow}).text == greedy


@with_llama
def test_draws_follow_the_distribution(foreign: Path) -> None:
    """Of 400 draws each of the likeliest tokens comes as often as its probability says, within five standard deviations."""
    model = LlamaModel.load(foreign, threads=1)
    ids = model.tokenize("Hello")
    row = model.logits(ids)[-1].astype(np.float64)
    weights = np.exp(row - row.max())
    best = np.argsort(-weights)[:4]
    chances = weights / weights[best].sum()
    drawn = [
        model.generate(ids, max_tokens=1, sampling={"temperature": 1.0, "top_k": 4, "seed": seed}).wait() for seed in range(400)
    ]
    for token in best:
        n = sum(found is not None and found.id == token for found in drawn)
        deviation = np.sqrt(400 * chances[token] * (1 - chances[token]))
        assert abs(n - 400 * chances[token]) < 5 * deviation + 1
    model.close()


@with_llama
def test_the_context_ends_an_answer_or_is_shifted(foreign: Path) -> None:
    with Client(foreign, threads=1, context=64) as client:
        bias = {"temperature": 0, "logit_bias": ENDLESS["logit_bias"]}
        reply = client.chat("Hello", **bias)
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage is not None
        assert 64 <= reply.usage.total_tokens <= 65
        longer = client.chat("Hello", max_tokens=150, context_policy="shift", **bias)
        assert longer.usage is not None and longer.usage.completion_tokens == 150
        with pytest.raises(ContextLengthError, match="the context holds 64"):
            client.chat("Hello " * 100)
    with Client(foreign, context=100_000) as client, pytest.raises(InvalidRequestError, match="trained for 256"):
        client.warm_up()


@with_llama
def test_what_is_known_is_not_read_again(client: Client) -> None:
    messages = [{"role": "user", "content": "word " * 20}]
    first = client.chat(messages, **{**ENDLESS, "max_tokens": 8})
    longer = [*messages, {"role": "assistant", "content": first.text}, *USER]
    warm = client.chat(longer, **{**ENDLESS, "max_tokens": 8})
    assert warm.usage is not None and warm.usage.prompt_tokens_details is not None
    assert warm.usage.prompt_tokens_details.cached_tokens > 20
    client.chat("something else", max_tokens=1)
    assert client.chat(longer, **{**ENDLESS, "max_tokens": 8}).text == warm.text


@with_llama
def test_requests_wait_in_line(client: Client) -> None:
    alone = {text: client.chat(text, **ENDLESS).text for text in ("Hello", "Bye", "Why?")}
    found: dict[str, str] = {}
    threads = [threading.Thread(target=lambda t=text: found.update({t: client.chat(t, **ENDLESS).text})) for text in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


@with_llama
def test_a_stream_can_be_closed_and_the_next_request_runs(client: Client) -> None:
    endless: dict[str, Any] = {**ENDLESS, "max_tokens": 1_000_000, "context_policy": "shift"}
    with client.chat("Hello", stream=True, **endless) as stream:
        next(iter(stream))
    began = time.monotonic()
    assert client.chat("Hello", max_tokens=2).usage is not None
    assert time.monotonic() - began < 20
    stream = client.chat("Hello", stream=True, **endless)
    next(iter(stream))
    client.close()
    with pytest.raises(RequestCancelledError):
        list(stream)


@with_llama
def test_time_runs_out_while_waiting_in_line(client: Client) -> None:
    with client.chat("Hello", stream=True, **{**ENDLESS, "max_tokens": 1_000_000, "context_policy": "shift"}) as stream:
        next(iter(stream))
        with pytest.raises(cactus_py.RequestTimeoutError):
            client.chat("Hello", timeout=0.3)


@with_llama
def test_reasoning_is_taken_apart_here_too(tmp_path: Path) -> None:
    script = ["<|im_start|>", "[THINK]", "Ġit", "Ġis", "[/THINK]", "nswer", "<|im_end|>"]
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<|im_start|>"
    path = scripted_llama(tmp_path / "t.gguf", script, special={"[THINK]": CONTROL, "[/THINK]": CONTROL}, template=template)
    with Client(path, threads=1, backend="llama_cpp") as client:
        reply = client.chat("x", temperature=0)
        assert (reply.choices[0].message.reasoning_content, reply.text) == ("it is", "nswer")


@with_llama
def test_echo_and_scores_of_a_prompt(client: Client) -> None:
    reply = client.completions.create(prompt="Hello you", max_tokens=0, echo=True, logprobs=3)
    assert (reply.text, reply.choices[0].finish_reason) == ("Hello you", "length")
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.top_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert all(score is not None and score < 0 for score in logprobs.token_logprobs[1:])

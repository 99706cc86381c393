"""`cactus-py run` and `cactus-py chat`, as programs: in pipes and, through a pseudo-terminal, in front of a person."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

import cactus_py
from cactus_py import Client
from cactus_py.cli._talk import Answer, for_terminal, taken_back, verdict
from cactus_py.types import ChatCompletion

ROOT = str(Path(cactus_py.__file__).parents[1])
COMMAND = ["-c", "from cactus_py.cli import main; main()"]
STORY = "Tell me a very long story about a wizard, with many chapters."


@pytest.fixture(scope="module")
def tiny(zoo: Path) -> str:
    """Random weights: 512 tokens, context 256."""
    return str(zoo / "llama" / "llama.f32.gguf")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT, "TERM": "dumb", "PYTHONWARNINGS": "error", **more}


def cactus(*words: str, stdin: str | bytes = "", **more: str) -> subprocess.CompletedProcess[str]:
    given = stdin if isinstance(stdin, bytes) else stdin.encode()
    done = subprocess.run(
        [sys.executable, *COMMAND, *words], input=given, capture_output=True, env=environment(**more), timeout=120
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


# ---- run ---------------------------------------------------------------------------------------------------------------


def test_run_prints_the_answer_and_nothing_else(tiny: str) -> None:
    with Client(tiny) as client:
        expected = client.chat("Hello", system="Be kind.", temperature=0.5, top_p=0.8, seed=3, max_tokens=12).text
    options = ("-s", "Be kind.", "-t", "0.5", "--top-p", "0.8", "--repetition-penalty", "1", "--seed", "3", "-n", "12")
    done = cactus("run", "Hello", "-m", tiny, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (expected if expected.endswith("\n") else expected + "\n")
    assert done.stderr == ""


def test_run_reads_standard_input(tiny: str) -> None:
    answer = cactus("run", "Hello é", "-m", tiny, "-t", "0", "-n", "8").stdout
    assert cactus("run", "-", "-m", tiny, "-t", "0", "-n", "8", stdin="Hello é").stdout == answer
    assert cactus("run", "-m", tiny, "-t", "0", "-n", "8", stdin="Hello é").stdout == answer


def test_run_defaults_suit_small_models(tiny: str) -> None:
    with Client(tiny) as client:
        defaults = {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1}
        expected = client.chat("Hello", **defaults, seed=11, max_tokens=12).text
    assert cactus("run", "Hello", "-m", tiny, "--seed", "11", "-n", "12").stdout.rstrip("\n") == expected.rstrip("\n")


def test_run_json_is_a_reply(tiny: str) -> None:
    done = cactus("run", "Hello", "-m", tiny, "-t", "0", "-n", "5", "--json", "--stats")
    reply = ChatCompletion.model_validate_json(done.stdout)
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 5
    assert (reply.route, reply.model) == ("local", "llama.f32")
    assert reply.confidence is not None and 0 <= reply.confidence <= 1
    assert reply.decision is not None and reply.decision.calibration == "default"
    assert re.fullmatch(r"read \d+ tokens in \d+\.\d\d s.*, wrote \d+ in \d+\.\d\d s.*\n", done.stderr)


@pytest.mark.parametrize(
    ("words", "stdin", "status", "message"),
    [
        (("run",), " \n", 1, "Error: the prompt is empty\n"),
        (("run", "x", "-m", "/no/such.gguf"), "", 1, "Error: The model file /no/such.gguf does not exist"),
        (("run", "x", "-m", "smolm2"), "", 1, "Error: "),
        (("run", "-"), b"\xff\xfe", 1, "Error: standard input is not UTF-8 text"),
        (("run", "x", "-t", "3"), "", 2, "--temperature"),
        (("run", "x", "--colour"), "", 2, "No such option"),
        (("run", "x", "--top-p", "0"), "", 1, "Error: top_p should be greater than 0, not 0.0\n"),
        (("chat", "-n", "0"), "", 2, "--max-tokens"),
        (("run", "x", "--threshold", "2"), "", 2, "--threshold"),
        (("run", "x", "--policy", "mostly"), "", 1, "Error: the setting router.policy is wrong"),
        (("run", "x", "--route", "moon"), "", 1, "Error: route"),
        (("run", "x", "--route", "cloud"), "", 1, "Error: "),
        (("run", "x", "--route", "cloud", "--cloud-model", "m", "--local-only"), "", 1, "Error: "),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    words: tuple[str, ...], stdin: str | bytes, status: int, message: str, tiny: str
) -> None:
    model = () if "-m" in words else ("-m", tiny)
    done = cactus(*words, *model, stdin=stdin)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_prompt_that_is_too_long_is_told_in_a_sentence(tiny: str) -> None:
    done = cactus("run", "-m", tiny, stdin="word " * 500)
    assert done.returncode == 1
    assert "tokens and the context holds 256" in done.stderr


def test_a_model_is_fetched_on_first_use_after_saying_so(tiny: str, tmp_path: Path) -> None:
    source = Path(tiny)
    home = tmp_path / "home"
    (home / "catalog").mkdir(parents=True)
    (home / "catalog" / "tiny.toml").write_text(
        f'name = "tiny"\naliases = []\ndescription = "A test"\nlicence = "CC0-1.0"\nparameters = 377000\n'
        f'quantisation = "F32"\ncontext = 256\narchitecture = "llama"\nfile = "tiny.gguf"\n'
        f"size_bytes = {source.stat().st_size}\n"
        f'sha256 = "{hashlib.sha256(source.read_bytes()).hexdigest()}"\nsources = ["{source.as_uri()}"]\n'
    )
    first = cactus("run", "Hello", "-m", "tiny", "-t", "0", "-n", "4", CACTUS_PY_HOME=str(home))
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("tiny is not on this machine yet; fetching it (1.5 MB).\n")
    assert "Verifying" in first.stderr or "Downloading" in first.stderr
    second = cactus("run", "Hello", "-m", "tiny", "-t", "0", "-n", "4", CACTUS_PY_HOME=str(home))
    assert second.stderr == ""
    assert second.stdout == first.stdout


def test_the_model_of_the_environment_is_used(tiny: str) -> None:
    done = cactus("run", "Hello", "-n", "2", "--json", CACTUS_PY_MODEL=tiny)
    assert ChatCompletion.model_validate_json(done.stdout).model == "llama.f32"


def test_what_a_model_says_does_not_steer_the_terminal() -> None:
    assert for_terminal("a\x1b[2Jb\x07\rc\x9b\n\té👩\u200d🚀\u202e") == "a[2Jbc\n\té👩\u200d🚀"


def test_what_was_shown_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor goes up by as many rows as the text took, then everything below it goes."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "5")
    assert taken_back("") == ""
    assert taken_back("0123456789") == "\r\x1b[J"
    assert taken_back("01234567890") == "\x1b[1A\r\x1b[J"
    assert taken_back("a\n\n日日日日日日") == "\x1b[3A\r\x1b[J"
    assert "again, by the cloud" in taken_back("\n" * 5)
    monkeypatch.setenv("TERM", "dumb")
    assert "again, by the cloud" in taken_back("a")


def test_what_is_said_of_an_answer() -> None:
    assert verdict(Answer(route="local", confidence=0.7)) == ""
    assert verdict(Answer(route="local", confidence=0.7, threshold=0.8)) == "(unsure: right with a probability of 70 %)"
    assert verdict(Answer(route="local")) == ""
    assert verdict(Answer(route="cloud", model="big\x1b[2J")) == "(from the cloud: big[2J)"


def test_ctrl_c_stops_run_and_leaves_what_was_said(smollm2_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *COMMAND, "run", STORY, "-m", str(smollm2_path), "--seed", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )
    assert process.stdout is not None
    said = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b""
    assert (said + rest).endswith(b"\n")


# ---- chat in a pipe ----------------------------------------------------------------------------------------------------


def test_chat_answers_every_line_and_remembers(tiny: str, tmp_path: Path) -> None:
    with Client(tiny) as client:
        messages = [{"role": "user", "content": "Hello"}]
        first = client.chat(messages, temperature=0, repetition_penalty=1.1, max_tokens=6).text
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Two\nlines"}]
        second = client.chat(messages, temperature=0, repetition_penalty=1.1, max_tokens=6).text
    done = cactus("chat", "-m", tiny, "-t", "0", "-n", "6", stdin="Hello\n\n  \nTwo\\\nlines\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{first}\n{second}\n"
    assert done.stderr == ""


def test_chat_commands(tiny: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    lines = [
        "/help",
        "/stats",
        "/system Be kind.",
        "Hello",
        "/stats",
        f"/save {saved}",
        "/reset",
        f"/load {saved}",
        f"/save {saved}2",
        "/system",
        "/reset",
        f"/save {saved}3",
        "/nonsense",
        "/save",
        "/load",
        "/save /no/such/folder/x",
        "/load /no/such/file",
        "/exit",
        "never reached",
    ]
    done = cactus("chat", "-m", tiny, "-t", "0", "-n", "4", stdin="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    for words in (
        "/save FILE    write the conversation",
        "nothing was answered yet",
        "The instructions are set.",
        "wrote 4 in",
        f"Saved 2 messages to {saved}.",
        "The conversation is forgotten.",
        f"Loaded 2 messages from {saved}.",
        "There are no instructions now.",
        "There is no command /nonsense; /help lists them.",
        "Say where: /save FILE",
        "Say which: /load FILE",
        "/no/such/folder/x cannot be written: No such file or directory",
        "/no/such/file cannot be loaded: No such file or directory",
    ):
        assert words in done.stdout, words
    conversation = json.loads(saved.read_text(encoding="utf-8"))
    assert [message["role"] for message in conversation["messages"]] == ["system", "user", "assistant"]
    assert conversation["messages"][0]["content"] == "Be kind."
    assert json.loads(Path(f"{saved}2").read_text(encoding="utf-8")) == conversation
    assert json.loads(Path(f"{saved}3").read_text(encoding="utf-8"))["messages"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "it is not JSON"),
        ("[1]", "it holds no conversation"),
        ('{"messages": [{"role": "boss", "content": "x"}]}', 'messages[0].role is "boss"'),
        ('{"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}', "not plain text"),
        ("[" * 100_000, "cannot be loaded"),
    ],
)
def test_only_conversations_can_be_loaded(text: str, words: str, tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    done = cactus("chat", "-m", tiny, stdin=f"/load {path}\n")
    assert done.returncode == 0
    assert words in done.stdout


def test_chat_goes_on_when_the_context_is_full(tiny: str) -> None:
    done = cactus("chat", "-m", tiny, "-t", "0", "-n", "8", stdin="Some words to fill the context with.\n" * 12)
    assert done.returncode == 0, done.stderr


def test_an_error_in_a_pipe_ends_the_chat(tiny: str) -> None:
    done = cactus("chat", "-m", tiny, stdin="word " * 500 + "\nHello\n")
    assert done.returncode == 1
    assert "Error: the prompt has" in done.stderr


# ---- chat in a terminal ------------------------------------------------------------------------------------------------


def terminal(*words: str, **more: str) -> pexpect.spawn[str]:
    return pexpect.spawn(sys.executable, [*COMMAND, "chat", *words], env=environment(**more), encoding="utf-8", timeout=60)


def test_a_conversation_in_a_terminal(tiny: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    talk = terminal("-m", tiny, "-t", "0", "-n", "4", CACTUS_PY_HOME=str(home))
    talk.expect_exact("/help lists commands, Ctrl-D leaves.")
    talk.expect_exact("> ")
    talk.sendline("Hello")
    talk.expect_exact("> ")
    talk.sendline("word " * 300)
    talk.expect_exact("Error: the prompt has")
    talk.expect_exact("> ")
    talk.sendline("/stats")
    talk.expect(r"read \d+ tokens")
    talk.expect_exact("> ")
    talk.sendintr()
    talk.expect_exact("Ctrl-D or /exit leaves.")
    talk.expect_exact("> ")
    talk.sendeof()
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0
    history = home / "chat_history"
    assert "Hello" in history.read_text(encoding="utf-8")
    assert history.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_an_answer_and_keeps_it(smollm2_path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    talk = terminal("-m", str(smollm2_path), "--seed", "1")
    talk.expect_exact("> ")
    talk.sendline(STORY)
    talk.expect(r"\r\n(\w+[\s\S]{20})")
    time.sleep(0.3)
    talk.sendintr()
    talk.expect_exact("(stopped)")
    talk.expect_exact("> ")
    talk.sendline(f"/save {saved}")
    talk.expect_exact("Saved 2 messages")
    talk.expect_exact("> ")
    talk.sendline("/exit")
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert messages[0]["content"] == STORY
    assert 20 < len(messages[1]["content"]) < 4000

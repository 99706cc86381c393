"""`cactus-py chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cactus_py.cli._common import (
    CloudModelOption,
    LocalOnlyOption,
    MaxCloudShareOption,
    MaxCostPerDayOption,
    MinQualityOption,
    PolicyOption,
    RouteOption,
    ThresholdOption,
    router_settings,
)
from cactus_py.cli._talk import (
    REPETITION_PENALTY,
    TEMPERATURE,
    TOP_P,
    BackendOption,
    ContextOption,
    MaxTokensOption,
    ModelOption,
    RepetitionPenaltyOption,
    SeedOption,
    SpeculationOption,
    SystemOption,
    TemperatureOption,
    ThreadsOption,
    TopPOption,
)

if TYPE_CHECKING:
    from cactus_py.client import Client

HELP = """\
/system TEXT  instructions for the conversation; without TEXT: none
/reset        forget the conversation, keep the instructions
/save FILE    write the conversation to a file (JSON)
/load FILE    go on with a conversation from a file
/stats        what the last answer cost
/exit         leave, as Ctrl-D does
Ctrl-C stops an answer. A line that ends in \\ goes on in the next one."""

_HISTORY_LINES = 1000


def command(
    model: ModelOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = TEMPERATURE,
    top_p: TopPOption = TOP_P,
    repetition_penalty: RepetitionPenaltyOption = REPETITION_PENALTY,
    seed: SeedOption = None,
    context: ContextOption = None,
    threads: ThreadsOption = None,
    speculation: SpeculationOption = None,
    backend: BackendOption = None,
    policy: PolicyOption = None,
    threshold: ThresholdOption = None,
    max_cloud_share: MaxCloudShareOption = None,
    max_cost_per_day: MaxCostPerDayOption = None,
    min_quality: MinQualityOption = None,
    cloud_model: CloudModelOption = None,
    local_only: LocalOnlyOption = False,
    route: RouteOption = "auto",
) -> None:
    """Talk with a model. When the conversation outgrows the model's context, its oldest turns are forgotten."""
    from cactus_py.cli._talk import open_client

    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "route": route,
    }
    router = router_settings(policy, threshold, max_cloud_share, max_cost_per_day, min_quality, cloud_model, local_only)
    with open_client(model, context, threads, speculation, backend, router) as client:
        conversation = _Conversation(client, system, options)
        if sys.stdin.isatty():
            with _line_history(client):
                print(f"Talking with {_plain(conversation.model)}. /help lists commands, Ctrl-D leaves.")
                _talk(conversation, "> ")
        else:
            _talk(conversation, "")


class _Leave(Exception):
    """The conversation is over."""


class _Conversation:
    """The messages so far, and the commands over them."""

    def __init__(self, client: Client, system: str | None, options: dict[str, Any]) -> None:
        self._client = client
        self._options = options
        self.model = client.settings.model
        self.system = system
        self.messages: list[dict[str, str]] = []
        self._figures = "nothing was answered yet"

    def say(self, text: str) -> None:
        """A message and its answer, which is printed as it comes. A message that fails is forgotten again."""
        from cactus_py.cli._talk import dimmed, figures, handoff_of, verdict, write_stream

        asked = [*self.messages, {"role": "user", "content": text}]
        stream = self._client.chat(
            asked,
            system=self.system,
            stream=True,
            stream_options={"include_usage": True},
            context_policy="shift",
            handoff=handoff_of(self._client),
            **self._options,
        )
        answer = write_stream(stream)
        print(flush=True)
        if sys.stdout.isatty() and (words := verdict(answer)):
            print(dimmed(words), flush=True)
        if answer.interrupted:
            print("(stopped)", file=sys.stderr)
            if not answer.text:
                return
        self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        self._figures = figures(answer.usage, answer.timings)

    def command(self, line: str) -> None:
        """A line that begins with a slash."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[str], None]] = {
            "exit": self._exit,
            "help": lambda _: print(HELP),
            "load": self._load,
            "quit": self._exit,
            "reset": self._reset,
            "save": self._save,
            "stats": lambda _: print(self._figures),
            "system": self._system,
        }
        if name not in commands:
            print(f"There is no command /{_plain(name)}; /help lists them.")
            return
        commands[name](rest)

    def _exit(self, _rest: str) -> None:
        raise _Leave

    def _system(self, text: str) -> None:
        self.system = text or None
        print("The instructions are set." if text else "There are no instructions now.")

    def _reset(self, _rest: str) -> None:
        self.messages = []
        print("The conversation is forgotten.")

    def _save(self, name: str) -> None:
        if not name:
            print("Say where: /save FILE")
            return
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        text = json.dumps({"model": self.model, "messages": head + self.messages}, ensure_ascii=False, indent=2)
        try:
            Path(name).expanduser().write_text(text + "\n", encoding="utf-8")
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{_plain(name)} cannot be written: {getattr(error, 'strerror', None) or error}")
            return
        print(f"Saved {len(self.messages)} messages to {_plain(name)}.")

    def _load(self, name: str) -> None:
        if not name:
            print("Say which: /load FILE")
            return
        try:
            system, messages = _checked(Path(name).expanduser().read_text(encoding="utf-8"))
        except (OSError, RuntimeError, ValueError, RecursionError) as error:
            print(f"{_plain(name)} cannot be loaded: {_plain(str(getattr(error, 'strerror', None) or error))}")
            return
        self.system, self.messages = system, messages
        print(f"Loaded {len(messages)} messages from {_plain(name)}.")


def _checked(text: str) -> tuple[str | None, list[dict[str, str]]]:
    """The instructions and messages of a saved conversation. Raises ValueError if it is none."""
    from cactus_py.types import ChatCompletionRequest, parse_request

    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("messages"), list):
        raise ValueError("it holds no conversation")
    messages = found["messages"]
    if messages:
        parse_request(ChatCompletionRequest, {"messages": messages})
    if not all(
        message["role"] in ("system", "user", "assistant") and isinstance(message["content"], str) for message in messages
    ):
        raise ValueError("it holds messages that are not plain text")
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [{"role": m["role"], "content": m["content"]} for m in messages if m["role"] != "system"]
    return ("\n\n".join(system) or None), rest


def _talk(conversation: _Conversation, prompt: str) -> None:
    """Reads lines until the end."""
    from cactus_py.errors import CactusError

    while True:
        try:
            line = _read(prompt)
            if line.startswith("/"):
                conversation.command(line)
            elif line.strip():
                conversation.say(line)
        except (EOFError, _Leave):
            if prompt:
                print()
            return
        except KeyboardInterrupt:
            if not prompt:
                raise
            print("\nCtrl-D or /exit leaves.")
        except CactusError as error:
            if not prompt:
                raise  # nobody is there to read it and go on
            print(f"Error: {_plain(str(error))}", file=sys.stderr)


def _read(prompt: str) -> str:
    """One message: a line, and the next ones as long as they end in a backslash."""
    from cactus_py.errors import InvalidRequestError

    lines: list[str] = []
    while True:
        try:
            line = input(prompt if not lines else "… " if prompt else "")
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"the input is not UTF-8 text: {error.reason}") from None
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])


def _plain(text: str) -> str:
    from cactus_py.cli._common import printable

    return printable(text)


@contextlib.contextmanager
def _line_history(client: Client) -> Any:
    """Line editing with a history that outlives the conversation; it is the user's own to read, and nobody else's."""
    from cactus_py.hub import Store

    try:
        import readline
    except ImportError:  # a Python without it: lines can still be typed
        yield
        return
    path = Store(client.settings.home).home / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.write_history_file(path)
            path.chmod(0o600)

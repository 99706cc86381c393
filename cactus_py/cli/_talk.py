"""What `run` and `chat` share: options, getting hold of the model, writing a stream to a terminal, and the line of figures."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from cactus_py.client import Client, Stream
    from cactus_py.types import ChatCompletionChunk, CompletionUsage, Timings

# Small models wander at OpenAI's temperature of 1; what their makers advise lies near these values.
TEMPERATURE = 0.2
TOP_P = 0.9
REPETITION_PENALTY = 1.1  # without one they fall into loops

_DIM, _NORMAL = "\x1b[2m", "\x1b[0m"

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="A name, an alias, or the path of a .gguf file.", show_default="smollm2")
]
SystemOption = Annotated[str | None, typer.Option("--system", "-s", help="Instructions for the whole conversation.")]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", "-n", min=1, help="Most tokens of an answer.", show_default="until its end")
]
TemperatureOption = Annotated[
    float,
    typer.Option("--temperature", "-t", min=0.0, max=2.0, help="0 always takes the likeliest token; more is more varied."),
]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="Draw from the likeliest tokens that hold this share of probability.")
]
RepetitionPenaltyOption = Annotated[
    float, typer.Option("--repetition-penalty", min=0.1, max=10.0, help="Above 1 discourages words that were already said.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.", show_default="random")]
ContextOption = Annotated[
    int | None, typer.Option("--context", min=1, help="Longest conversation in tokens.", show_default="the model's")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads.", show_default="all CPUs")]
SpeculationOption = Annotated[
    int | None,
    typer.Option("--speculation", min=0, max=16, help="Most tokens drafted at a time; 0: none.", show_default="the settings'"),
]
BackendOption = Annotated[
    str | None,
    typer.Option("--backend", help="What computes: auto, native or llama_cpp.", show_default="the settings'"),
]


@contextmanager
def open_client(
    model: str | None,
    context: int | None,
    threads: int | None,
    speculation: int | None,
    backend: str | None = None,
    router: Mapping[str, Any] | None = None,
) -> Iterator[Client]:
    """A client with its model at hand. What is not on this machine is fetched, after saying what and how large."""
    from cactus_py import Client, hub
    from cactus_py.cli._common import printable, pull_progress
    from cactus_py.config import load_settings
    from cactus_py.hub.files import size_text

    given = {"model": model, "context": context, "threads": threads, "speculation": speculation, "backend": backend}
    settings = load_settings({**given, **(router or {})})
    name = settings.model
    store = hub.Store(settings.home)
    entry = None if "/" in name or name.lower().endswith(".gguf") else hub.Catalog.load(store.home).get(name)
    if entry is not None and store.installed(entry.name) is None:
        size = size_text(entry.size_bytes)
        print(f"{printable(entry.name)} is not on this machine yet; fetching it ({size}).", file=sys.stderr, flush=True)
    with pull_progress(name) as progress:
        hub.resolve(name, store=store, progress=progress)
    with Client(config=settings) as client:
        client.warm_up()
        yield client


@dataclass
class Answer:
    """What came of one streamed answer."""

    text: str = ""
    finish_reason: str | None = None
    usage: CompletionUsage | None = None
    timings: Timings | None = None
    model: str = ""
    route: str | None = None
    confidence: float | None = None
    threshold: float | None = None
    interrupted: bool = field(default=False)


def write_stream(stream: Stream[ChatCompletionChunk]) -> Answer:
    """Prints an answer as it comes; in a terminal its reasoning too, dimmed, before it. Ctrl-C ends it; what was said until
    then stays. An answer that begins anew replaces what is on the screen, as far as that can be reached."""
    answer = Answer()
    safe = sys.stdout.isatty()
    thinks = False
    shown = ""  # what stands on the screen, without escape sequences
    with stream:
        try:
            for chunk in stream:
                answer.usage = chunk.usage or answer.usage
                answer.timings = chunk.timings or answer.timings
                answer.model, answer.route = chunk.model, chunk.route or answer.route
                if chunk.decision is not None:
                    answer.confidence, answer.threshold = chunk.confidence, chunk.decision.threshold
                if chunk.replaces:
                    if safe:
                        sys.stdout.write((_NORMAL if thinks else "") + taken_back(shown))
                    elif shown:
                        sys.stdout.write("\n")
                    answer.text, shown, thinks = "", "", False
                for choice in chunk.choices:
                    thought = for_terminal(choice.delta.reasoning_content or "") if safe else ""
                    if thought:
                        sys.stdout.write(thought if thinks else _DIM + thought)
                        shown += thought
                        thinks = True
                    text = choice.delta.content or ""
                    if thinks and (text or choice.finish_reason):
                        sys.stdout.write(_NORMAL + "\n\n")
                        shown += "\n\n"
                        thinks = False
                    answer.text += text
                    answer.finish_reason = choice.finish_reason or answer.finish_reason
                    said = for_terminal(text) if safe else text
                    shown += said
                    sys.stdout.write(said)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            answer.interrupted = True
    if thinks:
        sys.stdout.write(_NORMAL)
    return answer


def taken_back(shown: str) -> str:
    """What removes a text from the terminal, cursor behind it; where it has scrolled away or cannot be removed, a line that
    tells the reader."""
    if not shown:
        return ""
    from rich.cells import cell_len

    columns, lines = shutil.get_terminal_size()
    rows = sum(max(1, -(-cell_len(line.expandtabs(8)) // columns)) for line in shown.split("\n"))
    if os.environ.get("TERM", "dumb") == "dumb" or rows > lines:
        return f"\n{_DIM}(that was probably wrong; again, by the cloud)\n{_NORMAL}"
    return (f"\x1b[{rows - 1}A" if rows > 1 else "") + "\r\x1b[J"


def handoff_of(client: Client) -> Literal["restart"] | None:
    """How streams to standard output are handed over: a terminal can take back what it shows. None: as the settings say."""
    return "restart" if sys.stdout.isatty() and client.settings.router.handoff == "auto" else None


def dimmed(text: str) -> str:
    return f"{_DIM}{text}{_NORMAL}"


def verdict(answer: Answer) -> str:
    """A few words on where an answer came from, if not from here, or that it is probably wrong; else nothing."""
    if answer.route == "cloud":
        return f"(from the cloud: {for_terminal(answer.model)})"
    enough = 0.5 if answer.threshold is None else answer.threshold
    if answer.confidence is not None and answer.confidence < enough:
        return f"(unsure: right with a probability of {100 * answer.confidence:.0f} %)"
    return ""


def for_terminal(text: str) -> str:
    """The text without what would steer a terminal: a model may repeat escape sequences that it was given."""
    return "".join(char for char in text if char in "\n\t" or char == "\N{ZERO WIDTH JOINER}" or char.isprintable())


def figures(usage: CompletionUsage | None, timings: Timings | None) -> str:
    """One line: what was read and written, and how fast."""
    if usage is None or timings is None:
        return "no figures: the answer was interrupted"
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    known = f" ({cached} known)" if cached else ""
    reading = f"read {usage.prompt_tokens} tokens{known} in {timings.prompt_ms / 1000:.2f} s{_rate(timings.prompt_tok_s)}"
    writing = f"wrote {usage.completion_tokens} in {timings.decode_ms / 1000:.2f} s{_rate(timings.decode_tok_s)}"
    drafts = f", {timings.accepted_tokens} of {timings.drafted_tokens} drafted tokens stood" if timings.drafted_tokens else ""
    return f"{reading}, {writing}{drafts}"


def _rate(tokens_per_second: float | None) -> str:
    return f" ({tokens_per_second:.1f}/s)" if tokens_per_second else ""


def read_text(stream: Any, what: str) -> str:
    """All of a text stream. Raises InvalidRequestError if it is not UTF-8."""
    from cactus_py.errors import InvalidRequestError

    try:
        text: str = stream.buffer.read().decode("utf-8")
        return text
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{what} is not UTF-8 text: {error.reason} at byte {error.start}") from None

"""What `run` and `chat` share: options, getting hold of the model, writing a stream to a terminal, and the line of figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

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
) -> Iterator[Client]:
    """A client with its model at hand. What is not on this machine is fetched, after saying what and how large."""
    from cactus_py import Client, hub
    from cactus_py.cli._common import printable, pull_progress
    from cactus_py.config import load_settings
    from cactus_py.hub.files import size_text

    settings = load_settings(
        {"model": model, "context": context, "threads": threads, "speculation": speculation, "backend": backend}
    )
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
    interrupted: bool = field(default=False)


def write_stream(stream: Stream[ChatCompletionChunk]) -> Answer:
    """Prints an answer as it comes; in a terminal its reasoning too, dimmed, before it. Ctrl-C ends it; what was said until
    then stays."""
    answer = Answer()
    safe = sys.stdout.isatty()
    thinks = False
    with stream:
        try:
            for chunk in stream:
                answer.usage = chunk.usage or answer.usage
                answer.timings = chunk.timings or answer.timings
                for choice in chunk.choices:
                    thought = for_terminal(choice.delta.reasoning_content or "") if safe else ""
                    if thought:
                        sys.stdout.write(thought if thinks else _DIM + thought)
                        thinks = True
                    text = choice.delta.content or ""
                    if thinks and (text or choice.finish_reason):
                        sys.stdout.write(_NORMAL + "\n\n")
                        thinks = False
                    answer.text += text
                    answer.finish_reason = choice.finish_reason or answer.finish_reason
                    sys.stdout.write(for_terminal(text) if safe else text)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            answer.interrupted = True
    if thinks:
        sys.stdout.write(_NORMAL)
    return answer


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

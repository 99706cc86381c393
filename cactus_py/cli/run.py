"""`cactus-py run`: one prompt, one answer."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

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


def command(
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; - or nothing reads it from standard input.", show_default=False)
    ] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON when it is finished.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Then say on standard error what it cost.")] = False,
) -> None:
    """Answer one prompt. The answer appears on standard output while it is made."""
    from cactus_py.cli._talk import figures, open_client, read_text, write_stream
    from cactus_py.errors import InvalidRequestError

    if prompt is None and sys.stdin.isatty():
        raise typer.BadParameter("say what to ask, or pipe it in", param_hint="PROMPT")
    if prompt is None or prompt == "-":
        prompt = read_text(sys.stdin, "standard input")
    if not prompt.strip():
        raise InvalidRequestError("the prompt is empty", "prompt")
    options: dict[str, Any] = {
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    with open_client(model, context, threads, speculation, backend) as client:
        if as_json:
            reply = client.chat(prompt, **options)
            print(reply.model_dump_json(indent=2))
            usage, timings = reply.usage, reply.timings
        else:
            answer = write_stream(client.chat(prompt, stream=True, stream_options={"include_usage": True}, **options))
            if answer.interrupted or not answer.text.endswith("\n"):
                print(flush=True)
            if answer.interrupted:
                raise KeyboardInterrupt
            usage, timings = answer.usage, answer.timings
        if stats:
            print(figures(usage, timings), file=sys.stderr)

"""`cactus-py run`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

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
    policy: PolicyOption = None,
    threshold: ThresholdOption = None,
    max_cloud_share: MaxCloudShareOption = None,
    max_cost_per_day: MaxCostPerDayOption = None,
    min_quality: MinQualityOption = None,
    cloud_model: CloudModelOption = None,
    local_only: LocalOnlyOption = False,
    route: RouteOption = "auto",
    schema: Annotated[
        Path | None,
        typer.Option("--schema", help="A file with the JSON schema that the answer shall follow.", show_default=False),
    ] = None,
    regex: Annotated[
        str | None, typer.Option("--regex", help="The regular expression that the answer shall match.", show_default=False)
    ] = None,
    grammar: Annotated[
        Path | None, typer.Option("--grammar", help="A file with the grammar (Lark) of the answer.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON when it is finished.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Then say on standard error what it cost.")] = False,
) -> None:
    """Answer one prompt. The answer appears on standard output while it is made."""
    from cactus_py.cli._talk import figures, handoff_of, open_client, read_text, write_stream
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
        "route": route,
    }
    options["response_format"] = _form(schema, regex, grammar)
    router = router_settings(policy, threshold, max_cloud_share, max_cost_per_day, min_quality, cloud_model, local_only)
    with open_client(model, context, threads, speculation, backend, router) as client:
        if as_json:
            reply = client.chat(prompt, **options)
            print(reply.model_dump_json(indent=2))
            usage, timings = reply.usage, reply.timings
        else:
            options["handoff"] = handoff_of(client)
            answer = write_stream(client.chat(prompt, stream=True, stream_options={"include_usage": True}, **options))
            if answer.interrupted or not answer.text.endswith("\n"):
                print(flush=True)
            if answer.interrupted:
                raise KeyboardInterrupt
            usage, timings = answer.usage, answer.timings
        if stats:
            print(figures(usage, timings), file=sys.stderr)


def _form(schema: Path | None, regex: str | None, grammar: Path | None) -> dict[str, Any] | None:
    """The form that the answer shall have, as the API takes it."""
    from cactus_py.errors import InvalidRequestError

    if sum(option is not None for option in (schema, regex, grammar)) > 1:
        raise typer.BadParameter("only one of --schema, --regex and --grammar is possible")
    if regex is not None:
        return {"type": "regex", "regex": regex}
    file = schema or grammar
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8")
        if schema is None:
            return {"type": "grammar", "grammar": text}
        return {"type": "json_schema", "json_schema": {"schema": json.loads(text)}}
    except OSError as error:
        raise InvalidRequestError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{file} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{file} is no JSON: {error}") from None

"""`cactus-py embed`: texts as vectors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cactus_py.cli._talk import ThreadsOption

_BATCH = 256  # texts of one request: output begins before a long file is through


def command(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; none reads the lines of standard input.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Each line of this file is a text; - is standard input.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A name, an alias, or the path of a .gguf file.", show_default="all-minilm-l6-v2"),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", "-d", min=1, help="So many numbers of each vector.", show_default="all")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Of a text that is too long, take the beginning.")] = False,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one reply as JSON, with the tokens that were read.")] = False,
) -> None:
    """Turn texts into vectors of length 1: a line of numbers for each, in their order. Empty lines are left out."""
    from cactus_py.cli._common import print_json
    from cactus_py.cli._talk import open_client
    from cactus_py.config import load_settings
    from cactus_py.errors import InvalidRequestError

    if texts and file is not None:
        raise typer.BadParameter("give texts or a file, not both", param_hint="--file")
    if not texts and file is None and sys.stdin.isatty():
        raise typer.BadParameter("say what to embed, or pipe it in", param_hint="TEXTS")
    given = texts or _lines(file)
    if not given:
        raise InvalidRequestError("there are no texts", "input")
    name = model or load_settings({}).embedding_model
    with open_client(name, None, threads, None) as client:
        whole: dict[str, Any] | None = None
        for begin in range(0, len(given), _BATCH):
            part = given[begin : begin + _BATCH]
            reply = client.embeddings.create(input=part, model=name, dimensions=dimensions, truncate=truncate)
            if not as_json:
                for each in reply.data:
                    print(" ".join(f"{number:.8g}" for number in each.values))
            elif whole is None:
                whole = reply.model_dump()
            else:
                found = reply.model_dump()
                whole["data"] += [{**each, "index": begin + each["index"]} for each in found["data"]]
                for key, tokens in found["usage"].items():
                    whole["usage"][key] += tokens
        if whole is not None:
            print_json(whole)


def _lines(file: Path | None) -> list[str]:
    from cactus_py.cli._talk import read_text
    from cactus_py.errors import InvalidRequestError

    if file is None or str(file) == "-":
        text = read_text(sys.stdin, "standard input")
    else:
        try:
            text = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from None
        except OSError as error:
            raise InvalidRequestError(f"{file} cannot be read: {error.strerror or error}") from None
    return [line for line in text.splitlines() if line.strip()]

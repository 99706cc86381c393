"""`cactus-py transcribe`: the speech of an audio file as text."""

from __future__ import annotations

import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cactus_py.cli._talk import ThreadsOption, for_terminal

if TYPE_CHECKING:
    from cactus_py.client import Client

_PROGRESS_AFTER_S = 2.0  # what is done sooner needs no word about it


class Format(str, Enum):
    """How the text is printed."""

    text = "text"
    srt = "srt"
    vtt = "vtt"
    json = "json"
    verbose_json = "verbose_json"


class Timestamps(str, Enum):
    """What gets times."""

    segment = "segment"
    word = "word"


def command(
    file: Annotated[
        str, typer.Argument(help="An audio or video file (wav, mp3, flac, ogg, webm, m4a, …); - reads it from standard input.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A name, an alias, or a CTranslate2 folder.", show_default="the settings'"),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="Its ISO 639-1 code, as en.", show_default="found by listening")
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How the text is printed.")] = Format.text,
    timestamps: Annotated[
        list[Timestamps] | None,
        typer.Option("--timestamps", help="Times of what, in verbose JSON; may be given twice.", show_default="none"),
    ] = None,
    translate: Annotated[bool, typer.Option("--translate", help="English text, whatever is spoken.")] = False,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What was said before, or words to expect.", show_default="none")
    ] = None,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json; verbose with --timestamps.")] = False,
) -> None:
    """Write down the speech of an audio file. Text appears while it is made. A microphone cannot be listened to yet: record to
    a file first."""
    from cactus_py import Client
    from cactus_py.config import load_settings
    from cactus_py.errors import InvalidRequestError

    chosen = Format.json if as_json and format is Format.text else format
    if timestamps and chosen in (Format.text, Format.json):
        if not (as_json or chosen is Format.json):
            raise typer.BadParameter("times need --json, or --format srt, vtt or verbose_json", param_hint="--timestamps")
        chosen = Format.verbose_json
    if timestamps and chosen is not Format.verbose_json:
        timestamps = None  # subtitles have those of their segments in any case
    if translate and (language or timestamps):
        raise typer.BadParameter("--translate finds the language by itself, and gives no times of words")
    settings = load_settings({"threads": threads})
    _fetch(model or settings.transcription_model, settings)
    content: Any = sys.stdin.buffer.read() if file == "-" else Path(file).expanduser()
    options: dict[str, Any] = {"file": content, "model": model or settings.transcription_model, "prompt": prompt}
    with Client(config=settings) as client:
        if translate:
            result = client.audio.translations.create(response_format=chosen.value, **options)
        elif chosen is Format.text:
            options |= {"language": language}
            _stream(client, options)
            return
        else:
            options |= {"language": language, "timestamp_granularities": [each.value for each in timestamps or ()]}
            result = client.audio.transcriptions.create(response_format=chosen.value, **options)
    if isinstance(result, str):
        sys.stdout.write(for_terminal(result) if sys.stdout.isatty() else result)
    elif hasattr(result, "model_dump_json"):
        print(result.model_dump_json(indent=2, exclude_none=True))
    else:
        raise InvalidRequestError(f"no text came of {file}")


def _fetch(name: str, settings: Any) -> None:
    """Brings the model here, with bars, if it is in the catalog."""
    from cactus_py import hub
    from cactus_py.backends import faster_whisper
    from cactus_py.cli._common import pull_progress
    from cactus_py.errors import MissingExtraError

    if not faster_whisper.installed():
        raise MissingExtraError("writing down speech", faster_whisper.EXTRA)
    store = hub.Store(settings.home)
    entry = hub.Catalog.load(store.home).get(name)
    if entry is not None and entry.transcribes:
        with pull_progress(entry.name) as progress:
            hub.resolve(entry.name, store=store, progress=progress)


def _stream(client: Client, options: dict[str, Any]) -> None:
    """Prints text as it comes. Where that is not seen, a line on standard error now and then says that work goes on."""
    safe = sys.stdout.isatty()
    began = spoken = time.monotonic()
    n_chars = 0
    with client.audio.transcriptions.create(stream=True, **options) as events:
        for event in events:
            if event.type == "transcript.text.delta":
                sys.stdout.write(for_terminal(event.delta) if safe else event.delta)
                sys.stdout.flush()
                n_chars += len(event.delta)
                now = time.monotonic()
                if not safe and sys.stderr.isatty() and now - spoken > _PROGRESS_AFTER_S:
                    spoken = now
                    print(f"{n_chars:,} characters after {now - began:.0f} s …", file=sys.stderr, flush=True)
    print(flush=True)

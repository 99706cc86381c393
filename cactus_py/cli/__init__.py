"""The `cactus-py` command. One module per command, `cli/NAME.py`, which defines `command`, or `commands` by name where it has
several; it is imported only when asked for.

What a command raises becomes one sentence on stderr and exit status 1 (a traceback with --debug); wrong usage is status 2,
Ctrl-C 130. Options before the command's name belong to all of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer

# In the order of the help page. The sentence is that page's; a command's own help is the docstring of its function.
COMMANDS = {
    "run": "Answer one prompt.",
    "chat": "Talk with a model.",
    "serve": "Serve models over OpenAI's HTTP interface.",
    "embed": "Turn texts into vectors.",
    "pull": "Download models of the catalog.",
    "list": "List the models of the catalog and the store.",
    "show": "Describe a model or a model file.",
    "rm": "Delete models from the store.",
    "transcribe": "Write down the speech of an audio file.",
    "convert": "Make a GGUF file of a Hugging Face checkpoint.",
    "quantize": "Make a smaller model from a GGUF file.",
    "router": "Calibrate how sure to be of a model's answers, and measure it.",
    "bench": "Measure the speed and the memory of a model on this machine.",
    "doctor": "Check this machine, the engine and the settings.",
}
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point: runs a command, and exits with its status."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]  # `list` is a submodule here once it was imported
    try:
        _application(words)(args=words, prog_name="cactus-py")
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    raise SystemExit(0)


def _application(words: Sequence[str]) -> typer.Typer:
    """All commands by name, but only the one that is asked for in more than name."""
    application = typer.Typer(
        name="cactus-py",
        help="On-device inference: chat with models that run on this machine.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    state = {"debug": False}

    @application.callback()
    def options(
        debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
        ] = False,
    ) -> None:
        state["debug"] = debug

    asked = next((word for word in words if not word.startswith("-")), None)
    for name, sentence in COMMANDS.items():
        if name == asked:
            module = importlib.import_module(f"cactus_py.cli.{name}")
            if hasattr(module, "commands"):
                application.add_typer(_family(module.commands, state), name=name, help=sentence)
            else:
                application.command(name)(_guarded(module.command, state))
        else:
            application.command(name, help=sentence)(_unused)
    return application


def _family(commands: Mapping[str, Callable[..., Any]], state: dict[str, bool]) -> typer.Typer:
    """Commands under one name."""
    family = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    for name, command in commands.items():
        family.command(name)(_guarded(command, state))
    return family


def _unused() -> None:
    """Stands for a command that this invocation does not run."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from cactus_py import __version__

        print(f"cactus-py {__version__}")
        raise SystemExit(0)


def _guarded(command: Callable[..., Any], state: dict[str, bool]) -> Callable[..., Any]:
    """The command, with its failures as a sentence and an exit status. Its signature is what typer reads."""

    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> Any:
        from cactus_py.errors import CactusError

        try:
            result = command(*args, **options)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            if state["debug"]:
                raise
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            _silence(sys.stdout)  # the reader of a pipe has gone, as with `| head`
            raise typer.Exit(1) from None
        except CactusError as error:
            if state["debug"]:
                raise
            _complain(str(error))
            raise typer.Exit(1) from None
        except Exception as error:
            # typer.Exit, typer.Abort and usage errors are exceptions too; they come from typer's own (or click's) modules.
            if state["debug"] or type(error).__module__.partition(".")[0] in ("typer", "click"):
                raise
            _complain(
                f"Unexpected {type(error).__name__}: {error}. Run `cactus-py --debug …` to see where, and please report it."
            )
            raise typer.Exit(1) from None

    return guarded


def _complain(sentence: str) -> None:
    from cactus_py.cli._common import printable

    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"Error: {printable(sentence)}", file=sys.stderr)


def _silence(stream: Any) -> None:
    """Sends what is left in a stream nowhere, so that the interpreter's exit does not fail on it."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)

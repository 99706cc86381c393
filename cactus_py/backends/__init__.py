"""Backends by name: those of this package, and those that other packages name in the entry point group
`cactus_py.backends`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import BackendError, UnsupportedModelError

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Backend, BackendOptions

__all__ = ["available", "choose", "create"]

GROUP = "cactus_py.backends"
_BUILT_IN = {  # found without installation, and not to be replaced
    "auto": "cactus_py.backends.llama_cpp:AutoBackend",
    "faster_whisper": "cactus_py.backends.faster_whisper:FasterWhisperBackend",
    "llama_cpp": "cactus_py.backends.llama_cpp:LlamaCppBackend",
    "native": "cactus_py.backends.native:NativeBackend",
}


def available() -> list[str]:
    """Names of all backends that are installed."""
    from importlib.metadata import entry_points

    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def create(name: str, options: BackendOptions) -> Backend:
    """Makes the backend called `name`. Raises BackendError if there is none or if it cannot be imported."""
    try:
        return _factory(name)(options)
    except ImportError as error:
        if isinstance(error, BackendError):
            raise
        raise BackendError(f'the backend "{name}" cannot be imported: {error}') from error


def choose(path: Path) -> tuple[str | None, str]:
    """Which backend the setting "auto" takes for a model file or folder, and why; None if none of them runs it.

    Raises what opening the file raises, but for UnsupportedModelError.
    """
    from ..engine import Model
    from ..hub.store import is_model_folder
    from . import faster_whisper
    from .llama_cpp import EXTRA, LlamaModel, installed

    if is_model_folder(path):
        if faster_whisper.installed():
            return "faster_whisper", "a transcription model in CTranslate2's format"
        return None, f"faster-whisper runs it: pip install 'cactus-py[{faster_whisper.EXTRA}]'"
    try:
        Model.load(path, threads=1).close()
        return "native", "the engine runs it"
    except UnsupportedModelError as error:
        lacks = str(error).rstrip(".")
    if not installed():
        return None, f"{lacks}; llama.cpp may run it: pip install 'cactus-py[{EXTRA}]'"
    try:
        LlamaModel.check(path)
        return "llama_cpp", lacks
    except (UnsupportedModelError, BackendError) as error:
        return None, f"{lacks}; and {error}"


def _factory(name: str) -> type[Backend]:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        factory: type[Backend] = getattr(import_module(module), attribute)
        return factory
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP, name=name):
        factory = point.load()
        return factory
    raise BackendError(f'there is no backend "{name}"; there are: {", ".join(available())}')

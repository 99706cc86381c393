"""On-device hybrid inference: one OpenAI-shaped client over an engine of its own.

    from cactus_py import Client

    client = Client()
    print(client.chat("Why is the sky blue?").text)

`Client` and `AsyncClient` are imported when first asked for: importing this package costs almost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    BackendError,
    CactusError,
    ChecksumError,
    CloudError,
    ConfigError,
    ContextLengthError,
    DownloadError,
    EngineError,
    InvalidRequestError,
    MissingExtraError,
    ModelFileError,
    ModelFormatError,
    OutOfMemoryError,
    OverloadedError,
    RequestCancelledError,
    RequestTimeoutError,
    StoreError,
    TemplateError,
    UnknownModelError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from .client import AsyncClient, Client

    __version__: str

__all__ = [
    "AsyncClient",
    "BackendError",
    "CactusError",
    "ChecksumError",
    "Client",
    "CloudError",
    "ConfigError",
    "ContextLengthError",
    "DownloadError",
    "EngineError",
    "InvalidRequestError",
    "MissingExtraError",
    "ModelFileError",
    "ModelFormatError",
    "OutOfMemoryError",
    "OverloadedError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "StoreError",
    "TemplateError",
    "UnknownModelError",
    "UnsupportedModelError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    value: Any
    if name in ("AsyncClient", "Client"):
        from . import client

        value = getattr(client, name)
    elif name == "__version__":
        from importlib import metadata

        try:
            value = metadata.version("cactus-py")
        except metadata.PackageNotFoundError:  # a source tree that is not installed
            value = "unknown"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

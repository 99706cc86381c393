"""Every error that cactus_py raises on purpose, in one tree.

CactusError
├── ModelFileError            a model file is missing or cannot be read
├── ModelFormatError          a model file is damaged, or breaks the rules of its format
├── UnsupportedModelError     a valid model file asks for something that the engine does not run
├── InvalidRequestError       a value in a request is out of range, of the wrong kind or unknown (also ValueError)
│   └── ContextLengthError    the prompt does not fit the context of the model
├── OutOfMemoryError          memory could not be had (also MemoryError)
├── RequestCancelledError     the request was cancelled, or its client or engine was closed
├── RequestTimeoutError       nothing happened within the time given (also TimeoutError)
├── OverloadedError           too many requests wait already; try again later
├── EngineError               a defect inside the engine: please report it
├── UnknownModelError         neither a name in the catalog, nor an installed model, nor a file
├── DownloadError             a model could not be fetched from any of its sources
│   └── ChecksumError         what was fetched is not what the catalog promises
├── StoreError                the local model store cannot be read or written
├── ConfigError               a setting is missing, contradictory or malformed
├── TemplateError             a chat template is wrong, or refuses these messages
├── MissingExtraError         an optional dependency is not installed (also ImportError)
└── BackendError              a backend could not be found, or failed
    └── CloudError            the cloud did not answer, or not with what can be used

The text of an error is one sentence or two for a person: what is wrong, and what to do. Programs look at the class, and at
the attributes documented below.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BackendError",
    "CactusError",
    "ChecksumError",
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
]


class CactusError(Exception):
    """The base of all errors of this package."""

    @property
    def message(self) -> str:
        """The text for a person."""
        return str(self)


class ModelFileError(CactusError):
    """A model file does not exist, is not a file, or cannot be opened, read or mapped."""


class ModelFormatError(CactusError):
    """A model file is damaged, truncated or breaks the rules of its format."""


class UnsupportedModelError(CactusError):
    """A valid model file asks for something that the engine does not run: an architecture, a tensor type, a tokenizer."""


class InvalidRequestError(CactusError, ValueError):
    """A value in a request is out of range, of the wrong kind, or unknown. Raised before any work is done.

    `param` names the field ("temperature", "messages[2].role"), or is None where no single field is at fault.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (str(self), self.param)


class ContextLengthError(InvalidRequestError):
    """The prompt, with what it must leave free, does not fit the context. Counts are tokens; None where not known."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        prompt_tokens: int | None = None,
        context_tokens: int | None = None,
    ) -> None:
        super().__init__(message, param)
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:  # type: ignore[override]
        counts: dict[str, object] = {"prompt_tokens": self.prompt_tokens, "context_tokens": self.context_tokens}
        return type(self), (str(self), self.param), counts


class OutOfMemoryError(CactusError, MemoryError):
    """Memory for weights, for keys and values, or for activations could not be had."""


class RequestCancelledError(CactusError):
    """The request was cancelled before its end, or the client or engine that ran it was closed."""


class RequestTimeoutError(CactusError, TimeoutError):
    """Nothing happened within the time given; the same request may succeed later."""


class OverloadedError(CactusError):
    """Too many requests wait already. `retry_after_s`: seconds after which it is worth to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (str(self), self.retry_after_s)


class EngineError(CactusError):
    """A defect inside the engine, never the fault of the caller or of a file. Please report it."""


class UnknownModelError(CactusError):
    """A model's name is neither in the catalog, nor installed, nor the path of a file.

    `name` is what was asked for, `suggestions` the nearest known names, best first.
    """

    def __init__(self, message: str, *, name: str | None = None, suggestions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.suggestions = suggestions

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:
        return type(self), (str(self),), {"name": self.name, "suggestions": self.suggestions}


class DownloadError(CactusError):
    """A model could not be fetched from any of its sources; the text says why each of them failed."""


class ChecksumError(DownloadError):
    """What was fetched differs from the bytes that the catalog promises; it was not installed."""


class StoreError(CactusError):
    """The local model store cannot be read or written: the disk is full, a permission is missing, a record is damaged."""


class ConfigError(CactusError):
    """A setting is missing, malformed, or contradicts another one."""


class TemplateError(CactusError):
    """A chat template is malformed, does something that is not allowed, or refuses the messages it was given."""


class MissingExtraError(CactusError, ImportError):
    """An optional dependency is not installed. `extra` names what to install: pip install "cactus-py[extra]"."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs the "{extra}" extra; install it with: pip install "cactus-py[{extra}]"')
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.feature, self.extra)


class BackendError(CactusError):
    """A backend is not installed, could not be started, or failed outside the request's own fault."""


class CloudError(BackendError):
    """The cloud did not answer, or not with what can be used.

    `kind` says how: "offline" (no network, or nobody at the address), "tls", "timeout", "rate_limited", "server" (5xx), "auth"
    (401, 403), "refused" (the request itself, any other 4xx), "invalid" (no reply of the protocol, or one that was cut), "open"
    (the circuit breaker: it failed too often just now), "busy" (too many requests under way). `status` is that of HTTP, if
    there was one; `retry_after_s` when it is worth to try again, if that is known.
    """

    Kind = Literal["offline", "tls", "timeout", "rate_limited", "server", "auth", "refused", "invalid", "open", "busy"]

    def __init__(
        self, message: str, kind: Kind = "invalid", *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:
        return type(self), (str(self), self.kind), {"status": self.status, "retry_after_s": self.retry_after_s}

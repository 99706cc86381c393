"""Failures as OpenAI writes them: a status, and {"error": {"message", "type", "param", "code"}}.

What a caller reads is one sentence about the request; what happened inside goes to the log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..errors import CactusError, CloudError, InvalidRequestError

__all__ = ["Failure", "RequestFailure", "failure_of"]

CLIENT_GONE = 499  # nobody reads it; the log does, and knows it from other servers


@dataclass(frozen=True)
class Failure:
    """What a request is answered with when it fails."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class RequestFailure(Exception):
    """Raised where a request is found wrong before any client saw it."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.failure = Failure(status, message, **details)


# By the name of the class, or of the nearest of its bases: status, type, code. The text of these is for the caller.
_TOLD: dict[str, tuple[int, str, str | None]] = {
    "ContextLengthError": (400, "invalid_request_error", "context_length_exceeded"),
    "InvalidRequestError": (400, "invalid_request_error", None),
    "TemplateError": (400, "invalid_request_error", None),
    "ConfigError": (400, "invalid_request_error", None),
    "MissingExtraError": (400, "invalid_request_error", "not_available"),
    "UnknownModelError": (404, "invalid_request_error", "model_not_found"),
    "OverloadedError": (429, "rate_limit_error", "overloaded"),
    "RequestTimeoutError": (504, "timeout_error", "timeout"),
}
# Of a request that only the cloud could answer, by the kind of its failure. What it refuses it will refuse again: 400, so that
# nobody asks again; a gateway without an answer is 502 or 504; what passes by itself is 429 or 503, and says when.
_CLOUD: dict[str, int] = {
    "refused": 400,
    "rate_limited": 429,
    "auth": 502,
    "invalid": 502,
    "offline": 502,
    "server": 502,
    "tls": 502,
    "busy": 503,
    "open": 503,
    "timeout": 504,
}
_CLOUD_SECRETS = {"auth", "tls"}  # whose text is about this server's keys and certificates
# The same for errors whose text may name files of this machine; the caller gets the sentence here.
_KEPT: dict[str, tuple[int, str, str, str]] = {
    "OutOfMemoryError": (
        503,
        "server_error",
        "out_of_memory",
        "The server has not enough memory for this request; try a shorter one.",
    ),
    "UnsupportedModelError": (400, "invalid_request_error", "model_not_supported", "This server cannot run that model."),
    "ModelFileError": (500, "server_error", "model_not_loaded", "The server could not load that model; its log says why."),
    "ModelFormatError": (500, "server_error", "model_not_loaded", "The server could not load that model; its log says why."),
}


def failure_of(error: BaseException, *, request_id: str, stopping: bool = False) -> Failure:
    """What to answer when `error` ended a request."""
    if isinstance(error, RequestFailure):
        return error.failure
    if isinstance(error, CloudError):
        return _cloud_failure(error, request_id)
    if isinstance(error, CactusError):
        param = error.param if isinstance(error, InvalidRequestError) else None
        for kind in type(error).__mro__:
            if kind.__name__ in _TOLD:
                status, name, code = _TOLD[kind.__name__]
                if status == 404:
                    param = "model"
                headers = {}
                if status == 429:
                    headers["retry-after"] = str(max(1, math.ceil(getattr(error, "retry_after_s", None) or 1)))
                return Failure(status, str(error), name, param, code, headers)
            if kind.__name__ in _KEPT:
                status, name, code, message = _KEPT[kind.__name__]
                return Failure(status, message, name, param, code)
            if kind.__name__ == "RequestCancelledError":
                if stopping:
                    return stopping_failure()
                return Failure(CLIENT_GONE, "The request was cancelled.", "server_error", code="cancelled")
    message = f"The server failed to answer this request; its log says why, under the request id {request_id}."
    return Failure(500, message, "server_error", code="internal_error")


def _cloud_failure(error: CloudError, request_id: str) -> Failure:
    status = _CLOUD.get(error.kind, 502)
    message = str(error)
    if error.kind in _CLOUD_SECRETS:
        message = f"The cloud and this server do not accept each other; its log says why, under the request id {request_id}."
    headers = {}
    if status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    return Failure(status, message, "cloud_error", code=error.kind, headers=headers)


def stopping_failure() -> Failure:
    """What is answered while the server stops."""
    message = "The server is shutting down; ask again later."
    return Failure(503, message, "server_error", code="shutting_down", headers={"retry-after": "5", "connection": "close"})


def was_foreseen(error: BaseException) -> bool:
    """Whether the text that the caller gets says all; else the log needs more."""
    if isinstance(error, CloudError):
        return error.kind not in _CLOUD_SECRETS
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, RequestFailure) or bool(names & {*_TOLD, "RequestCancelledError"})

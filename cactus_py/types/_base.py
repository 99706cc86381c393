"""What all wire types share: how requests are checked, and how a failed check becomes one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InvalidRequestError

__all__ = ["RequestModel", "ResponseModel", "parse_request"]

Request = TypeVar("Request", bound="RequestModel")


class RequestModel(BaseModel):
    """What a caller writes. Unknown fields are refused: a misspelt option must not be dropped in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ResponseModel(BaseModel):
    """What is answered. Further fields are kept, so that newer servers can be read."""

    model_config = ConfigDict(extra="allow")


def parse_request(kind: type[Request], fields: Mapping[str, Any]) -> Request:
    """Checks `fields` and builds a request. Raises InvalidRequestError about the first field that is wrong."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise _explain(kind, error) from None


def _explain(kind: type[RequestModel], error: ValidationError) -> InvalidRequestError:
    # An unknown field is reported first: it is often a misspelling of the one that is missing.
    problems = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    problem = problems[0]
    param = _path(problem["loc"])
    what, context = problem["type"], problem.get("ctx", {})
    if what == "extra_forbidden":
        name = str(problem["loc"][-1])
        where = f" in {_path(problem['loc'][:-1])}" if len(problem["loc"]) > 1 else ""
        near = difflib.get_close_matches(name, kind.model_fields, n=1) if len(problem["loc"]) == 1 else []
        hint = f'; did you mean "{near[0]}"?' if near else ""
        return InvalidRequestError(f'unknown field "{name}"{where}{hint}', param)
    if what == "missing":
        return InvalidRequestError(f"{param} is missing", param)
    if what == "union_tag_invalid":
        tag = str(context.get("tag", "")).lstrip("~")
        expected = str(context.get("expected_tags", "")).replace("~", "").replace("'", "")
        field = "type" if ".content" in param else "role"
        return InvalidRequestError(f'{param}.{field} is "{tag}"; known are {expected}', f"{param}.{field}")
    if what == "union_tag_not_found":
        field = "type" if ".content" in param else "role"
        return InvalidRequestError(f"{param} should be an object with a {field}", param)
    if what == "value_error":
        reason = context.get("error", problem["msg"])
        if isinstance(reason, InvalidRequestError):
            return reason
        return InvalidRequestError(f"{param}: {reason}" if param else str(reason), param or None)
    message = problem["msg"]
    for opening in ("Input should", "String should", "List should", "Value should"):
        message = message.replace(opening, f"{param} should", 1)
    if not message.startswith(param):
        message = f"{param}: {message}"
    got = problem.get("input")
    if got is None or isinstance(got, (bool, int, float)) or (isinstance(got, str) and len(got) <= 40):
        message += f", not {got!r}"
    return InvalidRequestError(message, param)


def _path(location: tuple[int | str, ...]) -> str:
    """("messages", 2, "~user", "content") -> "messages[2].content". Elements with a tilde or
    a bracket are branches of a union."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("~") and "[" not in part:
            path += f".{part}" if path else part
    return path

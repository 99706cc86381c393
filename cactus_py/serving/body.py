"""Reading what a request carries: never more than allowed, never for longer than allowed, and never a surprise later on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from .errors import RequestFailure

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

__all__ = ["check_pictures", "discard", "header", "limited", "media_type", "read_form", "read_json"]

_SECONDS = 60.0  # for the whole body to arrive
_BRIEF_SECONDS = 5.0  # to look at the rest of a body that is not wanted, so that its sender hears why
_MAX_DEPTH = 128  # of JSON
_MAX_MARKS = 1_000_000  # commas and brackets: a body of nothing else keeps the event loop for seconds, and everybody with it


def header(scope: Scope, name: bytes) -> str | None:
    """A header's value. Raises RequestFailure if it comes twice: which one would count?"""
    found = [value for key, value in scope["headers"] if key == name]
    if len(found) > 1:
        raise RequestFailure(400, f"The request has the header {name.decode()} {len(found)} times; send it once.")
    return found[0].decode("latin-1").strip() if found else None


def media_type(scope: Scope) -> str:
    """The kind of the body, without parameters."""
    return (header(scope, b"content-type") or "").partition(";")[0].strip().lower()


def limited(scope: Scope, receive: Receive, limit_bytes: int) -> Receive:
    """`receive`, but for larger bodies than `limit_bytes`, and for those that take too long: there it raises RequestFailure."""
    too_large = f"The body of the request is larger than the {limit_bytes} bytes that this server takes."
    length = header(scope, b"content-length")
    announced = int(length) if length is not None and length.isdecimal() else 0
    deadline = asyncio.get_running_loop().time() + _SECONDS
    n_bytes = 0
    complete = False

    def refused() -> RequestFailure:  # made where it is raised: kept, it and its traceback would hold each other, and the body
        return RequestFailure(413, too_large, code="body_too_large", headers={"connection": "close"})

    async def limited_receive() -> Message:
        nonlocal n_bytes, complete
        if complete:  # what follows the body is the client's leaving, for which there is no limit of time
            return await receive()
        if announced > limit_bytes:
            raise refused()
        try:
            message = await asyncio.wait_for(receive(), deadline - asyncio.get_running_loop().time())
        except asyncio.TimeoutError:
            message_text = f"The body of the request did not arrive within {_SECONDS:.0f} seconds."
            raise RequestFailure(408, message_text, code="timeout", headers={"connection": "close"}) from None
        n_bytes += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if n_bytes > limit_bytes:
            raise refused()
        return message

    return limited_receive


async def discard(receive: Receive, limit_bytes: int = 64 << 20) -> None:
    """Reads on for a moment: a connection that is closed on data nobody read takes the answer with it."""

    async def read() -> None:
        n_bytes = 0
        while n_bytes < limit_bytes:
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                return

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), _BRIEF_SECONDS)


async def read_json(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The body as a JSON object. `receive` is `limited`. Raises RequestFailure."""
    kind = media_type(scope)
    if kind != "application/json":
        found = f'not "{kind[:100]}"' if kind else "and the request has none"
        raise RequestFailure(415, f"The header content-type should be application/json, {found}.")
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestFailure(400, "The body of the request was cut off.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    data = b"".join(parts)
    if not data:
        raise RequestFailure(400, "The body of the request is empty; it should be a JSON object.")
    if sum(data.count(mark) for mark in b",[{") > _MAX_MARKS:
        raise RequestFailure(
            400, f"The body of the request holds more than {_MAX_MARKS} commas and brackets.", code="body_too_large"
        )
    try:
        data.decode("utf-8")
        value = from_json(data, allow_inf_nan=False)
    except UnicodeDecodeError as error:
        raise RequestFailure(400, f"The body of the request is not UTF-8: {error.reason} at byte {error.start}.") from None
    except (ValueError, RecursionError) as error:
        raise RequestFailure(400, f"The body of the request is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise RequestFailure(400, "The body of the request should be a JSON object.")
    if _depth_exceeds(value, _MAX_DEPTH):
        raise RequestFailure(400, f"The body of the request is nested more than {_MAX_DEPTH} levels deep.")
    return value


def check_pictures(messages: Any) -> None:
    """Pictures of a chat come with it: a request must not make the server open a file or ask another machine. What else may be
    wrong is left to the types. Raises RequestFailure."""
    for position, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else ()):
            picture = part.get("image_url") if isinstance(part, dict) else None
            url = picture.get("url") if isinstance(picture, dict) else picture
            if isinstance(url, str) and url[:5].lower() != "data:":
                where = f"messages[{position}].content[{number}].image_url"
                message_text = f"{where} should be a data: URL; this server fetches no pictures."
                raise RequestFailure(400, message_text, param=where)


_LISTS = ("timestamp_granularities", "include")  # what a form repeats, or writes with [] behind the name
_SWITCHES = {"true": True, "1": True, "false": False, "0": False}
_NUMBERS = ("temperature", "timeout")


async def read_form(scope: Scope, receive: Receive, file: str) -> tuple[dict[str, Any], tuple[str, bytes]]:
    """The fields of a multipart form, in the types that a JSON body would have, and the file called `file`. `receive` is
    `limited`. Raises RequestFailure."""
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request

    if media_type(scope) != "multipart/form-data":
        raise RequestFailure(415, "The header content-type should be multipart/form-data.")
    fields: dict[str, Any] = {}
    found: tuple[str, bytes] | None = None
    try:
        async with Request(scope, receive).form(max_files=1, max_fields=64, max_part_size=1 << 20) as form:
            for key, value in form.multi_items():
                name = key.removesuffix("[]")
                if isinstance(value, UploadFile):
                    if name != file:
                        raise RequestFailure(400, f'The file should be the field "{file}" of the form.', param=file)
                    found = value.filename or file, await value.read()
                elif name in _LISTS:
                    fields.setdefault(name, []).append(value)
                elif name in fields:
                    raise RequestFailure(400, f"The form has the field {name[:100]} more than once.", param=name[:100])
                else:
                    fields[name] = _typed(name, value)
    except ClientDisconnect:
        raise RequestFailure(400, "The body of the request was cut off.") from None
    except HTTPException as error:
        raise RequestFailure(400, f"The form cannot be read: {error.detail}.".replace("..", ".")) from None
    except (UnicodeDecodeError, LookupError):
        raise RequestFailure(400, "The form is not UTF-8.") from None
    if found is None:
        raise RequestFailure(400, f"{file} is missing.", param=file)
    return fields, found


def _typed(name: str, text: str) -> Any:
    """A form's text as what JSON would hold; what is no such thing stays text, and is refused by its type."""
    if name == "stream":
        return _SWITCHES.get(text.lower(), text)
    if name in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _depth_exceeds(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        level = [item for container in level for item in _items(container) if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _items(container: Mapping[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(container.values()) if isinstance(container, Mapping) else iter(container)

"""The description at /openapi.json, made of the same types that check the requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["answers", "install", "operation"]

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_requests: set[type[BaseModel]] = set()
_replies: set[type[BaseModel]] = set()
_forms: dict[str, str] = {}  # request type to the field that is a file


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def answers(reply: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer."""
    _replies.add(reply)
    content: dict[str, Any] = {"application/json": {"schema": _reference(reply)}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    failure = {"content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}}
    failures = {
        "4XX": {"description": "The request is wrong.", **failure},
        "5XX": {"description": "The server failed.", **failure},
    }
    found: dict[int | str, dict[str, Any]] = {200: {"description": "The reply.", "content": content}}
    return found | failures


def operation(request: type[BaseModel], reply: type[BaseModel], *, file: str | None = None) -> dict[str, Any]:
    """The arguments of a route that takes a JSON body, or, with a `file`, a form."""
    _requests.add(request)
    kind, name = "application/json", request.__name__
    if file is not None:
        _forms[name] = file
        kind, name = "multipart/form-data", name + "Form"
    body = {"required": True, "content": {kind: {"schema": {"$ref": _REF.format(model=name)}}}}
    return {"responses": answers(reply, streams=True), "openapi_extra": {"requestBody": body}}


def install(app: FastAPI) -> None:
    """Makes the application describe itself."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = describe()
            inputs = [(model, "validation") for model in sorted(_requests, key=lambda model: model.__name__)]
            outputs = [(model, "serialization") for model in sorted(_replies, key=lambda model: model.__name__)]
            _, schema = models_json_schema([*inputs, *outputs], ref_template=_REF)  # type: ignore[list-item]
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(schema.get("$defs", {}))
            for name, file in _forms.items():  # the fields of the request, and the file beside them
                form = schemas[name]
                properties = {**form["properties"], file: {"type": "string", "format": "binary"}}
                schemas[name + "Form"] = {**form, "properties": properties, "required": [*form.get("required", ()), file]}
            schemas["Error"] = _ERROR
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

"""Wire messages -> the plain dicts that chat templates know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequestError

if TYPE_CHECKING:
    from ..types.chat import ChatMessage

__all__ = ["template_messages"]


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as templates written for transformers expect them: text content, no empty fields, tool arguments as objects.

    Developer messages become system messages, function messages tool messages. Raises InvalidRequestError for parts that are
    not text.
    """
    plain: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
        entry: dict[str, Any] = {"role": role, "content": _text(message.content, f"messages[{position}].content")}
        for field in ("name", "reasoning_content", "tool_call_id"):
            if getattr(message, field, None) is not None:
                entry[field] = getattr(message, field)
        if message.role == "assistant":
            if message.content is None and message.refusal is not None:
                entry["content"] = message.refusal
            calls = [(call.id, call.function) for call in message.tool_calls or ()]
            if message.function_call is not None:
                calls.append((f"call_{position}", message.function_call))
            if calls:
                entry["tool_calls"] = [
                    {"id": key, "type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments)}}
                    for key, call in calls
                ]
        plain.append(entry)
    return plain


def _text(content: Any, param: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for position, part in enumerate(content):
        if part.type not in ("text", "refusal"):
            where = f"{param}[{position}]"
            raise InvalidRequestError(f'{where} is of type "{part.type}"; local models take only text in this version', where)
        texts.append(part.text if part.type == "text" else part.refusal)
    return "\n".join(texts)


def _arguments(text: str) -> Any:
    """Templates print arguments as JSON; text that is no JSON object stays the text that the model wrote."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text

"""Conversations that a template does not know, put into a form that it does; no message is ever lost in silence.

Templates differ in what they accept. One has no system role and refuses it, another leaves it out without a word; some demand
that user and assistant alternate, some know neither tool calls nor results, some look for content in a list of parts. So each
template is first shown the *shape* of a conversation: the same roles and fields, with marks in place of the texts. If every
mark comes out, the messages are given to it as they are. Otherwise the steps below are tried, the least intrusive combination
first, until one brings every mark through; it is then applied to the real messages. Results are kept by shape.

What the steps do, by rising cost:
- `null_content`, `string_arguments`, `short_ids`, `parts`: another spelling of the same message: no content instead of an
  empty one beside tool calls; arguments as JSON text; call ids of nine letters and digits; content as a list of parts;
- `forget`: reasoning of old messages that call tools is left out (a template may refuse it; it is no message);
- `tools`: an empty list of definitions instead of none, for templates that were written for tools only;
- `split`: a text and the calls of one message become two messages; `serial`: so do several calls, each with its result;
- `merge`: neighbours of the same role become one message, a blank line between them;
- `lead`: all system messages become one, at the front; `fold`: they go in front of the text of the next user message;
- `results`, `calls`, `definitions`: tools as text. Results become a user message, `<tool_response>…</tool_response>`, the form
  that most models have seen; calls go behind the assistant's text as the model itself writes them (`prompting.tools`);
  definitions go into the system message, one JSON object per line in `<tools>…</tools>`;
- `open`: an empty user message goes in front of a conversation that the assistant begins.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from ..errors import TemplateError
from .template import ChatTemplate
from .tools import FORMATS, Format, spell

__all__ = ["Adapter"]

Message = dict[str, Any]
Conversation = tuple[list[Message], "list[Any] | None"]  # messages and tool definitions
Step = Callable[[list[Message], "list[Any] | None"], Conversation]
Write = Callable[[list[Mapping[str, Any]]], str]  # calls, as the model writes them

_SEARCH_SECONDS = 3.0  # of this thread's computing: what else the machine does changes no prompt
_MAX_SHAPES = 256
_TOOLS_TEXT = (
    "You may call these functions. To call one, write a JSON object with its name and its arguments between <tool_call> and "
    "</tool_call>.\n<tools>\n{}\n</tools>"
)


class Adapter:
    """The steps that one template needs, found by trying. Safe to share between threads."""

    def __init__(self, template: ChatTemplate, form: Format | None = None) -> None:
        """`form`: in which the model writes calls; Hermes' if not given."""
        self._template = template
        self._form = form or next(form for form in FORMATS if form.name == "hermes")
        self._lock = threading.Lock()
        self._known: dict[Any, tuple[str, ...] | str] = {}  # by shape: steps, or why there are none

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        markers: Mapping[str, str] | None = None,
    ) -> Conversation:
        """The conversation as the template takes it. `markers`: what to write in place of markers of the model's calls, where
        those are put into text. Raises TemplateError where it would lose a message whatever is done."""
        plain = [{**message, "content": message.get("content") or ""} for message in messages]
        given = plain, None if tools is None else list(tools)
        shape = _shape(given[0])
        key = (tuple(shape), bool(tools), repr(sorted((variables or {}).items())))
        with self._lock:
            found = self._known.get(key)
        if found is None:
            found = self._search(_marked(shape), bool(tools), variables or {})
            with self._lock:
                if len(self._known) >= _MAX_SHAPES:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = found
        if isinstance(found, str):
            raise TemplateError(found)
        return (
            _apply(found, *given, self._writer(markers or {})) if found else ([dict(message) for message in messages], given[1])
        )

    def _writer(self, markers: Mapping[str, str]) -> Write:
        def write(calls: list[Mapping[str, Any]]) -> str:
            if not markers:
                return spell(self._form, calls)
            return spell(self._form.spelled(markers), calls)

        return write

    def _search(self, messages: list[Message], with_tools: bool, variables: Mapping[str, Any]) -> tuple[str, ...] | str:
        from .sandbox import Limits  # which loads jinja2

        limits = Limits(steps=200_000 + 2_000 * len(messages), units=(8 << 20) + 20_000 * len(messages))
        tools = [_tool(_mark("tool", 0))] if with_tools else None
        wanted = {mark for i, message in enumerate(messages) for mark in _marks(i, message)}
        wanted |= {_mark("tool", 0)} if with_tools else set()
        deadline = time.thread_time() + _SEARCH_SECONDS
        seen: set[str] = set()
        lost: str | None = None
        for steps in _combinations(_relevant(messages, with_tools)):
            adapted = _apply(steps, messages, tools, self._writer({}))
            form = repr(adapted)
            if form in seen:
                continue
            seen.add(form)
            try:
                text = self._template.render(adapted[0], tools=adapted[1], variables=variables, limits=limits)
            except TemplateError:
                text = None
            missing = set() if text is None else {mark for mark in wanted if mark not in text}
            if text is not None and not missing:
                return steps
            if not steps:
                if text is None:
                    lost = ""
                else:
                    roles = (m["role"] for i, m in enumerate(messages) if missing & _marks(i, m))
                    role = next(roles, None)
                    lost = "a definition of a tool" if role is None else f'a message of the role "{role}"'
            if time.thread_time() > deadline:
                break
        if not lost:
            return ()  # it refuses: the real rendering will say so in the template's own words
        return f"the model's chat template leaves out {lost} of this conversation, in whatever form it is put"


# ---- shapes ------------------------------------------------------------------------------------------------------------


def _shape(messages: Sequence[Message]) -> list[tuple[Any, ...]]:
    """What a template may look at besides texts, one tuple per message. Long runs of plain turns are cut short: a template
    that takes four takes more."""
    known = {call.get("id") for message in messages for call in message.get("tool_calls") or ()}
    shape: list[tuple[Any, ...]] = []
    for message in messages:
        calls = tuple(
            (isinstance(call["function"]["arguments"], Mapping), bool(call["function"]["arguments"]), _is_short(call.get("id")))
            for call in message.get("tool_calls") or ()
        )
        key = message.get("tool_call_id")
        answered = None if key is None else (_is_short(key), key in known)
        thought = bool(message.get("reasoning_content"))
        shape.append((message["role"], bool(message["content"]), thought, calls, "name" in message, answered))
        turn = shape[-2:]
        if turn == shape[-4:-2] == shape[-6:-4] == shape[-8:-6] and not any(
            calls or answered for *_, calls, _, answered in turn
        ):
            del shape[-2:]
    return shape


def _is_short(key: Any) -> bool:
    return isinstance(key, str) and len(key) == 9 and key.isascii() and key.isalnum()


def _mark(kind: str, i: int, j: int = 0) -> str:
    return f"{kind}Zq{i}x{j}qZ"


def _marked(shape: Sequence[tuple[Any, ...]]) -> list[Message]:
    """A conversation of this shape, with marks for texts."""
    messages: list[Message] = []
    open_ids: list[str] = []
    for i, (role, content, reasoning, calls, named, answered) in enumerate(shape):
        message: Message = {"role": role, "content": _mark("text", i) if content else ""}
        if reasoning:
            message["reasoning_content"] = "because"
        if named:
            message["name"] = "someone"
        if calls:
            open_ids = [f"call{i % 100:02d}{j % 1000:03d}" if call[2] else f"call_{i}_{j}" for j, call in enumerate(calls)]
            message["tool_calls"] = []
            for j, (as_object, filled, _) in enumerate(calls):
                arguments: Any = {"value": _mark("argument", i, j)} if filled else {}
                if not as_object:
                    arguments = json.dumps(arguments) if filled else ""
                function = {"name": _mark("call", i, j), "arguments": arguments}
                message["tool_calls"].append({"id": open_ids[j], "type": "function", "function": function})
        if answered is not None:
            short, known = answered
            message["tool_call_id"] = open_ids.pop(0) if known and open_ids else "other0000" if short else "other_call"
        messages.append(message)
    return messages


def _marks(i: int, message: Message) -> set[str]:
    marks = {message["content"]} if message["content"] else set()
    for j, call in enumerate(message.get("tool_calls") or ()):
        marks.add(call["function"]["name"])
        if call["function"]["arguments"]:
            marks.add(_mark("argument", i, j))
    return marks


def _tool(name: str) -> dict[str, Any]:
    value = {"type": "string", "description": "A value."}
    schema = {"type": "object", "properties": {"value": value}, "required": ["value"]}
    return {"type": "function", "function": {"name": name, "description": "A function.", "parameters": schema}}


# ---- steps -------------------------------------------------------------------------------------------------------------


def _each(change: Callable[[Message], Message]) -> Step:
    return lambda messages, tools: ([change(message) for message in messages], tools)


def _null_content(message: Message) -> Message:
    return {**message, "content": None} if message.get("tool_calls") and message["content"] == "" else message


def _with_calls(message: Message, change: Callable[[Message], Message]) -> Message:
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [change(call) for call in calls]} if calls else message


def _string_arguments(message: Message) -> Message:
    def change(call: Message) -> Message:
        return {**call, "function": {**call["function"], "arguments": _json(call["function"]["arguments"])}}

    return _with_calls(message, change)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short_ids(message: Message) -> Message:
    def short(key: str) -> str:
        return key if _is_short(key) else hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:9]

    if "tool_call_id" in message:
        message = {**message, "tool_call_id": short(str(message["tool_call_id"]))}
    return _with_calls(message, lambda call: {**call, "id": short(str(call.get("id")))})


def _parts(message: Message) -> Message:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) and content else message


def _forget(message: Message) -> Message:
    return {k: v for k, v in message.items() if k != "reasoning_content"} if message.get("tool_calls") else message


def _split(messages: list[Message], tools: list[Any] | None) -> Conversation:
    parts: list[Message] = []
    for message in messages:
        if message.get("tool_calls") and message["content"]:
            parts.append({key: value for key, value in message.items() if key != "tool_calls"})
            parts.append({**{k: v for k, v in message.items() if k != "reasoning_content"}, "content": ""})
        else:
            parts.append(message)
    return parts, tools


def _serial(messages: list[Message], tools: list[Any] | None) -> Conversation:
    told: list[Message] = []
    position = 0
    while position < len(messages):
        message, position = messages[position], position + 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            told.append(message)
            continue
        results = []
        while position < len(messages) and messages[position]["role"] == "tool":
            results.append(messages[position])
            position += 1
        for number, call in enumerate(calls):
            first = message if number == 0 else {"role": "assistant", "content": ""}
            told.append({**first, "tool_calls": [call]})
            mine = [result for result in results if result.get("tool_call_id") == call.get("id")]
            results = [result for result in results if result not in mine]
            told += mine
        told += results
    return told, tools


def _empty_tools(messages: list[Message], tools: list[Any] | None) -> Conversation:
    return messages, [] if tools is None else tools


def _merge(messages: list[Message], tools: list[Any] | None) -> Conversation:
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged else None
        if last is None or message["role"] != last["role"] or message["role"] == "tool" or last.get("tool_calls"):
            merged.append(message)
            continue
        both = {**last, **message, "content": _joined(last["content"], message["content"])}
        merged[-1] = both
    return merged, tools


def _joined(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def _lead(messages: list[Message], tools: list[Any] | None) -> Conversation:
    texts = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    return ([{"role": "system", "content": _joined(*texts)}, *rest] if texts else rest), tools


def _fold(messages: list[Message], tools: list[Any] | None) -> Conversation:
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            folded.append({**message, "content": _joined(*waiting, message["content"])})
            waiting = []
        else:
            folded.append(message)
    return ([*folded, {"role": "user", "content": _joined(*waiting)}] if waiting else folded), tools


def _results(messages: list[Message], tools: list[Any] | None) -> Conversation:
    told: list[Message] = []
    for position, message in enumerate(messages):
        if message["role"] != "tool":
            told.append(message)
            continue
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        if position and messages[position - 1]["role"] == "tool":
            told[-1] = {"role": "user", "content": f"{told[-1]['content']}\n{text}"}
        else:
            told.append({"role": "user", "content": text})
    return told, tools


def _calls(messages: list[Message], tools: list[Any] | None, write: Write) -> Conversation:
    told: list[Message] = []
    for message in messages:
        texts = [message["content"]] if message["content"] else []
        if message.get("tool_calls"):
            texts.append(write([call["function"] for call in message["tool_calls"]]))
        plain = {key: value for key, value in message.items() if key != "tool_calls"}
        told.append({**plain, "content": "\n".join(texts)} if message.get("tool_calls") else message)
    return told, tools


def _definitions(messages: list[Message], tools: list[Any] | None) -> Conversation:
    if not tools:
        return messages, tools
    text = _TOOLS_TEXT.format("\n".join(_json(tool) for tool in tools))
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": _joined(messages[0]["content"], text)}, *messages[1:]], None
    return [{"role": "system", "content": text}, *messages], None


def _open(messages: list[Message], tools: list[Any] | None) -> Conversation:
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if first == len(messages) or messages[first]["role"] == "user":
        return messages, tools
    return [*messages[:first], {"role": "user", "content": ""}, *messages[first:]], tools


# In the order in which they are applied; the number is the cost.
_STEPS: dict[str, tuple[int, Step]] = {
    "definitions": (16, _definitions),
    "calls": (12, lambda messages, tools: (messages, tools)),  # _calls, which needs to know how
    "results": (12, _results),
    "split": (3, _split),
    "serial": (4, _serial),
    "lead": (5, _lead),
    "fold": (6, _fold),
    "open": (20, _open),
    "merge": (4, _merge),
    "forget": (2, _each(_forget)),
    "null_content": (1, _each(_null_content)),
    "string_arguments": (1, _each(_string_arguments)),
    "short_ids": (1, _each(_short_ids)),
    "parts": (1, _each(_parts)),
    "tools": (2, _empty_tools),
}


def _relevant(messages: Sequence[Message], with_tools: bool) -> list[str]:
    """The steps that can change anything in such a conversation."""
    roles = [message["role"] for message in messages]
    systems = [i for i, role in enumerate(roles) if role == "system"]
    others = [role for role in roles if role != "system"]
    calls = any(message.get("tool_calls") for message in messages)
    useful = {
        "definitions": with_tools,
        "calls": calls,
        "results": "tool" in roles,
        "split": any(message.get("tool_calls") and message["content"] for message in messages),
        "serial": any(len(message.get("tool_calls") or ()) > 1 for message in messages),
        "lead": systems not in ([], [0]),
        "fold": bool(systems) or with_tools,
        "open": bool(others) and others[0] != "user",
        "merge": True,
        "forget": any(message.get("tool_calls") and "reasoning_content" in message for message in messages),
        "null_content": calls,
        "string_arguments": calls,
        "short_ids": calls or "tool" in roles,
        "parts": True,
        "tools": not with_tools,
    }
    return [name for name in _STEPS if useful[name]]


def _combinations(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All sets of these steps, each in the order of application, the cheapest first."""
    every = [steps for size in range(len(names) + 1) for steps in combinations(names, size)]
    return iter(sorted(every, key=lambda steps: (sum(_STEPS[name][0] for name in steps), steps)))


def _apply(steps: Sequence[str], messages: list[Message], tools: list[Any] | None, write: Write) -> Conversation:
    for name in steps:
        messages, tools = _calls(messages, tools, write) if name == "calls" else _STEPS[name][1](messages, tools)
    return messages, tools

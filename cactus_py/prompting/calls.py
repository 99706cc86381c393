"""What a model wrote, taken apart into text and tool calls while it arrives.

A `CallParser` is fed the text of one answer (control tokens spelled), cut anywhere, and returns pieces of text and
`ToolCallDelta`s: for each call one with its id and name, then its arguments as fragments of JSON. It announces a call only when
it knows that it is one: a function on offer, in the model's form, with arguments that begin as such. Whatever turns out to be
none is text again, as it was written. White space around calls is dropped.

The parser is one generator that reads a buffer from left to right and yields wherever it needs more text, so a cut can make no
difference to what it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from .reasoning import Piece, Separator, Spelled
from .tools import Format, Schema, is_free_text

__all__ = ["CallParser", "CallSeparator", "ToolCallDelta"]

_MAX_HEADER_CHARS = 256  # between the start of a call and its arguments
_MAX_DEPTH = 100
_NAME_KEYS = frozenset(("name", "tool_name", "function"))
_ARGUMENT_KEYS = frozenset(("arguments", "parameters"))
_OTHER_KEYS = frozenset(("id", "type", "tool_call_id", "index"))
_FENCES = ("```json", "```tool_call", "```")

Steps = Generator[None, None, Any]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What is added to the call `index` of an answer: at first its id and name, then pieces of its arguments, as JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class _NoCall(Exception):
    """What looked like a call is none."""


class _End(Exception):
    """The text ended where more was needed."""


class CallParser:
    """Takes one answer apart. `tools`: schemas of the arguments of the functions that may be called, by name."""

    def __init__(self, form: Format, tools: Mapping[str, Schema], *, single: bool = False) -> None:
        self.n_calls = 0  # that were found; of a `single` one only the first is reported
        self._form = form
        self._tools = tools
        self._single = single
        self._starts = form.starts
        self._wrap = tuple(text.strip() for text in form.wrap)
        openers = [*self._starts, self._wrap[0]] if self._wrap[0] else self._starts
        self._opener = re.compile("|".join(map(re.escape, openers)) or r"(?!)")
        self._longest = max(map(len, openers), default=0)
        self._text = ""
        self._at = 0
        self._holding = False  # what is read may have to be given back
        self._final = False
        self._complete = True
        self._gap = ""  # white space that is dropped if a call follows
        self._lead = True  # nothing but white space was said
        self._after_call = False
        self._out: list[str | ToolCallDelta] = []
        self._open: int | None = None  # arguments of this call, written tag by tag, are open
        self._steps: Steps = self._run()
        next(self._steps)

    def feed(self, text: str) -> list[str | ToolCallDelta]:
        if self._at > 4096 and not self._holding:
            self._text, self._at = self._text[self._at :], 0
        self._text += text
        return self._advance()

    def finish(self, *, complete: bool = True) -> list[str | ToolCallDelta]:
        """The answer has ended. Not `complete`: it was cut off, and so is a call that is still open."""
        self._final, self._complete = True, complete
        return self._advance()

    def _advance(self) -> list[str | ToolCallDelta]:
        next(self._steps, None)
        out, self._out = self._out, []
        return out

    # ---- text between calls ----

    def _run(self) -> Steps:
        while True:
            opener = yield from self._content()
            if opener is None:
                break
            origin, n_before, self._holding = self._at, self.n_calls, True
            try:
                yield from self._block(opener)
            except _End:
                if self._open is not None and self._complete:
                    self._arguments("}")
                if self.n_calls > n_before:
                    break
            except (_NoCall, RecursionError):
                pass
            self._open, self._holding = None, False
            if self.n_calls > n_before:
                self._after_call, self._gap = True, ""
            else:
                self._at = origin + len(opener)
                if opener:
                    self._say(opener)
        if self._gap and not self._after_call:
            self._out.append(self._gap)

    def _content(self) -> Steps:
        """Says what is no call. Returns what a call starts with (nothing: where the answer starts with a brace), the position
        being before it, or None at the end."""
        while True:
            if self._lead and self._form.bare:
                n_space = len(self._text) - len(self._text[self._at :].lstrip()) - self._at
                if self._at + n_space == len(self._text):
                    if not self._final:
                        yield
                        continue
                elif self._text[self._at + n_space] in "{[`":
                    self._gap += self._text[self._at : self._at + n_space]
                    self._at += n_space
                    self._lead = False
                    return ""
            found = self._opener.search(self._text, self._at)
            if found:
                self._say(self._text[self._at : found.start()])
                self._at = found.start()
                return found[0]
            end = len(self._text)
            if not self._final:
                end -= self._overlap()
            self._say(self._text[self._at : end])
            self._at = end
            if self._final:
                return None
            yield

    def _overlap(self) -> int:
        """Characters at the end that an opener may begin with."""
        openers = [*self._starts, self._wrap[0]] if self._wrap[0] else self._starts
        for n_chars in range(min(len(self._text) - self._at, self._longest - 1), 0, -1):
            tail = self._text[len(self._text) - n_chars :]
            if any(opener.startswith(tail) for opener in openers):
                return n_chars
        return 0

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._after_call:
            text = text.lstrip()
        text = self._gap + text
        said = text.rstrip()
        self._gap = text[len(said) :]
        if said:
            self._out.append(said)
            self._lead = self._after_call = False

    # ---- reading ----

    def _wait(self) -> Steps:
        if self._final:
            raise _End
        yield

    def _space(self) -> Steps:
        while True:
            while self._at < len(self._text) and self._text[self._at].isspace():
                self._at += 1
            if self._at < len(self._text) or self._final:
                return
            yield

    def _char(self) -> Steps:
        """The next character, which stays."""
        while self._at >= len(self._text):
            yield from self._wait()
        return self._text[self._at]

    def _literal(self, *options: str) -> Steps:
        """Reads the longest of the texts that comes next; "" if none does."""
        while True:
            rest = self._text[self._at : self._at + max(map(len, options))]
            if not self._final and any(len(rest) < len(option) and option.startswith(rest) for option in options):
                yield
                continue
            found = max((option for option in options if option and rest.startswith(option)), key=len, default="")
            self._at += len(found)
            return found

    def _until(self, *marks: str, most: int | None = None) -> Steps:
        """Reads up to the first of the marks, and it: (text, mark). Raises _NoCall where it is further than `most`."""
        pattern = re.compile("|".join(map(re.escape, marks)))
        longest = max(map(len, marks))
        start = self._at
        while True:
            found = pattern.search(self._text, start)
            if found:
                text = self._text[self._at : found.start()]
                self._at = found.end()
                return text, found[0]
            start = max(self._at, len(self._text) - longest + 1)
            if most is not None and start - self._at > most:
                raise _NoCall
            yield from self._wait()

    def _string(self) -> Steps:
        """A JSON string."""
        text = yield from self._value()
        try:
            return str(json.loads(text))
        except ValueError:
            raise _NoCall from None

    def _value(self, *, stream: bool = False) -> Steps:
        """Reads a JSON value and returns its text, or reports it as arguments while it comes. New lines in strings, which
        JSON does not know, are written as it does."""
        first = yield from self._char()
        if first not in '{["':
            start = self._at
            while True:
                found = re.compile(r"[,\]}\s]").search(self._text, self._at)
                if found:
                    self._at = found.start()
                    return self._text[start : self._at]
                yield from self._wait()
        parts: list[str] = []
        depth, quoted, escaped = 0, False, False
        while True:
            start = i = self._at
            done = False
            text = self._text
            while i < len(text):
                char = text[i]
                i += 1
                if quoted:
                    if escaped:
                        escaped = False
                    elif char == "\\":
                        escaped = True
                    elif char == '"':
                        quoted = False
                        done = depth == 0
                elif char == '"':
                    quoted = True
                elif char in "{[":
                    depth += 1
                    if depth > _MAX_DEPTH:
                        raise _NoCall
                elif char in "]}":
                    depth -= 1
                    done = depth == 0
                elif char in "\n\r\t" and not quoted:
                    pass
                if done:
                    break
                if quoted and char in _CONTROL:
                    parts.append(text[start : i - 1] + _CONTROL[char])
                    start = i
            parts.append(text[start:i])
            self._at = i
            if stream:
                self._arguments("".join(parts))
                parts = []
            if done:
                return "".join(parts)
            yield from self._wait()

    # ---- reporting ----

    def _known(self, name: str) -> str:
        """The function that is meant. Raises _NoCall if there is none."""
        name = name.strip()
        if name in self._tools:
            return name
        short = name.removeprefix("functions.")
        if short in self._tools:
            return short
        raise _NoCall

    def _begin(self, name: str) -> None:
        self.n_calls += 1
        self._gap, self._lead, self._holding = "", False, False
        if not self._single or self.n_calls == 1:
            self._out.append(ToolCallDelta(self.n_calls - 1, f"call_{uuid4().hex[:24]}", name))

    def _arguments(self, text: str) -> None:
        if text and (not self._single or self.n_calls == 1):
            self._out.append(ToolCallDelta(self.n_calls - 1, arguments=text))

    # ---- calls ----

    def _block(self, opener: str) -> Steps:
        """Everything from an opener to what closes it. Raises _NoCall where it is no call."""
        form = self._form
        self._at += len(opener)
        wrapped = bool(self._wrap[0]) and opener == self._wrap[0]
        if wrapped:
            yield from self._space()
            if self._starts and (yield from self._char()) not in "{[":
                opener = yield from self._literal(*self._starts)
                if not opener:
                    raise _NoCall
        body = form.body
        if not opener or (body in ("tags", "keys", "python") or opener == "[TOOL_CALLS]"):
            at = self._at
            yield from self._space()
            first = yield from self._char()
            if not opener or first == "{" or (first == "[" and body != "python"):
                body = "objects" if not opener.endswith(("=", '"')) and opener != "<｜DSML｜invoke name=" else body
            elif body == "python" and first == "[":
                self._at += 1
                yield from self._space()
                if (yield from self._char()) == "{":
                    self._at = at
                    body = "objects"
            if body != "objects":
                self._at = at
        if body == "objects":
            yield from self._objects(bare=not opener)
        elif body == "named":
            yield from self._named()
        elif body == "tags":
            yield from self._tags()
        elif body == "keys":
            yield from self._keys()
        else:
            yield from self._literals()
        yield from self._closers(fence=not opener)

    def _closers(self, *, fence: bool) -> Steps:
        """Skips what may stand behind a call."""
        end = self._form.end.strip()
        closers = {end, end.removeprefix("```").strip(), self._wrap[1]} | ({"```"} if fence or "```" in end else set())
        closers |= {f"</{start[1:]}" for start in self._form.also if re.fullmatch(r"<\w+>", start)}
        closers.discard("")
        while closers:
            yield from self._space()
            if not (yield from self._literal(*closers)):
                return

    def _objects(self, *, bare: bool) -> Steps:
        """JSON objects, in a list or one after the other."""
        if bare:
            yield from self._literal(*_FENCES)
        yield from self._space()
        listed = bool((yield from self._literal("[")))
        n_objects = 0
        while True:
            yield from self._space()
            if listed and n_objects and (yield from self._literal("]")):
                return
            if self._final and self._at == len(self._text) and n_objects and not listed:
                return
            if self._at < len(self._text) and self._text[self._at] == "{":
                yield from self._object()
                n_objects += 1
                at = self._at
                yield from self._space()
                if not (yield from self._literal(",", ";")) and not listed:
                    # Whether a further object follows shows at the next character; what else follows is not ours.
                    if self._at < len(self._text) and self._text[self._at] == "{":
                        continue
                    self._at = at
                    return
            elif n_objects:
                return
            else:
                raise _NoCall

    def _object(self) -> Steps:
        self._at += 1  # the brace
        name: str | None = None
        waiting: str | None = None  # arguments that came before the name
        begun = False
        while True:
            yield from self._space()
            if (yield from self._literal("}")):
                break
            if (yield from self._char()) != '"':
                raise _NoCall
            key = yield from self._string()
            yield from self._space()
            if not (yield from self._literal(":")):
                raise _NoCall
            yield from self._space()
            first = yield from self._char()
            if key in _NAME_KEYS and name is None and first == '"':
                name = self._known((yield from self._string()))
                if waiting is not None:
                    begun = self._whole(name, waiting)
            elif key == "function" and name is None and first == "{":
                yield from self._object()
                name, begun = "", True
            elif key in _ARGUMENT_KEYS and not begun:
                if name is not None and first == "{":
                    self._begin(name)
                    begun = True
                    yield from self._value(stream=True)
                else:
                    waiting = yield from self._value()
                    if first == '"':
                        waiting = _decoded(waiting)
                    if name is not None:
                        begun = self._whole(name, waiting)
            elif self._form.keyed and name is None and first == "{":
                name = self._known(key)
                self._begin(name)
                begun = True
                yield from self._value(stream=True)
            elif begun or key in _OTHER_KEYS:
                yield from self._value()
            else:
                raise _NoCall
            yield from self._space()
            yield from self._literal(",")
        if not begun:
            if name is None:
                raise _NoCall
            self._whole(name, "{}")

    def _whole(self, name: str, arguments: str) -> bool:
        arguments = arguments.strip()
        if arguments in ("", "null"):
            arguments = "{}"
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            raise _NoCall from None
        if not isinstance(value, dict):
            raise _NoCall
        self._begin(name)
        self._arguments(arguments)
        return True

    def _named(self) -> Steps:
        """A header with the name, then the arguments."""
        start = self._at
        while True:
            brace = self._text.find("{", self._at)
            if brace >= 0:
                break
            if len(self._text) - start > _MAX_HEADER_CHARS:
                raise _NoCall
            yield from self._wait()
        header = re.fullmatch(self._form.header, self._text[start:brace])
        if header is None:
            raise _NoCall
        name = self._known(header[1])
        self._at = brace
        self._begin(name)
        yield from self._value(stream=True)

    def _tags(self) -> Steps:
        """The name up to the end of its tag, then parameters."""
        before, _, after = (text.strip() for text in self._form.param)
        end = self._form.end.strip()
        header, _ = yield from self._until(">", most=_MAX_HEADER_CHARS)
        name = self._known(header.strip().strip("\"'"))
        yield from self._space()
        if (yield from self._char()) == "{":  # JSON between the tags
            self._begin(name)
            yield from self._value(stream=True)
            return
        self._parameters_begin(name)
        while True:
            yield from self._space()
            found = yield from self._literal(before, end)
            if found != before:
                break
            head, _ = yield from self._until(">")
            value, _ = yield from self._until(after)
            key, quote, rest = head.partition('"')
            self._parameter(name, key.strip(), value, as_text=bool(quote) and 'string="true"' in rest)
        self._parameters_end()

    def _keys(self) -> Steps:
        """The name, then pairs of key and value."""
        header, mark = yield from self._until("<arg_key>", "</tool_call>", "{", most=_MAX_HEADER_CHARS)
        name = self._known(header)
        if mark == "{":
            self._at -= 1
            self._begin(name)
            yield from self._value(stream=True)
            return
        self._parameters_begin(name)
        while mark == "<arg_key>":
            key, _ = yield from self._until("</arg_key>")
            yield from self._space()
            if not (yield from self._literal("<arg_value>")):
                break
            value, _ = yield from self._until("</arg_value>")
            self._parameter(name, key.strip(), value)
            yield from self._space()
            mark = yield from self._literal("<arg_key>", "</tool_call>")
        self._parameters_end()

    def _parameters_begin(self, name: str) -> None:
        self._begin(name)
        self._arguments("{")
        self._open = 0

    def _parameter(self, name: str, key: str, value: str, *, as_text: bool = False) -> None:
        value = value.removeprefix("\n").removesuffix("\n")
        if value.startswith("<![CDATA[") and value.endswith("]]>"):
            value, as_text = value[9:-3], True
        schema = _schema_of(self._tools[name], key)
        text = json.dumps(value if as_text else _typed(value, schema), ensure_ascii=False)
        self._arguments(f"{', ' if self._open else ''}{json.dumps(key, ensure_ascii=False)}: {text}")
        self._open = (self._open or 0) + 1

    def _parameters_end(self) -> None:
        self._arguments("}")
        self._open = None

    def _literals(self) -> Steps:
        """Calls that are read as a whole: Python's, and those in braces."""
        end = self._form.end.strip().lstrip("]")
        start = self._at
        try:
            text, _ = yield from self._until(end)
        except _End:
            text, self._at = self._text[start:], len(self._text)
        in_braces = self._form.body == "braces"
        try:
            calls = _Reader(text, self._tools).calls(in_braces=in_braces)
        except (ValueError, RecursionError):
            try:
                calls = _Reader(text, self._tools, loose=True).calls(in_braces=in_braces)
            except (ValueError, RecursionError):
                raise _NoCall from None
        for name, _ in calls:
            self._known(name)
        for name, arguments in calls:
            name = self._known(name)
            typed = {key: _coerced(value, _schema_of(self._tools[name], key)) for key, value in arguments.items()}
            self._begin(name)
            self._arguments(json.dumps(typed, ensure_ascii=False))


_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _decoded(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise _NoCall from None


# ---- values ------------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads literals as Python, JSON or Gemma 4 writes them. Raises ValueError for anything else; runs nothing. `loose`: a
    string goes on to the last quote before a delimiter, since some models do not escape quotes."""

    _NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
    _WORD = re.compile(r"[\w$-]+(?:\.[\w-]+)*")
    _NAMES: ClassVar = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}

    def __init__(self, text: str, tools: Mapping[str, Schema], *, loose: bool = False) -> None:
        self._text = text
        self._loose = loose
        self._at = 0
        self._tools = tools
        self._depth = 0

    def calls(self, *, in_braces: bool) -> list[tuple[str, dict[str, Any]]]:
        calls = []
        if not in_braces:
            self._take("[")
        while True:
            name = self._word()
            if in_braces:
                value = self._value()
                if not isinstance(value, dict):
                    raise ValueError("no arguments")
                calls.append((name, value))
            else:
                calls.append((name, self._keywords(name)))
            self._take(",", ";")
            self._space()
            if self._at == len(self._text) or (not in_braces and self._text[self._at :].strip() == "]"):
                return calls

    def _keywords(self, name: str) -> dict[str, Any]:
        self._expect("(")
        arguments: dict[str, Any] = {}
        names = list(self._tools.get(name, {}).get("properties", {}))
        while not self._take(")"):
            at = self._at
            if self._take("**"):
                value = self._value()
                if not isinstance(value, dict):
                    raise ValueError("no arguments")
                arguments.update(value)
            else:
                match = self._WORD.match(self._text, self._skipped())
                self._at = match.end() if match else self._at
                if match and self._take("=", ":"):
                    arguments[match[0]] = self._value()
                else:  # by position
                    self._at = at
                    if len(arguments) >= len(names):
                        raise ValueError("too many arguments")
                    arguments[names[len(arguments)]] = self._value()
            if not self._take(","):
                self._expect(")")
                break
        return arguments

    def _skipped(self) -> int:
        self._space()
        return self._at

    def _space(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1

    def _take(self, *options: str) -> bool:
        self._space()
        for option in options:
            if self._text.startswith(option, self._at):
                self._at += len(option)
                return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise ValueError(f"no {text}")

    def _word(self) -> str:
        match = self._WORD.match(self._text, self._skipped())
        if match is None:
            raise ValueError("no name")
        self._at = match.end()
        return match[0]

    def _value(self) -> Any:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        try:
            return self._inner_value()
        finally:
            self._depth -= 1

    def _inner_value(self) -> Any:
        if self._take('<|"|>'):
            end = self._text.index('<|"|>', self._at)
            text, self._at = self._text[self._at : end], end + 5
            return text
        self._space()
        char = self._text[self._at : self._at + 1]
        if char in ('"', "'"):
            return self._quoted(char)
        if self._take("{"):
            return self._mapping()
        if self._take("[", "("):
            closing = "]" if char == "[" else ")"
            items = []
            while not self._take(closing):
                items.append(self._value())
                if not self._take(","):
                    self._expect(closing)
                    break
            return items
        number = self._NUMBER.match(self._text, self._at)
        if number:
            self._at = number.end()
            return int(number[0]) if re.fullmatch(r"[-+]?\d{1,400}", number[0]) else float(number[0])
        word = self._word()
        if word not in self._NAMES:
            raise ValueError(f"no value: {word}")
        return self._NAMES[word]

    def _mapping(self) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not self._take("}"):
            self._space()
            quoted = self._text.startswith(('"', "'", '<|"|>'), self._at)
            key = self._value() if quoted else self._word()
            self._expect(":")
            items[str(key)] = self._value()
            if not self._take(","):
                self._expect("}")
                break
        return items

    def _quoted(self, quote: str) -> str:
        if self._text.startswith(quote * 3, self._at):
            end = self._text.index(quote * 3, self._at + 3)
            text, self._at = self._text[self._at + 3 : end], end + 3
            return text
        strict = rf"{quote}(?:[^{quote}\\]|\\.)*{quote}"
        loose = rf"{quote}.*?{quote}(?=\s*(?:[,)\]}}:]|$))"
        match = re.compile(loose if self._loose else strict, re.DOTALL).match(self._text, self._at)
        if match is None:
            raise ValueError("an open string")
        self._at = match.end()
        return _unescaped(match[0][1:-1])


_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", "\\": "\\", '"': '"', "'": "'", "/": "/"}


def _unescaped(text: str) -> str:
    """A string's text, its escapes read as JSON and Python have them; unknown ones stay."""

    def plain(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) > 1:
            return chr(min(int(code[1:], 16), 0x10FFFF))
        return _SIMPLE.get(code, match[0])

    return _ESCAPE.sub(plain, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _schema_of(schema: Schema, key: str) -> Schema:
    """The schema of a parameter, references to definitions followed."""
    properties = schema.get("properties")
    found = properties.get(key) if isinstance(properties, Mapping) else None
    for _ in range(8):
        reference = found.get("$ref") if isinstance(found, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        found = schema
        for part in reference[2:].split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _types(schema: Schema) -> set[str]:
    """Types that a schema names; none: it says nothing of them."""
    named = schema.get("type")
    types = {named} if isinstance(named, str) else set(named) if isinstance(named, list) else set()
    for word in ("anyOf", "oneOf"):
        for branch in schema.get(word) or () if isinstance(schema.get(word), list) else ():
            if isinstance(branch, Mapping):
                types |= _types(branch)
    if not types and isinstance(schema.get("enum"), list):
        types = {kind for value in schema["enum"] for kind in _kinds(value)}
    return types


def _kinds(value: Any) -> Sequence[str]:
    """Types that a value has."""
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int):
        return ("integer", "number")
    if isinstance(value, float):
        return ("number", "integer") if value.is_integer() else ("number",)
    return ({str: "string", list: "array", dict: "object", type(None): "null"}[type(value)],)


def _typed(text: str, schema: Schema) -> Any:
    """What a parameter's text means by its schema."""
    if is_free_text(schema):
        return text
    types = _types(schema)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            reader = _Reader(text.strip(), {})
            value = reader._value()
            if reader._skipped() != len(reader._text):
                return text
        except (ValueError, RecursionError):
            return text
        if isinstance(value, str):
            return text
    if isinstance(value, float) and value != value:  # NaN is no JSON
        return text
    if not types or types.intersection(_kinds(value)):
        return _coerced(value, schema)
    return text if "string" in types else _coerced(value, schema)


def _coerced(value: Any, schema: Schema) -> Any:
    """The value in the type that the schema asks for, where that is the same value."""
    types = _types(schema)
    if not types:
        return value
    if isinstance(value, float) and value.is_integer() and "integer" in types and "number" not in types:
        return int(value)
    if types.intersection(_kinds(value)):
        return value
    if types == {"string"} and isinstance(value, (int, float)) and not isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and "string" not in types:
        try:
            other = json.loads(value.lower() if value in ("True", "False") else value)
        except (ValueError, RecursionError):
            return value
        return other if types.intersection(_kinds(other)) else value
    return value


# ---- between the engine's events and the client --------------------------------------------------------------------------


class CallSeparator(Separator):
    """Takes the content that another separator finds apart into text and calls; reasoning passes."""

    def __init__(self, inner: Separator, parser: CallParser, inner_markers: Sequence[str]) -> None:
        """`inner_markers`: the control tokens that are the other separator's; the rest is ours."""
        super().__init__()
        self.parser = parser
        self._inner = inner
        self._inner_markers = frozenset(inner_markers)
        self._waiting: tuple[Any, ...] = ()  # tokens of text that is held back
        self.complete = True

    @property
    def n_calls(self) -> int:
        return self.parser.n_calls

    def feed(self, text: str, tokens: Sequence[Any] = (), *, n_tokens: int = 0) -> list[Piece]:
        return self._parsed(self._inner.feed(text, tokens, n_tokens=self._handed(n_tokens)))

    def mark(self, marker: str) -> list[Piece]:
        held, self._tokens = self._tokens, []
        if isinstance(self._inner, Spelled) or marker in self._inner_markers:
            self._inner._n_held += self._handed(0)
            self._inner._tokens += held
            return self._parsed(self._inner.mark(marker))
        return self._parsed(self._inner.feed(marker, held, n_tokens=self._handed(0)))

    def finish(self) -> list[Piece]:
        self._inner._n_held += self._handed(0)
        self._inner._tokens += self._tokens
        self._tokens = []
        pieces = self._parsed(self._inner.finish())
        return pieces + self._pieces_of(self.parser.finish(complete=self.complete), ())

    def _handed(self, n_tokens: int) -> int:
        n_tokens += self._n_held
        self._n_held = 0
        return n_tokens

    def _parsed(self, pieces: list[Piece]) -> list[Piece]:
        self.reasoning_tokens = self._inner.reasoning_tokens
        out: list[Piece] = []
        for piece in pieces:
            if piece.reasoning:
                out.append(piece)
            else:
                out += self._pieces_of(self.parser.feed(piece.text), piece.tokens)
        return out

    def _pieces_of(self, found: Sequence[str | ToolCallDelta], tokens: Sequence[Any]) -> list[Piece]:
        """The pieces; tokens go with the first, or wait for one."""
        waiting = (*self._waiting, *tokens)
        self._waiting = ()
        if not found:
            self._waiting = waiting
            return []
        pieces = []
        for item in found:
            pieces.append(Piece(False, item, waiting) if isinstance(item, str) else Piece(False, "", waiting, item))
            waiting = ()
        return pieces

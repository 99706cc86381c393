"""Messages -> token ids, such that only the template can write control tokens.

A rendered prompt is one string in which the template's "<|im_end|>" and the same characters in a user's message look alike.
Tokenised as it is, the message could end its own turn and speak as the system. So the messages are rendered a second time
with marks: every character in them that a control token could begin or end with is replaced by a private character, one for
one. Where the second rendering, marks undone, equals the first, every control token that is spelled without marks was
written by the template, and every other one came from a message, whole or in parts. Only the pieces of text that hold such
a forgery are tokenised without special tokens; a piece ends where the template's own control tokens stand, and there the
tokenizer cuts anyway. So all other prompts get exactly the ids that tokenising the whole string would give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from ..errors import TemplateError
from .adapt import Adapter
from .template import ChatTemplate
from .tools import Format

__all__ = ["PromptEncoder", "TokenizerLike"]

_GUARDED = frozenset(("control", "unknown", "end"))  # attributes of tokens that no message may write
# Some vocabularies keep the tokens that begin a turn as user-defined ones (Command R, DeepSeek Coder). Those are guarded too if
# the template writes them; others of that kind, "<think>" or "<tool_call>", belong in an assistant's message.
_TURN_WORDS = re.compile("turn|user|assistant|system|role|chatbot|im_start|im_end|header", re.IGNORECASE)
_PRIVATE_FIRST, _PRIVATE_LAST = 0xF0000, 0xFFFFD  # Unicode's supplementary private use area A
_SPARE_FIRST = 0x10FF00  # in the other of these areas
_NEVER = re.compile(r"(?!)")
_PLAIN_KEYS = frozenset(("role", "type"))  # checked against fixed lists before they come here; templates branch on them

Message = Mapping[str, Any]


class TokenizerLike(Protocol):
    """What the encoder needs of a tokenizer."""

    @property
    def info(self) -> Any: ...

    def encode(self, text: str, add_special: bool = ..., parse_special: bool = ...) -> list[int]: ...

    def ids_with(self, *names: str) -> list[int]: ...

    def attributes(self, token_id: int, /) -> frozenset[str]: ...

    def token_bytes(self, token_id: int, /) -> bytes: ...


class PromptEncoder:
    """Renders a conversation with one model's template and tokenises it. May be used from any thread.

    What the template does not know is put into a form that it does (`prompting.adapt`).
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: TokenizerLike,
        *,
        tool_template: ChatTemplate | None = None,
        form: Format | None = None,
    ) -> None:
        """tool_template: the one for conversations with tools, where the model has a separate one; form: of its calls."""
        self.template = template
        self._adapters = {False: Adapter(template, form), True: Adapter(tool_template or template, form)}
        # Calls that are put into a message have markers that are genuine; private characters stand for them until then.
        self._markers = {marker: chr(_SPARE_FIRST + i) for i, marker in enumerate(form.markers if form else ())}
        self._templates = {False: template, True: tool_template or template}
        self._tokenizer = tokenizer
        guarded: dict[str, int] = {}
        source = template.source + self._templates[True].source
        for token in tokenizer.ids_with(*_GUARDED, "user_defined"):
            text = tokenizer.token_bytes(token).decode("utf-8", errors="replace")
            if _GUARDED.isdisjoint(tokenizer.attributes(token)) and not (_TURN_WORDS.search(text) and text in source):
                continue
            if len(text) > 1 and "�" not in text:  # one character alone is no forgery anyone could tell from text
                guarded[text] = token
        self._guarded_ids = frozenset(guarded.values())
        longest_first = sorted(guarded, key=lambda text: (-len(text), text))
        self._guarded = re.compile("|".join(map(re.escape, longest_first))) if guarded else _NEVER
        self._edges = frozenset(text[0] for text in guarded) | frozenset(text[-1] for text in guarded)
        # Templates look for strings of their own in messages ("</think>"); these stay legible to them.
        known = [
            literal
            for literal in template.literals | self._templates[True].literals
            if len(literal) > 1
            and self._edges.intersection(literal)
            and not self._guarded.search(literal)
            and not any(literal in text for text in guarded)
        ]
        known.sort(key=lambda text: (-len(text), text))
        self._known = re.compile("|".join(map(re.escape, known))) if known else _NEVER

    @property
    def variables(self) -> frozenset[str]:
        """Every name that the templates look up."""
        return self._templates[False].variables | self._templates[True].variables

    def encode(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> list[int]:
        """Ids of the whole prompt. `variables`: further names for the template. Raises TemplateError as ChatTemplate.render
        does, and where the template leaves out a message in whatever form it is given."""
        moment = now or datetime.now()  # one moment for both renderings
        with_tools = bool(tools) or any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
        template = self._templates[with_tools]
        markers = self._markers if any(message.get("tool_calls") for message in messages) else {}
        if any(char in string for string in _strings((messages, tools)) for char in markers.values()):
            markers = {}
        genuine = {ord(char): marker for marker, char in markers.items()}
        messages, tools = self._adapters[with_tools](messages, tools, variables, markers)

        def render(mark: _Marker | None = None) -> str:
            given: tuple[Any, Any, Any, Any] = (list(messages), tools, documents, variables)
            if mark is not None:
                given = (mark(given[0]), mark(given[1]), mark(given[2]), mark(given[3]))
            text = template.render(
                given[0],
                add_generation_prompt=add_generation_prompt,
                tools=given[1],
                documents=given[2],
                variables=given[3],
                now=moment,
            )
            return text.translate(genuine) if genuine else text

        text = render()
        strings = list(_strings((messages, tools, documents, variables)))
        if not any(edge in string for string in strings for edge in self._edges):
            return self._tokenizer.encode(text, add_special=False, parse_special=True)

        private = _private_characters(len(self._edges), (*strings, template.source))
        table = dict(zip(sorted(self._edges), private, strict=True))
        undo = {ord(mark): char for char, mark in table.items()}

        def attempt(mark: _Marker) -> str | None:
            try:
                return render(mark)
            except TemplateError:
                return None  # the template looks at what the marks hide

        marked = attempt(_Marker(table, self._guarded, self._known))
        if marked is None or marked.translate(undo) != text:
            # The template's course depends on characters that were hidden: mark only whole control tokens.
            marked = attempt(_Marker(table, self._guarded, None))
            if marked is None:
                raise TemplateError("the model's chat template takes control tokens in a message for its own")
            text = marked.translate(undo)
        return self._encode_marked(text, marked)

    def _encode_marked(self, text: str, marked: str) -> list[int]:
        """`marked` is `text` with some characters replaced, position by position."""
        ids: list[int] = []
        done = start = 0  # text[:done] is in ids; text[start:…] follows the latest genuine control token
        for match in [*self._guarded.finditer(marked), None]:
            stop = match.start() if match else len(text)
            if self._guarded.search(text, start, stop):  # forged: what stands before goes as usual, this piece as plain text
                ids += self._encode_run(text[done:start])
                ids += self._encode_plain(text[start:stop])
                done = stop
            if match:
                start = match.end()
        return ids + self._encode_run(text[done:])

    def _encode_run(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=True) if text else []

    def _encode_plain(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special=False, parse_special=False)
        if self._guarded_ids.isdisjoint(ids):
            return ids
        # A vocabulary may reach a control token by plain merges, or match it as a user-defined token: cut it in two.
        ids, start = [], 0
        for match in self._guarded.finditer(text):
            ids += self._tokenizer.encode(text[start : match.start() + 1], add_special=False, parse_special=False)
            start = match.start() + 1
        return ids + self._tokenizer.encode(text[start:], add_special=False, parse_special=False)


class _Marker:
    """Replaces characters in all strings of a JSON-like value: all that are in the table, save those that belong to `known`
    strings; or, where `known` is None, only those inside `guarded` strings."""

    def __init__(self, table: Mapping[str, str], guarded: re.Pattern[str], known: re.Pattern[str] | None) -> None:
        self._table = {ord(char): mark for char, mark in table.items()}
        self._guarded = guarded
        self._known = known

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, Mapping):
            marked = {}
            for key, item in value.items():
                plain = key in _PLAIN_KEYS and isinstance(item, str)
                marked[self._mark(key) if isinstance(key, str) else key] = item if plain else self(item)
            return marked
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        return value

    def _mark(self, text: str) -> str:
        if self._known is None:
            return self._guarded.sub(lambda match: match[0].translate(self._table), text)
        pieces: list[str] = []
        start = 0
        for match in self._known.finditer(text):
            forged = self._guarded.search(text, max(0, match.start() - 256), match.end() + 256)
            if forged and forged.start() < match.end() and match.start() < forged.end():
                continue  # a known string that touches a control token hides nothing
            pieces += (text[start : match.start()].translate(self._table), match[0])
            start = match.end()
        return "".join(pieces) + text[start:].translate(self._table)


def _strings(value: Any) -> Iterable[str]:
    """All strings of a JSON-like value that a person may have written."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str):
                yield key
            if not (key in _PLAIN_KEYS and isinstance(item, str)):
                yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _private_characters(count: int, texts: Iterable[str]) -> list[str]:
    """Private-use characters that occur in none of the texts."""
    taken = {char for text in texts for char in text if ord(char) >= _PRIVATE_FIRST}
    free: list[str] = []
    for code in range(_PRIVATE_FIRST, _PRIVATE_LAST + 1):
        if len(free) == count:
            break
        if chr(code) not in taken:
            free.append(chr(code))
    if len(free) < count:
        raise TemplateError("the messages use up all private characters of Unicode")
    return free

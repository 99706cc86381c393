"""Privacy: which requests must stay on the device, and what is taken out of those that leave it.

`Privacy` says why a request stays. Its patterns are matched by the package `regex`, whose searches can be given a time: no
pattern makes a request hang, whatever text meets it, and a request that could not be checked in time stays. (Python's own `re`
cannot be interrupted; engines of linear time know no Unicode word boundaries, so that a pattern may miss what it should keep.)

`Redactor` puts placeholders such as <EMAIL_1> in place of what `sensitive.Finder` finds; the same text has the same one in the
whole request. In names and ids, where protocols allow few characters, they have no brackets: EMAIL_1. No placeholder is used
that could be meant by text that is there already: a number that follows the same word somewhere in the request is left out.
`Restorer` puts everything back into the answer, also into one that arrives in pieces.
"""

from __future__ import annotations

import importlib
import json
import re
import time
import unicodedata
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, TypeVar

from pydantic import ValidationError

from ..config import RouterSettings
from ..errors import ConfigError, InvalidRequestError, MissingExtraError
from ..types import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    TranscriptionRequest,
    TranslationRequest,
)
from .sensitive import EXTRA, KINDS, Finder

__all__ = ["Privacy", "Redactor", "Request", "Restorer"]

Request = ChatCompletionRequest | CompletionRequest | EmbeddingRequest | TranscriptionRequest | TranslationRequest
R = TypeVar("R", ChatCompletionRequest, CompletionRequest, EmbeddingRequest, TranscriptionRequest, TranslationRequest)

MATCH_SECONDS = 0.25  # for all patterns and all texts of a request together
_OURS = frozenset(("model", "route", "privacy", "handoff", "timeout", "context_policy"))  # are not sent as they are
_OPAQUE = {"image_url": "images", "input_audio": "audio", "file": "files"}  # parts by type: what is in them is no text
_NAMES = frozenset(("name", "id", "tool_call_id"))
_CHOSEN_IDS = frozenset(("id", "tool_call_id", "user", "safety_identifier", "prompt_cache_key"))  # may look random
_DEPTH = 200
_PART_DEPTH = 4  # of a part: below the request, its messages, a message and its content


class _TooDeep(Exception):
    """A request is nested so deeply that it is not worth to follow."""


# ---- what stays --------------------------------------------------------------------------------------------------------


class Privacy:
    """The rules of privacy that the settings hold.

    Raises ConfigError for a pattern that is no regular expression, MissingExtraError for patterns without their package.
    """

    def __init__(self, settings: RouterSettings) -> None:
        self._local_only = settings.privacy == "local_only"
        self._patterns = [_compiled(pattern, index) for index, pattern in enumerate(settings.private_patterns)]

    def keeps_local(self, request: Request) -> str | None:
        """Why a request must not leave the device; None if it may. Tells of a pattern its place, never what it matched."""
        if self._local_only:
            return 'the router\'s privacy is "local_only"'
        if request.privacy == "local_only":
            return 'the request\'s privacy is "local_only"'
        if not self._patterns:
            return None
        unread = _unread(request)
        if unread in ("token ids", "files"):
            return f"{unread} cannot be checked against private_patterns"
        try:
            texts = _texts(request)
        except (_TooDeep, RecursionError, ValueError):
            return "the request is nested too deeply to be checked against private_patterns"
        until = time.monotonic() + MATCH_SECONDS
        for index, pattern in enumerate(self._patterns):
            for text in texts:
                try:
                    if pattern.search(text, timeout=max(until - time.monotonic(), 1e-4), concurrent=True):
                        return f"private_patterns[{index}] matches"
                except (TimeoutError, MemoryError, RecursionError, _regex().error):
                    return f"private_patterns[{index}] took too long to check"
        return None


def _regex() -> Any:
    try:
        return importlib.import_module("regex")
    except ImportError:
        raise MissingExtraError("private_patterns", EXTRA) from None


def _compiled(pattern: str, index: int) -> Any:
    library = _regex()
    try:
        return library.compile(pattern, library.V0)
    except (library.error, RecursionError, OverflowError, ValueError, MemoryError) as error:
        message = f"the setting router.private_patterns[{index}] is wrong: it is no regular expression ({error})"
        raise ConfigError(message) from None


def _unread(request: Request) -> str | None:
    """What a request has that is not text: "token ids", "files", "images", "audio" or "speech"."""
    if isinstance(request, (TranscriptionRequest, TranslationRequest)):
        return "speech"
    if isinstance(request, ChatCompletionRequest):
        found = {_OPAQUE.get(part.type) for message in request.messages for part in _parts(message.content)}
        if any(getattr(message, "audio", None) for message in request.messages):
            found.add("audio")
        return next((what for what in ("files", "images", "audio") if what in found), None)
    items = request.prompt if isinstance(request, CompletionRequest) else request.input
    return "token ids" if isinstance(items, list) and not all(isinstance(item, str) for item in items) else None


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def _texts(request: Request) -> list[str]:
    """Every text of a request: as it stands, what is JSON also decoded, the parts of a message also joined."""
    found: dict[str, None] = {}

    def note(text: str, name: str | None = None, is_name: bool = False) -> str:
        found[text] = None
        if not unicodedata.is_normalized("NFC", text):
            found[unicodedata.normalize("NFC", text)] = None
        return text

    _mapped(_fields(request), note, json_text=note)
    if isinstance(request, ChatCompletionRequest):
        for message in request.messages:
            for part in _parts(message.content):
                if part.type == "image_url" and not part.image_url.url.startswith("data:"):
                    note(part.image_url.url)
            parts = [part.text for part in _parts(message.content) if part.type == "text"]
            if len(parts) > 1:
                note("".join(parts))
    return list(found)


# ---- a request as texts ------------------------------------------------------------------------------------------------

Edit = Callable[[str, "str | None", bool], str]  # text, what it is the value of, whether it is a name -> its new form


def _fields(request: Request) -> dict[str, Any]:
    fields = request.model_dump(by_alias=True, exclude_unset=True)
    return {name: value for name, value in fields.items() if name not in _OURS}


def _mapped(
    node: Any, edit: Edit, name: str | None = None, depth: int = 0, json_text: Callable[[str], Any] | None = None
) -> Any:
    """A copy with every text edited: values and names of fields, and those inside of JSON text. json_text: is told of such."""
    if depth > _DEPTH:
        raise _TooDeep
    if isinstance(node, str):
        if name == "arguments" or (node[:1] in ("{", "[") and node.rstrip()[-1:] in ("}", "]")):
            edited = _mapped_json(node, edit)
            if edited is not None:
                if json_text is not None:
                    json_text(node)
                return edited
        return edit(node, name, name in _NAMES)
    if isinstance(node, dict):
        kind = node.get("type")
        opaque = kind if isinstance(kind, str) and kind in _OPAQUE and depth == _PART_DEPTH else None
        copy = {}
        for key, value in node.items():
            field = key if isinstance(key, str) else None
            if field in ("role", "type") or (opaque and field == opaque):
                copy[key] = value
            else:
                copy[key if field is None else edit(field, None, True)] = _mapped(value, edit, field, depth + 1, json_text)
        return copy
    if isinstance(node, (list, tuple)):
        return [_mapped(item, edit, name, depth + 1, json_text) for item in node]
    return node


_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?', re.S)


def _mapped_json(text: str, edit: Edit) -> str | None:
    """JSON text with its texts edited and all else as it was; None if it is no JSON. A number that changes becomes a text."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    pieces: list[str] = []
    at, name = 0, None
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        is_text = token[0] == '"'
        if not is_text and len(token) < 7:
            continue
        plain = json.loads(token) if is_text else token
        is_name = is_text and text[match.end() : match.end() + 16].lstrip()[:1] == ":"
        edited = edit(plain, None if is_name else name, is_name)
        if is_name:
            name = plain
        if edited != plain:
            pieces += (text[at : match.start()], json.dumps(edited, ensure_ascii=False))
            at = match.end()
    return "".join(pieces) + text[at:] if pieces else text


# ---- redaction ---------------------------------------------------------------------------------------------------------

_WORDS = "|".join(kind.upper() for kind in KINDS)
_LIKE_ONE = re.compile(rf"({_WORDS})[^A-Za-z0-9]{{0,8}}?([0-9]{{1,6}})", re.I)
_TOKEN = re.compile(r"[^\s\"'`,;<>{}]{4,300}")


class Redactor:
    """Takes e-mail addresses, phone numbers, cards, IBANs and keys out of requests: those of `kinds`.

    Raises MissingExtraError where a kind needs a package that is not installed.
    """

    def __init__(self, kinds: list[Any] | tuple[Any, ...]) -> None:
        self._finder = Finder(kinds)

    def cannot_redact(self, request: Request) -> str | None:
        """Why redaction would not see all of a request; None if it would, or if nothing is to be redacted."""
        unread = _unread(request) if self._finder.kinds else None
        return f"{unread} cannot be redacted" if unread else None

    def redact(self, request: R) -> tuple[R, Restorer]:
        """The request with placeholders, and what puts the texts back; the request itself if nothing was found.

        Raises InvalidRequestError if the request is nested too deeply: then it must not be sent.
        """
        if not self._finder.kinds:
            return request, Restorer({})
        try:
            return self._redacted(request)
        except (_TooDeep, RecursionError):
            raise InvalidRequestError("the request is nested too deeply to be redacted") from None

    def _redacted(self, request: R) -> tuple[R, Restorer]:
        fields = _fields(request)
        values: dict[str, str] = {}  # text -> kind, in order
        texts: list[str] = []

        def find(text: str, name: str | None, is_name: bool) -> str:
            texts.append(text)
            for span in self._finder.spans(text, name, random=name not in _CHOSEN_IDS):
                values.setdefault(text[span.start : span.end], span.kind)
            return text

        _mapped(fields, find)
        if not values:
            return request, Restorer({})
        like = (found for text in texts for found in _LIKE_ONE.findall(text))
        taken = {f"{word.upper()}_{number[:n]}" for word, number in like for n in range(1, len(number) + 1)}
        free = {kind: filter(lambda name: name not in taken, map(f"{kind.upper()}_{{}}".format, count(1))) for kind in KINDS}
        names = {value: next(free[kind]) for value, kind in values.items()}  # text -> its placeholder, without brackets

        def replace(text: str, name: str | None, is_name: bool) -> str:
            spans = self._finder.spans(text, name, random=name not in _CHOSEN_IDS)
            form = "{}" if is_name else "<{}>"
            pieces: list[str] = []
            at = 0
            for span in spans:
                pieces += (_elsewhere(text[at : span.start], names, form), form.format(names[text[span.start : span.end]]))
                at = span.end
            return "".join(pieces) + _elsewhere(text[at:], names, form)

        edited = {name: getattr(request, name) for name in request.model_fields_set if name in _OURS}
        edited.update(_mapped(fields, replace))
        try:
            return type(request).model_validate(edited), Restorer({name: value for value, name in names.items()})
        except (ValidationError, InvalidRequestError):
            message = "what is to be redacted stands where the request allows no placeholder"
            raise InvalidRequestError(message) from None


def _elsewhere(text: str, names: Mapping[str, str], form: str) -> str:
    """What was found sensitive in one place is so in others, where nothing tells; but for what may be a plain word."""

    def known(match: re.Match[str]) -> str:
        token = match[0]
        core = token.strip(".,:!?()[]*")
        if core.isalpha() or not any(letter.isdigit() for letter in core):
            return token
        if token in names:
            return form.format(names[token])
        return token.replace(core, form.format(names[core]), 1) if core in names else token

    return _TOKEN.sub(known, text)


class Restorer:
    """Puts back what a `Redactor` took out. `values`: the texts by their placeholders, without brackets ("EMAIL_1").

    Models change placeholders. With brackets, case and what separates word and number do not matter (<email 1>, <Email\\_1>);
    without brackets only EMAIL_1 as it is counts, as anything else could be meant as it stands. A number that was never given
    stays as it is. One restorer follows one text: `fork` makes another one for each further answer or tool call.
    """

    def __init__(self, values: Mapping[str, str], *, json: bool = False) -> None:
        self._values = dict(values)
        self._json = json
        self._held = ""
        self._last = ""  # what stands before what is held

    def __repr__(self) -> str:
        return f"Restorer({', '.join(self._values)})"

    def __bool__(self) -> bool:
        """Whether there is anything to be put back."""
        return bool(self._values)

    @property
    def counts(self) -> dict[str, int]:
        """How many different texts were taken out, by kind."""
        kinds = [name.partition("_")[0].lower() for name in self._values]
        return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}

    def fork(self, *, json: bool = False) -> Restorer:
        """A restorer for another text. json: the text is JSON, as arguments of tool calls are: what is put back is escaped."""
        return Restorer(self._values, json=json)

    def text(self, whole: str) -> str:
        """A whole text with everything put back."""
        if not self._values:
            return whole
        return (_IN_JSON if self._json else _IN_TEXT).sub(self._value, whole)

    def arguments(self, whole: str) -> str:
        """The same for JSON text."""
        return self.fork(json=True).text(whole)

    def push(self, piece: str) -> str:
        """What can be said of a text that arrives in pieces: all but an end that may be the beginning of a placeholder."""
        if not self._values:
            return piece
        buffer = self._held + piece
        keep = self._kept(buffer)
        return self._emit(buffer, keep)

    def finish(self) -> str:
        """The rest of the text; the restorer can then begin another one."""
        rest = self._emit(self._held, len(self._held))
        self._held = self._last = ""
        return rest

    def _emit(self, buffer: str, n: int) -> str:
        ready, self._held = buffer[:n], buffer[n:]
        if not ready:
            return ""
        whole = self._last + ready  # so that the pattern sees what stands before
        skip = len(self._last)
        self._last = whole[-6:]  # as far as the pattern looks back
        pieces: list[str] = []
        at = skip
        for match in (_IN_JSON if self._json else _IN_TEXT).finditer(whole):
            if match.start() >= skip:
                pieces += (whole[at : match.start()], self._value(match))
                at = match.end()
        return "".join(pieces) + whole[at:]

    def _value(self, match: re.Match[str]) -> str:
        word, number = (match[1], match[2]) if match[1] else (match[3], match[4])
        value = self._values.get(f"{word.upper()}_{number}")
        if value is None:
            return match[0]
        return json.dumps(value, ensure_ascii=False)[1:-1] if self._json else value

    def _kept(self, buffer: str) -> int:
        """How many characters of a text can be settled now."""
        whole = self._last + buffer
        skip = len(self._last)
        pattern = _BEGUN_IN_JSON if self._json else _BEGUN_IN_TEXT
        for start in range(max(skip, len(whole) - _LONGEST), len(whole)):
            if pattern.fullmatch(whole, start) and self._may_become(whole[start:]):
                return start - skip
        return len(buffer)

    def _may_become(self, begun: str) -> bool:
        if begun[0] == "\\" and len(begun) < 7:
            return True  # within an escape
        found = _WORD_AND_NUMBER.match(begun)
        word, number = (found[1].upper(), found[2]) if found else ("", "")
        return any(name.startswith(word) and name.partition("_")[2].startswith(number) for name in self._values)


def _begun(*parts: tuple[str, str]) -> str:
    """A pattern for every beginning of parts that follow each other: of each, what it is when whole, and what when begun."""
    wholes = ["".join(whole for whole, _ in parts[:n]) for n in range(len(parts))]
    return "|".join(f"{before}(?:{begun})" for before, (_, begun) in zip(wholes, parts, strict=True))


def _letters(word: str) -> str:
    """A pattern for every beginning of a word, of a character at least."""
    pattern = ""
    for letter in reversed(word[1:]):
        pattern = f"(?:{letter}{pattern})?"
    return word[0] + pattern


def _patterns(escaped: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What is a placeholder, and what may be the beginning of one. Both know two forms: with brackets, and without."""
    opening, opening_begun, closing, closing_begun = "<", "<", ">", "(?!)"  # which never matches: then it is whole
    boundary = r"(?<!\w)"
    if escaped:  # in JSON, where some write brackets as escapes, and the letter of an escape may stand before
        opening, opening_begun = r"(?:<|\\u003[cC])", r"<|\\(?:u(?:0(?:0(?:3[cC]?)?)?)?)?"
        closing, closing_begun = r"(?:>|\\u003[eE])", r"\\(?:u(?:0(?:03?)?)?)?"
        boundary = r"(?:(?<!\w)|(?<=\\[bfnrt])|(?<=\\u[0-9a-fA-F]{4}))"
    number = "[1-9][0-9]{0,6}"
    whole = re.compile(
        rf"{opening} ?((?i:{_WORDS}))(?:\\{{1,2}}_|[_ -])?({number}) ?{closing}"
        rf"|{boundary}({_WORDS})\\{{0,2}}_({number})(?!\w)"
    )
    letters = "|".join(map(_letters, _WORDS.split("|")))
    bracketed = _begun(
        (opening, opening_begun),
        (" ?", " "),
        (f"(?i:{_WORDS})", f"(?i:{letters})"),
        (r"(?:\\{1,2}_|[_ -])?", r"\\{1,2}_?|[_ -]"),
        (number, number),
        (" ?", " "),
        (closing, closing_begun),
    )
    bare = _begun((f"(?:{_WORDS})", letters), (r"\\{0,2}", r"\\{1,2}"), ("_", "_"), (number, number))
    return whole, re.compile(f"{bracketed}|{boundary}(?:{bare})")


_LONGEST = 48  # characters of the longest placeholder that is understood, and more
_WORD_AND_NUMBER = re.compile(r"(?:<|\\u003[cC])? ?([A-Za-z]*)[^A-Za-z0-9]*([0-9]*)")
_IN_TEXT, _BEGUN_IN_TEXT = _patterns(False)
_IN_JSON, _BEGUN_IN_JSON = _patterns(True)

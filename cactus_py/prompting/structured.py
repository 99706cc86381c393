"""Answers of a given form: JSON by a schema, a regular expression, a grammar. The extra `structured` (llguidance).

A `Grammar` says what form. `Structured`, one per model, compiles it against the model's vocabulary; a `Constraint`, one per
answer, says before each token which may come. Which tokens those are depends on their exact bytes only: a text may be cut into
tokens in any way (but one that has no alternative is cut as the tokenizer does), control tokens stand for nothing in a text,
and every token that ends an answer is allowed where the grammar may end.

White space between the tokens of JSON is none, a space, or a line break and an indent: what models were trained on, and no
room to run on in. An answer also ends in time. A second matcher follows the answer byte by byte; from it the shortest way to
an end that can be found is known. While there is room to spare the mask is the grammar's; when there is not, tokens that would
lead too far from an end are taken out; at last the way to the end is the only one left. So an answer with a limit of tokens
is whole, wherever the limit leaves room for the shortest one. Numbers of JSON end after `_MAX_DIGITS` digits in a row: where
models lose their way they write digits for ever, and no reader takes those.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import InvalidRequestError, MissingExtraError
from .closing import N_WIDE, Follower, Outline, Walker, n_bits, outline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..engine import TokenizerInfo
    from .reasoning import Format

__all__ = [
    "EXTRA",
    "Constraint",
    "Grammar",
    "Structured",
    "choice_grammar",
    "json_grammar",
    "json_rule",
    "lark_grammar",
    "reasoning_prefix",
    "regex_grammar",
    "request_grammar",
]

EXTRA = "structured"
_WHITE_SPACE = r"( |\n[ \t]{0,20})?"
_MAX_CHARS = {"schema": 1 << 20, "regex": 1 << 16, "grammar": 1 << 17}  # llguidance takes seconds for more
_MAX_DEPTH = 4000  # of a schema through its references: llguidance follows them on the stack
_STACK_BYTES = 64 << 20
_MAX_MULTIPLE = 100_000  # llguidance keeps a state for each remainder
_MAX_CACHED = 64  # compiled grammars of a model
_MAX_DIGITS = 32  # float64 needs 17, int64 has 19
_ZONE_TOKENS = 32  # distance to the last moment to close from which on every token is looked at
_MAX_LOOKS = 24  # tokens that are tried one by one there
_MAX_LOOKS_AHEAD = 128  # where what begins may be too long, but the end is not near
_SLACK_TOKENS = 2
_MAX_LOST = 16  # times that no way to an end may be found before none is looked for any more
_MAX_CLOSING_BYTES = 4096  # what needs more than this to end is not led to an end


class Vocabulary(Protocol):
    """What is asked of a tokenizer; `engine.Tokenizer` has it."""

    @property
    def info(self) -> TokenizerInfo: ...
    def encode(self, text: str | bytes, add_special: bool = False, parse_special: bool = False) -> list[int]: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...
    def ids_with(self, *names: str) -> list[int]: ...


# ---- forms -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form of an answer. `text` is a JSON schema, a regular expression or a grammar in llguidance's dialect of Lark, and
    is checked when it is compiled; `param` names the field of the request that errors blame."""

    kind: Literal["json", "regex", "lark"]
    text: str
    param: str = "response_format"

    @property
    def is_json(self) -> bool:
        """Whether the whole answer is JSON."""
        return self.kind == "json"


def json_grammar(schema: Mapping[str, Any] | bool, *, param: str = "response_format", lenient: bool = False) -> Grammar:
    """JSON that a schema (draft 2020-12 or 7) describes. `lenient`: keywords that cannot be enforced are passed over instead
    of refused. Raises InvalidRequestError."""
    return Grammar("json", _schema_text(schema, param, lenient), param)


def json_rule(schema: Mapping[str, Any] | bool, *, param: str = "tools", lenient: bool = False) -> str:
    """The same as the body of a rule in a Lark grammar: `args: ` + json_rule(schema)."""
    return "%json " + _schema_text(schema, param, lenient)


def regex_grammar(regex: str, *, param: str = "response_format") -> Grammar:
    """Text that a regular expression matches as a whole: syntax of Rust's regex crate."""
    return Grammar("regex", _limited(regex, "regex", param), param)


def lark_grammar(text: str, *, param: str = "response_format") -> Grammar:
    """Text of a grammar in llguidance's dialect of Lark."""
    return Grammar("lark", _limited(text, "grammar", param), param)


def choice_grammar(choices: Iterable[str], *, param: str = "response_format") -> Grammar:
    """One of several texts, as it stands."""
    texts = list(choices)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequestError(f"{param}: the choices should be texts that are not empty, at least one", param)
    return lark_grammar("start: " + " | ".join(_quoted(text) for text in texts), param=param)


def request_grammar(request: Any) -> Grammar | None:
    """The form that a request (chat or plain completion) asks for; None: any text. Raises InvalidRequestError."""
    form = request.response_format
    if form is not None and form.type != "text":
        if form.type == "json_object":
            return json_grammar({"type": "object"})
        if form.type == "json_schema":
            given = form.json_schema
            schema = {"type": "object"} if given.schema_ is None else given.schema_
            return json_grammar(schema, lenient=given.strict is False)
        if form.type == "regex":
            return regex_grammar(form.regex)
        return lark_grammar(form.grammar)
    if request.guided_json is not None:
        schema = request.guided_json
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise InvalidRequestError(f"guided_json is no JSON: {error}", "guided_json") from None
        return json_grammar(schema, param="guided_json")
    if request.guided_regex is not None:
        return regex_grammar(request.guided_regex, param="guided_regex")
    if request.guided_choice is not None:
        return choice_grammar(request.guided_choice, param="guided_choice")
    if request.guided_grammar is not None:
        return lark_grammar(request.guided_grammar, param="guided_grammar")
    return None


def _limited(text: str, what: str, param: str) -> str:
    if not isinstance(text, str) or not text:
        raise InvalidRequestError(f"{param}: the {what} should be a text that is not empty", param)
    if len(text) > _MAX_CHARS[what]:
        raise InvalidRequestError(f"{param}: the {what} has {len(text)} characters; {_MAX_CHARS[what]} are possible", param)
    return text


_COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
_DATA = {"const", "enum", "default", "examples"}  # hold values, not schemas


def _whole_counts(schema: Any) -> Any:
    """The schema with counts written 2.0 as 2, which means the same and is what llguidance reads."""
    if isinstance(schema, list):
        return [_whole_counts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: int(value)
        if key in _COUNTS and isinstance(value, float) and value.is_integer()
        else (value if key in _DATA else _whole_counts(value))
        for key, value in schema.items()
    }


def _schema_text(schema: Mapping[str, Any] | bool, param: str, lenient: bool) -> str:
    if schema is False:
        raise InvalidRequestError(f"{param}: the schema is false, which nothing satisfies", param)
    if not isinstance(schema, Mapping) and schema is not True:
        raise InvalidRequestError(f"{param}: a schema should be an object, not {type(schema).__name__}", param)
    options: dict[str, Any] = {
        "whitespace_flexible": True,
        "whitespace_pattern": _WHITE_SPACE,
        "item_separator": ",",
        "key_separator": ":",
        "coerce_one_of": lenient,
        "lenient": lenient,
    }
    try:
        content = {} if schema is True else _whole_counts(dict(schema))
        _check_size(content, param, lenient)
        if not re.search(r"\\u00[01]|\x7f", json.dumps(content, ensure_ascii=False)):
            options["json_allowed_escapes"] = '"\\bfnrt'  # "\\u006eame" would be a name that the schema's "name" does not cover
        text = json.dumps({**content, "x-guidance": options}, ensure_ascii=False, allow_nan=False)
    except InvalidRequestError:
        raise
    except RecursionError:
        raise InvalidRequestError(f"{param}: the schema is nested too deeply", param) from None
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{param}: the schema is not JSON: {error}", param) from None
    return _limited(text, "schema", param)


def _check_size(schema: dict[str, Any], param: str, lenient: bool) -> None:
    """Refuses what llguidance would need too much stack or time for."""
    multiple, targets = 1, {"#": schema}
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        reference, factor = node.get("$ref"), node.get("multipleOf")
        if isinstance(reference, str) and reference not in targets:
            targets[reference] = _target(schema, reference)
        if isinstance(factor, (int, float)) and not isinstance(factor, bool) and factor > 0:
            digits = Decimal(str(factor))
            exponent = digits.as_tuple().exponent
            multiple = math.lcm(multiple, int(digits.scaleb(max(0, -exponent if isinstance(exponent, int) else 0))) or 1)
            if multiple > _MAX_MULTIPLE:
                raise InvalidRequestError(f"{param}: the schema cannot be used: multipleOf has too many digits", param)
        waiting += [value for key, value in node.items() if key not in _DATA]
        least = node.get("minProperties")
        free = node.get("additionalProperties") is not False or node.get("patternProperties")
        if free and not lenient and isinstance(least, int) and least > max(1, len(node.get("required") or ())):
            # Nothing keeps a model from the same name again where names are free, and equal names count once.
            message = "minProperties is not supported where names are free"
            raise InvalidRequestError(f"{param}: the schema cannot be used: {message}", param)
    if sum(map(_depth, targets.values())) > _MAX_DEPTH:
        raise InvalidRequestError(f"{param}: the schema cannot be used: its references are nested too deeply", param)


def _target(schema: Any, reference: str) -> Any:
    """What a reference inside the schema points at; the whole schema where that is not clear."""
    node = schema
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if isinstance(node, dict) else None
    return schema if node is None else node


def _depth(node: Any) -> int:
    depth, level = 0, [node]
    while level:
        depth += 1
        level = [
            value
            for item in level
            if isinstance(item, (dict, list))
            for value in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _quoted(text: str) -> str:
    """A text as a string of Lark."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")


def reasoning_prefix(form: Format, prompt_end: str, marker: Callable[[str], Marker]) -> tuple[str, str | int] | None:
    """What may come before an answer of a given form from a model that reasons: rules of Lark that define `prefix`, and the
    marker (text, or the id of a control token) that ends the reasoning. None: the answer begins at once.

    prompt_end: how the text of the prompt ends. marker: `Structured.marker`.
    """
    tail = prompt_end.rstrip()
    if form.name == "harmony":
        return _harmony_prefix(tail, marker)
    if tail.endswith(form.end):
        return None
    opened = tail.endswith(form.start.rstrip())
    start, end = marker(form.start), marker(form.end)
    if end.control is not None:
        thought = f"/(?s:.*)/ {end.rule}"
        rules = f"thought: {thought}\n"
    else:
        rules = f"thought[lazy]: /(?s:.*){_regex_of(form.end)}/\n"
    body = "thought GAP" if opened else f"({start.rule} thought GAP)?"
    return f"prefix: {body}\n{rules}GAP: /\\n{{0,2}}/", form.end if end.control is None else end.control


def _harmony_prefix(tail: str, marker: Callable[[str], Marker]) -> tuple[str, str | int] | None:
    marks = {name: marker(f"<|{name}|>") for name in ("start", "channel", "message", "end")}
    if any(mark.control is None for mark in marks.values()):
        return None
    rule = {name: mark.rule for name, mark in marks.items()}
    if tail.endswith("<|channel|>final<|message|>"):
        return None
    final = f'{rule["channel"]} "final" {rule["message"]}'
    rest = f'/(?s:.*)/ {rule["end"]} {rule["start"]} "assistant" {final}'
    analysis = f'{rule["channel"]} "analysis" {rule["message"]} {rest}'
    opened = tail.endswith("<|channel|>analysis<|message|>")
    end = marks["end"].control
    assert end is not None
    return f"prefix: {rest}" if opened else f"prefix: ({analysis} | {final})", end


def _regex_of(text: str) -> str:
    return re.sub(r"([^\w\s<>])", r"\\\1", text, flags=re.ASCII).replace("\n", "\\n")


# ---- compiling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker as an expression of Lark; `control`: its id, if it is one control token."""

    rule: str
    control: int | None = None


class Structured:
    """Grammars against one model's vocabulary. Safe to share between threads.

    Making it costs a look at every token: a few tenths of a second. Raises MissingExtraError.
    """

    def __init__(self, tokenizer: Vocabulary) -> None:
        try:
            import llguidance
        except ImportError:
            raise MissingExtraError("structured output", EXTRA) from None
        import numpy as np

        self._ll: Any = llguidance
        self._lock = threading.Lock()
        self._compiled: OrderedDict[tuple[Grammar, str | None], tuple[Any, Any, Outline | None]] = OrderedDict()
        info = tokenizer.info
        self.n_vocab = info.n_vocab
        controls = set(tokenizer.ids_with("unknown", "control", "unused", "end"))
        self.ends = frozenset(tokenizer.ids_with("end")) or frozenset(i for i in (info.eos_id,) if i is not None)
        if not self.ends:
            raise InvalidRequestError(
                "structured output is not possible: this model has no token that ends an answer", "response_format"
            )
        self.token_bytes = [b"" if i in controls else tokenizer.token_bytes(i) for i in range(self.n_vocab)]
        spelled = [tokenizer.token_bytes(i) if i in controls else self.token_bytes[i] for i in range(self.n_vocab)]
        self._controls = {spelled[i]: i for i in sorted(controls, reverse=True)}
        self.controls = frozenset(controls)
        ends = sorted(self.ends)
        self.by_bytes: dict[bytes, int] = {}
        for i in range(self.n_vocab - 1, -1, -1):
            if self.token_bytes[i]:
                self.by_bytes[self.token_bytes[i]] = i
        self._longest: dict[bytes, int] = {}  # token, by its first two bytes
        for raw in self.by_bytes:
            self._longest[raw[:2]] = max(self._longest.get(raw[:2], 0), len(raw))

        def encode(text: str | bytes) -> list[int]:
            raw = text.encode() if isinstance(text, str) else text
            ids = tokenizer.encode(raw)
            if b"".join(self.token_bytes[i] for i in ids) == raw:
                return ids
            return self.cut(raw)[0]  # SentencePiece puts a space in front, others normalise: not what a grammar means

        self._tokens = self._tokenizer(spelled, sorted(controls), ends, encode)

        # The same control tokens with the same ids, and behind them a token for each byte.
        self.first_byte = (self.n_vocab + 31) // 32 * 32
        single = [spelled[i] if i in controls else b"" for i in range(self.n_vocab)]
        single += [b""] * (self.first_byte - self.n_vocab) + [bytes([byte]) for byte in range(256)]
        first = self.first_byte
        self._bytes = self._tokenizer(
            single,
            sorted(controls),
            ends,
            lambda text: [first + b for b in (text.encode() if isinstance(text, str) else text)],
            slices=[],
        )

        plain = re.compile(rb'[^"\\\x00-\x1f]+')
        self.plain = self._bits(np, lambda raw: plain.fullmatch(raw) is not None)  # what a free text goes on with
        self.digits = self._bits(np, lambda raw: raw[:1].isdigit())

    def cut(self, raw: bytes) -> tuple[list[int], bytes]:
        """Bytes as tokens, each the longest that fits, and what of them no token begins."""
        ids: list[int] = []
        at = 0
        while at < len(raw):
            most = min(self._longest.get(raw[at : at + 2], 1), len(raw) - at)
            n = next((n for n in range(most, 0, -1) if raw[at : at + n] in self.by_bytes), 0)
            if n == 0:
                break
            ids.append(self.by_bytes[raw[at : at + n]])
            at += n
        return ids, raw[at:]

    def in_tokens(self, steps: Sequence[int]) -> list[int] | None:
        """Control tokens and bytes (counted from `first_byte`) as tokens, the longest that fit; None if some byte has none."""
        ids: list[int] = []
        run = bytearray()
        for step in [*steps, -1]:
            if step >= self.first_byte:
                run.append(step - self.first_byte)
                continue
            cut, rest = self.cut(bytes(run))
            if rest:
                return None
            ids += cut
            run.clear()
            if step >= 0:
                ids.append(step)
        return ids

    def count(self, steps: Sequence[int]) -> int:
        """How many tokens steps are."""
        ids = self.in_tokens(steps)
        return len(steps) if ids is None else len(ids)

    def _tokenizer(self, tokens: list[bytes], controls: list[int], ends: list[int], encode: Any, **options: Any) -> Any:
        class Wrapped:
            """What llguidance asks of a tokenizer."""

            def __init__(self) -> None:
                self.tokens, self.special_token_ids = tokens, controls
                self.eos_token_id, self.bos_token_id = ends[0], None

            def __call__(self, text: str | bytes) -> list[int]:
                ids: list[int] = encode(text)
                return ids

        wrapper = self._ll.TokenizerWrapper(Wrapped())
        return self._ll.LLTokenizer(wrapper, n_vocab=len(tokens), eos_token=ends, **options)

    def _bits(self, np: Any, chosen: Any) -> NDArray[np.int32]:
        """A mask of the tokens whose bytes are chosen."""
        flags = np.zeros((self.n_vocab + 31) // 32 * 32, np.uint8)
        flags[: self.n_vocab] = [bool(raw) and chosen(raw) for raw in self.token_bytes]
        mask: NDArray[np.int32] = np.packbits(flags, bitorder="little").view("<i4")
        return mask

    def marker(self, text: str) -> Marker:
        """A marker, which may be spelled in text and control tokens, for use in a grammar."""
        parts: list[str] = []
        for control, plain in re.findall(r"(<[^<>]+>|\[[^\[\]]+\])|((?:(?!<[^<>]+>|\[[^\[\]]+\]).)+)", text, re.S):
            found = self._controls.get(control.encode()) if control else None
            parts.append(_quoted(control or plain) if found is None else f"<[{found}]>")
        whole = self._controls.get(text.encode())
        return Marker(" ".join(parts) if parts else '""', whole)

    def literal(self, text: str) -> str:
        """The same as an expression of Lark: control tokens by their ids, other text as a string."""
        return self.marker(text).rule

    def constraint(self, grammar: Grammar, *, budget: int, prefix: tuple[str, str | int] | None = None) -> Constraint:
        """What leads one answer of at most `budget` tokens, its end included. `prefix`: see `reasoning_prefix`.

        Raises InvalidRequestError for a grammar that is wrong, not supported, or that nothing satisfies.
        """
        key = (grammar, None if prefix is None else prefix[0])
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        if found is None:
            found = self._compile(*key)
            with self._lock:
                self._compiled[key] = found
                while len(self._compiled) > _MAX_CACHED:
                    self._compiled.popitem(last=False)
        return Constraint(
            self, grammar, found[0].deep_copy(), found[1].deep_copy(), found[2], budget, None if prefix is None else prefix[1]
        )

    def _compile(self, grammar: Grammar, prefix: str | None) -> tuple[Any, Any, Outline | None]:
        matcher = self._ll.LLMatcher
        text = grammar.text
        if grammar.kind == "json":
            part: dict[str, Any] = {"json_schema": json.loads(text)}
        elif grammar.kind == "regex":
            part = {"lark_grammar": f"start: /{self._ll.regex_to_lark(text, 'dw')}/"}  # \\d and \\w as in JSON schemas: ASCII
        else:
            if re.search(r"^\s*[\w-]+\s*::=", text, re.M):
                from llguidance.gbnf_to_lark import any_to_lark

                try:
                    text = any_to_lark(text)
                except Exception as error:
                    raise InvalidRequestError(f"{grammar.param}: the grammar is not valid: {error}", grammar.param) from None
            part = {"lark_grammar": text}
        parts = [part] if prefix is None else [{"lark_grammar": f"start: prefix @body\n{prefix}"}, {"name": "body", **part}]
        source = json.dumps({"grammars": parts})
        limits = self._ll.LLParserLimits(verbose_errors=False)
        made: list[Any] = []
        plans: list[Outline | None] = []
        leaves: dict[str, Follower] = {}

        def leaf(schema: str) -> Follower:
            if schema not in leaves:
                inner = json.dumps({"grammars": [{"json_schema": json.loads(schema)}]})
                found = matcher(self._bytes, inner, log_level=0, limits=limits)
                if found.is_error():
                    raise ValueError("a schema that is no use alone")
                leaves[schema] = Follower(found, self.first_byte, schema, "json")
            return leaves[schema]

        def make() -> None:
            for tokenizer in (self._tokens, self._bytes):
                made.append(matcher(tokenizer, source, log_level=0, limits=limits))
                if made[-1].is_error():
                    return
            if grammar.kind == "lark":
                plans.append(outline(text, self.first_byte, leaf, self.count))

        _with_stack(make)
        if made[-1].is_error():
            raise _invalid(grammar, made[-1].get_error())
        return made[0], made[1], plans[0] if plans else None


_stack_lock = threading.Lock()


def _with_stack(work: Callable[[], None]) -> None:
    """Runs `work` in a thread with a stack of `_STACK_BYTES`, of which the system gives what is touched."""
    with _stack_lock:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=work, name="cactus-py-grammar", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()


_NAMES = {"json": "schema", "regex": "regex", "lark": "grammar"}


def _invalid(grammar: Grammar, reason: str) -> InvalidRequestError:
    """One sentence of what llguidance says, which may be many lines."""
    reason = reason.partition("<state>")[0].partition("<backtrace>")[0].strip()
    if reason.startswith("NoExtension"):
        return InvalidRequestError(f"{grammar.param}: nothing satisfies the {_NAMES[grammar.kind]}", grammar.param)
    found = re.search(r"^error: (.+)$", reason, re.M)
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    said = found[1] if found else lines[0] if lines else "it cannot be compiled"
    said = re.sub(r"^at \d+\(\d+\): ", "", said) if grammar.kind == "regex" else said
    if len(said) > 300:
        said = said[:300] + "…"
    said = re.sub(r"^Unimplemented keys: \[(.*)\]$", r"it uses what is not supported: \1", said)
    name = _NAMES[grammar.kind]
    return InvalidRequestError(f"{grammar.param}: the {name} cannot be used: {said}", grammar.param)


# ---- following one answer ----------------------------------------------------------------------------------------------


class Constraint:
    """Which tokens may come next in one answer. For one thread at a time."""

    def __init__(
        self,
        owner: Structured,
        grammar: Grammar,
        matcher: Any,
        follower: Any,
        plan: Outline | None,
        budget: int,
        marker: str | int | None,
    ) -> None:
        import numpy as np

        self._np = np
        self._owner = owner
        self._grammar = grammar
        self._matcher = matcher  # by tokens
        self._follower = Follower(follower, owner.first_byte, grammar.text, grammar.kind)  # by bytes
        self._walker = None if plan is None else Walker(plan, owner.first_byte, owner.count)
        self._behind: list[int] = []  # steps that the walker was not told of
        self._prefixed = marker is not None
        self._then = None if plan is None or not self._prefixed else plan.start.rest
        self._jump = 0 if plan is None else plan.jump
        self._budget = budget
        self._n_accepted = 0
        self._digits = 0  # bytes that are digits at the end of what was accepted
        n_words = (owner.n_vocab + 31) // 32
        self._mask: NDArray[np.int32] = np.zeros(n_words, np.int32)
        self._marker: list[int] | None = None  # how the reasoning is ended, as long as it may go on
        if isinstance(marker, int):
            self._marker = [marker]
        elif marker is not None:
            self._marker = [owner.first_byte + byte for byte in marker.encode()]
        self._marker_text = marker.encode() if isinstance(marker, str) else b""
        self._tail = b""
        self._plan: list[int] | None = None  # tokens to the end, once there is no other way
        self._next_look = 0  # how many tokens may be left when the way to the end is looked for again
        self._zone = min(_ZONE_TOKENS, budget // 8)
        self._n_lost = 0
        self._closes = True
        self._fill()
        if not self._mask.any() or (matcher.is_stopped() and not matcher.is_accepting()):
            raise InvalidRequestError(f"{grammar.param}: nothing satisfies the {_NAMES[grammar.kind]}", grammar.param)
        way = self._way()
        if way is None or len(way[0]) + 1 > budget:
            self._closes = False
        else:
            self._schedule(len(way[0]))

    # ---- what a backend calls ----

    def mask(self) -> NDArray[np.int32]:
        """Bit i % 32 of word i // 32 is set if token i may come; int32 [ceil(n_vocab / 32)], overwritten by the next call.

        Raises InvalidRequestError if the grammar grows beyond what llguidance computes.
        """
        if self._plan is not None:
            return self._only(self._plan[:1] or self._owner.ends)
        self._fill()
        if self._closes:
            left = self._budget - self._n_accepted
            if left <= self._next_look:
                self._narrow(left)
        if self._digits >= _MAX_DIGITS and self._grammar.is_json and self._plan is None:
            fewer = self._mask & ~self._owner.digits
            if fewer.any():
                self._mask[:] = fewer
        return self._mask

    def accept(self, token_id: int) -> None:
        """The token that came. One that ends the answer may be told, too."""
        self._n_accepted += 1
        if token_id in self._owner.ends and self._matcher.is_accepting():
            return
        if not self._matcher.consume_token(token_id):
            raise _invalid(self._grammar, self._matcher.get_error())
        raw = self._owner.token_bytes[token_id]
        steps = self._steps(token_id)
        self._follower.matcher.consume_tokens(steps)
        if self._walker is not None and self._closes:
            self._behind += steps
        if self._plan is not None:
            self._plan = self._plan[1:] if self._plan[:1] == [token_id] else None
        if self._marker is not None:
            self._tail = (self._tail + raw)[-256:]
            if [token_id] == self._marker or (self._marker_text and self._marker_text in self._tail):
                self._marker = None
                self._behind.clear()
                if self._walker is not None:
                    self._walker.restart()
        n = len(raw) - len(raw.rstrip(b"0123456789"))
        self._digits = self._digits + n if n == len(raw) and raw else n

    @property
    def satisfied(self) -> bool:
        """Whether what was accepted is a whole answer."""
        return bool(self._matcher.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether it is whole, and nothing could be added."""
        return bool(self._matcher.is_accepting() and self._matcher.is_stopped())

    # ---- masks ----

    def _fill(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise _invalid(self._grammar, self._matcher.get_error())

    def _only(self, ids: Iterable[int]) -> NDArray[np.int32]:
        self._mask[:] = 0
        words = self._mask.view(self._np.uint32)
        for i in ids:
            words[i >> 5] |= self._np.uint32(1 << (i & 31))
        return self._mask

    def _steps(self, token_id: int) -> list[int]:
        """A token as the follower takes it."""
        if token_id in self._owner.controls:
            return [token_id]
        first = self._owner.first_byte
        return [first + byte for byte in self._owner.token_bytes[token_id]]

    # ---- ending in time ----

    def _schedule(self, n_way: int) -> None:
        """When to look again: an answer moves away from its end by not much more than a token with each token, but where it
        begins a parameter or a call; so while the end is far off only now and then."""
        left = self._budget - self._n_accepted
        spare = left - n_way - 1 - self._zone - self._jump
        self._next_look = left - max(1, spare // 4)

    def _narrow(self, left: int) -> None:
        """Takes out of the mask what would lead too far from an end; leaves one way if the time has come."""
        found = self._way()
        if found is None:
            self._n_lost += 1
            self._closes = self._n_lost < _MAX_LOST
            return
        way, safe = found
        self._schedule(len(way))
        if safe + 1 + _SLACK_TOKENS >= left:
            self._plan = way
            self._only(way[:1] or self._owner.ends)
            return
        if left > len(way) + 1 + self._zone + self._jump:
            return
        wide = n_bits(self._follower.next_bytes()) >= N_WIDE
        ids = self._candidates(wide)
        if left > len(way) + 1 + self._zone:  # only what begins something can be too far
            if len(ids) <= _MAX_LOOKS_AHEAD and self._walker is not None:
                self._take_out(i for i in ids if self._walker.least_after(self._steps(i)) + 1 > left - 1)
            return
        kept = [i for i in ids[:_MAX_LOOKS] if self._returns(i, left - 1)]
        if wide:
            self._mask &= self._owner.plain
        else:
            self._mask[:] = 0
        words = self._mask.view(self._np.uint32)
        for i in [*kept, *way[:1], *(self._owner.ends if self.satisfied else ())]:
            words[i >> 5] |= self._np.uint32(1 << (i & 31))

    def _take_out(self, ids: Iterable[int]) -> None:
        words = self._mask.view(self._np.uint32)
        for i in ids:
            words[i >> 5] &= ~self._np.uint32(1 << (i & 31))

    def _candidates(self, wide: bool) -> list[int]:
        """Tokens to be tried one by one, first those with low ids, which vocabularies give to common ones; of a free text only
        what may end it."""
        np = self._np
        mask = self._mask & ~self._owner.plain if wide else self._mask
        ids = np.nonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))[0]
        return [int(i) for i in ids[: _MAX_LOOKS_AHEAD + 1] if int(i) not in self._owner.ends]

    def _returns(self, token_id: int, left: int) -> bool:
        """Whether an end can be reached in `left` tokens after this one."""
        steps = self._steps(token_id)
        if self._walker is not None and not self._walker.lost:
            found = self._walker.way_after(steps)
            if found is not None:
                return found.safe + 1 <= left
        matcher = self._follower.matcher
        taken = matcher.try_consume_tokens(steps)
        way = self._way_of_follower() if taken == len(steps) else None
        matcher.rollback(taken)
        return way is not None and len(way) + 1 <= left

    def _way(self) -> tuple[list[int], int] | None:
        """A short way to an end from here, in tokens, and how many it may be after a token of free text; None: none found."""
        if self._walker is not None:
            self._catch_up()
            for way in self._walker.ways():
                if self._follower.leads_to_end(way.steps):
                    ids = self._owner.in_tokens(way.steps)
                    return None if ids is None else (ids, max(len(ids), way.safe))
        found = self._way_of_follower()
        return None if found is None else (found, len(found))

    def _way_of_follower(self) -> list[int] | None:
        most = min(_MAX_CLOSING_BYTES, 16 * (self._budget - self._n_accepted + 1))
        steps = self._follower.way(most, self._marker, self._then)
        return None if steps is None else self._owner.in_tokens(steps)

    def _catch_up(self) -> None:
        """Tells the walker what was accepted. Where something comes before the answer itself, that begins where it fits."""
        if self._walker is None:
            return
        for step in self._behind:
            if self._walker.lost and self._prefixed:
                self._walker.restart()
            self._walker.walk((step,))
        self._behind.clear()
        if self._walker.lost and self._prefixed and self._marker is None:
            self._walker.restart()

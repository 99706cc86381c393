"""The shortest way to the end of an answer that follows a grammar.

A `Follower` goes along byte by byte and searches: in JSON a quote or a bracket leads to an end wherever one is possible.
Grammars of tool calls need more, since after a parameter or a call another one may come, and text between tags may hold
anything. They are made of literals, schemas and text up to a literal, so their `Outline` is read from their Lark text: a net of
such parts, each of which knows the shortest rest behind it. A `Walker` knows in which parts an answer may be; its rest is the
end of that part, searched for where it is JSON, and what the part knows.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Follower", "Outline", "Walker", "n_bits", "outline"]

N_WIDE = 48  # where more bytes than this may come next, the text is free there
_MAX_WORDS, _MAX_LETTERS = 200, 16  # of a grammar, that are tried as a way out
_MAX_PARTS = 50_000  # of an outline
_MAX_SEARCH = 4096  # bytes of JSON that are looked for to end it


def n_bits(number: int) -> int:
    return bin(number).count("1")


class Follower:
    """Follows text of a grammar by bytes. `matcher`: llguidance's, over a vocabulary whose last 256 tokens are the bytes, from
    `first` on. `text`: the grammar's, for words to try; `kind`: of it."""

    def __init__(self, matcher: Any, first: int, text: str, kind: str) -> None:
        import numpy as np

        self.matcher = matcher
        self._np = np
        self._first = first
        self._text = text
        self._kind = kind
        self._wide = np.zeros(first // 32 + 8, np.int32)
        self._known: dict[int, list[int]] = {}  # what led on, by the bytes that were possible

    def copy(self) -> Follower:
        return Follower(self.matcher.deep_copy(), self._first, self._text, self._kind)

    def next_bytes(self) -> int:
        """Bytes that may come next, as bits."""
        self.matcher.unsafe_compute_mask_ptr(self._wide.ctypes.data, self._wide.nbytes)
        return int.from_bytes(self._wide[-8:].tobytes(), "little")

    def leads_to_end(self, steps: Sequence[int]) -> bool:
        """Whether these steps make the text whole."""
        taken = self.matcher.try_consume_tokens(list(steps)) if steps else 0
        ends = taken == len(steps) and self.matcher.is_accepting()
        self.matcher.rollback(taken)
        return bool(ends)

    def way(self, most: int, marker: list[int] | None = None, then: Sequence[int] | None = None) -> list[int] | None:
        """Steps of a short way to an end; None if none of at most about `most` was found. `marker`: what is gone through as
        soon as that is possible; `then`: what is known to lead to the end once that was."""
        way = None if self._kind == "regex" else self._descend(b'}]"', most, marker, then)
        return way if way is not None else self._descend(b"", most, marker, then)

    def _descend(self, closers: bytes, most: int, marker: list[int] | None, then: Sequence[int] | None) -> list[int] | None:
        """Goes on with one of `closers` wherever that is possible, else with what seems to lead to an end."""
        matcher = self.matcher
        steps: list[int] = []
        taken = 0
        try:
            while not matcher.is_accepting():
                if marker is not None and matcher.validate_tokens(marker) == len(marker):
                    step, marker = marker, None
                elif marker is None and then and self.leads_to_end(then):
                    return steps + list(then)
                else:
                    step = self._step(closers)
                n = matcher.try_consume_tokens(step)
                taken += n
                steps += step
                if not n or n < len(step) or len(steps) > most:
                    self._known.clear()
                    return None
        finally:
            matcher.rollback(taken)
        return steps

    def _step(self, closers: bytes) -> list[int]:
        """What to go on with; [] if there is nothing."""
        first, allowed = self._first, self.next_bytes()
        if not allowed:
            ids = self._np.nonzero(self._np.unpackbits(self._wide.view(self._np.uint8), bitorder="little"))[0]
            return [int(i) for i in ids[:1]]
        wide = n_bits(allowed) >= N_WIDE  # in a string, where only its end is one
        byte = next((b for b in closers if allowed >> b & 1 and (not wide or b == ord('"'))), None)
        if byte is not None:
            return [first + byte]
        step = self._known.get(allowed)
        if step is None:
            rank, byte = min((self._rank(b, allowed), b) for b in range(256) if allowed >> b & 1)
            step = (self._way_out(allowed) if rank[1] else None) or [first + byte]
            self._known[allowed] = step
        return step

    def _way_out(self, allowed: int) -> list[int] | None:
        """A few bytes after which something else is possible than before, where no single one has that effect: `.*foo` goes on
        with any text until it has seen foo. What such words are made of stands in the grammar."""
        text = self._text
        if self._kind == "json":
            text = " ".join(json.loads(f'"{found}"') for found in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', text))
        written = re.sub(r"\\(.)", r"\1", text)
        found = dict.fromkeys(re.findall(r"[^\W_]+|[\w@./:-]+", written))
        words = [word.encode() for word in found if len(word) > 1][:_MAX_WORDS]
        letters = list(dict.fromkeys(b for b in written.encode() if allowed >> b & 1))[: _MAX_LETTERS // 2]
        letters += [b for b in b"a0:/.@-A" if allowed >> b & 1 and b not in letters]
        words += (bytes(word) for n in (2, 3) for word in itertools.product(letters, repeat=n))
        for word in words:
            step = [self._first + byte for byte in word]
            taken = self.matcher.try_consume_tokens(step)
            changed = taken == len(step) and (self.matcher.is_accepting() or self.next_bytes() != allowed)
            self.matcher.rollback(taken)
            if changed:
                return step
        return None

    def _after(self, byte: int) -> int | None:
        """Bytes that may follow this one; 0 if the text may end there, None if it may not come."""
        if not self.matcher.consume_token(self._first + byte):
            return None
        after = 0 if self.matcher.is_accepting() else self.next_bytes()
        self.matcher.rollback(1)
        return after

    def _rank(self, byte: int, allowed: int) -> tuple[bool, bool, int]:
        """How far a byte leads from an end: neither white space, nor the beginning of an escape or a long character, none
        after which all is as before, and little choice after it."""
        after = self._after(byte)
        return byte in b" \n\t\r\\" or byte >= 128, after is None or after == allowed, n_bits(after or 0)


# ---- outlines ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Part:
    """`text`: these steps. `json`: what `leaf` follows. `until`: any text that ends with `steps`, which it has nowhere else.
    `any`: any text. `split`: one of `options`. What comes next, and the shortest rest from its beginning as tokens; None: none
    is known."""

    kind: Literal["text", "json", "until", "any", "split", "end"]
    steps: tuple[int, ...] = ()
    leaf: Follower | None = None
    options: list[_Part] = field(default_factory=list)
    next: _Part | None = None
    own: tuple[int, ...] | None = ()  # the shortest of this part
    rest: tuple[int, ...] | None = ()  # in steps
    n_tokens: int = 0  # of the rest


@dataclass(frozen=True)
class Outline:
    start: _Part
    jump: int  # most tokens by which one byte can make the rest longer, outside of JSON


_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|<\[(\d+)\]>|([A-Za-z_]\w*)|(\{0,\d+\})|([()|?]))')
_RULE = re.compile(r"([A-Za-z_]\w*)(?:\[suffix=(\"(?:[^\"\\]|\\.)*\")\])?: (.*)")
_ANY_TEXT = "/(.|\\n)*/"


class _Reader:
    """Reads the outline from a Lark text made of nothing but literals, control tokens, JSON schemas, text up to a suffix, and
    rules that do not refer to themselves. Raises ValueError for anything else. Parts are made from the last one back."""

    def __init__(self, text: str, first: int, leaf: Callable[[str], Follower], count: Callable[[Sequence[int]], int]) -> None:
        self._first = first
        self._leaf = leaf
        self._count = count
        self._rules: dict[str, Any] = {}
        self._parts: dict[tuple[str, int], _Part] = {}
        self._open: set[str] = set()
        self._made: list[_Part] = []
        self._ways: dict[int, tuple[int, ...] | None] = {}  # of followers
        self.jump = 0
        for line in text.split("\n"):
            found = _RULE.fullmatch(line)
            if found:
                name, suffix, body = found.groups()
                if suffix is None and body == _ANY_TEXT:
                    self._rules[name] = ("any", None)
                elif suffix is None:
                    self._rules[name] = self._parsed(body)
                elif body == _ANY_TEXT:
                    self._rules[name] = ("until", json.loads(suffix).encode())
                else:
                    raise ValueError("text of another kind up to a suffix")
            elif line.strip() not in ("", "%llguidance {}"):
                raise ValueError("no rule")

    def outline(self) -> Outline:
        start = self._part(("name", "start"), self._add(_Part("end")))
        return Outline(start, self.jump)

    def _parsed(self, body: str) -> Any:
        if body.startswith("%json "):
            json.loads(body[6:])
            return ("json", body[6:])
        tokens: list[Any] = []
        at, body = 0, body.strip()
        while at < len(body):
            found = _TOKEN.match(body, at)
            if found is None:
                raise ValueError("an expression of another kind")
            text, control, name, count, sign = found.groups()
            if text is not None:
                tokens.append(("text", tuple(self._first + byte for byte in json.loads(text).encode())))
            elif control is not None:
                tokens.append(("text", (int(control),)))
            else:
                tokens.append(("name", name) if name else count or sign)
            at = found.end()
        tokens.reverse()
        tree = self._choice(tokens)
        if tokens:
            raise ValueError("a parenthesis too many")
        return tree

    def _choice(self, tokens: list[Any]) -> Any:
        options = [self._sequence(tokens)]
        while tokens and tokens[-1] == "|":
            tokens.pop()
            options.append(self._sequence(tokens))
        return options[0] if len(options) == 1 else ("choice", options)

    def _sequence(self, tokens: list[Any]) -> Any:
        items: list[Any] = []
        while tokens and tokens[-1] not in ("|", ")"):
            item = tokens.pop()
            if item == "(":
                item = self._choice(tokens)
                if not tokens or tokens.pop() != ")":
                    raise ValueError("an open parenthesis")
            elif isinstance(item, str):
                raise ValueError("nothing to repeat")
            while tokens and isinstance(tokens[-1], str) and tokens[-1] not in "|()":
                item = ("optional" if tokens.pop() == "?" else "repeat", item)
            items.append(item)
        return ("sequence", items)

    def _part(self, tree: Any, after: _Part) -> _Part:
        """The part that begins what `tree` says, with `after` behind it."""
        kind, content = tree
        if kind == "text":
            return self._add(_Part("text", content, next=after)) if content else after
        if kind == "sequence":
            for item in reversed(content):
                after = self._part(item, after)
            return after
        if kind == "choice":
            return self._split([self._part(option, after) for option in content])
        if kind == "optional":
            return self._split([self._part(content, after), after])
        if kind == "repeat":
            loop = self._split([after])
            loop.options.append(self._part(content, loop))
            self.jump = max(self.jump, loop.options[1].n_tokens - loop.n_tokens)
            return loop
        if kind == "json":
            return self._add(_Part("json", leaf=self._leaf(content), next=after))
        if kind == "any":
            return self._add(_Part("any", next=after))
        if kind == "until":
            return self._add(_Part("until", tuple(self._first + byte for byte in content), next=after))
        key = content, id(after)
        if key not in self._parts:
            if content in self._open or content not in self._rules:
                raise ValueError("a rule within itself, or none")
            self._open.add(content)
            self._parts[key] = self._part(self._rules[content], after)
            self._open.remove(content)
        return self._parts[key]

    def _split(self, options: list[_Part]) -> _Part:
        return self._add(_Part("split", options=options))

    def _add(self, part: _Part) -> _Part:
        if len(self._made) >= _MAX_PARTS:
            raise ValueError("too many parts")
        self._made.append(part)  # which keeps ids from being used again
        if part.kind == "split":
            ending = [option for option in part.options if option.rest is not None]
            if ending:
                shortest = min(ending, key=lambda option: option.n_tokens)
                part.rest, part.n_tokens = shortest.rest, shortest.n_tokens
                self.jump = max(self.jump, *(option.n_tokens - part.n_tokens for option in ending), 0)
            else:
                part.rest = None
        elif part.next is not None:
            part.own = part.steps if part.leaf is None else self._shortest(part.leaf)
            if part.own is None or part.next.rest is None:
                part.rest = None
            else:
                part.rest = (*part.own, *part.next.rest)
                part.n_tokens = self._count(part.own) + part.next.n_tokens
        return part

    def _shortest(self, leaf: Follower) -> tuple[int, ...] | None:
        if id(leaf) not in self._ways:
            way = leaf.way(_MAX_SEARCH)
            self._ways[id(leaf)] = None if way is None else tuple(way)
        return self._ways[id(leaf)]


def outline(text: str, first: int, leaf: Callable[[str], Follower], count: Callable[[Sequence[int]], int]) -> Outline | None:
    """The outline of a grammar in Lark; None if it is made of other things. `first`: step of byte 0; `leaf`: a follower of a
    schema; `count`: how many tokens some steps are."""
    try:
        return _Reader(text, first, leaf, count).outline()
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class _State:
    """Where an answer may be. `at`: steps of a text that came; `follower`: of JSON that has begun; `tail`: end of a text that
    goes on up to a suffix."""

    part: _Part
    at: int = 0
    follower: Follower | None = None
    tail: bytes = b""


@dataclass(frozen=True)
class Way:
    """Steps to an end, their number in tokens, and the most that it may be after one token of free text."""

    steps: tuple[int, ...]
    n_tokens: int
    safe: int


class Walker:
    """All places of an outline where one answer may be."""

    def __init__(self, plan: Outline, first: int, count: Callable[[Sequence[int]], int]) -> None:
        self._first = first
        self._count = count
        self.start = plan.start
        self._states: list[_State] = []
        self.restart()

    def restart(self) -> None:
        """The answer begins here."""
        self._states = self._closure([self.start])

    @property
    def lost(self) -> bool:
        return not self._states

    def walk(self, steps: Iterable[int], taken: dict[int, tuple[Follower, int]] | None = None) -> None:
        """Goes on. `taken`: counts what followers take, to be taken back."""
        for step in steps:
            states: list[_State] = []
            begun: list[_Part] = []
            for state in self._states:
                self._advance(state, step, states, begun, taken)
            self._states = states + self._closure(begun)

    def _advance(
        self,
        state: _State,
        step: int,
        states: list[_State],
        begun: list[_Part],
        taken: dict[int, tuple[Follower, int]] | None,
    ) -> None:
        part = state.part
        if part.next is None:
            return
        if part.kind == "text":
            if part.steps[state.at] == step:
                if state.at + 1 == len(part.steps):
                    begun.append(part.next)
                else:
                    states.append(_State(part, state.at + 1))
        elif part.kind == "json":
            follower = state.follower
            if follower is None:
                assert part.leaf is not None
                follower = part.leaf.copy()
            if not follower.matcher.try_consume_tokens([step]):
                return
            if taken is not None:
                taken[id(follower)] = follower, taken.get(id(follower), (follower, 0))[1] + 1
            states.append(_State(part, follower=follower))
            if follower.matcher.is_accepting():
                begun.append(part.next)
        elif part.kind == "any":
            if step >= self._first:
                tail = state.tail[-3:] + bytes([step - self._first])
                states.append(_State(part, tail=tail))
                if not _missing(tail):
                    begun.append(part.next)
        elif step >= self._first:
            suffix = self._bytes(part.steps)
            tail = state.tail + bytes([step - self._first])
            if tail.endswith(suffix):
                begun.append(part.next)
            else:
                states.append(_State(part, tail=tail[-len(suffix) - 4 :]))

    def ways(self) -> list[Way]:
        """Ways to an end, the shortest first."""
        ways = []
        for state in self._states:
            part = state.part
            if part.rest is None:
                continue
            own: Sequence[int] | None = ()
            after, slack = part, 0
            if part.next is not None:
                after = part.next
                if part.kind == "text":
                    own = part.steps[state.at :]
                elif part.kind == "json":
                    own = part.own if state.follower is None else state.follower.way(_MAX_SEARCH)
                elif part.kind == "any":
                    own = [self._first + byte for byte in _missing(state.tail)]
                    slack = 3
                else:
                    own = self._to_suffix(state)
                    slack = 3
            if own is not None and after.rest is not None:
                n_tokens = self._count(own) + after.n_tokens
                safe = max(n_tokens, self._count(part.steps) + slack + after.n_tokens) if slack else n_tokens
                ways.append(Way((*own, *after.rest), n_tokens, safe))
        return sorted(ways, key=lambda way: way.n_tokens)

    def way_after(self, steps: Sequence[int]) -> Way | None:
        """The shortest way after these steps, which are not gone."""
        states, taken = self._states, {}  # type: tuple[list[_State], dict[int, tuple[Follower, int]]]
        try:
            self.walk(steps, taken)
            return next(iter(self.ways()), None)
        finally:
            self._states = states
            for follower, n in taken.values():
                follower.matcher.rollback(n)

    def least_after(self, steps: Sequence[int]) -> int:
        """At least how many tokens it is to an end after these steps, which are not gone: as if JSON were about to end."""
        states, taken = self._states, {}  # type: tuple[list[_State], dict[int, tuple[Follower, int]]]
        try:
            self.walk(steps, taken)
            return min((self._least(state) for state in self._states), default=0)
        finally:
            self._states = states
            for follower, n in taken.values():
                follower.matcher.rollback(n)

    def _least(self, state: _State) -> int:
        part = state.part
        if part.next is None:
            return 0
        if part.kind == "text":
            return self._count(part.steps[state.at :]) + part.next.n_tokens
        return part.n_tokens if part.kind == "json" and state.follower is None else part.next.n_tokens

    def _closure(self, parts: Iterable[_Part]) -> list[_State]:
        found: dict[int, _Part] = {}
        waiting = list(parts)
        while waiting:
            part = waiting.pop()
            if id(part) not in found:
                found[id(part)] = part
                waiting += part.options
                if part.kind == "any" and part.next is not None:
                    waiting.append(part.next)
        return [_State(part) for part in found.values() if part.kind != "split"]

    def _bytes(self, steps: Sequence[int]) -> bytes:
        return bytes(step - self._first for step in steps)

    def _to_suffix(self, state: _State) -> list[int]:
        """What ends a text: what is missing of a character, and of the suffix."""
        suffix, tail = self._bytes(state.part.steps), state.tail
        for n in range(len(suffix) - 1, 0, -1):
            if tail.endswith(suffix[:n]):
                return list(state.part.steps[n:])
        return [self._first + byte for byte in _missing(tail) + suffix]


def _missing(tail: bytes) -> bytes:
    """Bytes that make the last character of a text whole."""
    for n in range(1, min(4, len(tail)) + 1):
        lead = tail[-n]
        if lead & 0xC0 == 0x80:
            continue
        length = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
        if n >= length:
            return b""
        more = b"\x80" * (length - n)
        if n == 1 and lead in (0xE0, 0xF0):
            more = bytes([0xA0 if lead == 0xE0 else 0x90]) + more[1:]
        return more
    return b""

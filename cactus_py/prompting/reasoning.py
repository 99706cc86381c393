"""Reasoning taken apart from the answer while both arrive.

Models that think aloud put their thoughts between markers. Which ones a model uses is read from its template and its special
tokens (`detect`), not from its name. A `Separator` is fed what one answer's tokens add, cut wherever the tokenizer cut it, and
returns pieces that are reasoning or content: never a half of a marker, and none of the white space around one.

A marker may be spelled in plain text, or be a control token that adds no text; `Markers` puts the latter in their places. Text
markers count only at the beginning of an answer, since later ones may be what the answer is about; control tokens count
anywhere.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FORMATS", "Format", "Markers", "Piece", "Separator", "Spelled", "detect", "separator"]


@dataclass(frozen=True)
class Format:
    """How a family of models marks its reasoning: everything between `start` and `end`."""

    name: str
    start: str
    end: str

    @property
    def token(self) -> str:
        """What of `start` a vocabulary has as one token."""
        found = re.match(r"<[^>]*>|\[[^\]]*\]", self.start)
        return found[0] if found else self.start

    @property
    def markers(self) -> tuple[str, ...]:
        """Control tokens to look out for."""
        return (self.token, self.end)


@dataclass(frozen=True)
class _Harmony(Format):
    @property
    def markers(self) -> tuple[str, ...]:
        return _HARMONY_MARKERS


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that belongs together, and the tokens (whatever the caller keeps of them) that it came with; or, in place of text,
    what is added to a tool call (`prompting.calls`)."""

    reasoning: bool
    text: str
    tokens: tuple[Any, ...] = ()
    call: Any = None


_HARMONY_MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>")

FORMATS = (
    _Harmony("harmony", "<|channel|>analysis<|message|>", "<|end|>"),
    Format("think", "<think>", "</think>"),
    Format("bracket-think", "[THINK]", "[/THINK]"),
    Format("start-thinking", "<|START_THINKING|>", "<|END_THINKING|>"),
    Format("seed-think", "<seed:think>", "</seed:think>"),
    Format("mm-think", "<mm:think>", "</mm:think>"),
    Format("channel-thought", "<|channel>thought\n", "<channel|>"),
    Format("inner", "<|inner_prefix|>", "<|inner_suffix|>"),
)


def detect(source: str, vocabulary: Container[str]) -> Format | None:
    """The format of a model with this template and these special tokens; None if it does not mark reasoning."""
    for form in FORMATS:
        if isinstance(form, _Harmony):
            if all(token in source for token in ("<|channel|>", "<|message|>")) or (
                all(token in vocabulary for token in ("<|channel|>", "<|message|>", "<|start|>"))
            ):
                return form
        elif form.end in source or (form.token in vocabulary and form.end in vocabulary):
            return form
    return None


def separator(form: Format, prompt_end: str) -> Separator:
    """A separator for one answer to a prompt whose text ends like this: the template may have begun the reasoning itself."""
    if isinstance(form, _Harmony):
        return _HarmonySeparator(prompt_end)
    return _TagSeparator(form, opened=prompt_end.rstrip().endswith(form.start.rstrip()))


class Separator:
    """Takes one answer apart."""

    def __init__(self) -> None:
        self.reasoning_tokens = 0
        self._n_held = 0  # tokens whose text is not out yet
        self._tokens: list[Any] = []
        self._pieces: list[Piece] = []

    def feed(self, text: str, tokens: Sequence[Any] = (), *, n_tokens: int = 0) -> list[Piece]:
        """What `n_tokens` tokens add as text. `tokens` come back with the piece that their text went into."""
        self._n_held += n_tokens
        self._tokens += tokens
        self._feed(text)
        return self._taken()

    def mark(self, marker: str) -> list[Piece]:
        """A control token, by its spelling."""
        self._mark(marker)
        return self._taken()

    def finish(self) -> list[Piece]:
        """The answer has ended: what was held back."""
        self._finish()
        if self._tokens or self._n_held:
            self._emit(self._thinks(), "")
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return [piece for piece in pieces if piece.text or piece.tokens]

    def _emit(self, reasoning: bool, text: str) -> None:
        self._pieces.append(Piece(reasoning, text, tuple(self._tokens)))
        self._tokens.clear()
        self._settle(reasoning)

    def _settle(self, reasoning: bool) -> None:
        self.reasoning_tokens += self._n_held if reasoning else 0
        self._n_held = 0

    def _feed(self, text: str) -> None:
        raise NotImplementedError

    def _mark(self, marker: str) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def _thinks(self) -> bool:
        raise NotImplementedError


class _TagSeparator(Separator):
    """`start`, reasoning, `end`, content. `_state`: "lead" before anything but white space, "reasoning", or "content"."""

    def __init__(self, form: Format, opened: bool) -> None:
        super().__init__()
        self._form = form
        self._state = "reasoning" if opened else "lead"
        self._bare = opened  # white space that comes now stands next to a marker, and goes
        self._held = ""

    def _thinks(self) -> bool:
        return self._state == "reasoning"

    def _mark(self, marker: str) -> None:
        if self._state == "content":
            if not self._form.start.startswith(marker):
                return
            self._state, self._bare = "lead", True
        elif self._state == "lead" and not self._held.strip() and marker == self._form.end:
            self._held = ""  # it ends what never began
            return
        self._feed(marker)

    def _feed(self, text: str) -> None:
        self._held += text
        while self._held:
            before = (self._state, self._held)
            if self._bare:
                self._held = self._held.lstrip()
            if self._state == "lead":
                self._lead()
            elif self._state == "reasoning":
                self._reason()
            else:
                self._emit(False, self._held)
                self._held = ""
            if before == (self._state, self._held):
                return

    def _lead(self) -> None:
        start, found = self._form.start, self._held.lstrip()
        if not found or (len(found) < len(start) and start.startswith(found)):
            return
        if found.startswith(start):
            self._state, self._bare, self._held = "reasoning", True, found[len(start) :]
            self._settle(True)
        else:
            self._state, self._bare = "content", False

    def _reason(self) -> None:
        thought, end, rest = self._held.partition(self._form.end)
        if end:
            self._emit(True, thought.rstrip())
            self._state, self._bare, self._held = "lead", True, rest
            return
        safe = len(self._held) - _overlap(self._held, self._form.end)
        safe = len(self._held[:safe].rstrip())
        if safe:
            self._emit(True, self._held[:safe])
            self._bare, self._held = False, self._held[safe:]

    def _finish(self) -> None:
        marker = self._form.end if self._state == "reasoning" else self._form.start
        n_half = _overlap(self._held, marker)
        text = self._held[:-n_half] if n_half > 1 else self._held  # one character may as well be meant
        self._held = ""
        if self._thinks():
            text = text.rstrip()
        if text:
            self._emit(self._thinks(), text)


class _HarmonySeparator(Separator):
    """Messages with headers: `<|channel|>NAME<|message|>TEXT<|end|>`. The channel "analysis" is reasoning, the others are
    content. A message to a recipient is a tool call; it is passed on as it was written, markers spelled out.
    """

    _MAX_HEADER_CHARS = 256

    def __init__(self, prompt_end: str) -> None:
        super().__init__()
        self._header: str | None = ""  # None: inside a message
        self._kind = "content"  # of the message: "reasoning", "content", "raw"
        self._begun = {False: False, True: False}  # whether reasoning or content was emitted
        self._gap = False  # a further message of a kind follows
        for marker in re.split(r"(<\|\w+\|>)", prompt_end.rpartition("<|start|>")[2]):
            self._mark(marker) if marker in _HARMONY_MARKERS else self._feed(marker)
        self._pieces.clear()
        self._begun = {False: False, True: False}

    def _thinks(self) -> bool:
        return self._header is None and self._kind == "reasoning"

    def _feed(self, text: str) -> None:
        if not text:
            return
        if self._header is None:
            self._put(text)
            return
        self._header += text
        if "<|" not in self._header and len(self._header) > self._MAX_HEADER_CHARS:  # a model that ignores its own form
            self._flush()

    def _mark(self, marker: str) -> None:
        if self._header is not None:
            if marker != "<|message|>":
                self._header = self._header + marker if marker not in ("<|end|>", "<|start|>") else ""
                return
            header, self._header = self._header, None
            channel = re.search(r"<\|channel\|>\s*(\w+)", header)
            if re.search(r"\bto=", header):
                self._kind = "raw"
            else:
                self._kind = "reasoning" if channel is not None and channel[1] == "analysis" else "content"
            self._gap = True
            if self._kind == "raw":
                self._put(header.removeprefix("assistant") + marker)
            return
        if self._kind == "raw":
            self._put(marker)
        elif self._n_held or self._tokens:
            self._emit(self._thinks(), "")
        if marker in ("<|end|>", "<|return|>", "<|call|>", "<|start|>"):
            self._header = ""

    def _put(self, text: str) -> None:
        reasoning = self._kind == "reasoning"
        if self._gap and self._begun[reasoning]:
            text = "\n\n" + text
        self._gap = False
        self._begun[reasoning] = True
        self._emit(reasoning, text)

    def _flush(self) -> None:
        text, self._header = self._header or "", None
        self._kind = "content"
        if text:
            self._put(text)

    def _finish(self) -> None:
        if self._header is not None and "<|" not in self._header and self._header.strip() not in ("", "assistant"):
            self._flush()


class Spelled(Separator):
    """Leaves everything as it is; control tokens of the format are spelled out, so that it can be taken apart later."""

    def _thinks(self) -> bool:
        return False

    def _feed(self, text: str) -> None:
        if text or self._tokens:
            self._emit(False, text)
        else:
            self._settle(False)

    def _mark(self, marker: str) -> None:
        self._emit(False, marker)

    def _finish(self) -> None:
        pass


class Markers:
    """Puts control tokens between the texts of an answer.

    Text may come later than the token it belongs to: as long as it could be the beginning of a stop string it is held back. A
    control token adds no text and is known at once, so as many characters have to pass before it as are held when it comes.
    """

    def __init__(self, separator: Separator, stop: Sequence[str]) -> None:
        self.separator = separator
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._tail = ""  # the last characters that were generated, shown or held
        self._waiting: deque[tuple[int, str]] = deque()  # characters to come after the entry before, then this marker

    @property
    def needs_text(self) -> bool:
        """Whether `push` looks at `generated`: only stop strings hold text back."""
        return self._longest > 0

    def push(self, text: str, marker: str | None, generated: str, tokens: Sequence[Any] = (), n_tokens: int = 1) -> list[Piece]:
        """One event: the text that it lets out, the control token that it is (None: another one), and the text that its token
        stands for."""
        pieces: list[Piece] = []
        if marker is not None:
            self.separator._n_held += n_tokens
            self.separator._tokens += tokens
            tokens, n_tokens = (), 0
        while self._waiting and self._waiting[0][0] <= len(text):
            n_chars, waiting = self._waiting.popleft()
            pieces += self.separator.feed(text[:n_chars]) + self.separator.mark(waiting)
            text = text[n_chars:]
        if self._waiting:
            self._waiting[0] = (self._waiting[0][0] - len(text), self._waiting[0][1])
        pieces += self.separator.feed(text, tokens, n_tokens=n_tokens)
        if self._longest:
            self._tail = (self._tail + generated)[-self._longest :]
        if marker is not None:
            n_held = max((_overlap(self._tail, stop) for stop in self._stop), default=0)
            n_held -= sum(n_chars for n_chars, _ in self._waiting)
            if n_held > 0 or self._waiting:
                self._waiting.append((max(0, n_held), marker))
            else:
                pieces += self.separator.mark(marker)
        return pieces

    def finish(self) -> list[Piece]:
        pieces: list[Piece] = []
        for _, marker in self._waiting:
            pieces += self.separator.mark(marker)
        self._waiting.clear()
        return pieces + self.separator.finish()


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that `marker` begins with, short of all of it."""
    for n_chars in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:n_chars]):
            return n_chars
    return 0

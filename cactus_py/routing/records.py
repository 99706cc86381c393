"""Questions with known answers, what a local model said to them, and what was noticed meanwhile: calibration's raw material.

DATA is JSON lines, gzipped if the name ends in .gz, one `Item` a line:

    {"id": "sums/0001", "group": "sums", "prompt": "What is 3 + 4?", "answers": ["7"], "match": "number"}

`prompt`, or `messages` as OpenAI writes them; `group` is what items have in common (calibration is tested on groups it was not
made from); `match` is how a reply is graded (see `grade`); optional are `options` (see there), `max_tokens`, `level` and
`cloud_correct`. Other fields are passed over. Rows of MMLU (prompt, choices, answer, subject) and GSM8K (question, final) with
the column gpt4_correct are read as they are.

Records are kept in one .npz: flat arrays, an array of offsets for each that has more or fewer than one number per record.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
import os
import re
import tempfile
import threading
import time
import unicodedata
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

from ..backends.base import FinishReason, Reply, States, Trace
from ..errors import ConfigError, InvalidRequestError, RequestCancelledError
from ..types import ChatCompletionRequest, parse_request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..backends.base import Backend

__all__ = [
    "Item",
    "Match",
    "Record",
    "answer_items",
    "grade",
    "load_records",
    "read_items",
    "save_records",
    "split_subjects",
]

Match = Literal["exact", "number", "choice", "contains", "line", "json"]

MAX_TOKENS = 64
MMLU_TOKENS = 8
GSM8K_TOKENS = 400  # with 200 nine of ten answers of a 0.5B model are cut
MAX_LINE_BYTES = 4 << 20
MAX_MEMBER_BYTES = 1 << 30  # of one array of a record file, unpacked
FORMAT = 1  # of record files

_FREE_WORDS = 32  # where "contains" looks when nothing says what the other answers could have been
_MAX_GRADED_CHARS = 100_000
_MAX_STATED, _MAX_STATED_CHARS = 16, 400  # places where a reply may state its number, and what is read there
_WAIT_SECONDS = 0.2
_FINISHES: tuple[FinishReason | None, ...] = (None, "stop", "length", "tool_calls", "content_filter")


@dataclass(frozen=True, slots=True)
class Item:
    """A question, and what is right. `options`: answers of the same kind, right ones or not; naming a wrong one first is
    wrong. `cloud_correct`: whether the cloud's recorded answer was right, None where nobody knows."""

    id: str
    group: str
    messages: tuple[dict[str, Any], ...]
    answers: tuple[str, ...]
    match: Match = "exact"
    max_tokens: int = MAX_TOKENS
    level: int | None = None
    cloud_correct: bool | None = None
    options: tuple[str, ...] = ()

    @property
    def prompt_text(self) -> str:
        """All text of the messages, the last user message last."""
        texts = [_text_of(message) for message in self.messages]
        last = max((i for i, message in enumerate(self.messages) if message.get("role") == "user"), default=None)
        if last is not None:
            texts.append(texts.pop(last))
        return "\n".join(text for text in texts if text)


@dataclass(slots=True)
class Record:
    """An item, and what a model answered. `total_ms`: wall-clock, of a request among others that were under way."""

    item: Item
    text: str
    trace: Trace
    states: States | None
    correct: bool
    total_ms: float


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and part.get("type") == "text")


# ---- DATA ----------------------------------------------------------------------------------------------------------------


def read_items(path: str | os.PathLike[str]) -> list[Item]:
    """The items of a file of DATA, or of rows of MMLU or GSM8K; rows marked "contaminated" are left out.

    Raises ConfigError if the file cannot be read or has none, InvalidRequestError with the number of the line that is wrong.
    """
    path = Path(path)
    items: list[Item] = []
    seen: dict[str, int] = {}
    pools: dict[tuple[str, ...], tuple[str, ...]] = {}  # equal options share memory
    try:
        with path.open("rb") as raw:
            file: IO[bytes] = gzip.open(raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]  # noqa: SIM115
            for number in itertools.count(1):
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    break
                if len(line) > MAX_LINE_BYTES:
                    raise InvalidRequestError(f"{path.name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB")
                if not line.strip():
                    continue
                try:
                    item = _item(_object(line), number, pools)
                    if item is not None and item.id in seen:
                        raise InvalidRequestError(f'the id "{item.id}" is that of line {seen[item.id]}, too', "id")
                except InvalidRequestError as error:
                    raise InvalidRequestError(f"{path.name}, line {number}: {error}", error.param) from None
                if item is not None:
                    seen[item.id] = number
                    items.append(item)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path.name} cannot be read: {reason}") from None
    if not items:
        raise ConfigError(f"{path.name} has no items")
    return items


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidRequestError("no UTF-8") from None
    except (ValueError, RecursionError):
        raise InvalidRequestError("no JSON") from None
    if not isinstance(row, dict):
        raise InvalidRequestError("should be a JSON object")
    return row


def _item(row: dict[str, Any], number: int, pools: dict[tuple[str, ...], tuple[str, ...]]) -> Item | None:
    """The item of a row; None for one to leave out."""
    if row.get("contaminated") is True:
        return None
    if "answers" not in row and "choices" in row:
        row = _from_mmlu(row)
    elif "answers" not in row and "final" in row:
        row = _from_gsm8k(row)
    options = tuple(_strings(row, "options", optional=True))
    return Item(
        id=_string(row, "id", f"line-{number}"),
        group=_string(row, "group", "all"),
        messages=_messages(row),
        answers=_answers(row),
        match=_match(row),
        max_tokens=_integer(row, "max_tokens", 1, MAX_TOKENS) or MAX_TOKENS,
        level=_integer(row, "level", None, None),
        cloud_correct=_flag(row, "cloud_correct"),
        options=pools.setdefault(options, options),
    )


def _from_mmlu(row: dict[str, Any]) -> dict[str, Any]:
    """A multiple-choice question as DATA. What is said to high school mathematics in GPT-4's column comes from how it was
    asked (one token, 3 % right) and not from what it knows, so it is dropped."""
    choices = _strings(row, "choices")
    letters = [chr(ord("A") + index) for index in range(min(len(choices), 26))]
    answer = _string(row, "answer")
    if answer not in letters:
        raise InvalidRequestError(f"answer should be one of {', '.join(letters)}, not {answer!r}", "answer")
    question = _string(row, "prompt").rstrip().removesuffix("Answer:").rstrip()
    subject = _string(row, "subject", "mmlu")
    return {
        "id": row.get("id"),
        "group": subject,
        "prompt": f"{question}\n\nAnswer with just the letter of the right option.",
        "answers": [answer],
        "options": letters,
        "match": "choice",
        "max_tokens": row.get("max_tokens", MMLU_TOKENS),
        "cloud_correct": None if subject == "high_school_mathematics" else row.get("gpt4_correct"),
    }


def _from_gsm8k(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row.get("id"),
        "group": "gsm8k",
        "prompt": f"{_string(row, 'question').strip()}\n\nWork it out step by step, and end with the answer as a number.",
        "answers": [_string(row, "final")],
        "match": "number",
        "max_tokens": row.get("max_tokens", GSM8K_TOKENS),
        "cloud_correct": row.get("gpt4_correct"),
    }


def _messages(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise InvalidRequestError("needs either a prompt or messages", "prompt")
    if messages is None:
        messages = [{"role": "user", "content": _string(row, "prompt")}]
    parse_request(ChatCompletionRequest, {"messages": messages})
    return tuple(messages)


def _answers(row: dict[str, Any]) -> tuple[str, ...]:
    answers = tuple(_strings(row, "answers"))
    match = row.get("match", "exact")
    for answer in answers:
        if match == "number" and not _numbers(answer):
            raise InvalidRequestError(f"match is number, but the answer {answer!r} has none", "answers")
        if match == "json":
            try:
                json.loads(answer)
            except (ValueError, RecursionError):
                raise InvalidRequestError(f"match is json, but the answer {answer[:40]!r} is none", "answers") from None
    return answers


def _match(row: dict[str, Any]) -> Match:
    match: Match = row.get("match", "exact")
    if match not in get_args(Match):
        raise InvalidRequestError(f"match should be one of {', '.join(get_args(Match))}, not {match!r}", "match")
    return match


def _string(row: dict[str, Any], name: str, default: str | None = None) -> str:
    value = row.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequestError(f"{name} should be a text that is not empty", name)
    return value


def _strings(row: dict[str, Any], name: str, optional: bool = False) -> list[str]:
    value = row.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise InvalidRequestError(f"{name} should be a list of texts, none of them empty", name)
    return value


def _integer(row: dict[str, Any], name: str, least: int | None, default: int | None) -> int | None:
    value = row.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 31 or (least is not None and value < least):
        raise InvalidRequestError(f"{name} should be a whole number{'' if least is None else f' from {least} on'}", name)
    return value


def _flag(row: dict[str, Any], name: str) -> bool | None:
    value = row.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{name} should be true, false or null, not {value!r}", name)
    return value


def split_subjects(groups: Iterable[str]) -> tuple[list[str], list[str]]:
    """Groups for calibration, and groups that stay untouched until the end: sorted by name, every second one each."""
    names = sorted(set(groups))
    return names[0::2], names[1::2]


# ---- grading -------------------------------------------------------------------------------------------------------------


def grade(item: Item, text: str) -> bool:
    """Whether a reply is right. What is said besides does no harm, as long as it does not come before the answer:

    exact     the whole reply is the answer, but for case, quotes and emphasis around it, a leading article, a final stop
    line      the first or the last line is, after a "label:" or not; case counts
    number    the number it settles on: after "answer is" or "####" or in \\boxed{}, or that with which a reply of one number
              begins, or else the last; 1,200 = 1200.0, words up to ninety-nine count where there are no digits
    choice    of the options (where none are given: letters for a letter, yes and no, true and false), as whole words, the first
              that is named is right, but for case and accents; the article "a" is no letter
    contains  the same for open questions; without options the answer comes within the first 32 words
    json      the first JSON value in it, in a code fence or not, equals the answer: same keys, same values, 3 = 3.0
    """
    text = unicodedata.normalize("NFKC", text[:_MAX_GRADED_CHARS])
    if item.match == "exact":
        return _plain(text) in {_plain(answer) for answer in item.answers}
    if item.match == "line":
        wanted = {_bare(answer) for answer in item.answers}
        lines = [line for line in map(_bare, text.splitlines()) if line]
        said = {line for line in (*lines[:1], *lines[-1:])}
        return not wanted.isdisjoint(said | {_bare(line.split(":", 1)[1]) for line in said if ":" in line})
    if item.match == "number":
        said_number = _stated_number(text)
        return said_number is not None and any(said_number in _numbers(answer)[-1:] for answer in item.answers)
    if item.match == "json":
        found = _first_json(text)
        return found is not None and any(_same(found[0], json.loads(answer)) for answer in item.answers)
    return _names_first(item, text)


_WRAP = " \t\r\n\"'`*_“”‘’«»"


def _bare(text: str) -> str:
    """Without quotes, emphasis, blanks around and doubled, and a final stop."""
    text = " ".join(unicodedata.normalize("NFKC", text).strip(_WRAP).split())
    return text.rstrip(".").rstrip(_WRAP)


def _plain(text: str) -> str:
    return re.sub(r"^(?:the|an?)\s+(?=\S)", "", _bare(text).casefold())


_NUMBER = re.compile(r"(?<![\w.,])[-−–]?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+(?![\d/]))?|(?<![\w.])\.\d+")
_STATED = re.compile(
    r"(?:####|\\boxed\{|(?:answer|result|total|sum|solution)\s*(?:is|are|=|:)+|(?:=|equals?|\bis)\s*(?=\*\*))", re.IGNORECASE
)
_LIST_MARK = re.compile(r"^[ \t]*\d+[.)]\s", re.MULTILINE)
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SPELLED = re.compile(rf"\b(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_SMALL[1:10])}))?|{'|'.join(_SMALL)})\b", re.IGNORECASE)


def _numbers(text: str) -> list[Fraction]:
    """Every number of a text, those in words if there are no others."""
    found = [value for match in _NUMBER.finditer(text) if (value := _value(match.group())) is not None]
    spelled = (
        match
        for match in _SPELLED.finditer(text)
        if match.group().lower() != "one" or _counts(text[max(0, match.start() - 20) : match.start()])
    )
    return found or [_spelled(match.group()) for match in spelled]


def _counts(before: str) -> bool:
    """Whether "one" after this is a number, as in "There is one", and no pronoun, as in "that one"."""
    return re.search(r"(?:\A|\b(?:is|are|equals)|[:=\"'*])\s*\Z", before) is not None


def _value(digits: str) -> Fraction | None:
    digits = digits.translate({ord(","): None, ord("$"): None, ord("€"): None, ord("£"): None, ord("−"): "-", ord("–"): "-"})
    if len(digits) > 400:
        return None
    try:
        return Fraction(digits)
    except (ValueError, ZeroDivisionError):
        return None


def _spelled(words: str) -> Fraction:
    value = 0
    for word in re.split(r"[- ]", words.lower()):
        value += _SMALL.index(word) if word in _SMALL else 10 * (_TENS.index(word) + 2)
    return Fraction(value)


def _stated_number(text: str) -> Fraction | None:
    for match in reversed(list(_STATED.finditer(text))[-_MAX_STATED:]):
        line = text[match.end() : match.end() + _MAX_STATED_CHARS].split("\n", 1)[0]
        numbers = _numbers(line)
        if numbers:  # "the answer is 3 + 4 = 7" states its last, "the answer is 7, not 8" its first
            return numbers[-1] if "=" in line else numbers[0]
    if len(_LIST_MARK.findall(text)) > 1:
        text = _LIST_MARK.sub("", text)  # the numbers of a list's items are no answer
    numbers = _numbers(text)
    if not numbers:
        return None
    first_line = text.strip().split("\n", 1)[0].strip(_WRAP + "(")
    begins = _NUMBER.match(first_line)
    if begins is None or "=" in text:
        return numbers[-1]
    rest = first_line[begins.end() :]
    stands_alone = len(_numbers(first_line)) == 1 or re.match(r" (?:is|are)\b", rest) is not None
    return numbers[0] if stands_alone or re.match(r"[.!](?:\s+(?!\d)|$)", rest) else numbers[-1]


def _fold(text: str) -> str:
    """Without case, accents, curly apostrophes and doubled blanks."""
    letters = (sign for sign in unicodedata.normalize("NFKD", text).replace("’", "'") if not unicodedata.combining(sign))
    return " ".join("".join(letters).casefold().split())


@lru_cache(maxsize=512)
def _finder(options: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the first of some folded texts as whole words; of those that begin at one place the longest."""
    words = sorted(set(options), key=len, reverse=True)
    return re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words))


def _offered(item: Item) -> tuple[str, ...]:
    """What could have been named instead of the answer; empty where nobody knows."""
    if item.options or item.match != "choice":
        return item.options
    for known in (("yes", "no"), ("true", "false")):
        if any(_fold(answer) in known for answer in item.answers):
            return known
    if all(re.fullmatch(r"[A-Za-z]", answer.strip()) for answer in item.answers):
        return tuple("ABCDEFGH")
    return ()


def _names_first(item: Item, text: str) -> bool:
    options = _offered(item)
    if options and all(len(option) == 1 and option.isascii() and option.isalpha() for option in options):
        return _first_letter(text, options) in {answer.strip().upper() for answer in item.answers}
    answers = tuple(_fold(answer) for answer in item.answers)
    folded = _fold(text)
    if not options:
        folded = " ".join(folded.split(" ")[:_FREE_WORDS])
    found = _finder(answers + tuple(_fold(option) for option in options)).search(folded)
    return found is not None and found.group() in answers


_LONE_LETTER = re.compile(r"(?<!\w)(?<!\w['’])([A-Za-z])(?!['’]?\w)")


def _first_letter(text: str, options: tuple[str, ...]) -> str | None:
    """The first option of one letter that stands alone: a capital, or a small one in quotes or before a stop or the end of a
    line. "A" and "I" before a word are words."""
    offered = {option.upper() for option in options}
    for match in _LONE_LETTER.finditer(text):
        letter, before, rest = match.group(1), text[: match.start()], text[match.end() :]
        if letter.upper() not in offered:
            continue
        if letter.islower() and before[-1:] not in {*"\"'`*“‘«"}:
            alone = not (before + rest).strip(_WRAP + ".()")
            ends = r"[.,):]|\s*(?:\n|$)" if letter not in "ai" else r"[.):]"  # "for a", where the reply was cut
            if not alone and re.match(ends, rest) is None:
                continue
        if letter in "AI" and re.match(r" +(?!(?:or|and|is|because|since)\b)[a-z]", rest):
            continue
        return letter.upper()
    return None


def _first_json(text: str) -> tuple[Any] | None:
    """The first JSON object or list of a text, else the text itself if it is JSON; as a tuple, for null is a value."""
    decoder = json.JSONDecoder()
    begins = [match.start() for match in itertools.islice(re.finditer(r"[\[{]", text), 64)]
    for start in (*begins, None):
        try:
            return (decoder.raw_decode(text, start)[0] if start is not None else json.loads(text.strip(" \t\r\n`")),)
        except (ValueError, RecursionError):
            continue
    return None


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values; true is no 1, blanks around a text do not matter."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, str) and isinstance(right, str):
        return left.strip() == right.strip()
    return bool(left == right)


# ---- answering -----------------------------------------------------------------------------------------------------------


def answer_items(
    backend: Backend,
    items: Sequence[Item],
    model: str | None = None,
    states: bool = False,
    parallel: int = 8,
    progress: Callable[[int, int, Record], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Record]:
    """Asks a local model every item, at temperature 0, in chat form, several at a time. Returns records in the order of items.

    backend: one that notices things, as `backends.native.NativeBackend`. model: None for the backend's own. states: hidden
    states, too, where the engine has them. progress(done, total, record): called in this thread after each answer.
    cancelled: asked five times a second. Raises RequestCancelledError if it says yes, InvalidRequestError naming the item that
    cannot be asked; replies under way are ended then, as at Ctrl-C.
    """
    if parallel < 1:
        raise InvalidRequestError(f"parallel should be at least 1, not {parallel}", "parallel")
    run = _Answering(backend, items, model, states)
    threads = [threading.Thread(target=run.work, name=f"answer-{i}", daemon=True) for i in range(min(parallel, len(items)))]
    try:
        for thread in threads:
            thread.start()
        for done in range(1, len(items) + 1):
            record = run.next_record(cancelled)
            if progress is not None:
                progress(done, len(items), record)
    finally:
        run.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    return [record for record in run.records if record is not None]


class _Answering:
    """What the threads of `answer_items` share."""

    def __init__(self, backend: Backend, items: Sequence[Item], model: str | None, states: bool) -> None:
        self.records: list[Record | None] = [None] * len(items)
        self._backend = backend
        self._items = items
        self._model = model
        self._trace: Literal["tokens", "states"] = "states" if states else "tokens"
        self._changed = threading.Condition()  # guards all of the following
        self._next = 0
        self._made: list[Record] = []
        self._open: set[Reply] = set()
        self._stopped = False
        self._failure: BaseException | None = None

    def next_record(self, cancelled: Callable[[], bool] | None) -> Record:
        """Waits for the next answer of any thread."""
        while True:
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                if self._made:
                    return self._made.pop(0)
                self._changed.wait(_WAIT_SECONDS)
            if cancelled is not None and cancelled():
                raise RequestCancelledError("answering was cancelled")

    def stop(self) -> None:
        """Ends what is under way."""
        with self._changed:
            self._stopped = True
            for reply in self._open:
                reply.cancel()

    def work(self) -> None:
        """Answers one item after the other until there are no more."""
        while True:
            with self._changed:
                if self._stopped or self._next == len(self._items):
                    return
                index = self._next
                self._next += 1
            try:
                record = self._answer(self._items[index])
            except BaseException as error:
                with self._changed:
                    if not self._stopped:
                        self._stopped = True
                        self._failure = _named(error, self._items[index])
                    self._changed.notify_all()
                return
            with self._changed:
                self.records[index] = record
                self._made.append(record)
                self._changed.notify_all()

    def _answer(self, item: Item) -> Record:
        started = time.perf_counter()
        fields = {"messages": list(item.messages), "max_tokens": item.max_tokens, "temperature": 0.0, "model": self._model}
        with self._backend.chat(parse_request(ChatCompletionRequest, fields), trace=self._trace) as reply:
            with self._changed:
                self._open.add(reply)
                if self._stopped:
                    reply.cancel()
            try:
                deltas = reply.rest()
                if not reply.traces:
                    message = f'the backend "{reply.backend}" notices nothing of its answers; use "native"'
                    raise InvalidRequestError(message, "backend")
                trace = reply.traces[0]
                read = trace.read_states
                found = read() if read is not None else None
            finally:
                with self._changed:
                    self._open.discard(reply)
            trace.read_states = None  # it would keep the reply
        text = "".join(delta.text for delta in deltas if not delta.reasoning)
        total_ms = 1e3 * (time.perf_counter() - started)
        return Record(item, text, trace, found, grade(item, text), total_ms)


def _named(error: BaseException, item: Item) -> BaseException:
    """The error, with the item's id where the item is at fault."""
    if isinstance(error, InvalidRequestError) and error.param != "backend":
        return InvalidRequestError(f'item "{item.id}": {error}', error.param)
    return error


# ---- files ---------------------------------------------------------------------------------------------------------------


def save_records(path: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """Writes records to a .npz; who reads it meanwhile sees the old file or the new one, whole. States become float16.

    Raises ConfigError if the file cannot be written, InvalidRequestError if the states differ in size.
    """
    import numpy as np

    path = Path(path)
    with_states = [record.states for record in records if record.states is not None]
    widths = {vector.size for states in with_states for vector in (states.prompt, states.mean, states.last)}
    if len(widths) > 1:
        raise InvalidRequestError(f"hidden states of {len(widths)} sizes cannot be kept in one file", "records")
    facts = [json.dumps(_row_of(record.item), ensure_ascii=False) for record in records]
    arrays: dict[str, NDArray[Any]] = {
        "format": np.array([FORMAT], np.int32),
        **_joined("items", facts),
        **_joined("texts", [record.text for record in records]),
        "token_offsets": np.cumsum([0, *(len(record.trace) for record in records)], dtype=np.int64),
        "prompt_tokens": np.array([record.trace.prompt_tokens for record in records], np.int32),
        "finish": np.array([_FINISHES.index(record.trace.finish_reason) for record in records], np.int8),
        "correct": np.array([record.correct for record in records], np.bool_),
        "total_ms": np.array([record.total_ms for record in records], np.float32),
        "has_states": np.array([record.states is not None for record in records], np.bool_),
    }
    for name, kind in _PER_TOKEN.items():
        parts = [np.asarray(getattr(record.trace, name), kind) for record in records]
        arrays[name] = np.concatenate([np.empty(0, kind), *parts])
    if with_states:
        limit = float(np.finfo(np.float16).max)
        for name in _STATES:
            stacked = np.stack([getattr(states, name) for states in with_states])
            arrays[f"states_{name}"] = np.clip(stacked, -limit, limit).astype(np.float16)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be written: {error.strerror or error}") from None


_PER_TOKEN = {"ids": "int32", "logprobs": "float32", "entropies": "float32", "margins": "float32"}
_STATES = ("prompt", "mean", "last")
_KINDS = {
    **_PER_TOKEN,
    "format": "int32",
    "items": "uint8",
    "item_offsets": "int64",
    "texts": "uint8",
    "text_offsets": "int64",
    "token_offsets": "int64",
    "prompt_tokens": "int32",
    "finish": "int8",
    "correct": "bool",
    "total_ms": "float32",
    "has_states": "bool",
}


def _joined(name: str, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Texts as one array of UTF-8 and the offsets between them."""
    import numpy as np

    raw = [text.encode("utf-8", "replace") for text in texts]
    return {
        name: np.frombuffer(b"".join(raw), np.uint8),
        f"{name[:-1]}_offsets": np.cumsum([0, *map(len, raw)], dtype=np.int64),
    }


def _row_of(item: Item) -> dict[str, Any]:
    """An item as DATA has it."""
    row: dict[str, Any] = {"id": item.id, "group": item.group, "messages": item.messages, "answers": item.answers}
    row |= {"match": item.match, "max_tokens": item.max_tokens, "level": item.level, "cloud_correct": item.cloud_correct}
    return row | ({"options": item.options} if item.options else {})


def load_records(path: str | os.PathLike[str]) -> list[Record]:
    """Reads what `save_records` wrote. Raises ConfigError if the file cannot be read, is damaged or is something else."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {info.filename.removesuffix(".npy"): _array(archive, info) for info in archive.infolist()}
        return _records(arrays)
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, MemoryError, ValueError) as error:
        raise ConfigError(f"{path.name} is no file of records, or damaged: {error}") from None


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array, whose header must agree with the bytes that are there before any memory is taken for it."""
    import numpy as np

    if info.file_size > MAX_MEMBER_BYTES:
        raise ValueError(f"{info.filename} is {info.file_size} bytes long")
    file = io.BytesIO(archive.read(info))
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"{info.filename} has a header of version {version}")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    rest = file.getbuffer()[file.tell() :]
    if kind.hasobject or fortran or any(size < 0 for size in shape) or math.prod(shape) * kind.itemsize != len(rest):
        raise ValueError(f"{info.filename} does not hold what its header says")
    return np.frombuffer(rest, kind).reshape(shape)


def _records(arrays: dict[str, NDArray[Any]]) -> list[Record]:
    import numpy as np

    for name, kind in _KINDS.items():
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            raise ValueError(f"{name} is {arrays[name].dtype} of {arrays[name].ndim} dimensions, not {kind} of one")
    if arrays["format"].tolist() != [FORMAT]:
        raise ValueError(f"its format is {arrays['format'].tolist()}, not [{FORMAT}]")
    n = len(arrays["correct"])
    for name in ("prompt_tokens", "finish", "total_ms", "has_states"):
        if len(arrays[name]) != n:
            raise ValueError(f"{name} has {len(arrays[name])} entries for {n} records")
    finish = arrays["finish"]
    if n and (finish.min() < 0 or finish.max() >= len(_FINISHES)):
        raise ValueError("an unknown reason for an end")
    tokens = _spans(arrays["token_offsets"], n, *(arrays[name] for name in _PER_TOKEN))
    texts = _texts(arrays["texts"], _spans(arrays["text_offsets"], n, arrays["texts"]))
    rows = _texts(arrays["items"], _spans(arrays["item_offsets"], n, arrays["items"]))
    kept = arrays["has_states"]
    n_states = int(np.count_nonzero(kept))
    states = [arrays[f"states_{name}"] for name in _STATES if f"states_{name}" in arrays] if n_states else []
    if n_states and (
        len(states) != 3 or {part.shape for part in states} != {(n_states, *states[0].shape[1:2])} or states[0].ndim != 2
    ):
        raise ValueError(f"the hidden states are not those of {n_states} records")
    if any(part.dtype != np.float16 for part in states):
        raise ValueError("the hidden states are no float16")
    which = np.cumsum(kept) - 1

    pools: dict[tuple[str, ...], tuple[str, ...]] = {}
    records = []
    for i, (start, end) in enumerate(tokens):
        item = _item(_object(rows[i].encode()), i + 1, pools)
        if item is None:
            raise ValueError(f"record {i} has no item")
        trace = Trace(int(arrays["prompt_tokens"][i]))
        trace.ids = array("i", arrays["ids"][start:end].tobytes())
        trace.logprobs = array("f", arrays["logprobs"][start:end].tobytes())
        trace.entropies = array("f", arrays["entropies"][start:end].tobytes())
        trace.margins = array("f", arrays["margins"][start:end].tobytes())
        trace.finish_reason = _FINISHES[int(finish[i])]
        found = States(*(part[which[i]].astype(np.float32) for part in states)) if kept[i] else None
        correct, total_ms = bool(arrays["correct"][i]), float(arrays["total_ms"][i])
        records.append(Record(item, texts[i], trace, found, correct, total_ms))
    return records


def _spans(offsets: NDArray[np.int64], n: int, *arrays: NDArray[Any]) -> list[tuple[int, int]]:
    """Where each of n records begins and ends in some arrays."""
    values = offsets.tolist()
    if len(values) != n + 1 or values[0] != 0 or any(a > b for a, b in itertools.pairwise(values)):
        raise ValueError("its offsets do not ascend")
    if any(len(found) != values[-1] for found in arrays):
        raise ValueError(f"its offsets end at {values[-1]}, the data elsewhere")
    return list(itertools.pairwise(values))


def _texts(raw: NDArray[np.uint8], spans: list[tuple[int, int]]) -> list[str]:
    data = raw.tobytes()
    return [data[start:end].decode("utf-8") for start, end in spans]

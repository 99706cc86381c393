"""Items, grading and records: what `cactus-py router calibrate` reads and keeps."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cactus_py.backends.base import BackendOptions, Delta, Reply, ReplyStats, States, Trace
from cactus_py.backends.native import NativeBackend
from cactus_py.errors import ConfigError, InvalidRequestError, RequestCancelledError, UnknownModelError
from cactus_py.routing.records import (
    Item,
    Record,
    answer_items,
    grade,
    load_records,
    read_items,
    save_records,
    split_subjects,
)

ROOT = Path(__file__).parent.parent


def item(*answers: str, match: Any = "exact", options: tuple[str, ...] = ()) -> Item:
    return Item("i", "g", ({"role": "user", "content": "?"},), answers, match, options=options)


# ---- grading -------------------------------------------------------------------------------------------------------------

EXACT = [
    ("Paris", "Paris", True),
    ("Paris", " paris. ", True),
    ("Paris", '"**Paris**."', True),
    ("apple", "The apple", True),
    ("an apple", "Apple", True),
    ("the", "The", True),  # an article alone is the answer
    ("Paris", "Paris, France", False),
    ("Paris", "It is Paris", False),
    ("Paris", "", False),
]
NUMBER = [
    ("12", "12", True),
    ("12", "The answer is 12.", True),
    ("12", "7 + 5 = 12", True),
    ("12", "12. That is since 7 and 5 make a dozen.", True),
    ("12", "12 is larger than 5", True),
    ("12", "1. 12 is the larger number", True),
    ("1", "1. Kettle\n2. Mirror", False),
    ("2", "1. Kettle\n2. Mirror", False),
    ("12", "1. There are 5.\n2. With 7 that makes 12.\nDone", True),
    ("12", "The answer is 12, which is 3 more than 9.", True),
    ("12", "First 3 x 2 = 6, then 6 + 6 = 12 apples", True),
    ("12", "He has 4 and 5.\n#### 12", True),
    ("12", r"So \boxed{12} it is, of 30.", True),
    ("12", "twelve", True),
    ("42", "Forty-two apples", True),
    ("1", "One.", True),
    ("1", "There is one", True),
    ("1", "I do not know that one", False),
    ("1200", "It costs $1,200.00", True),
    ("1200.5", "1,200.50", True),
    ("-5", "−5", True),
    ("-5", "The result is -5", True),
    ("0.5", "1/2", True),
    ("0.5", ".5", True),
    ("7", "10-7 apples: 7", True),
    ("5", "5km", True),
    ("12", "112", False),
    ("12", "12.5", False),
    ("12", "7 + 5 = 13", False),
    ("12", "The answer is 13, not 12.", False),
    ("12", "12 + 1 = 13", False),
    ("5", "-5", False),
    ("20", "H20 is water", False),
    ("12", "No idea", False),
    ("12", "", False),
    ("12", "9" * 5000, False),
    ("12", "1/0", False),
]
OPEN = ("Paris", "Lyon", "Rome", "New York", "York", "Guinea", "Guinea-Bissau")
CONTAINS = [
    ("Paris", "The capital of France is Paris.", OPEN, True),
    ("Paris", "PARIS", OPEN, True),
    ("Paris", "Paris, not Lyon", OPEN, True),
    ("Paris", "Lyon, no, Paris", OPEN, False),
    ("Paris", "Rome, Lyon, Paris, New York", OPEN, False),
    ("Paris", "Parisian things", OPEN, False),
    ("New York", "In New York", OPEN, True),
    ("York", "In New York", OPEN, False),
    ("Guinea", "Guinea-Bissau", OPEN, False),
    ("San José", "It is San Jose", (), True),
    ("été", "ETE", (), True),
    ("don't", "They don’t", (), True),
    ("Paris", "word " * 40 + "Paris", (), False),
    ("Paris", "", (), False),
]
LETTERS = ("A", "B", "C", "D")
CHOICE = [
    ("B", "B", LETTERS, True),
    ("B", "b", LETTERS, True),
    ("B", "(b) the second", LETTERS, True),
    ("B", "The answer is B.", LETTERS, True),
    ("B", "A good answer is B", LETTERS, True),  # an article
    ("B", "**B**. 24", LETTERS, True),
    ("B", 'The letter is "b"', LETTERS, True),
    ("A", "A", LETTERS, True),
    ("A", "A. 24", LETTERS, True),
    ("A", "a", LETTERS, True),
    ("A", "a) 24", LETTERS, True),
    ("A", "To find the right answer for a", LETTERS, False),
    ("B", "a thing, so b", LETTERS, True),
    ("B", "A or B", LETTERS, False),
    ("B", "Bananas", LETTERS, False),
    ("D", "I'd say so", LETTERS, False),
    ("B", "a thing that ends in b", LETTERS, True),
    ("B", "", LETTERS, False),
    ("yes", "Yes, it is.", (), True),
    ("yes", "No. Yes would be wrong.", (), False),
    ("no", "Nobody knows", (), False),
    ("true", "That is True", (), True),
    ("true", "untrue", (), False),
    ("C", "C) because", (), True),
    ("plum", "The plum is", ("plum", "salmon"), True),
    ("plum", "salmon or plum", ("plum", "salmon"), False),
]
LINE = [
    ("HELLO", "HELLO", True),
    ("HELLO", "Sure, here it is:\n\nHELLO", True),
    ("HELLO", '"HELLO"\n\nI made it upper case.', True),
    ("HELLO", "Result: HELLO.", True),
    ("1, 2, 3", "The list is: 1,  2, 3", True),
    ("HELLO", "hello", False),
    ("HELLO", "HELLO THERE", False),
    ("HELLO", "one\nHELLO\nthree", False),
    ("HELLO", "", False),
]
JSON = [
    ('{"a": 1}', '{"a": 1}', True),
    ('{"a": 1}', 'Here:\n```json\n{\n  "a": 1.0\n}\n```\nDone.', True),
    ('{"a": "x", "b": [1, 2]}', '{"b": [1, 2], "a": " x "}', True),
    ("null", "null", True),
    ("[1]", "As [1] says", True),
    ('{"a": 1}', '{"a": "1"}', False),
    ('{"a": 1}', '{"a": true}', False),
    ('{"a": 1}', '{"a": 1, "b": 2}', False),
    ('{"a": 1}', '{"a": 1', False),
    ('{"a": 1}', '{"a": 2} or {"a": 1}', False),
    ('{"a": 1}', "[" * 60_000, False),
    ('{"a": 1}', "", False),
]


@pytest.mark.parametrize(("answer", "text", "right"), EXACT)
def test_exact(answer: str, text: str, right: bool) -> None:
    assert grade(item(answer), text) is right


@pytest.mark.parametrize(("answer", "text", "right"), NUMBER)
def test_number(answer: str, text: str, right: bool) -> None:
    assert grade(item(answer, match="number"), text) is right


@pytest.mark.parametrize(("answer", "text", "options", "right"), CONTAINS)
def test_contains(answer: str, text: str, options: tuple[str, ...], right: bool) -> None:
    assert grade(item(answer, match="contains", options=options), text) is right


@pytest.mark.parametrize(("answer", "text", "options", "right"), CHOICE)
def test_choice(answer: str, text: str, options: tuple[str, ...], right: bool) -> None:
    assert grade(item(answer, match="choice", options=options), text) is right


@pytest.mark.parametrize(("answer", "text", "right"), LINE)
def test_line(answer: str, text: str, right: bool) -> None:
    assert grade(item(answer, match="line"), text) is right


@pytest.mark.parametrize(("answer", "text", "right"), JSON)
def test_json(answer: str, text: str, right: bool) -> None:
    assert grade(item(answer, match="json"), text) is right


def test_any_of_the_answers_is_right() -> None:
    assert grade(item("big", "large"), "Large.")
    assert grade(item("ruble", "rouble", match="contains", options=("ruble", "rouble", "yen")), "the rouble")
    assert grade(item("4", "four", match="number"), "Four")


@pytest.mark.parametrize("match", ["exact", "number", "choice", "contains", "line", "json"])
def test_grading_a_hostile_reply_ends_soon(match: str) -> None:
    answer = "3" if match in ("number", "json") else "Z"
    for text in (
        "A" * 2_000_000,
        "1," * 1_000_000,
        "= ** " * 300_000,
        "one " * 300_000,
        "is one" * 300_000,
        "\u0300" * 1_000_000,
        "{[" * 500_000,
        "\0\ud800",
    ):
        started = time.perf_counter()
        assert not grade(item(answer, match=match), text)
        assert time.perf_counter() - started < 10


# ---- DATA ----------------------------------------------------------------------------------------------------------------

GOOD = {"id": "a", "group": "g", "prompt": "2 + 2?", "answers": ["4"], "match": "number"}


def written(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_items_are_read(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "system", "content": "Short."},
    ]
    rows = (
        {**GOOD, "colour": "unknown"},
        b"",
        {
            "messages": messages,
            "answers": ["x", "y"],
            "options": ["x", "y", "z"],
            "match": "choice",
            "max_tokens": 5,
            "level": 3,
        },
        {**GOOD, "id": "c", "cloud_correct": False},
    )
    for name in ("data.jsonl", "data.jsonl.gz"):
        first, second, third = read_items(written(tmp_path / name, *rows))
        assert (first.id, first.group, first.match, first.max_tokens, first.level) == ("a", "g", "number", 64, None)
        assert first.messages == ({"role": "user", "content": "2 + 2?"},)
        assert (second.id, second.group, second.options, second.max_tokens, second.level) == (
            "line-3",
            "all",
            ("x", "y", "z"),
            5,
            3,
        )
        assert second.prompt_text == "Yes?\nShort.\nHi"
        assert (first.cloud_correct, third.cloud_correct) == (None, False)


def test_a_first_mark_of_utf8_is_passed_over(tmp_path: Path) -> None:
    assert read_items(written(tmp_path / "d.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()))[0].id == "a"


def test_rows_of_mmlu_and_gsm8k_are_read(tmp_path: Path) -> None:
    mmlu = {
        "id": "m",
        "subject": "law",
        "prompt": "Which?\nA. x\nB. y\nAnswer:",
        "choices": ["x", "y"],
        "answer": "B",
        "gpt4_correct": True,
    }
    maths = {**mmlu, "id": "n", "subject": "high_school_mathematics"}
    gone = {**mmlu, "id": "o", "contaminated": True}
    gsm = {"id": "q", "question": "How many?", "answer": "...", "final": "1,200", "gpt4_correct": False}
    first, second, third = read_items(written(tmp_path / "d.jsonl", mmlu, maths, gone, gsm))
    assert (first.group, first.answers, first.match, first.options, first.cloud_correct) == (
        "law",
        ("B",),
        "choice",
        ("A", "B"),
        True,
    )
    assert first.prompt_text == "Which?\nA. x\nB. y\n\nAnswer with just the letter of the right option."
    assert second.cloud_correct is None
    assert (third.group, third.match, third.max_tokens, third.cloud_correct) == ("gsm8k", "number", 400, False)
    assert grade(third, "So it is 1200 in all.")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "no UTF-8"),
        ([1], "should be a JSON object"),
        ({**GOOD, "prompt": None}, "needs either a prompt or messages"),
        ({**GOOD, "messages": []}, "needs either a prompt or messages"),
        ({"messages": [], "answers": ["4"]}, "messages is empty"),
        ({"messages": [{"role": "king", "content": "?"}], "answers": ["4"]}, 'messages[0].role is "king"'),
        ({**GOOD, "prompt": 3}, "prompt should be a text"),
        ({**GOOD, "prompt": " "}, "prompt should be a text"),
        ({**GOOD, "answers": []}, "answers should be a list of texts"),
        ({**GOOD, "answers": "4"}, "answers should be a list of texts"),
        ({**GOOD, "answers": [4]}, "answers should be a list of texts"),
        ({**GOOD, "answers": ["four?!"], "match": "fuzzy"}, "match should be one of exact, number"),
        ({**GOOD, "match": ["number"]}, "match should be one of exact, number"),
        ({**GOOD, "answers": ["many"]}, "the answer 'many' has none"),
        ({**GOOD, "answers": ["{"], "match": "json"}, "the answer '{' is none"),
        ({**GOOD, "max_tokens": 0}, "max_tokens should be a whole number from 1 on"),
        ({**GOOD, "max_tokens": True}, "max_tokens should be a whole number"),
        ({**GOOD, "level": 1.5}, "level should be a whole number"),
        ({**GOOD, "level": 10**30}, "level should be a whole number"),
        ({**GOOD, "cloud_correct": 1}, "cloud_correct should be true, false or null"),
        ({**GOOD, "options": [1]}, "options should be a list of texts"),
        ({**GOOD, "id": "first"}, 'the id "first" is that of line 1, too'),
        ({"prompt": "?", "choices": ["x", "y"], "answer": "C"}, "answer should be one of A, B, not 'C'"),
        (b'"' + b"x" * (5 << 20) + b'"', "longer than 4 MiB"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: object, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_items(written(tmp_path / "data.jsonl", {**GOOD, "id": "first"}, row))
    assert str(caught.value).startswith("data.jsonl, line 2: ") and says in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty.jsonl", b"")
    broken = written(tmp_path / "broken.jsonl.gz", GOOD)
    broken.write_bytes(broken.read_bytes()[:-9])
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_bytes(json.dumps(GOOD).encode())
    for path, says in (
        (tmp_path / "none.jsonl", "cannot be read"),
        (empty, "no items"),
        (broken, "cannot be read"),
        (plain, "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            read_items(path)
        assert path.name in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_items(tmp_path)


def test_subjects_are_split_in_halves() -> None:
    assert split_subjects(["d", "b", "a", "c", "e", "a"]) == (["a", "c", "e"], ["b", "d"])
    assert split_subjects([]) == ([], [])


# ---- answering, without a model ------------------------------------------------------------------------------------------


class FakeReply(Reply):
    """Says one text once `allowed`, or is cancelled."""

    model, backend, route = "fake", "fake", "local"

    def __init__(self, owner: FakeBackend, text: str) -> None:
        self._owner, self._deltas = owner, [Delta(0, "thinking", reasoning=True), Delta(0, text), Delta(0, "", (), "stop")]
        self._cancelled = threading.Event()
        trace = Trace(7, read_states=owner.read_states)
        trace.add(3, -0.5, 1.0, 2.0)
        trace.finish_reason = "stop"
        self.traces = [trace] if owner.traces else []

    def __next__(self) -> Delta:
        while not self._owner.allowed.wait(0.01):
            if self._cancelled.is_set():
                raise RequestCancelledError("cancelled")
        if not self._deltas:
            raise StopIteration
        return self._deltas.pop(0)

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self._owner.n_closed += 1

    @property
    def stats(self) -> ReplyStats:
        return ReplyStats()


class FakeBackend:
    """A backend of which each request is answered with its own prompt."""

    def __init__(self, traces: bool = True, allow: bool = True, refuse: str | None = None) -> None:
        self.traces = traces
        self.refuse = refuse
        self.allowed = threading.Event()
        self.n_started = self.n_closed = 0
        self.requests: list[Any] = []
        self.read_states: Any = None
        if allow:
            self.allowed.set()

    def chat(self, request: Any, trace: str = "none") -> FakeReply:
        self.requests.append((request, trace))
        text = request.messages[-1].content
        if text == self.refuse:
            raise InvalidRequestError("too long", "messages")
        self.n_started += 1
        return FakeReply(self, text)


def questions(n: int) -> list[Item]:
    return [Item(f"q{i}", "g", ({"role": "user", "content": f"word{i}"},), (f"word{i}",), "exact", 9) for i in range(n)]


@pytest.mark.parametrize("parallel", [1, 3, 50])
def test_records_come_in_the_order_of_the_items(parallel: int) -> None:
    backend, seen = FakeBackend(), []
    records = answer_items(backend, questions(20), "m", parallel=parallel, progress=lambda *given: seen.append(given))  # type: ignore[arg-type]
    assert [record.text for record in records] == [f"word{i}" for i in range(20)]  # what was thought is no answer
    assert all(record.correct and len(record.trace) == 1 and record.states is None for record in records)
    assert [done for done, _, _ in seen] == list(range(1, 21)) and {total for _, total, _ in seen} == {20}
    assert {id(record) for _, _, record in seen} == {id(record) for record in records}
    request, trace = backend.requests[0]
    assert (request.temperature, request.max_tokens, request.model, trace) == (0, 9, "m", "tokens")
    assert backend.n_started == backend.n_closed == 20


def test_states_are_read_before_the_reply_is_closed() -> None:
    backend = FakeBackend()
    vector = np.ones(4, np.float32)

    def read() -> States:
        assert backend.n_closed == 0
        return States(vector, 2 * vector, 3 * vector)

    backend.read_states = read
    (record,) = answer_items(backend, questions(1), states=True)  # type: ignore[arg-type]
    assert record.states is not None and record.states.last.tolist() == [3.0] * 4
    assert backend.requests[0][1] == "states"


def test_no_items_are_no_records() -> None:
    assert answer_items(FakeBackend(), []) == []  # type: ignore[arg-type]


def test_cancelling_ends_what_is_under_way() -> None:
    backend = FakeBackend(allow=False)
    with pytest.raises(RequestCancelledError, match="answering was cancelled"):
        answer_items(backend, questions(20), parallel=4, cancelled=lambda: backend.n_started == 4)  # type: ignore[arg-type]
    assert backend.n_started == backend.n_closed == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("answer-")]


def test_ctrl_c_ends_what_is_under_way() -> None:
    backend = FakeBackend(allow=False)

    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_items(backend, questions(20), parallel=4, cancelled=interrupted)  # type: ignore[arg-type]
    assert backend.n_started == backend.n_closed <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("answer-")]


def test_an_item_that_cannot_be_asked_is_named() -> None:
    with pytest.raises(InvalidRequestError, match='item "q3": too long') as caught:
        answer_items(FakeBackend(refuse="word3"), questions(9), parallel=2)  # type: ignore[arg-type]
    assert caught.value.param == "messages"


def test_a_backend_that_notices_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match='the backend "fake" notices nothing'):
        answer_items(FakeBackend(traces=False), questions(2))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="parallel should be at least 1, not 0"):
        answer_items(FakeBackend(), questions(2), parallel=0)  # type: ignore[arg-type]


# ---- files ---------------------------------------------------------------------------------------------------------------


def record(i: int, n_tokens: int = 3, states: bool = False) -> Record:
    trace = Trace(5 + i)
    for j in range(n_tokens):
        trace.add(100 * i + j, -0.25 * j, 0.5, 1.5 + i)
    trace.finish_reason = ("stop", "length", None)[i % 3]  # type: ignore[assignment]
    vector = np.arange(6, dtype=np.float32) + i
    found = States(vector, -vector, 1e9 * vector) if states else None
    question = Item(
        f"r{i}",
        "g",
        ({"role": "user", "content": "Ω?"},),
        ("1", "2"),
        "number",
        7,
        i or None,
        (None, True, False)[i % 3],
        ("1", "3"),
    )
    return Record(question, "ünï " * i, trace, found, i % 2 == 0, 12.5 * i)


def plain(found: Record) -> list[object]:
    trace = found.trace
    parts = [list(getattr(trace, name)) for name in ("ids", "logprobs", "entropies", "margins")]
    return [found.item, found.text, parts, trace.finish_reason, trace.prompt_tokens, found.correct, found.total_ms]


def test_records_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    made = [record(0, 0), record(1, 4, states=True), record(2, 1), record(3, 2, states=True)]
    save_records(path, made)
    read = load_records(path)
    assert list(map(plain, read)) == list(map(plain, made))
    assert [found.states is not None for found in read] == [False, True, False, True]
    states = read[3].states
    assert states is not None and states.prompt.dtype == np.float32
    assert states.prompt.tolist() == [3, 4, 5, 6, 7, 8] and states.mean.tolist() == [-3, -4, -5, -6, -7, -8]
    assert states.last.tolist() == [65504.0] * 6  # float16 has no more
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.npz"]
    save_records(path, [])
    assert load_records(path) == []


def test_states_of_two_sizes_are_refused(tmp_path: Path) -> None:
    odd = record(1, states=True)
    odd.states = States(*(np.zeros(5, np.float32),) * 3)
    with pytest.raises(InvalidRequestError, match="hidden states of 2 sizes"):
        save_records(tmp_path / "r.npz", [record(0, states=True), odd])
    with pytest.raises(ConfigError, match=r"r\.npz cannot be written"):
        save_records(tmp_path / "none" / "r.npz", [])


def changed(path: Path, **arrays: Any) -> Path:
    """The file with some arrays replaced, or left out (None)."""
    with np.load(path) as file:
        kept = {**file, **arrays}
    other = path.with_name("changed.npz")
    np.savez(other, **{name: value for name, value in kept.items() if value is not None})
    return other


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "r.npz"
    save_records(path, [record(i, 3, states=True) for i in range(4)])
    return path


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"ids": None}, "ids is missing"),
        ({"format": np.array([9], np.int32)}, r"its format is \[9\]"),
        ({"ids": np.zeros(12, np.int64)}, "ids is int64"),
        ({"ids": np.zeros((4, 3), np.int32)}, "of 2 dimensions"),
        ({"ids": np.zeros(11, np.int32)}, "its offsets end at 12"),
        ({"correct": np.zeros(5, np.bool_)}, "has 4 entries for 5 records"),
        ({"finish": np.full(4, 100, np.int8)}, "unknown reason"),
        ({"token_offsets": np.array([0, 9, 6, 9, 12])}, "do not ascend"),
        ({"token_offsets": np.array([-3, 3, 6, 9, 12])}, "do not ascend"),
        ({"token_offsets": np.array([0, 3, 6, 9, 2**62])}, "its offsets end at"),
        ({"text_offsets": np.array([0, 1])}, "do not ascend"),
        ({"states_mean": None}, "hidden states are not those of 4 records"),
        ({"states_mean": np.zeros((4, 5), np.float16)}, "hidden states are not those of 4 records"),
        ({"states_mean": np.zeros((4, 6), np.float32)}, "no float16"),
        ({"has_states": np.zeros(4, np.bool_), "items": np.zeros(3, np.uint8)}, "its offsets end at"),
        ({"items": np.zeros(9, np.uint8), "item_offsets": np.array([0, 2, 4, 6, 9])}, "no JSON"),
        ({"ids": np.array([object()] * 12)}, "Object|does not hold|header"),
    ],
)
def test_a_damaged_file_is_refused(saved: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_records(changed(saved, **arrays))
    assert str(caught.value).startswith("changed.npz is no file of records, or damaged: ")


def test_files_that_are_something_else_are_refused(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    other = tmp_path / "other.npz"
    for bad in (b"", b"PK", data[: len(data) // 2], data[:-30], b"\x93NUMPY" + data):
        other.write_bytes(bad)
        try:
            load_records(other)  # a zip may begin with something else
        except ConfigError as error:
            assert "other.npz" in str(error)
        else:
            assert bad.endswith(data)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_records(tmp_path / "none.npz")


def test_every_flipped_byte_is_noticed_or_harmless(saved: Path, tmp_path: Path) -> None:
    """Whatever the byte, records or one sentence."""
    data, other = saved.read_bytes(), tmp_path / "other.npz"
    refused = 0
    for position in range(0, len(data), 7):
        other.write_bytes(data[:position] + bytes([data[position] ^ 0x41]) + data[position + 1 :])
        try:
            assert len(load_records(other)) in (0, 4)
        except ConfigError:
            refused += 1
    assert refused > len(data) // 7 // 2


def test_a_header_that_promises_more_than_there_is_takes_no_memory(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(other, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "ids.npy":
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": (2**40,)})
                data = header.getvalue() + bytes(48)
            new.writestr(info.filename, data)
    with pytest.raises(ConfigError, match=r"ids\.npy does not hold what its header says"):
        load_records(other)


# ---- the scripts ---------------------------------------------------------------------------------------------------------


def made_tasks(path: Path, which: str, seed: int = 1, hash_seed: str = "0") -> list[dict[str, Any]]:
    script = str(ROOT / "scripts" / "router" / "make_tasks.py")
    command = [sys.executable, script, str(path), "--set", which, "--per-family", "60", "--seed", str(seed)]
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": hash_seed})
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("which", "families"), [("tasks", 31), ("held-out", 10)])
def test_tasks_are_reproducible_and_their_answers_right(tmp_path: Path, which: str, families: int) -> None:
    rows = made_tasks(tmp_path / "a.jsonl", which)
    assert rows == made_tasks(tmp_path / "b.jsonl", which, hash_seed="1")
    assert rows != made_tasks(tmp_path / "c.jsonl", which, seed=2)
    assert Counter(row["group"] for row in rows) == dict.fromkeys({row["group"] for row in rows}, 60)
    assert len({row["group"] for row in rows}) == families
    assert len({row["prompt"] for row in rows}) == len(rows)
    for question in read_items(tmp_path / "a.jsonl"):
        for answer in question.answers:
            assert grade(question, answer), (question.id, question.prompt_text, answer)
        wrong = [option for option in question.options if option not in question.answers]
        assert not any(grade(question, f"{option} {question.answers[0]}") for option in wrong[:3]) or len(wrong[0]) == 1
        assert not grade(question, "") and not grade(question, "I am not sure about that one.")


# ---- a real model --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backend(smollm2_path: Path) -> Iterator[NativeBackend]:
    with closing(NativeBackend(BackendOptions(model=str(smollm2_path), threads=2, context=1024))) as native:
        yield native


def test_smollm2_answers(backend: NativeBackend, tmp_path: Path) -> None:
    """Capitals that the model knows, and one that it cannot."""
    asked = [("Japan", "Tokyo"), ("Egypt", "Cairo"), ("Germany", "Berlin"), ("Atlantis", "Nowhere")]
    rows = [
        {
            "id": place,
            "group": "capitals",
            "prompt": f"What is the capital of {place}?",
            "answers": [city],
            "match": "contains",
            "max_tokens": 12,
        }
        for place, city in asked
    ]
    items = read_items(written(tmp_path / "d.jsonl", *rows))
    records = answer_items(backend, items, parallel=4)
    assert [found.correct for found in records] == [True, True, True, False]
    assert all(0 < len(found.trace) <= 12 and found.trace.prompt_tokens > 20 and found.total_ms > 0 for found in records)
    assert all(max(found.trace.logprobs) <= 0 <= min(found.trace.entropies) for found in records)
    assert all(found.trace.finish_reason in ("stop", "length") for found in records)
    # what else is under way changes nothing
    alone = answer_items(backend, [replace(items[1])], parallel=1)
    assert plain(alone[0])[:-1] == plain(records[1])[:-1]
    save_records(tmp_path / "r.npz", records)
    assert [plain(found)[:-1] for found in load_records(tmp_path / "r.npz")] == [plain(found)[:-1] for found in records]


def test_smollm2_shows_its_states(backend: NativeBackend, tmp_path: Path) -> None:
    (question,) = read_items(written(tmp_path / "d.jsonl", {**GOOD, "max_tokens": 4}))
    (found,) = answer_items(backend, [question], states=True)
    assert found.states is not None
    assert {part.shape for part in (found.states.prompt, found.states.mean, found.states.last)} == {(576,)}
    save_records(tmp_path / "r.npz", [found])
    (read,) = load_records(tmp_path / "r.npz")
    assert read.states is not None and np.allclose(read.states.mean, found.states.mean, rtol=2e-3, atol=1e-3)


def test_an_item_that_does_not_fit_is_named(backend: NativeBackend, tmp_path: Path) -> None:
    long = read_items(written(tmp_path / "d.jsonl", {**GOOD, "id": "long", "prompt": "word " * 2000}))
    with pytest.raises(InvalidRequestError, match='item "long"'):
        answer_items(backend, long)
    with pytest.raises(UnknownModelError):
        answer_items(backend, [replace(long[0], messages=({"role": "user", "content": "Hi"},))], model="no-such-model")

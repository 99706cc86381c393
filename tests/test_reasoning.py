"""Reasoning apart from the answer: streams cut at every boundary, control tokens, what templates begin."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from cactus_py.prompting.reasoning import FORMATS, Format, Markers, Piece, Spelled, detect, separator

BY_NAME = {form.name: form for form in FORMATS}
TAGGED = [form for form in FORMATS if form.name != "harmony"]
THINK = BY_NAME["think"]


def joined(pieces: Sequence[Piece]) -> tuple[str, str]:
    """(reasoning, content)"""
    return "".join(p.text for p in pieces if p.reasoning), "".join(p.text for p in pieces if not p.reasoning)


def separated(form: Format, chunks: Sequence[str], prompt_end: str = "") -> tuple[str, str]:
    taker = separator(form, prompt_end)
    pieces = [piece for chunk in chunks for piece in taker.feed(chunk)]
    return joined(pieces + taker.finish())


def cuts(text: str) -> list[list[str]]:
    """The text whole, by characters, in two at every place, and in random pieces."""
    ways = [[text], list(text), *([text[:i], text[i:]] for i in range(1, len(text)))]
    for seed in range(20):
        places = sorted(random.Random(seed).sample(range(1, len(text)), min(4, len(text) - 1)))
        ways.append([text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])])
    return ways


@pytest.mark.parametrize("form", TAGGED, ids=lambda form: form.name)
@pytest.mark.parametrize("opened", [False, True])
def test_reasoning_and_content_come_apart_wherever_the_text_is_cut(form: Format, opened: bool) -> None:
    text = ("" if opened else f"\n{form.start}") + f"\nIs 2 < 3?\n\nYes, </ and [/ too.\n{form.end}\n\nIt <is>.\n"
    for chunks in cuts(text):
        assert separated(form, chunks, f"x{form.start}\n" if opened else "x") == (
            "Is 2 < 3?\n\nYes, </ and [/ too.",
            "It <is>.\n",
        )


@pytest.mark.parametrize("form", TAGGED, ids=lambda form: form.name)
def test_an_answer_without_reasoning_is_left_as_it_is(form: Format) -> None:
    for text in ("  Hello", f"Use {form.start} and {form.end}.", "<", "<thi is no tag", f"x{form.start}y"):
        for chunks in cuts(text) if len(text) > 1 else [[text]]:
            assert separated(form, chunks) == ("", text)


def test_no_piece_ever_holds_a_half_of_a_marker() -> None:
    text = "<think>\nhm </thing> hm\n</think>\n\nanswer"
    for chunks in cuts(text):
        taker = separator(THINK, "")
        pieces = [piece for chunk in chunks for piece in taker.feed(chunk)] + taker.finish()
        said = ""
        for piece in pieces:
            said += piece.text
            assert "hm </thing> hmanswer".startswith(said)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nIt goes on and", ("It goes on and", "")),
        ("<think>\nIt goes on </thi", ("It goes on", "")),
        ("<think>\n2 <", ("2 <", "")),
        ("<think>", ("", "")),
        ("<thi", ("", "")),
        ("<", ("", "<")),
        ("<think></think>", ("", "")),
        ("<think>\n\n</think>\n\nHi", ("", "Hi")),
        ("<think>a</think>\n<think>b</think>c", ("ab", "c")),
        ("<think>a</think>b <think>c</think>", ("a", "b <think>c</think>")),
    ],
)
def test_unfinished_empty_and_repeated_blocks(text: str, expected: tuple[str, str]) -> None:
    for chunks in cuts(text) if len(text) > 1 else [[text]]:
        assert separated(THINK, chunks) == expected


@pytest.mark.parametrize(
    ("prompt_end", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
    ],
)
def test_a_template_may_begin_the_reasoning(prompt_end: str, opened: bool) -> None:
    assert separated(THINK, ["a</think>b"], prompt_end) == (("a", "b") if opened else ("", "a</think>b"))


def test_tokens_go_where_their_text_goes_and_are_counted() -> None:
    texts = ["<", "think", ">", "\n", "a", " b", "</", "think", ">", "\n\n", "c", " d"]
    taker = separator(THINK, "")
    pieces = [piece for i, text in enumerate(texts) for piece in taker.feed(text, (i,), n_tokens=1)] + taker.finish()
    tokens = {kind: [t for p in pieces if p.reasoning is kind for t in p.tokens] for kind in (True, False)}
    assert tokens == {True: list(range(9)), False: [9, 10, 11]}
    assert taker.reasoning_tokens == 9


# ---- control tokens ----------------------------------------------------------------------------------------------------


def run(form: Format, events: Sequence[str], *, stop: Sequence[str] = (), prompt_end: str = "") -> tuple[str, str]:
    """Events are texts, or control tokens of the format; a text may be held back as an engine does for stop strings."""
    markers = Markers(separator(form, prompt_end), stop)
    pieces: list[Piece] = []
    held = ""
    for event in events:
        if event in form.markers:
            pieces += markers.push("", event, "")
            continue
        held += event
        n_held = max((n for s in stop for n in range(1, len(s)) if held.endswith(s[:n])), default=0)
        out, held = held[: len(held) - n_held], held[len(held) - n_held :]
        pieces += markers.push(out, None, event)
    pieces += markers.push(held, None, "", n_tokens=0)
    return joined(pieces + markers.finish())


@pytest.mark.parametrize("form", TAGGED, ids=lambda form: form.name)
def test_markers_may_be_control_tokens(form: Format) -> None:
    begin = [form.token, form.start[len(form.token) :]]
    assert run(form, [*begin, "hm", " so", form.end, "\nAnswer", "."]) == ("hm so", "Answer.")
    assert run(form, ["hm", form.end, "Answer"], prompt_end=form.start) == ("hm", "Answer")
    assert run(form, ["First. ", *begin, "hm", form.end, "Answer"]) == ("hm", "First. Answer")  # interleaved


def test_a_control_token_waits_for_text_that_a_stop_string_holds_back() -> None:
    form = BY_NAME["bracket-think"]
    events = ["[THINK]", "a", " ST", "[/THINK]", "b", "c"]
    for stop in ([], ["STOP"], ["STOP", " S", "T!"], ["zzz"]):
        assert run(form, events, stop=[s for s in stop if s != " S"]) == ("a ST", "bc")


def test_raw_text_spells_control_tokens() -> None:
    form = BY_NAME["bracket-think"]
    markers = Markers(Spelled(), ())
    pieces = [
        p
        for text, mark in (("", "[THINK]"), ("hm", None), ("", "[/THINK]"), ("x", None))
        for p in markers.push(text, mark, text)
    ]
    assert joined(pieces + markers.finish()) == ("", "[THINK]hm[/THINK]x")
    assert markers.separator.reasoning_tokens == 0
    assert form.markers == ("[THINK]", "[/THINK]")


# ---- harmony -----------------------------------------------------------------------------------------------------------

HARMONY = BY_NAME["harmony"]
ANALYSIS = ["<|channel|>", "analysis", "<|message|>", "Hm", " hm.", "<|end|>"]
FINAL = ["<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "Good", " day.", "<|return|>"]


def test_channels_become_reasoning_and_content() -> None:
    assert run(HARMONY, ANALYSIS + FINAL, prompt_end="<|start|>assistant") == ("Hm hm.", "Good day.")
    assert run(HARMONY, FINAL[2:], prompt_end="<|start|>assistant") == ("", "Good day.")
    preamble = ["<|start|>", "assistant", "<|channel|>", "commentary", "<|message|>", "I look.", "<|end|>"]
    assert run(HARMONY, ANALYSIS + preamble + FINAL) == ("Hm hm.", "I look.\n\nGood day.")
    assert run(HARMONY, [*ANALYSIS, "<|start|>", "assistant", *ANALYSIS]) == ("Hm hm.\n\nHm hm.", "")
    assert run(HARMONY, ["x ", "y"], prompt_end="<|start|>assistant<|channel|>analysis<|message|>") == ("x y", "")


def test_a_call_stays_as_it_was_written() -> None:
    head = ["<|start|>", "assistant", "<|channel|>", "commentary to=functions.f ", "<|constrain|>", "json", "<|message|>"]
    written = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    assert run(HARMONY, [*ANALYSIS, *head, "{}", "<|call|>"]) == ("Hm hm.", written)
    head = [" to=functions.f", "<|channel|>", "commentary", "<|message|>"]
    assert run(HARMONY, [*head, "{}", "<|call|>"], prompt_end="<|start|>assistant") == ("", "".join(head) + "{}<|call|>")


def test_channels_that_are_cut_off_or_missing() -> None:
    assert run(HARMONY, ANALYSIS[:4]) == ("Hm", "")
    assert run(HARMONY, ANALYSIS[:2]) == ("", "")
    assert run(HARMONY, ["Just", " text."]) == ("", "Just text.")
    long = "word " * 200
    assert run(HARMONY, [long[i : i + 7] for i in range(0, len(long), 7)]) == ("", long)


def test_harmony_counts_tokens() -> None:
    taker = separator(HARMONY, "<|start|>assistant")
    markers = Markers(taker, ())
    for event in ANALYSIS + FINAL:
        marked = event in HARMONY.markers
        markers.push("" if marked else event, event if marked else None, "" if marked else event)
    markers.finish()
    assert taker.reasoning_tokens == len(ANALYSIS)


# ---- which format ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_the_format_is_read_from_template_or_vocabulary(form: Format) -> None:
    plain = {"<|im_start|>", "<|im_end|>", "<|start|>"}
    assert detect(f"{{{{ '{form.start}' }}}} {form.end}", plain) is form
    assert detect("{{ messages }}", plain | set(form.markers)) is form
    assert detect("{{ messages }} <|channel>", plain) is None

"""Writes questions with one right answer, in families of graded difficulty: DATA for `cactus-py router calibrate`.

    python scripts/router/make_tasks.py DATA.jsonl [--set tasks|held-out] [--per-family 300] [--seed 1]

Same set, number and seed: same bytes. Every text is made here, from the tables in `facts.py`; nothing is taken from a data
set. A family draws its items by level, 1 (easy) to 5, in the mix of its row in FAMILIES: chosen by measuring, so that small
models are neither right nor wrong on nearly all of it (docs/router/tasks.md). The families of the set "held-out" are of other
kinds, for a last check of what was made with the first set.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import facts

TRIES = 400  # to find an item that is not there yet

NUMBER_ONLY = (
    "Answer with just the number.",
    "Reply with the number only.",
    "Give only the number.",
    "Just the number, please.",
)
WORD_ONLY = ("Answer with just the word.", "Reply with one word only.", "Give only the word.", "One word, please.")
NAME_ONLY = ("Answer with just the name.", "Give only the name.", "Reply with the name only.", "Just the name, please.")
SHORT_ONLY = ("Answer briefly.", "Give only the answer.", "Just the answer, please.", "Reply with the answer only.")


@dataclass(frozen=True)
class Task:
    """A question. `answers`: each of them right; `options`: what could be named instead."""

    prompt: str
    answers: Sequence[str]
    match: str = "number"
    options: Sequence[str] = ()
    max_tokens: int = 48


Rng = random.Random
Make = Callable[[Rng, int], Task]


def number(value: int | float | Fraction) -> list[str]:
    """A number as an answer."""
    return [str(value)]


def asked(rng: Rng, questions: Sequence[str], endings: Sequence[str], **values: object) -> str:
    """One of some questions and, before or after it, one of some endings."""
    question = rng.choice(questions).format(**values)
    ending = rng.choice(endings)
    return f"{ending} {question}" if rng.random() < 0.15 else f"{question} {ending}"


def by_fame(rng: Rng, rows: Sequence[tuple[str, list[str]]], level: int) -> tuple[str, list[str]]:
    """A row of a table whose rows are sorted by how well they are known: of the level's fifth."""
    size = len(rows) / 5
    return rows[rng.randrange(int((level - 1) * size), max(int(level * size), int((level - 1) * size) + 1))]


def listed(items: Sequence[object]) -> str:
    return ", ".join(map(str, items))


def joined(items: Sequence[str]) -> str:
    """a, b and c"""
    return f"{', '.join(items[:-1])} and {items[-1]}"


# ---- numbers -------------------------------------------------------------------------------------------------------------


def addition(rng: Rng, level: int) -> Task:
    digits = {1: 1, 2: 2, 3: 2, 4: 3, 5: 4}[level]
    n_terms = 3 if level in (3, 5) else 2
    terms = [rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(n_terms)]
    signs = ["+", *(rng.choice("+-") for _ in terms[1:])]
    if signs[1] == "-" and terms[0] < terms[1]:
        terms[0], terms[1] = terms[1], terms[0]
    total = sum(term if sign == "+" else -term for term, sign in zip(terms, signs, strict=True))
    text = str(terms[0]) + "".join(f" {sign} {term}" for term, sign in zip(terms[1:], signs[1:], strict=True))
    spoken = text.replace("+", "plus").replace("-", "minus")
    questions = ["What is {text}?", "Calculate {text}.", "{text} = ?", "How much is {spoken}?", "Work out {text} for me."]
    return Task(asked(rng, questions, NUMBER_ONLY, text=text, spoken=spoken), number(total))


def multiplication(rng: Rng, level: int) -> Task:
    ranges = {
        1: ((2, 9), (2, 9)),
        2: ((11, 25), (2, 9)),
        3: ((26, 99), (3, 9)),
        4: ((12, 40), (11, 30)),
        5: ((101, 999), (6, 49)),
    }
    a, b = (rng.randint(*span) for span in ranges[level])
    if rng.random() < 0.3:
        questions = ["What is {c} divided by {b}?", "Divide {c} by {b}.", "{c} / {b} = ?", "How often does {b} go into {c}?"]
        return Task(asked(rng, questions, NUMBER_ONLY, c=a * b, b=b), number(a))
    if rng.random() < 0.5:
        a, b = b, a
    questions = [
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "{a} x {b} = ?",
        "Calculate {a} * {b}.",
        "How much is {a} × {b}?",
    ]
    return Task(asked(rng, questions, NUMBER_ONLY, a=a, b=b), number(a * b))


def comparison(rng: Rng, level: int) -> Task:
    largest = rng.random() < 0.6
    if level == 1:
        values: list[Fraction | int] = list(rng.sample(range(1, 100), 2))
    elif level == 2:
        base = rng.randrange(100, 9000)
        values = [base, base + rng.choice((-90, -9, -1, 1, 9, 90, 900))]
    elif level == 3:
        values = list(rng.sample(range(100, 1000), rng.choice((3, 4))))
    elif level == 4:
        whole = rng.randrange(1, 30)
        values = [whole + Fraction(rng.randrange(2, 10), 10), whole + Fraction(rng.randrange(11, 100), 100)]
    else:
        values = (
            list(rng.sample(range(1000, 2000), rng.choice((5, 6, 7)))) if rng.random() < 0.5 else rng.sample(range(-60, 20), 4)
        )
    texts = {value: (f"{float(value):g}" if isinstance(value, Fraction) else str(value)) for value in values}
    best = (max if largest else min)(values)
    rng.shuffle(values)
    shown = [texts[value] for value in values]
    of_two = len(values) == 2
    word = rng.choice(("larger", "bigger", "greater") if largest else ("smaller", "lower")) if of_two else None
    word = word or rng.choice(("largest", "biggest", "highest") if largest else ("smallest", "lowest"))
    if of_two:
        questions = [
            "Which number is {word}, {a} or {b}?",
            "Which is {word}: {a} or {b}?",
            "What is the {word} of {a} and {b}?",
        ]
        return Task(asked(rng, questions, NUMBER_ONLY, word=word, a=shown[0], b=shown[1]), [texts[best]])
    questions = [
        "Which of these numbers is the {word}: {all}?",
        "What is the {word} number in this list: {all}?",
        "Find the {word}: {all}.",
    ]
    return Task(asked(rng, questions, NUMBER_ONLY, word=word, all=listed(shown)), [texts[best]])


def sequences(rng: Rng, level: int) -> Task:
    start, step = rng.randrange(1, 20), rng.randrange(2, 10)
    n = rng.choice((4, 5, 6))
    if level == 1 and rng.random() < 0.6:
        value, after = rng.randrange(2, 99), rng.random() < 0.7
        where = "after" if after else "before"
        questions = [
            "Which number comes right {w} {v}?",
            "Counting up, what number is right {w} {v}?",
            "Name the number just {w} {v}.",
        ]
        return Task(asked(rng, questions, NUMBER_ONLY, w=where, v=value), number(value + 1 if after else value - 1))
    if level == 1:
        start, step = rng.choice(((rng.randrange(1, 60), 1), (rng.randrange(1, 20) * 2, 2), (rng.randrange(1, 12) * 10, 10)))
        run = [start + step * i for i in range(n + 1)]
    elif level == 2:
        run = [start + step * i for i in range(n + 1)]
    elif level == 3:
        start += step * n
        run = [start - step * i for i in range(n + 1)]
    elif level == 4:
        factor = rng.choice((2, 3))
        run = [rng.randrange(1, 9)]
        while len(run) < n + 1:
            run.append(run[-1] * factor)
    else:
        kind = rng.randrange(3)
        if kind == 0:
            run = [(i + start) ** 2 for i in range(n + 1)]
        elif kind == 1:
            run = [start, start + step]
            while len(run) < n + 1:
                run.append(run[-1] + run[-2])
        else:
            run = [start + i * (i + 1) // 2 * (step % 3 + 1) for i in range(n + 1)]
    questions = [
        "What number comes next: {run}, ...?",
        "Continue the sequence: {run}, ?",
        "Find the next number in this series: {run}.",
    ]
    return Task(asked(rng, questions, NUMBER_ONLY, run=listed(run[:-1])), number(run[-1]))


ROMAN: tuple[tuple[int, str], ...] = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
)
ROMAN += ((5, "V"), (4, "IV"), (1, "I"))


def roman(value: int) -> str:
    text = ""
    for size, letters in ROMAN:
        while value >= size:
            text, value = text + letters, value - size
    return text


def roman_numerals(rng: Rng, level: int) -> Task:
    span = {1: (1, 12), 2: (13, 40), 3: (41, 120), 4: (121, 999), 5: (1000, 2600)}[level]
    value = rng.randint(*span)
    if rng.random() < 0.6:
        questions = [
            "What number is the Roman numeral {text}?",
            "Convert {text} from Roman numerals to a number.",
            "What is {text} in digits?",
        ]
        return Task(asked(rng, questions, NUMBER_ONLY, text=roman(value)), number(value))
    questions = [
        "How do you write {value} in Roman numerals?",
        "What is {value} as a Roman numeral?",
        "Convert {value} to Roman numerals.",
    ]
    prompt = asked(
        rng, questions, ("Answer with just the numeral.", "Give only the numeral.", "Just the numeral."), value=value
    )
    return Task(prompt, [roman(value)], "contains")


SMALL = facts.words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
TENS = facts.words("- - twenty thirty forty fifty sixty seventy eighty ninety")


def spelled(value: int) -> str:
    """A number below a million in words, without "and"."""
    if value < 20:
        return SMALL[value]
    if value < 100:
        return TENS[value // 10] + (f"-{SMALL[value % 10]}" if value % 10 else "")
    size, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    return f"{spelled(value // size)} {name}" + (f" {spelled(value % size)}" if value % size else "")


ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def ordinal(value: int) -> str:
    head, last = spelled(value), ""
    for sign in ("-", " "):
        if sign in head:
            head, _, last = head.rpartition(sign)
            head += sign
            break
    else:
        head, last = "", head
    if last in ORDINALS:
        return head + ORDINALS[last]
    return head + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def number_words(rng: Rng, level: int) -> Task:
    span = {1: (3, 40), 2: (21, 99), 3: (101, 999), 4: (1001, 9999), 5: (10_000, 999_999)}[level]
    value = rng.randint(*span)
    kind = rng.random()
    if kind < 0.5:
        questions = ['Write "{text}" in digits.', "What is {text} as a number in digits?", 'Convert to digits: "{text}".']
        return Task(asked(rng, questions, NUMBER_ONLY, text=spelled(value)), number(value))
    words = ("Answer with just the words.", "Give only the words.", "Words only, please.")
    if kind < 0.75 and level < 4:
        value = value % 100 or 100
        spell = ordinal(value)
        questions = [
            "What is the ordinal word for {v}?",
            "Write the ordinal number of {v} in words.",
            "In words, what ordinal belongs to {v}?",
        ]
    else:
        spell = spelled(value)
        questions = [
            "Write {v} in words.",
            "How do you spell the number {v} in words?",
            "What is {v} written out in English words?",
        ]
    variants = {
        spell,
        spell.replace("-", " "),
        spell.replace("hundred ", "hundred and "),
        spell.replace("thousand ", "thousand, "),
    }
    variants |= {text.replace("hundred ", "hundred and ").replace("and and", "and") for text in list(variants)}
    variants |= {text.replace("-", " ") for text in variants}
    return Task(asked(rng, questions, words, v=value), sorted(variants), "contains")


UNITS = (
    (1, "hours", "minutes", 60),
    (1, "minutes", "seconds", 60),
    (1, "days", "hours", 24),
    (1, "weeks", "days", 7),
    (1, "metres", "centimetres", 100),
    (1, "kilometres", "metres", 1000),
    (1, "kilograms", "grams", 1000),
    (1, "litres", "millilitres", 1000),
    (1, "years", "months", 12),
    (2, "feet", "inches", 12),
    (2, "centimetres", "millimetres", 10),
    (2, "tonnes", "kilograms", 1000),
    (2, "dozen", "pieces", 12),
    (3, "yards", "feet", 3),
    (3, "pounds", "ounces", 16),
    (3, "gallons (US)", "quarts", 4),
    (3, "decades", "years", 10),
    (3, "centuries", "years", 100),
    (4, "miles", "yards", 1760),
    (4, "hours", "seconds", 3600),
    (4, "square metres", "square centimetres", 10_000),
    (4, "weeks", "hours", 168),
    (4, "pints (US)", "cups", 2),
    (4, "tablespoons", "teaspoons", 3),
    (5, "miles", "feet", 5280),
    (5, "days", "minutes", 1440),
    (5, "cubic metres", "litres", 1000),
    (5, "stone", "pounds", 14),
    (5, "gallons (US)", "cups", 16),
)


def units(rng: Rng, level: int) -> Task:
    _, large, small, factor = rng.choice([unit for unit in UNITS if unit[0] <= level and (unit[0] >= level - 2)])
    count: Fraction = Fraction(rng.randint(*{1: (1, 2), 2: (2, 10), 3: (3, 15), 4: (3, 20), 5: (6, 40)}[level]))
    if level >= 3 and rng.random() < 0.4:
        count += Fraction(1, 2)
    if rng.random() < 0.55 or count * factor != int(count * factor):
        a, unit_a, b, unit_b = count, large, count * factor, small
    else:
        a, unit_a, b, unit_b = count * factor, small, count, large
    questions = [
        "How many {ub} are {a} {ua}?",
        "Convert {a} {ua} to {ub}.",
        "{a} {ua} is how many {ub}?",
        "Express {a} {ua} in {ub}.",
    ]
    return Task(asked(rng, questions, NUMBER_ONLY, a=f"{float(a):g}", ua=unit_a, ub=unit_b), number(b))


# ---- facts ---------------------------------------------------------------------------------------------------------------


COUNTRIES = [country for country, _ in facts.CAPITALS]
ALL_CAPITALS = [name for _, names in facts.CAPITALS for name in names]


def capitals(rng: Rng, level: int) -> Task:
    country, names = by_fame(rng, facts.CAPITALS, level)
    if rng.random() < 0.65:
        questions = [
            "What is the capital of {c}?",
            "Which city is the capital of {c}?",
            "Name the capital of {c}.",
            "{c}'s capital city is?",
        ]
        return Task(asked(rng, questions, NAME_ONLY, c=country), names, "contains", ALL_CAPITALS)
    questions = [
        "{n} is the capital of which country?",
        "Of which country is {n} the capital?",
        "Which country has {n} as its capital?",
    ]
    return Task(asked(rng, questions, NAME_ONLY, n=names[0]), [country], "contains", COUNTRIES)


CONTINENT_NAMES = [*(name for name, _ in facts.CONTINENTS), "Oceania", "Australia", "Antarctica"]


def continents(rng: Rng, level: int) -> Task:
    continent, countries = rng.choice(facts.CONTINENTS)
    country = by_fame(rng, [(name, []) for name in countries], level)[0]
    if rng.random() < 0.5:
        questions = [
            "On which continent is {c}?",
            "Which continent does {c} belong to?",
            "{c} lies on which continent?",
            "What continent is {c} in?",
        ]
        return Task(asked(rng, questions, NAME_ONLY, c=country), [continent], "contains", CONTINENT_NAMES)
    others = [rng.choice(names) for name, names in facts.CONTINENTS if name != continent]
    shown = [country, *rng.sample(others, 3 if level > 2 else 2)]
    rng.shuffle(shown)
    where = continent
    questions = [
        "Which of these countries is in {w}: {all}?",
        "Only one of these is in {w}. Which one? {all}.",
        "Pick the country in {w}: {all}.",
    ]
    return Task(asked(rng, questions, NAME_ONLY, w=where, all=listed(shown)), [country], "choice", shown)


ALL_CURRENCIES = sorted({name for _, names in facts.CURRENCIES for name in names})
ALL_LANGUAGES = sorted({name for _, names in facts.LANGUAGES for name in names})


def country_facts(rng: Rng, level: int) -> Task:
    if rng.random() < 0.55:
        country, names = by_fame(rng, facts.CURRENCIES, level)
        questions = [
            "What is the currency of {c}?",
            "Which currency is used in {c}?",
            "What do people in {c} pay with? Name the currency.",
        ]
        names, pool = [*names, *(f"{name}s" for name in names)], ALL_CURRENCIES
    else:
        country, names = by_fame(rng, facts.LANGUAGES, level)
        questions = [
            "What is the official language of {c}?",
            "Which language do most people speak in {c}?",
            "Name the main language of {c}.",
        ]
        if names[0] in ("English", "French", "Bambara", "Dutch", "Portuguese"):
            questions = questions[:1]
        pool = ALL_LANGUAGES
    return Task(asked(rng, questions, WORD_ONLY, c=country), names, "contains", pool)


ENGLISH = {"i", "as", "at", "in", "he", "no", "be", "am", "a", "y", "u", "k", "v", "w", "h", "o", "c", "n", "s", "p", "b", "f"}
SYMBOLS = [values[0] for _, values in facts.ELEMENTS if values[0].lower() not in ENGLISH]
ELEMENT_NAMES = [name for name, _ in facts.ELEMENTS]


def elements(rng: Rng, level: int) -> Task:
    name, (symbol, atomic) = by_fame(rng, facts.ELEMENTS, level)
    kind = rng.random()
    if kind < 0.4:
        while symbol not in SYMBOLS:
            name, (symbol, atomic) = by_fame(rng, facts.ELEMENTS, level)
        questions = [
            "What is the chemical symbol for {n}?",
            "Which symbol stands for {n} in the periodic table?",
            "Give the symbol of the element {n}.",
        ]
        return Task(
            asked(rng, questions, ("Answer with just the symbol.", "Only the symbol."), n=name), [symbol], "contains", SYMBOLS
        )
    if kind < 0.75:
        questions = [
            "Which element has the symbol {s}?",
            "What element is {s} in the periodic table?",
            "{s} is the chemical symbol of which element?",
        ]
        names = {"aluminium": ["aluminum"], "sulfur": ["sulphur"], "caesium": ["cesium"], "tungsten": ["wolfram"]}.get(name, [])
        return Task(asked(rng, questions, NAME_ONLY, s=symbol), [name, *names], "contains", ELEMENT_NAMES)
    questions = [
        "What is the atomic number of {n}?",
        "How many protons does an atom of {n} have?",
        "Give the atomic number of {n}.",
    ]
    return Task(asked(rng, questions, NUMBER_ONLY, n=name), [atomic])


def surnames(names: Sequence[str]) -> list[str]:
    """Full names, and the last names alone."""
    return sorted(
        {
            *names,
            *(name.removeprefix("Leonardo ").split(" ")[-1] for name in names),
            *({"da Vinci", "Leonardo"} if "Leonardo da Vinci" in names else ()),
        }
    )


CREATORS = facts.WORKS + [(key.split("|")[1], names) for key, names in facts.ART]
ALL_CREATORS = sorted({text for _, names in CREATORS for text in surnames(names)})


def authors(rng: Rng, level: int) -> Task:
    if rng.random() < 0.65:
        work, names = by_fame(rng, facts.WORKS, level)
        verb = "wrote"
        questions = ["Who wrote {w}?", "Who is the author of {w}?", "{w} was written by whom?", 'Name the writer of "{w}".']
    else:
        key, names = by_fame(rng, facts.ART, level)
        verb, work = key.split("|")
        questions = ["Who {v} {w}?", "Which person {v} {w}?", "Do you know who {v} {w}?"]
    return Task(asked(rng, questions, NAME_ONLY, w=work, v=verb), surnames(names), "contains", ALL_CREATORS)


# ---- words ---------------------------------------------------------------------------------------------------------------


def plurals(rng: Rng, level: int) -> Task:
    irregular = [row for row in facts.PLURALS if row[1][0] not in (row[0] + "s", row[0] + "es")]
    regular = [row for row in facts.PLURALS if row not in irregular]
    plain = [(word, [word + "s"]) for word in facts.WORDS if word[-1] not in "sxyhz" and word not in ("mathematics", "success")]
    if level == 1:
        word, forms = rng.choice(plain)
    elif level == 2:
        word, forms = rng.choice(regular)
    else:
        word, forms = by_fame(rng, irregular, rng.choice({3: (1, 2), 4: (3, 4), 5: (4, 5)}[level]))
    if rng.random() < 0.2 and forms[0] != word:
        questions = ['What is the singular of "{p}"?', 'Give the singular form of "{p}".', '"{p}" is the plural of which word?']
        return Task(asked(rng, questions, WORD_ONLY, p=forms[0]), [word], "contains")
    questions = [
        'What is the plural of "{w}"?',
        'Give the plural form of "{w}".',
        'One {w}, two ...? Fill in the right form of "{w}".',
    ]
    wrong = [form for form in (word + "s", word + "es") if form not in forms]
    return Task(asked(rng, questions, WORD_ONLY, w=word), forms, "contains", wrong)


def past_tense(rng: Rng, level: int) -> Task:
    verb, forms = by_fame(rng, facts.PAST, level)
    questions = [
        'What is the past tense of "{v}"?',
        'Give the simple past of the verb "{v}".',
        "Today I {v}, yesterday I ...? Fill in the verb.",
    ]
    if "(" in verb:
        questions = questions[:2]
    wrong = [form for form in (verb + "ed", verb + "d", verb[:-1] + "ied") if form not in forms]
    return Task(asked(rng, questions, WORD_ONLY, v=verb), forms, "contains", wrong)


def opposites(rng: Rng, level: int) -> Task:
    word, others = by_fame(rng, facts.OPPOSITES, level)
    if rng.random() < 0.35:
        wrong = [row[0] for row in rng.sample(facts.OPPOSITES, 12) if row[0] not in (word, *others)]
        shown = [others[0], *wrong[: 2 if level < 3 else 3]]
        rng.shuffle(shown)
        questions = [
            'Which of these words means the opposite of "{w}": {all}?',
            'Pick the antonym of "{w}" from: {all}.',
            '{all}: which one is the opposite of "{w}"?',
        ]
        return Task(asked(rng, questions, WORD_ONLY, w=word, all=listed(shown)), [others[0]], "choice", shown)
    questions = ['What is the opposite of "{w}"?', 'Give an antonym of "{w}".', 'Which word means the opposite of "{w}"?']
    return Task(asked(rng, questions, WORD_ONLY, w=word), others, "contains")


def translation(rng: Rng, level: int) -> Task:
    rows = facts.VOCABULARY
    size = len(rows) / 5
    row = rows[rng.randrange(int((level - 1) * size), int(level * size))]
    to = rng.choice((1, 2, 3))
    language = ("English", "French", "Spanish", "German")[to]
    if rng.random() < 0.3:
        n_wrong = 1 if level == 1 else 2 if level < 4 else 3
        others = [other for other in rows if other is not row]
        shown = [row[to][0], *(other[to][0] for other in rng.sample(others, n_wrong))]
        rng.shuffle(shown)
        questions = ['Which of these {l} words means "{w}": {all}?', 'Pick the {l} word for "{w}": {all}.']
        return Task(asked(rng, questions, WORD_ONLY, l=language, w=row[0][0], all=listed(shown)), [row[to][0]], "choice", shown)
    if rng.random() < 0.65:
        questions = ['What is the {l} word for "{w}"?', 'Translate "{w}" into {l}.', 'How do you say "{w}" in {l}?']
        return Task(asked(rng, questions, WORD_ONLY, l=language, w=row[0][0]), row[to], "contains")
    questions = [
        'What does the {l} word "{w}" mean in English?',
        'Translate the {l} word "{w}" into English.',
        '{l} to English: "{w}"?',
    ]
    english = row[0][0].split(" (")[0]
    also = {
        "autumn": ["fall"],
        "goodbye": ["bye"],
        "man": ["men"],
        "work": ["job"],
        "street": ["road"],
        "sea": ["ocean"],
        "meat": ["flesh"],
    }
    also |= {
        "love": ["to love"],
        "foot": ["feet"],
        "country": ["land"],
        "pig": ["pork"],
        "day": ["daytime"],
        "time": ["weather"],
    }
    return Task(asked(rng, questions, WORD_ONLY, l=language, w=row[to][0]), [english, *also.get(english, [])], "contains")


def spelling(rng: Rng, level: int) -> Task:
    lengths = {1: (3, 6), 2: (5, 7), 3: (5, 8), 4: (7, 10), 5: (9, 14)}[level]
    word = rng.choice([w for w in (*facts.WORDS, *SHORT_WORDS) if lengths[0] <= len(w) <= lengths[1]])
    letters = list("abcdefghijklmnopqrstuvwxyz")
    only = ("Answer with just the letter.", "Reply with one letter only.", "Only the letter, please.")
    if level == 1:
        where, index = rng.choice((("first", 0), ("last", -1)))
    elif level == 2:
        where, index = rng.choice((("second", 1), ("last", -1), ("third", 2)))
    else:
        index = rng.randrange(1, len(word))
        where = ordinal(index + 1)
    if level >= 3 and rng.random() < 0.3:
        questions = [
            'Spell the word "{w}" with hyphens between the letters.',
            'Write "{w}" letter by letter, separated by hyphens.',
        ]
        spelled_out = "-".join(word)
        return Task(asked(rng, questions, SHORT_ONLY, w=word), [spelled_out], "contains")
    questions = [
        'What is the {n} letter of the word "{w}"?',
        'Which letter comes {n} in "{w}"?',
        'Tell me the {n} letter in "{w}".',
    ]
    questions[1] = questions[1] if where != "last" else 'Which letter is the last one of "{w}"?'
    return Task(asked(rng, questions, only, n=where, w=word), [word[index].upper()], "choice", [c.upper() for c in letters])


SHORT_WORDS = facts.words(
    "cat dog sun map pen box hat key bus cup tree fish book moon star door lamp ship rain snow leaf milk frog wolf"
)


def rhymes(rng: Rng, level: int) -> Task:
    group = rng.choice(facts.RHYMES)
    word, right = rng.sample(group, 2)
    if level <= 2:
        right = next((w for w in rng.sample(group, len(group)) if w != word and w[-2:] == word[-2:]), right)
    n_wrong = {1: 1, 2: 2, 3: 2, 4: 3, 5: 4}[level]
    wrong = [rng.choice(other) for other in rng.sample([other for other in facts.RHYMES if other is not group], n_wrong)]
    shown = [right, *wrong]
    rng.shuffle(shown)
    questions = [
        'Which of these words rhymes with "{w}": {all}?',
        'Pick the word that rhymes with "{w}": {all}.',
        '{all}. Which one rhymes with "{w}"?',
    ]
    return Task(asked(rng, questions, WORD_ONLY, w=word, all=listed(shown)), [right], "choice", shown)


# ---- lists and texts -----------------------------------------------------------------------------------------------------


def counting(rng: Rng, level: int) -> Task:
    if level <= 2 and rng.random() < 0.7:
        if rng.random() < 0.5:
            things = rng.sample(THINGS, rng.randint(2, 3 if level == 1 else 5))
            told = joined([f"a {thing}" for thing in things])
            questions = ["I have {t}. How many things do I have?", "There is {t} on the table. How many things is that?"]
            return Task(asked(rng, questions, NUMBER_ONLY, t=told), number(len(things)))
        word = rng.choice((*facts.WORDS, *SHORT_WORDS))
        letter = rng.choice(word) if rng.random() < 0.6 else rng.choice("abcdefghilmnoprstu")
        questions = [
            'Is there the letter "{c}" in the word "{w}"?',
            'Does "{w}" contain the letter "{c}"?',
            'Has "{w}" got a "{c}" in it?',
        ]
        right = "yes" if letter in word else "no"
        return Task(
            asked(rng, questions, ("Answer yes or no.", "Yes or no?"), c=letter, w=word), [right], "choice", ("yes", "no")
        )
    kind = rng.randrange(3)
    if kind == 0:
        lengths = {1: (3, 4), 2: (4, 5), 3: (5, 7), 4: (7, 9), 5: (9, 14)}[level]
        word = rng.choice([w for w in (*facts.WORDS, *SHORT_WORDS) if lengths[0] <= len(w) <= lengths[1]])
        if level >= 3 and rng.random() < 0.5:
            letter = max(set(word), key=lambda c: (word.count(c), c)) if rng.random() < 0.6 else rng.choice(word)
            questions = [
                'How many times does the letter "{c}" appear in "{w}"?',
                'Count the letter "{c}" in the word "{w}".',
                'How many "{c}" are in {w}?',
            ]
            return Task(asked(rng, questions, NUMBER_ONLY, c=letter, w=word), number(word.count(letter)))
        questions = [
            'How many letters does the word "{w}" have?',
            'Count the letters in "{w}".',
            'How long is the word "{w}", in letters?',
        ]
        return Task(asked(rng, questions, NUMBER_ONLY, w=word), number(len(word)))
    n = rng.randint(*{1: (2, 3), 2: (3, 4), 3: (4, 6), 4: (6, 9), 5: (8, 14)}[level])
    if kind == 1:
        shown = listed(rng.sample(facts.WORDS, n))
        questions = [
            "How many items are in this list: {all}?",
            "Count the words in this list: {all}.",
            "{all}. How many things did I name?",
        ]
        return Task(asked(rng, questions, NUMBER_ONLY, all=shown), number(n))
    sentence = " ".join(rng.choices(SENTENCE_WORDS, k=n)).capitalize() if n < 4 else sentence_of(rng, n)
    questions = [
        'How many words are in this sentence? "{s}."',
        'Count the words: "{s}."',
        'The sentence is "{s}." How many words does it have?',
    ]
    return Task(asked(rng, questions, NUMBER_ONLY, s=sentence), number(n))


SENTENCE_WORDS = facts.words("birds sing rivers flow children play often here now today loudly together outside again")


def sentence_of(rng: Rng, n: int) -> str:
    """A sentence of n words, 3 to 20."""
    noun, verb = (
        rng.choice(facts.words(text)) for text in ("farmer teacher dog neighbour doctor pilot", "sleeps waits sings reads")
    )
    adjectives = facts.words("old small green quiet brave tired clever happy hungry lucky")
    phrases = ["again", "today", "every morning", "in silence", "before dinner", "near the river", "with two friends"]
    rng.shuffle(adjectives)
    rng.shuffle(phrases)
    sentence = [rng.choice(("The", "My", "Our", "That")), noun, verb]
    for phrase in phrases:
        if len(sentence) + len(phrase.split()) <= n - (n > 7):
            sentence += phrase.split()
    while len(sentence) < n:
        sentence.insert(1, adjectives.pop())
    return " ".join(sentence)


def in_order(items: Sequence[object]) -> list[str]:
    """How a list may be written."""
    texts = list(map(str, items))
    forms = [sign.join(texts) for sign in (", ", ",", " ")]
    return [
        *forms,
        f"[{forms[0]}]",
        f"[{forms[1]}]",
        *sorted({", ".join(map(str.capitalize, texts)), forms[0].capitalize()} - set(forms)),
    ]


def sorting(rng: Rng, level: int) -> Task:
    n = {1: 2, 2: 3, 3: 4, 4: 5, 5: 7}[level]
    down = rng.random() < 0.3
    if rng.random() < 0.6:
        spans = {1: (1, 20), 2: (1, 100), 3: (1, 100), 4: (1, 200), 5: (1, 500)}
        items: list[int | str] = [*rng.sample(range(*spans[level]), n)]
        how = rng.choice(
            ("from largest to smallest", "in descending order") if down else ("from smallest to largest", "in ascending order")
        )
        what = "numbers"
    else:
        items = [*rng.sample([word for word in facts.WORDS if len(word) < 8], n)]
        down, how, what = False, rng.choice(("alphabetically", "in alphabetical order", "from A to Z")), "words"
    right = sorted(items, key=lambda item: (item, "") if isinstance(item, int) else (0, item), reverse=down)
    if level > 2 and right == items:
        items = items[::-1]
    questions = [
        "Sort these {what} {how}: {all}.",
        "Put the following {what} {how}: {all}.",
        "{all}: arrange these {what} {how}.",
    ]
    endings = (
        "Answer with just the list, separated by commas.",
        "Give only the sorted list, separated by commas.",
        "Only the list with commas.",
    )
    return Task(asked(rng, questions, endings, what=what, how=how, all=listed(items)), in_order(right), "line")


TOWNS = facts.words("Leeds Porto Lyon Bergen Ghent Turin Malmo Graz Bilbao Cork Bremen Nantes Krakow Basel")
JOBS = facts.words("nurse painter baker engineer teacher lawyer gardener pilot dentist carpenter librarian chemist")
THINGS = facts.words("lamp bicycle camera kettle jacket guitar blanket printer mirror suitcase toaster helmet")
MONTHS = facts.words("January February March April May June July August September October November December")
DAYS = facts.words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def extraction(rng: Rng, level: int) -> Task:
    n = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6}[level]
    people, towns, jobs, things = (rng.sample(pool, n) for pool in (facts.NAMES, TOWNS, JOBS, THINGS))
    prices, years = rng.sample(range(11, 400), n), rng.sample(range(1990, 2024), n)
    days, months = [rng.choice(DAYS) for _ in range(n)], rng.sample(MONTHS, n)
    forms = [
        "{p} is a {j} from {t} who bought a {o} for {c} dollars in {y}.",
        "In {y}, {p} moved to {t} to work as a {j} and sold a {o} for {c} dollars.",
        "{p} lives in {t}, works as a {j}, and paid {c} dollars for a {o} in {y}.",
    ]
    rows = list(zip(people, towns, jobs, things, prices, years, strict=True))
    texts = [rng.choice(forms).format(p=p, t=t, j=j, o=o, c=c, y=y) for p, t, j, o, c, y in rows]
    fillers = [
        "The weather was mild that week.",
        f"A meeting was planned for {days[0]}.",
        f"Nobody had expected this before {months[0]}.",
        "It was a long story.",
    ]
    for _ in range(rng.randrange(level)):
        texts.insert(rng.randrange(len(texts) + 1), rng.choice(fillers))
    passage = " ".join(texts).replace(" a engineer", " an engineer")
    p, t, j, o, c, y = rng.choice(rows)
    kinds: list[tuple[str, list[str], str, Sequence[str]]] = [
        (f"Where does {p} live or come from?", [t], "contains", towns),
        (f"What is {p}'s job?", [j], "contains", jobs),
        (f"How many dollars was the {o}?", [str(c)], "contains", list(map(str, prices))),
        (f"Which object did {p} buy or sell?", [o], "contains", things),
        (f"In which year did {p} buy or sell something or move?", [str(y)], "contains", list(map(str, years))),
        (f"Who works as a {j}?".replace(" a engineer", " an engineer"), [p], "contains", people),
        (f"Who is connected with {t}?", [p], "contains", people),
        (f"Who paid or got {c} dollars?", [p], "contains", people),
    ]
    if level >= 4:
        cheap = min(rows, key=lambda row: row[4])
        first = min(rows, key=lambda row: row[5])
        kinds[:3] = [
            ("Whose object had the lowest price?", [cheap[0]], "contains", people),
            ("Which object was the first by year?", [first[3]], "contains", things),
            (f"What is the job of the person who bought or sold the {o}?", [j], "contains", jobs),
        ]
    question, answers, match, options = rng.choice(kinds)
    form = rng.choice(
        ("{s}\n\n{q} {e}", "Read the text and answer the question.\n\nText: {s}\nQuestion: {q} {e}", '{q} {e}\n\n"{s}"')
    )
    return Task(form.format(s=passage, q=question, e=rng.choice(SHORT_ONLY)), answers, match, options)


SUBJECTS = facts.words("film hotel phone restaurant book game concert laptop meal teacher")
GOOD = (
    "I loved the {s}.",
    "The {s} was wonderful and I want to come back to it.",
    "What a great {s}!",
    "I was delighted with the {s}.",
    "The {s} exceeded all my hopes.",
    "Best {s} in years, my whole family smiled.",
)
BAD = (
    "I hated the {s}.",
    "The {s} was terrible and a waste of money.",
    "What an awful {s}!",
    "I was disappointed by the {s}.",
    "The {s} broke every promise it made.",
    "Worst {s} in years, we left early.",
)
HARD_GOOD = (
    "I expected to hate the {s}, but I could not have been more wrong.",
    "Not a single thing about the {s} was bad.",
    "The {s} is hardly cheap, yet worth every cent.",
    "Nobody could call this {s} boring.",
    "The critics tore the {s} apart; I would go again tomorrow.",
)
HARD_BAD = (
    "The {s} was anything but good.",
    "I wish I could say I enjoyed the {s}.",
    "Everyone praised the {s}; I do not understand why.",
    "If you like wasting time, this {s} is perfect for you.",
    "The {s} started well and then fell apart completely.",
)
TOPICS = {
    "sports": (
        "The team scored twice in the last ten minutes of the {x}.",
        "The coach praised the goalkeeper after the {x}.",
        "She ran the marathon and won the {x}.",
        "The striker will miss the {x} with a knee injury.",
    ),
    "finance": (
        "The central bank raised interest rates before the {x}.",
        "Shares fell sharply after the {x}.",
        "The company reported lower profits ahead of the {x}.",
        "Investors sold their bonds during the {x}.",
    ),
    "weather": (
        "Heavy rain and strong winds are expected for the {x}.",
        "It will stay dry and sunny until the {x}.",
        "Snow closed several roads on the day of the {x}.",
        "Temperatures will drop below zero after the {x}.",
    ),
    "health": (
        "Doctors advise patients to rest before the {x}.",
        "The new vaccine was tested ahead of the {x}.",
        "Too much sugar raises the risk of disease, experts said at the {x}.",
        "The hospital treated forty patients during the {x}.",
    ),
    "technology": (
        "The new processor was shown at the {x}.",
        "Engineers fixed a bug in the software before the {x}.",
        "The start-up presented its robot at the {x}.",
        "The update makes the phone faster, they said at the {x}.",
    ),
    "food": (
        "Add butter and flour, then bake it for the {x}.",
        "The chef prepared a spicy soup for the {x}.",
        "Fresh bread and cheese were served at the {x}.",
        "Let the dough rest overnight before the {x}.",
    ),
}
EVENTS = facts.words("final meeting weekend festival conference holiday season evening competition summit")


def sentiment(rng: Rng, level: int) -> Task:
    good = rng.random() < 0.5
    thing = rng.choice(SUBJECTS)
    easy, hard = (GOOD, HARD_GOOD) if good else (BAD, HARD_BAD)
    other = BAD if good else GOOD
    label = "positive" if good else "negative"
    if level == 1:
        text = rng.choice(easy).format(s=thing)
    elif level == 2:
        text = " ".join(form.format(s=thing) for form in rng.sample(easy, 2))
    elif level == 3:
        text = rng.choice(hard).format(s=thing)
    elif level == 4:
        second = rng.choice([subject for subject in SUBJECTS if subject != thing])
        text = f"{rng.choice(other).format(s=second)} {rng.choice(easy).format(s=thing)}"
        questions = [
            "Is the writer positive or negative about the {s}? {t}",
            'Text: "{t}" Is it positive or negative about the {s}?',
            '"{t}" What is the opinion of the {s}, positive or negative?',
        ]
        return Task(asked(rng, questions, WORD_ONLY, s=thing, t=text), [label], "choice", ("positive", "negative"))
    else:
        label, text = (
            "mixed",
            " ".join(rng.sample([rng.choice(GOOD), rng.choice(BAD).replace("The {s}", "Its end")], 2)).format(s=thing),
        )
        if rng.random() < 0.5:
            label, text = ("positive" if good else "negative"), " ".join(form.format(s=thing) for form in rng.sample(hard, 2))
        questions = [
            "Is this review positive, negative or mixed? {t}",
            'Classify the review as positive, negative or mixed: "{t}"',
            '"{t}" Positive, negative or mixed?',
        ]
        return Task(asked(rng, questions, WORD_ONLY, t=text), [label], "choice", ("positive", "negative", "mixed"))
    questions = [
        "Is this review positive or negative? {t}",
        'Classify the sentiment as positive or negative: "{t}"',
        '"{t}" Is that positive or negative?',
    ]
    return Task(asked(rng, questions, WORD_ONLY, t=text), [label], "choice", ("positive", "negative"))


def topics(rng: Rng, level: int) -> Task:
    names = rng.sample(sorted(TOPICS), {1: 2, 2: 3, 3: 4, 4: 5, 5: 6}[level])
    right = rng.choice(names)
    text = rng.choice(TOPICS[right]).format(x=rng.choice(EVENTS))
    if level >= 4:
        text += f" Later, people talked about {rng.choice([name for name in names if name != right])}, but only for a moment."
    questions = [
        "Which topic fits this text best: {all}? {t}",
        'Classify the text as {all}: "{t}"',
        '"{t}" Is this about {all}?',
    ]
    return Task(asked(rng, questions, WORD_ONLY, all=f"{listed(names[:-1])} or {names[-1]}", t=text), [right], "choice", names)


def odd_one_out(rng: Rng, level: int) -> Task:
    far = {1: 4, 2: 4, 3: 3, 4: 5, 5: 6}[level]
    index = rng.randrange(len(facts.CATEGORIES))
    near = [i for i in range(len(facts.CATEGORIES)) if i // 6 == index // 6 and i != index]
    other = rng.choice(near if level >= 3 and near else [i for i in range(len(facts.CATEGORIES)) if i // 6 != index // 6])
    members = rng.sample(facts.CATEGORIES[index][1], far - 1)
    odd = rng.choice([word for word in facts.CATEGORIES[other][1] if word not in facts.CATEGORIES[index][1]])
    shown = [*members, odd]
    rng.shuffle(shown)
    questions = [
        "Which word does not belong: {all}?",
        "Find the odd one out: {all}.",
        "{all}. Which of these is different from the others?",
    ]
    return Task(asked(rng, questions, WORD_ONLY, all=listed(shown)), [odd], "choice", shown)


def categories(rng: Rng, level: int) -> Task:
    name, members = rng.choice(facts.CATEGORIES)
    thing = by_fame(rng, [(member, []) for member in members], level)[0]
    others = [other for other, _ in facts.CATEGORIES if other != name]
    if level <= 3 and rng.random() < 0.35:
        right = rng.random() < 0.5
        asked_for = name if right else rng.choice(others)
        article = "an" if asked_for[0] in "aeiou" else "a"
        questions = ["Is {t} {k}?", "Does the word {t} name {k}?", "Would you call {t} {k}?"]
        kind = f"a kind of {asked_for}" if rng.random() < 0.5 else f"{article} {asked_for}"
        return Task(
            asked(rng, questions, ("Answer yes or no.", "Yes or no?"), t=thing, k=kind),
            ["yes" if right else "no"],
            "choice",
            ("yes", "no"),
        )
    shown = [name, *rng.sample(others, {1: 1, 2: 2, 3: 3, 4: 4, 5: 6}[level])]
    rng.shuffle(shown)
    questions = ["What is {t}: {all}?", "To which group does {t} belong: {all}?", "Classify {t} as one of these: {all}."]
    return Task(asked(rng, questions, WORD_ONLY, t=thing, all=f"{listed(shown[:-1])} or {shown[-1]}"), [name], "choice", shown)


# ---- form ----------------------------------------------------------------------------------------------------------------


def json_fields(rng: Rng, level: int) -> Task:
    values: dict[str, object] = {
        "name": rng.choice(facts.NAMES),
        "age": rng.randint(18, 80),
        "city": rng.choice(TOWNS),
        "job": rng.choice(JOBS),
    }
    values |= {
        "year": rng.randint(1950, 2023),
        "colour": rng.choice(facts.words("red blue green")),
        "price": rng.randint(2, 900),
        "active": rng.random() < 0.5,
    }
    keys = rng.sample(sorted(values), {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}[level])
    wanted: dict[str, object] = {key: values[key] for key in keys}
    told = (
        joined([f"{key} {json.dumps(wanted[key])}" for key in keys])
        if len(keys) > 1
        else f"{keys[0]} {json.dumps(wanted[keys[0]])}"
    )
    if level >= 4 and rng.random() < 0.6:
        who, age, job, town = rng.choice(facts.NAMES), rng.randint(18, 80), rng.choice(JOBS), rng.choice(TOWNS)
        told = f"{who}, {spelled(age)} years old, lives in {town} and works as a {job}.".replace(" a engineer", " an engineer")
        row: dict[str, object] = {"name": who, "age": age, "city": town, "job": job}
        row = {key: row[key] for key in rng.sample(sorted(row), level - 1)}
        questions = [
            'Make a JSON object with the fields {k} from this sentence: "{t}" Ages are numbers.',
            'Extract {k} as JSON (age as a number): "{t}"',
            'As a JSON object with the fields {k}, the age as a number: "{t}"',
        ]
        prompt = asked(
            rng, questions, ("Answer with the JSON only.", "Only the JSON, no explanation."), k=joined(list(row)), t=told
        )
        return Task(prompt, [json.dumps(row)], "json", (), 96)
    if level == 4:
        tags = rng.sample(THINGS, 3)
        wanted["items"], told = tags, f"{told}, and a list called items with {joined(tags)}"
    if level == 5:
        wanted = {"person": wanted}
        told = f'one field "person" that holds an object with {told}'
    questions = [
        "Write a JSON object with {t}.",
        "Give me JSON with these fields and values: {t}.",
        "Turn this into a JSON object: {t}.",
    ]
    endings = ("Answer with the JSON only.", "Only the JSON, no explanation.", "Reply with nothing but JSON.")
    return Task(asked(rng, questions, endings, t=told), [json.dumps(wanted)], "json", (), 96)


def text_form(rng: Rng, level: int) -> Task:
    words = rng.sample(facts.WORDS, {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}[level])
    text = " ".join(words)
    only = ("Answer with just the text.", "Only the result, please.", "Give only the result.")
    kinds: list[tuple[Sequence[str], str]] = [
        (("Write this in capital letters: {t}", "Convert to upper case: {t}", "Make all letters uppercase: {t}"), text.upper()),
        (("Write this in lower case: {T}", "Convert to lowercase: {T}", "Make all letters small: {T}"), text),
        (
            (
                "Put quotation marks aside and join these words with hyphens: {t}",
                "Replace every space by a hyphen: {t}",
                "Write with hyphens instead of spaces: {t}",
            ),
            "-".join(words),
        ),
        (
            (
                "Write each word with a capital first letter: {t}",
                "Capitalise the first letter of every word: {t}",
                "Change to title case: {t}",
            ),
            text.title(),
        ),
        (
            ("Remove all spaces: {t}", "Write this without any spaces: {t}", "Join these words into one without spaces: {t}"),
            "".join(words),
        ),
    ]
    if len(words) == 1:
        times = rng.randint(2, 5)
        form = (
            f"Write the word {text} {spelled(times)} times, separated by commas.",
            f"Repeat {text} {spelled(times)} times with commas between.",
        )
        plain = (f"Write only the word {text} and nothing else.", f"Say the word {text}.", f"Just write: {text}")
        kinds[2:] = [(form, ", ".join([text] * times)), kinds[3], (plain, text), (plain, text)]
    questions, right = rng.choice(kinds[:2] if level == 2 and rng.random() < 0.5 else kinds)
    ending = rng.choice(only)
    question = rng.choice(questions).format(t=text, T=text.upper())
    return Task(
        f"{ending} {question}" if rng.random() < 0.7 else f"{question}\n{ending}",
        [right, right.replace(", ", ",")] if "," in right else [right],
        "line",
    )


def copying(rng: Rng, level: int) -> Task:
    if level <= 2:
        text = " ".join(rng.sample(facts.WORDS, 3 * level)).capitalize()
    elif level == 3:
        text = sentence_of(rng, rng.randint(8, 14))
    else:
        alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
        groups = ["".join(rng.choices(alphabet, k=rng.choice((4, 5)))) for _ in range(2 if level == 4 else 5)]
        text = "-".join(groups) if rng.random() < 0.5 else "".join(groups)
    questions = [
        "Repeat exactly: {t}",
        "Copy this text without changing anything: {t}",
        'Write "{t}" again, letter for letter.',
        "Say this back to me word for word: {t}",
    ]
    return Task(rng.choice(questions).format(t=text), [text], "line", (), 64)


def reversal(rng: Rng, level: int) -> Task:
    if level in (1, 2, 3):
        n = {1: 2, 2: 3, 3: 5}[level]
        items = rng.sample(facts.WORDS, n) if rng.random() < 0.5 else list(map(str, rng.sample(range(1, 60), n)))
        questions = [
            "Reverse the order of this list: {all}.",
            "Write this list backwards, last item first: {all}.",
            "Turn this list around: {all}.",
        ]
        endings = ("Answer with just the list, separated by commas.", "Only the list, with commas.")
        return Task(asked(rng, questions, endings, all=listed(items)), in_order(items[::-1]), "line")
    pool = [word for word in (*SHORT_WORDS, *facts.WORDS) if len(word) in ((3, 4) if level == 4 else (5, 6, 7))]
    word = rng.choice(pool)
    questions = ['Write the word "{w}" backwards.', 'Spell "{w}" in reverse.', 'Reverse the letters of "{w}".']
    return Task(asked(rng, questions, WORD_ONLY, w=word), [word[::-1]], "contains")


# ---- time and logic ------------------------------------------------------------------------------------------------------


def dates(rng: Rng, level: int) -> Task:
    kind = rng.randrange(5)
    if kind == 0:
        steps = rng.choice({1: (1,), 2: (1, -1), 3: (2, -1), 4: (3, -2, 4), 5: (5, 10, 9, -4, 12)}[level])
        day = rng.randrange(7)
        n = abs(steps)
        when = "after" if steps > 0 else "before"
        shown = {1: f"Which day comes {when} {DAYS[day]}?"}.get(
            n, f"Which day of the week is {spelled(n)} days {when} {DAYS[day]}?"
        )
        plural = f"{'s' * (n > 1)}{'' if steps > 0 else ' ago'}"
        also = f"Today is {DAYS[day]}. What day {'will it be in' if steps > 0 else 'was it'} {n} day{plural}?"
        answer = DAYS[(day + steps) % 7]
        other = [name for name in DAYS if name not in (answer, DAYS[day])]
        return Task(asked(rng, [shown, also], WORD_ONLY), [answer], "contains", other)
    if kind == 1:
        month = rng.randrange(12)
        steps = rng.choice({1: (1,), 2: (1, -1), 3: (2, -2), 4: (3, 4, -3), 5: (7, 8, -5, 14)}[level])
        answer = MONTHS[(month + steps) % 12]
        n, when = abs(steps), "after" if steps > 0 else "before"
        questions = [
            f"Which month is {spelled(n)} month{'s' * (n > 1)} {when} {MONTHS[month]}?",
            f"Name the month that comes {n} month{'s' * (n > 1)} {when} {MONTHS[month]}.",
        ]
        other = [name for name in MONTHS if name not in (answer, MONTHS[month])]
        return Task(asked(rng, questions, WORD_ONLY), [answer], "contains", other)
    if kind == 2:
        month = rng.randrange(12)
        if level <= 2:
            questions = [
                f"What number is the month {MONTHS[month]}?",
                f"{MONTHS[month]} is the how-manieth month of the year?",
                f"Which number does {MONTHS[month]} have among the months?",
            ]
            return Task(asked(rng, questions, NUMBER_ONLY), number(month + 1))
        year = rng.choice((2021, 2023, 2024, 2028))
        n_days = (date(year + month // 11, (month + 1) % 12 + 1, 1) - date(year, month + 1, 1)).days
        questions = [
            f"How many days did {MONTHS[month]} {year} have?",
            f"What is the number of days in {MONTHS[month]} {year}?",
        ]
        return Task(asked(rng, questions, NUMBER_ONLY), number(n_days))
    if kind == 3:
        year = rng.choice(range(1904, 2101, 4)) if rng.random() < 0.5 else rng.randrange(1901, 2100)
        if level >= 4:
            year = rng.choice((1600, 1700, 1800, 1900, 2000, 2100, 2200, 2400, *range(1822, 1900, 3)))
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        questions = [f"Is {year} a leap year?", f"Does February {year} have 29 days?", f"Is the year {year} one with 366 days?"]
        return Task(
            asked(rng, questions, ("Answer yes or no.", "Yes or no?")), ["yes" if leap else "no"], "choice", ("yes", "no")
        )
    start = date(rng.randrange(2015, 2026), rng.randrange(1, 13), rng.randrange(1, 20 if level < 3 else 29))
    end = start + timedelta(days=rng.randint(*{1: (1, 1), 2: (2, 6), 3: (5, 12), 4: (10, 25), 5: (25, 60)}[level]))
    say = "{0.day} {1}".format
    a, b = say(start, MONTHS[start.month - 1]), say(end, MONTHS[end.month - 1])
    if rng.random() < 0.5:
        questions = [
            f"What date is {(end - start).days} day{'s' * ((end - start).days > 1)} after {a} {start.year}?",
            f"Today is {a} {start.year}. What date is it in {(end - start).days} day{'s' * ((end - start).days > 1)}?",
        ]
        name = MONTHS[end.month - 1]
        forms = [
            b,
            f"{name} {end.day}",
            f"{name} {end.day}th",
            f"{end.day}th {name}",
            f"{end.day}th of {name}",
            f"{end.day} of {name}",
        ]
        forms += [f"{name} {end.day}{s}" for s in ("st", "nd", "rd")] + [f"{end.day}{s} {name}" for s in ("st", "nd", "rd")]
        return Task(
            asked(rng, questions, ("Answer with day and month.", "Give just the day and the month.")), forms, "contains"
        )
    questions = [
        f"How many days are there from {a} {start.year} to {b} {end.year}?",
        f"How many days after {a} {start.year} is {b} {end.year}?",
    ]
    return Task(asked(rng, questions, NUMBER_ONLY), number((end - start).days))


def logic(rng: Rng, level: int) -> Task:
    kind = rng.randrange(3)
    if kind == 0:
        names = rng.sample(facts.NAMES, {1: 2, 2: 3, 3: 3, 4: 4, 5: 5}[level])
        more, least, most = rng.choice(
            (("taller", "shortest", "tallest"), ("older", "youngest", "oldest"), ("faster", "slowest", "fastest"))
        )
        pairs = [f"{a} is {more} than {b}." for a, b in pairwise(names)]
        rng.shuffle(pairs)
        top = rng.random() < 0.6
        questions = [
            " ".join(pairs) + f" Who is the {most if top else least}?",
            f"Who is the {most if top else least}? " + " ".join(pairs),
        ]
        return Task(asked(rng, questions, NAME_ONLY), [names[0] if top else names[-1]], "choice", names)
    if kind == 1:
        chain = rng.sample(
            facts.words("glorps blinks wugs daxes feps zorks mips tovas ludes krens"), {1: 2, 2: 3, 3: 3, 4: 4, 5: 5}[level]
        )
        rules = [f"All {a} are {b}." for a, b in pairwise(chain)]
        if level >= 3:
            rng.shuffle(rules)
        yes = rng.random() < 0.5
        question = (
            f"Is every {chain[0][:-1]} also one of the {chain[-1]}?"
            if yes
            else f"Must every one of the {chain[-1]} be one of the {chain[0]}?"
        )
        return Task(
            asked(rng, [" ".join(rules) + " " + question], ("Answer yes or no.", "Yes or no?")),
            ["yes" if yes else "no"],
            "choice",
            ("yes", "no"),
        )
    a, b, c = (rng.random() < 0.5 for _ in range(3))
    show = {True: "true", False: "false"}
    if level == 1:
        value, text = not a, f"not {show[a]}"
    elif level == 2:
        value, text = (a and b, f"{show[a]} and {show[b]}") if rng.random() < 0.5 else (a or b, f"{show[a]} or {show[b]}")
    elif level == 3:
        value, text = (
            (a and not b, f"{show[a]} and not {show[b]}")
            if rng.random() < 0.5
            else (not a or b, f"(not {show[a]}) or {show[b]}")
        )
    else:
        value, text = (
            (a and (b or c), f"{show[a]} and ({show[b]} or {show[c]})")
            if rng.random() < 0.5
            else (not (a or b) or c, f"not ({show[a]} or {show[b]}) or {show[c]}")
        )
    number_a, number_b = rng.randrange(1, 50), rng.randrange(1, 50)
    if level <= 3 and rng.random() < 0.6:
        value, text = number_a > number_b, f"{number_a} is greater than {number_b}"
        if level >= 2:
            value, text = value and number_a % 2 == 0, f"{text} and {number_a} is even"
    questions = ["True or false: {t}?", "Is this expression true or false: {t}", "Evaluate as true or false: {t}"]
    return Task(asked(rng, questions, WORD_ONLY, t=text), [show[value]], "choice", ("true", "false"))


# ---- the set "held-out" --------------------------------------------------------------------------------------------------


def word_problems(rng: Rng, level: int) -> Task:
    who, other, thing = (
        *rng.sample(facts.NAMES, 2),
        rng.choice(facts.words("apples books marbles stamps coins cards pencils eggs")),
    )
    top = {1: 9, 2: 30, 3: 60, 4: 90, 5: 200}[level]
    a, b, c = rng.randint(3, top), rng.randint(2, top), rng.randint(2, 9)
    more = a + b
    forms: list[tuple[str, int]] = [
        (f"{who} has {a} {thing} and gets {b} more. How many {thing} does {who} have now?", more),
        (f"{who} had {more} {thing} and gave {b} to {other}. How many {thing} are left?", a),
        (f"There are {more} {thing} in a box. {who} takes {a}. How many remain in the box?", b),
    ]
    if level >= 2:
        forms = [
            (f"{who} buys {c} bags with {a} {thing} each. How many {thing} is that in all?", a * c),
            (f"{a * c} {thing} are shared equally by {c} friends. How many does each get?", a),
            (f"{other} has {b} {thing}. {who} has {a} more than {other}. How many {thing} does {who} have?", more),
        ]
    if level >= 4:
        forms = [
            (f"{who} buys {c} bags with {a} {thing} each and loses {c - 1}. How many {thing} are left?", a * c - c + 1),
            (f"{other} has {b} {thing}, and {who} has {c} times as many. How many {thing} do they have together?", b * (c + 1)),
            (
                f"A pencil costs {c} cents, a book {a + 20}. {who} buys {b} pencils and one book. How many cents is that?",
                b * c + a + 20,
            ),
        ]
    question, value = rng.choice(forms)
    return Task(asked(rng, [question.replace("{", "").replace("}", "")], NUMBER_ONLY), number(value))


def alphabet_order(rng: Rng, level: int) -> Task:
    if level <= 2 and rng.random() < 0.4:
        index, steps = rng.randrange(3, 22), rng.choice((1, -1) if level == 1 else (1, -1, 2, -2, 3))
        n, when = abs(steps), "after" if steps > 0 else "before"
        letter, answer = chr(65 + index), chr(65 + index + steps)
        place = "right" if n == 1 else f"{spelled(n)} places"
        questions = [
            f"Which letter of the alphabet comes {place} {when} {letter}?",
            f"What letter is {place} {when} {letter} in the alphabet?",
        ]
        options = [chr(65 + i) for i in range(26) if chr(65 + i) not in (letter,)]
        return Task(asked(rng, questions, ("Only the letter.", "Answer with just the letter.")), [answer], "choice", options)
    n = {1: 2, 2: 2, 3: 3, 4: 4, 5: 6}[level]
    pool = [word for word in facts.WORDS if len(word) < 9]
    if level >= 3 and rng.random() < 0.5:
        first = rng.choice("bcmpst")
        pool = [word for word in facts.WORDS if word[0] == first]
    shown = rng.sample(pool, min(n, len(pool)))
    last = rng.random() < 0.4
    right = (max if last else min)(shown)
    place = "last" if last else "first"
    questions = [
        "Which word comes {p} in alphabetical order: {all}?",
        "Which of these words is {p} in a dictionary: {all}?",
        "{all}: which is {p} alphabetically?",
    ]
    return Task(asked(rng, questions, WORD_ONLY, p=place, all=listed(shown)), [right], "choice", shown)


def clock(rng: Rng, level: int) -> Task:
    hour, minute = (
        rng.randrange(1, 23),
        rng.choice({1: (0,), 2: (0, 30), 3: (0, 15, 30, 45), 4: range(0, 60, 5), 5: range(60)}[level]),
    )
    plus = rng.choice({1: (60, 120, 180), 2: (30, 60, 90), 3: (15, 45, 75), 4: range(20, 200, 5), 5: range(17, 400, 7)}[level])
    begin, end = hour * 60 + minute, hour * 60 + minute + plus

    def say(minutes: int) -> str:
        return f"{minutes // 60 % 24}:{minutes % 60:02d}"

    span = f"{plus} minutes" if plus % 60 or level > 1 else f"{plus // 60} hour{'s' * (plus > 60)}"
    kind = rng.randrange(4)
    if kind == 0 and level <= 4:
        pm = rng.randrange(13, 24)
        questions = [
            "What is {a} in the 24-hour clock?",
            "Write {a} as a time of the 24-hour clock.",
            "Convert {a} to 24-hour time.",
        ]
        half = f"{pm - 12}:{minute:02d} pm" if minute else f"{pm - 12} pm"
        return Task(
            asked(rng, questions, ("Only the time, as hh:mm.", "Answer as hh:mm."), a=half), [f"{pm}:{minute:02d}"], "contains"
        )
    if kind == 1:
        questions = [
            "How many minutes are there from {a} to {b}?",
            "It is {a}. How many minutes is it until {b}?",
            "A film runs from {a} to {b}. How many minutes is that?",
        ]
        return Task(asked(rng, questions, NUMBER_ONLY, a=say(begin), b=say(end)), number(plus))
    questions = [
        "What time is it {s} after {a}?",
        "It is {a} now. What time will it be in {s}?",
        "A train leaves at {a} and arrives {s} later. When does it arrive?",
    ]
    answers = {
        say(end),
        f"{end // 60 % 24:02d}:{end % 60:02d}",
        f"{(end // 60 - 1) % 12 + 1}:{end % 60:02d} pm" if end // 60 % 24 >= 12 else say(end),
    }
    return Task(
        asked(rng, questions, ("Only the time, as h:mm.", "Answer as h:mm in the 24-hour clock."), s=span, a=say(begin)),
        sorted(answers),
        "contains",
    )


CITY_COUNTRIES = sorted({*COUNTRIES, *(name for _, names in facts.CITIES for name in names)})


def places(rng: Rng, level: int) -> Task:
    kind = rng.random()
    if kind < 0.12:
        country, names = rng.choice(facts.NEIGHBOURS)
        also = {"United States": ["USA", "US", "America"], "United Kingdom": ["UK", "Northern Ireland", "Britain"]}.get(
            names[0], []
        )
        questions = [
            "Which country is the only land neighbour of {c}?",
            "{c} borders just one country on land. Which?",
            "Name the one country that shares a land border with {c}.",
        ]
        return Task(
            asked(rng, questions, NAME_ONLY, c=country),
            [*names, *also],
            "contains",
            [name for name in CITY_COUNTRIES if name != country],
        )
    if kind < 0.3:
        river, names = by_fame(rng, facts.RIVERS, level)
        questions = [
            "On which continent is the river {r}?",
            "The {r} flows through which continent?",
            "Which continent does the river {r} belong to?",
        ]
        return Task(asked(rng, questions, NAME_ONLY, r=river), names, "contains", CONTINENT_NAMES)
    city, names = by_fame(rng, facts.CITIES, level)
    questions = [
        "In which country is {c}?",
        "Which country does the city {c} belong to?",
        "{c} is a city in which country?",
        "What country is {c} in?",
    ]
    return Task(
        asked(rng, questions, NAME_ONLY, c=city), names, "contains", [name for name in CITY_COUNTRIES if name not in city]
    )


def animals(rng: Rng, level: int) -> Task:
    kind = rng.randrange(5)
    if kind == 0:
        animal, names = rng.choice(facts.HELD_YOUNG)
        questions = ["What is a young {a} called?", "What do you call the young of a {a}?", "Name the word for a baby {a}."]
    elif kind == 1:
        animal, names = rng.choice(facts.HELD_SOUNDS)
        questions = [
            "What sound does a {a} make?",
            "Which word describes the sound of a {a}?",
            "How do you call the noise a {a} makes?",
        ]
        names = [form for name in names for form in (name, name + "s", name + "ing")]
    elif kind == 2:
        animal, names = rng.choice(facts.HELD_HOMES)
        questions = [
            "What is the home of a {a} called?",
            "Where does a {a} live? Name its dwelling.",
            "What do you call the place where a {a} lives?",
        ]
    elif kind == 3:
        animal, names = rng.choice(facts.HELD_GROUPS)
        questions = [
            "What is a group of {a} called?",
            "Which word names a group of {a}?",
            "What do you call many {a} together?",
        ]
    else:
        animal, names = rng.choice(facts.HELD_ADULT)
        questions = ["What is a {a} called?", "Which word means a {a}?", "What do you call a {a}?"]
    names = [form for name in names for form in ((name,) if name.endswith("s") else (name, name + "s"))]
    prompt = asked(rng, questions, WORD_ONLY, a=animal)
    return Task(
        prompt.replace(" a owl", " an owl")
        .replace(" a e", " an e")
        .replace(" a ant", " an ant")
        .replace(" a otter", " an otter"),
        names,
        "contains",
    )


def colours(rng: Rng, level: int) -> Task:
    kind = rng.randrange(3)
    if kind == 0:
        mix, names = by_fame(rng, facts.COLOUR_MIX, level)
        a, b = rng.sample(mix.split("+"), 2)
        questions = [
            "Which colour do you get when you mix {a} and {b} paint?",
            "What colour do {a} and {b} make together?",
            "Mixing {a} with {b} paint gives which colour?",
            "If a painter blends {a} and {b}, what colour comes out?",
        ]
        return Task(asked(rng, questions, SHORT_ONLY, a=a, b=b), names, "contains")
    pool = (
        "red",
        "blue",
        "green",
        "yellow",
        "purple",
        "violet",
        "orange",
        "pink",
        "brown",
        "black",
        "white",
        "grey",
        "gray",
        "gold",
    )
    if kind == 1:
        thing, names = by_fame(rng, facts.COLOUR_THINGS, level)
        questions = ["What colour is {t}?", "Which colour does {t} have?", "Name the typical colour of {t}."]
        return Task(asked(rng, questions, WORD_ONLY, t=thing), names, "contains", pool)
    thing, names = by_fame(rng, facts.COLOUR_THINGS, level)
    wrong = rng.sample(
        [name for name in pool if name not in (*names, "gray", "violet", "gold")], {1: 1, 2: 2, 3: 2, 4: 3, 5: 4}[level]
    )
    shown = [names[0], *wrong]
    rng.shuffle(shown)
    questions = [
        "Which of these colours fits {t}: {all}?",
        "Pick the colour of {t} from {all}.",
        "{all}: which is the colour of {t}?",
    ]
    return Task(asked(rng, questions, WORD_ONLY, t=thing, all=listed(shown)), [names[0]], "choice", shown)


def abbreviations(rng: Rng, level: int) -> Task:
    short, names = by_fame(rng, facts.ABBREVIATIONS, level)
    kind = rng.random()
    american = [name.replace("Organization", "Organisation") for name in names]
    if kind < 0.5:
        questions = [
            "What does {s} stand for?",
            "What is the abbreviation {s} short for?",
            "Spell out the abbreviation {s}.",
            "Write {s} in full.",
        ]
        return Task(asked(rng, questions, SHORT_ONLY, s=short), [*names, *american], "contains")
    if kind < 0.75:
        questions = [
            "What is the usual abbreviation of {n}?",
            "How do you abbreviate {n}?",
            "Which short form is used for {n}?",
        ]
        return Task(asked(rng, questions, SHORT_ONLY, n=names[0]), [short, short.replace(".", "")], "contains")
    wrong = [row[1][0] for row in rng.sample(facts.ABBREVIATIONS, 8) if row[0] != short][: 2 if level < 4 else 3]
    shown = [names[0], *wrong]
    rng.shuffle(shown)
    questions = [
        "Which one does {s} stand for: {all}?",
        "{s} means one of these: {all}. Which?",
        "Pick what {s} is short for: {all}.",
    ]
    return Task(asked(rng, questions, SHORT_ONLY, s=short, all="; ".join(shown)), [names[0]], "choice", shown)


def code_output(rng: Rng, level: int) -> Task:
    a, b, c = rng.randint(1, 9), rng.randint(2, 9), rng.randint(2, 5)
    word = rng.choice(SHORT_WORDS)
    items = rng.sample(range(1, 30), rng.randint(3, 5))
    easy: list[tuple[str, str]] = [
        (f"print({a} + {b})", str(a + b)),
        (f"x = {a}\nprint(x)", str(a)),
        (f'print("{word}")', word),
        (f'print(len("{word}"))', str(len(word))),
    ]
    medium = [
        (f"x = {a}\ny = x + {b}\nprint(y)", str(a + b)),
        (f'print("{word}".upper())', word.upper()),
        (f"print({items}[{c % 3}])", str(items[c % 3])),
        (f"print(len({items}))", str(len(items))),
        (f"print(max({items}))", str(max(items))),
        (f'print("{word}"[0])', word[0]),
    ]
    hard = [
        (f"x = {a}\nfor i in range({c}):\n    x += {b}\nprint(x)", str(a + b * c)),
        (f"print(sum({items}))", str(sum(items))),
        (f"print({a * 10 + b} % {b + c})", str((a * 10 + b) % (b + c))),
        (f'print("{word}"[::-1])', word[::-1]),
        (f"print(sorted({items})[1])", str(sorted(items)[1])),
        (f"print({items}[-1] - {items[0]})", str(items[-1] - items[0])),
        (f"def f(n):\n    return n * {b} - {a}\n\nprint(f({c}))", str(c * b - a)),
        (f"print([x for x in {items} if x > 10][-1:])", str([x for x in items if x > 10][-1:])),
        (f"print({a * 7 + b} // {c})", str((a * 7 + b) // c)),
        (f"x = [i * i for i in range({c + 2})]\nprint(x[-1])", str((c + 1) ** 2)),
    ]
    code, result = rng.choice({1: easy, 2: easy + medium, 3: medium, 4: medium + hard, 5: hard}[level])
    questions = [
        "What does this Python code print?\n\n{c}\n\n",
        "What is the output of this program?\n\n```python\n{c}\n```\n\n",
        "I run this in Python:\n\n{c}\n\nWhat appears on the screen? ",
    ]
    match = "number" if result.lstrip("-").isdigit() else "contains"
    return Task(
        rng.choice(questions).format(c=code) + rng.choice(("Answer with the output only.", "Give only the output.")),
        [result],
        match,
    )


def percentages(rng: Rng, level: int) -> Task:
    share = rng.choice(
        {1: (50, 100, 10), 2: (10, 20, 25, 50), 3: (5, 20, 25, 30, 75), 4: (15, 35, 40, 60, 80), 5: (7, 12, 18, 45, 65, 85)}[
            level
        ]
    )
    whole = rng.randint(1, {1: 10, 2: 20, 3: 40, 4: 50, 5: 60}[level]) * (20 if level < 5 else 100)
    part = Fraction(share * whole, 100)
    if part.denominator != 1:
        part, whole = part * 20, whole * 20
    if rng.random() < 0.6:
        questions = ["What is {p}% of {w}?", "Calculate {p} percent of {w}.", "How much is {p}% of {w}?", "{p} % of {w} = ?"]
        return Task(asked(rng, questions, NUMBER_ONLY, p=share, w=whole), number(part))
    if rng.random() < 0.5:
        questions = ["What percentage of {w} is {a}?", "{a} is how many percent of {w}?", "Which percentage is {a} out of {w}?"]
        return Task(asked(rng, questions, NUMBER_ONLY, a=part, w=whole), number(share))
    cut = whole - part
    questions = [
        "A coat costs {w} dollars. Its price falls by {p}%. What does it cost now?",
        "{w} people came last year, {p}% fewer this year. How many came this year?",
        "Reduce {w} by {p} percent.",
    ]
    return Task(asked(rng, questions, NUMBER_ONLY, w=whole, p=share), number(cut))


def shapes(rng: Rng, level: int) -> Task:
    kind = rng.random()
    side, other = (
        rng.randint(2, {1: 9, 2: 12, 3: 15, 4: 25, 5: 40}[level]),
        rng.randint(2, {1: 9, 2: 10, 3: 12, 4: 20, 5: 30}[level]),
    )
    if kind < 0.15:
        name, (sides,) = rng.choice(facts.SHAPES)
        questions = ["How many sides does a {n} have?", "What is the number of corners of a {n}?", "A {n} has how many sides?"]
        return Task(
            asked(rng, questions, NUMBER_ONLY, n=name).replace(" a octagon", " an octagon").replace("A octagon", "An octagon"),
            [sides],
        )
    if kind < 0.3:
        name, (counts,) = rng.choice(facts.SOLIDS)
        what, value = rng.choice(list(zip(("faces", "edges", "corners"), counts.split("/"), strict=True)))
        questions = ["How many {w} does a {n} have?", "What is the number of {w} of a {n}?", "Count the {w} of a {n}."]
        return Task(
            asked(rng, questions, NUMBER_ONLY, w=what, n=name).replace(" a octa", " an octa").replace(" a icosa", " an icosa"),
            [value],
        )
    forms = [
        (f"What is the perimeter of a square with sides of {side} cm?", 4 * side),
        (f"A square has sides of {side} m. How many square metres is its area?", side * side),
        (f"What is the area of a rectangle that is {side} cm long and {other} cm wide, in square centimetres?", side * other),
        (f"A rectangle is {side} m by {other} m. How many metres is its perimeter?", 2 * (side + other)),
        (f"What is the diameter of a circle with a radius of {side} cm?", 2 * side),
        (f"A triangle has sides of {side + 1}, {side + 2} and {side + 3} cm. What is its perimeter in cm?", 3 * side + 6),
    ]
    if level >= 4:
        forms += [
            (f"How many cubic centimetres is the volume of a box of {side} by {other} by 3 cm?", side * other * 3),
            (
                f"A triangle has a base of {2 * side} cm and a height of {other} cm. What is its area in square centimetres?",
                side * other,
            ),
            (
                f"Two angles of a triangle are {side + 20} and {other + 30} degrees. How many degrees is the third?",
                130 - side - other,
            ),
        ]
    question, size = rng.choice(forms[:2] + forms[4:5] if level == 1 else forms)
    return Task(asked(rng, [question], NUMBER_ONLY), number(size))


# ---- sets ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A kind of question, and how many of 100 items are of level 1 to 5."""

    name: str
    make: Make
    mix: tuple[int, int, int, int, int] = field(default=(20, 20, 20, 20, 20))


FAMILIES = (
    Family("addition", addition, (40, 25, 15, 12, 8)),
    Family("multiplication", multiplication, (45, 15, 20, 12, 8)),
    Family("comparison", comparison),
    Family("sequences", sequences, (45, 20, 15, 10, 10)),
    Family("roman_numerals", roman_numerals, (60, 20, 10, 5, 5)),
    Family("number_words", number_words, (30, 30, 15, 15, 10)),
    Family("units", units, (50, 25, 10, 10, 5)),
    Family("capitals", capitals, (25, 25, 20, 15, 15)),
    Family("continents", continents),
    Family("country_facts", country_facts),
    Family("elements", elements, (30, 30, 20, 10, 10)),
    Family("authors", authors, (30, 25, 20, 15, 10)),
    Family("plurals", plurals),
    Family("past_tense", past_tense, (30, 20, 20, 20, 10)),
    Family("opposites", opposites),
    Family("translation", translation, (30, 25, 20, 15, 10)),
    Family("spelling", spelling, (50, 25, 15, 5, 5)),
    Family("rhymes", rhymes, (40, 25, 15, 10, 10)),
    Family("counting", counting, (45, 25, 15, 10, 5)),
    Family("sorting", sorting, (45, 25, 15, 10, 5)),
    Family("extraction", extraction),
    Family("sentiment", sentiment),
    Family("topics", topics),
    Family("odd_one_out", odd_one_out, (35, 30, 20, 10, 5)),
    Family("categories", categories),
    Family("json_fields", json_fields, (20, 35, 15, 15, 15)),
    Family("text_form", text_form, (35, 15, 20, 15, 15)),
    Family("copying", copying, (20, 20, 30, 25, 5)),
    Family("reversal", reversal, (45, 25, 15, 10, 5)),
    Family("dates", dates, (30, 25, 20, 15, 10)),
    Family("logic", logic),
)
HELD_OUT = (
    Family("word_problems", word_problems, (35, 25, 20, 10, 10)),
    Family("alphabet_order", alphabet_order, (35, 25, 20, 10, 10)),
    Family("clock", clock, (40, 25, 15, 10, 10)),
    Family("places", places, (30, 25, 20, 15, 10)),
    Family("animals", animals),
    Family("colours", colours),
    Family("abbreviations", abbreviations, (30, 25, 20, 15, 10)),
    Family("code_output", code_output, (35, 25, 20, 10, 10)),
    Family("percentages", percentages, (35, 25, 20, 10, 10)),
    Family("shapes", shapes, (35, 25, 20, 10, 10)),
)
SETS = {"tasks": FAMILIES, "held-out": HELD_OUT}


def items_of(family: Family, count: int, seed: int) -> list[dict[str, object]]:
    """`count` items, no two with the same prompt; a level that has no more of them is made up for by the next easier one."""
    rng = random.Random(f"{seed} {family.name}")
    levels = rng.sample((1, 2, 3, 4, 5), counts=[share * count for share in family.mix], k=count)
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    for wanted in levels:
        order = (*range(wanted, 0, -1), *range(wanted + 1, 6))
        for level in order:
            task = next((made for _ in range(TRIES) if (made := family.make(rng, level)).prompt not in seen), None)
            if task is not None:
                break
        else:
            raise SystemExit(f"{family.name} has no {count} items that differ")
        seen.add(task.prompt)
        row: dict[str, object] = {
            "id": f"{family.name}/{len(rows):04d}",
            "group": family.name,
            "level": level,
            "prompt": task.prompt,
        }
        row |= {"answers": list(task.answers), "match": task.match, "max_tokens": task.max_tokens}
        rows.append(row | ({"options": list(task.options)} if task.options else {}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", choices=sorted(SETS), default="tasks", dest="which")
    parser.add_argument("--per-family", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = [row for family in SETS[options.which] for row in items_of(family, options.per_family, options.seed)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    options.data.write_text(text, encoding="utf-8")
    print(f"{options.data.name}: {len(rows)} items in {len(SETS[options.which])} families")


if __name__ == "__main__":
    main()

"""What can be noticed of a request, of the answer that is being made to it, and of the device: numbers, in a fixed order.

`PromptSignals` is made once per request, from its text alone. `features` joins it with what the engine noticed of the answer's
tokens (`Trace`) and with the answer's text; the vector's places are named by `FEATURES`, and `VERSION` goes up when a place or
its meaning changes, so that a calibration is never read against other numbers than it was fitted to. An answer may be a
beginning: everything is defined for it, the trace's `finish_reason` is None then.

Nothing here knows a model: sums and quantiles of log-probabilities, of entropies (nats) and of margins (logits) mean the same
for every vocabulary, or nearly so. A small model is most often wrong where it hesitates about the words that ARE the answer,
and not about "The answer is", so the tokens are laid along the text's words, and the same statistics are taken of the words
that carry meaning, and of those that the prompt does not hold already.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backends.base import States, Trace

__all__ = [
    "ANSWER_FEATURES",
    "FEATURES",
    "PROMPT_FEATURES",
    "VERSION",
    "Device",
    "PromptSignals",
    "features",
    "prompt_features",
]

VERSION = 1

_HEAD_CHARS = 2000  # of a long prompt its beginning and its end are read: the question is in one of them
_TAIL_CHARS = 4000

PROMPT_FEATURES = (
    "log_chars",
    "log_words",
    "word_chars",
    "digit_share",
    "numbers",
    "log_largest",
    "longest_number",
    "decimals",
    "operators",
    "list_items",
    "quoted",
    "lines",
    "capitals",
    "non_ascii",
    "code",
    "questions",
    "turns",
    "system",
    "tools",
    "schema",
    "options",
    "asks_number",
    "asks_word",
    "asks_only",
    "asks_yes_no",
    "asks_letter",
    "asks_json",
    "asks_list",
    "asks_copy",
    "asks_translation",
    "asks_opposite",
    "asks_who_where",
    "negation",
    "ordinal",
)

_TOKEN_SETS = ("all", "content", "new", "key")
_TOKEN_STATISTICS = ("sum", "mean", "min", "first", "entropy", "max_entropy", "margin", "min_margin")

ANSWER_FEATURES = (
    *(f"{name}_{statistic}" for name in _TOKEN_SETS for statistic in _TOKEN_STATISTICS),
    "low_logprob",
    "low_entropy",
    "low_margin",
    "second",
    "second_margin",
    "last",
    "unsure",
    "very_unsure",
    "trend",
    "log_tokens",
    "ended",
    "cut",
    "answer_words",
    "answer_numbers",
    "only_number",
    "log_number",
    "number_from_prompt",
    "new_words",
    "restates",
    "repeats",
    "hedges",
    "answer_lines",
    "is_option",
    "lacks_number",
    "too_many_words",
    "lacks_yes_no",
    "lacks_json",
    "tokens_per_char",
    "prompt_tokens_per_char",
    "log_id",
    "max_log_id",
    "option_place",
    "verbatim",
    "verbatim_copy",
    "verbatim_list",
    "place_in_prompt",
    "items_kept",
    "items_in_order",
    "case_obeyed",
    "json_known",
    "same_start",
    "same_end",
    "says_yes",
    "number_distance",
    "key_second_choice",
    "key_other_choices",
    "all_other_choices",
    "fulfilled",
    "allowed",
    "violated",
)

FEATURES = PROMPT_FEATURES + ANSWER_FEATURES

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NUMBER = re.compile(r"\d+(?:,\d{3})+(?!\d)|\d+")
_DECIMAL = re.compile(r"\d[.]\d")
_OPERATOR = re.compile(r"\d\s*(?:[-+*/×÷^=<>]|plus|minus|times|divided by|multiplied by)\s*\(?-?\d")
_ITEM = re.compile(r"[^\s,;|][^,;|\n]{0,60}[,;|]|^\s{0,40}(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_QUOTED = re.compile(r"\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|(?<!\w)'[^'\n]{1,80}'(?!\w)|`[^`\n]{1,200}`")
_CODE = re.compile(r"```|[{};]\s*$|\b(?:def|return|import|class|function|print|SELECT)\b|=>|\(\)|==", re.MULTILINE)
_CAPITALISED = re.compile(r"(?<=[a-z,;] )[A-Z]\w+")
_LETTERED = re.compile(r"^[ \t]*\(?([A-H])[.):]\s+(\S.*)$", re.MULTILINE)
_OR = re.compile(r"(?<![\w-])((?:[\w-]+, ){0,12}[\w-]+),? or ([\w-]+)(?![\w-])|(?<![\w/])([^\W\d_]+(?:/[^\W\d_]+)+)(?![\w/])")
_CHOICES = re.compile(
    r"(?:one of|choose from|options?|labels?|categories|either)\b[^:.\n]{0,40}:\s*([^.\n?]{3,200})", re.IGNORECASE
)

_ASKS = {
    "asks_number": re.compile(
        r"how (?:many|much|old|long|far|tall)|\bnumber\b|\bdigits?\b|\bcompute\b|\bcalculate\b|\bsum\b|\btotal\b|\bcount\b"
        r"|what year|which year"
        r"|\bmaximum\b|\bminimum\b|\blargest\b|\bsmallest\b|\bproduct\b|\bdifference\b|\bremainder\b|=\s{0,9}\??\s{0,9}$"
        r"|\b(?:plus|minus|times|divided by)\b"
    ),
    "asks_word": re.compile(r"\b(?:one|single|a) word\b|\bword only\b|\bonly the (?:word|name)\b|\bname only\b"),
    "asks_only": re.compile(r"\bonly\b|\bnothing else\b|\bjust\b|\bexactly\b|\bno explanation\b|\bwithout\b"),
    "asks_yes_no": re.compile(
        r"\byes or no\b|\byes/no\b|\btrue or false\b"
        r"|(?:^|[.?!]\s+)(?:is|are|was|were|does|do|did|can|has|have|will)\b[^?.]{0,400}\?"
    ),
    "asks_letter": re.compile(r"\bletters?\b"),
    "asks_json": re.compile(r"\bjson\b"),
    "asks_list": re.compile(
        r"\bsort|\border\b|\balphabetical|\breverse|\bcomma[- ]separated|\blist\b|\bascending|\bdescending"
    ),
    "asks_copy": re.compile(
        r"\brepeat\b|\bcopy\b|\bwrite\b|\becho\b|\bcapital letters\b|\bupper ?case|\blower ?case|\bspell\b"
    ),
    "asks_translation": re.compile(
        r"\btranslat|\bin (?:french|spanish|german|italian|english|latin|portuguese|dutch)\b"
        r"|\b(?:french|spanish|german|italian|portuguese|dutch) (?:word|for)\b"
    ),
    "asks_opposite": re.compile(
        r"\bopposite|\bantonym|\bsynonym|\bplural|\bsingular|\bpast (?:tense|participle)|\bcomparative|\bform of\b"
    ),
    "asks_who_where": re.compile(
        r"\bwho\b|\bwhere\b|\bwhen\b|\bwhich (?:country|city|person|continent|planet|ocean)\b|\bcapital (?:city )?of\b"
    ),
    "negation": re.compile(r"\bnot\b|\bexcept\b|\bnever\b|n't\b|\bodd one out\b|\bdoes ?n"),
}
# A pattern is tried where one of its keys stands in the text: finding a piece of text is some twenty times as fast.
_KEYS = {
    "asks_number": (
        *("how ", "number", "digit", "compute", "calculate", "sum", "total", "count", "t year", "h year", "maximum", "minimum"),
        *("largest", "smallest", "product", "difference", "remainder", "=", "plus", "minus", "times", "divided by"),
    ),
    "asks_word": ("word", "only"),
    "asks_only": ("only", "nothing else", "just", "exactly", "no explanation", "without"),
    "asks_yes_no": ("?", "yes or no", "yes/no", "true or false"),
    "asks_letter": ("letter",),
    "asks_json": ("json",),
    "asks_list": ("sort", "order", "alphabetical", "reverse", "comma", "list", "ascending", "descending"),
    "asks_copy": ("repeat", "copy", "write", "echo", "capital letters", "upper", "lower", "spell"),
    "asks_translation": ("translat", "french", "spanish", "german", "italian", "english", "latin", "portuguese", "dutch"),
    "asks_opposite": ("opposite", "onym", "plural", "singular", "past ", "comparative", "form of"),
    "asks_who_where": ("who", "where", "when", "which ", "capital "),
    "negation": ("not", "except", "never", "n't", "odd one out", "does n", "doesn"),
}
_ORDINAL_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ORDINALS = {name: index for index, name in enumerate(_ORDINAL_WORDS, 1)}
_ORDINAL = re.compile(rf"\b(?:{'|'.join(_ORDINALS)})\b|\b\d+(?:st|nd|rd|th)\b")
_UPPER = re.compile(r"\b(?:capital letters|upper ?case|capitals|all caps)\b")
_LOWER = re.compile(r"\b(?:lower ?case|small letters)\b")
_EXACT = re.compile(r"\b(?:repeat|copy|echo)\b|\bwithout chang|\bexactly as\b|\bword for word\b")
_PLAIN_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?")
_REVERSED = re.compile(
    r"\brevers|\bbackwards?\b|\bother way (?:a)?round\b|\bturn .{1,40} around\b|\blast (?:item |one )?first\b"
)
_PICK = re.compile(r"\b(?:which|pick|choose|select|find)\b|\bodd one\b|\bbelong")
_SORTED = re.compile(
    r"\bsort|\balphabetical|\bascending\b|\bdescending\b|\bin order\b|\bsmallest (?:to|first)\b"
    r"|\b(?:largest|biggest|highest) (?:to|first)\b|\ba to z\b|\bz to a\b|\barrange\b"
)
_FALLING = re.compile(
    r"\bdescending\b|\b(?:largest|biggest|highest|greatest|latest) (?:to|first)\b|\bz to a\b|\breverse alphabetical"
)
_POLITE = re.compile(r", *please\b")
_SEPARATOR = re.compile(r"[,;]")
_ITEM_MARK = re.compile(r"[-*•,;|)]|\d\.")
_LIST = re.compile(r"[^,;\n:?.]{1,60}(?:[,;] *[^,;\n:?.]{1,60})+")
_HEDGE = re.compile(
    r"\b(?:i'm not sure|i am not sure|not sure|i think|maybe|perhaps|probably|might be|it depends|i don't know"
    r"|i do not know|sorry|i cannot|i can't|unable|as an ai|however|not possible|unclear)\b"
)
_JSON_VALUE = re.compile(r":\s*\"?([^\",{}\[\]:]+?)\"?\s*[,}\]]")
_PIECE = re.compile(r"\s?[^\W\d_]+|\d|\s?[^\w\s]+|\s+|_+")

_STOP_WORDS = frozenset(
    """a an the of to in on at by for from with as and or but is are was were be been it its this that these those there here
    he she they his her their i you your we our my me do does did has have had can could will would should may not no so
    if then than which what who whom where when why how also very just only answer result correct following given would called
    known word number letter first sure certainly s t""".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class PromptSignals:
    """What the text of a request says about how hard it is, and what an answer to it should look like."""

    values: tuple[float, ...]  # in the order of PROMPT_FEATURES
    words: frozenset[str]  # small letters
    numbers: frozenset[str]  # as written, without the commas of thousands
    options: tuple[str, ...]  # what there is to choose from, small letters; empty if that is open
    chars: int
    asks_number: bool
    asks_word: bool
    asks_yes_no: bool
    asks_json: bool
    asks_copy: bool
    asks_list: bool
    text: str  # small letters, one blank between words; shortened
    items: tuple[str, ...]  # of the longest list in the question, small letters
    asks_exact: bool  # a text is to be repeated as it is
    order: int  # in which the list's items are wanted: 1 rising, -1 falling, 2 the other way round, 0 unknown
    case: int  # 1: capital letters are asked for, -1: small ones, 0: neither

    @classmethod
    def of(cls, prompt: str | Sequence[Mapping[str, Any]], *, tools: bool = False, schema: bool = False) -> PromptSignals:
        """Of a plain prompt, or of messages in OpenAI's form. tools: functions are offered; schema: the answer's form is
        enforced."""
        if isinstance(prompt, str):
            text, context, turns, system = prompt, "", 1, False
        else:
            said = [(str(message.get("role", "")), _text_of(message.get("content"))) for message in prompt]
            asked = [index for index, (role, _) in enumerate(said) if role == "user"]
            last = asked[-1] if asked else len(said) - 1
            text = said[last][1] if said else ""
            context = "\n".join(part for index, (_, part) in enumerate(said) if index != last and part)
            turns, system = max(1, len(asked)), any(role in ("system", "developer") for role, _ in said)
        return _read_prompt(_shortened(text), _shortened(context), turns, system, tools, schema)


def _text_of(content: Any) -> str:
    """The text of a message's content, which may be parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Iterable) and not isinstance(content, Mapping):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return ""


def _shortened(text: str) -> str:
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return text
    return text[:_HEAD_CHARS] + "\n" + text[-_TAIL_CHARS:]


def _read_prompt(text: str, context: str, turns: int, system: bool, tools: bool, schema: bool) -> PromptSignals:
    whole = f"{context}\n{text}" if context else text
    lower, question = whole.lower(), text.lower()
    words = _WORD.findall(lower)
    numbers = [number.replace(",", "") for number in _NUMBER.findall(whole)]
    asks = {name: _asks(name, lower if name in _IN_CONTEXT else question) for name in _ASKS}
    options = _options_of(text)
    if options and not _EXPLICIT.search(lower):
        asks["asks_yes_no"] = False
    n_chars = max(1, len(whole))
    ordinals = _ORDINAL.findall(question)
    lists = [found.split(";" if ";" in found else ",") for found in _lists_of(_POLITE.sub("", question))]
    items = tuple(part.strip(" .\"'") for part in max(lists, key=len)[:64]) if lists else ()
    if not options and not asks["asks_list"] and len(items) > 1 and _PICK.search(question):
        tails = tuple(_last_word(item) for item in items)
        options = tails if sum(len(item.split()) == 1 for item in items) >= len(items) - 1 else ()
    largest = max((float(number[:18]) for number in numbers), default=0.0)
    values = {
        "log_chars": math.log(n_chars),
        "log_words": math.log1p(len(words)),
        "word_chars": sum(map(len, words)) / max(1, len(words)),
        "digit_share": sum(map(len, numbers)) / n_chars,
        "numbers": math.log1p(len(numbers)),
        "log_largest": math.log1p(largest),
        "longest_number": float(min(20, max(map(len, numbers), default=0))),
        "decimals": float(_DECIMAL.search(whole) is not None),
        "operators": float(min(10, len(_OPERATOR.findall(lower)))),
        "list_items": math.log1p(_count_items(whole)),
        "quoted": float(min(5, len(_QUOTED.findall(whole)))),
        "lines": math.log1p(whole.count("\n")),
        "capitals": min(1.0, len(_CAPITALISED.findall(whole)) / max(1, len(words))),
        "non_ascii": (len(whole) - len(whole.encode("ascii", "ignore"))) / n_chars,
        "code": float(min(5, len(_CODE.findall(whole)))),
        "questions": float(min(5, whole.count("?"))),
        "turns": math.log(turns),
        "system": float(system),
        "tools": float(tools),
        "schema": float(schema),
        "options": float(min(10, len(options))),
        **{name: float(found) for name, found in asks.items()},
        "ordinal": float(max((_ORDINALS.get(found) or min(20, int(found[:-2][:9])) for found in ordinals), default=0)),
    }
    return PromptSignals(
        values=tuple(values[name] for name in PROMPT_FEATURES),
        words=frozenset(words),
        numbers=frozenset(numbers),
        options=options,
        chars=n_chars,
        asks_number=asks["asks_number"],
        asks_word=asks["asks_word"],
        asks_yes_no=asks["asks_yes_no"],
        asks_json=asks["asks_json"] or schema,
        asks_copy=asks["asks_copy"],
        asks_list=asks["asks_list"],
        text=" ".join(lower.split()),
        items=items,
        asks_exact=_EXACT.search(question) is not None,
        order=_order_of(question),
        case=1 if _UPPER.search(question) else -1 if _LOWER.search(question) else 0,
    )


def _order_of(question: str) -> int:
    if _SORTED.search(question):
        return -1 if _FALLING.search(question) else 1
    return 2 if _REVERSED.search(question) else 0


def _asks(name: str, text: str) -> bool:
    return any(key in text for key in _KEYS[name]) and _ASKS[name].search(text) is not None


def _last_word(text: str) -> str:
    words = text.split()
    return words[-1] if words else ""


def _lists_of(text: str) -> list[str]:
    """What _LIST finds, looked for only where its first separator can be: at every place it would take fifty times as long."""
    found: list[str] = []
    begin = 0
    for separator in _SEPARATOR.finditer(text):
        at = separator.start()
        if at <= begin:
            continue
        first = max(begin, at - 60)
        for index in range(at - 1, first - 1, -1):
            if text[index] in ",;\n:?.":
                first = index + 1
                break
        match = _LIST.match(text, first) if first < at else None
        if match is not None:
            found.append(match[0])
            begin = match.end()
    return found


def _count_items(text: str) -> int:
    """How often _ITEM is found, without looking at a text that cannot hold one."""
    return len(_ITEM.findall(text)) if _ITEM_MARK.search(text) else 0


_EXPLICIT = re.compile(r"\byes or no\b|\byes/no\b|\btrue or false\b|\btrue/false\b")
_IN_CONTEXT = frozenset(("asks_word", "asks_only", "asks_json"))  # often said in the system message


def _options_of(text: str) -> tuple[str, ...]:
    """What a question offers: lettered lines, "one of: x, y", "x or y", "x/y"."""
    lettered = _LETTERED.findall(text)
    if len(lettered) >= 2:
        return tuple(option for letter, content in lettered for option in (letter.lower(), content.strip().lower()))
    listed = _CHOICES.search(text) if ":" in text else None
    if listed:
        found = tuple(part.strip(" '\"()").lower() for part in re.split(r",|/|;|\bor\b", listed[1]))
        return tuple(part for part in found if part)[:12]
    found_either = list(_OR.finditer(text)) if " or " in text or "/" in text else []
    either = found_either[-1] if found_either else None  # the last one: it stands in the question
    if either is None:
        return ()
    if either[3]:
        return tuple(part.lower() for part in either[3].split("/"))
    return (*either[1].lower().split(", "), either[2].lower())


def prompt_features(prompt: PromptSignals) -> NDArray[np.float64]:
    """float64 [len(PROMPT_FEATURES)]"""
    return np.array(prompt.values)


def features(prompt: PromptSignals, trace: Trace, text: str, states: States | None = None) -> NDArray[np.float64]:
    """float64 [len(FEATURES)], and behind them, with states, those of `States` (prompt, mean, last), 3 * d_model more."""
    vector = np.array((*prompt.values, *_answer_values(prompt, trace, text)))
    if states is None:
        return vector
    return np.concatenate([vector, states.prompt, states.mean, states.last])


def _answer_values(prompt: PromptSignals, trace: Trace, text: str) -> list[float]:
    n = len(trace)
    logprobs = [max(-20.0, value) if value == value else -20.0 for value in trace.logprobs]
    entropies = [min(12.0, value) if value == value else 12.0 for value in trace.entropies]
    margins = [min(20.0, max(0.0, value)) if value == value else 0.0 for value in trace.margins]
    ended = trace.finish_reason == "stop"
    if n == 0:
        logprobs, entropies, margins = [0.0], [0.0], [20.0]
    shown = max(1, len(logprobs) - (1 if ended and n > 1 else 0))  # the token that ends an answer is no part of its text
    lower = text.lower()
    content, new, key, words, numbers = _places(prompt, text, shown)
    values: list[float] = []
    everywhere = range(len(logprobs))
    for chosen in (everywhere, content or range(shown), new or content or range(shown), key or range(shown)):
        values += _statistics(chosen, logprobs, entropies, margins)
    size = len(logprobs)
    low = size // 10
    sorted_logprobs, sorted_entropies, sorted_margins = sorted(logprobs), sorted(entropies), sorted(margins)
    half = size // 2
    second = 1 if size > 1 else 0
    answered = [number.replace(",", "") for number in numbers]
    n_words = len(words)
    in_prompt = sum(number in prompt.numbers for number in answered)
    stripped = lower.strip(" \n\t.!\"'*`()")
    n_lacking = 0.0
    if prompt.options:
        n_lacking = 1.0 if stripped in prompt.options else 0.5 if any(word in prompt.options for word in words[:8]) else -1.0
    values += (
        sorted_logprobs[low],
        sorted_entropies[size - 1 - low],
        sorted_margins[low],
        logprobs[second],
        margins[second],
        logprobs[-1],
        sum(value < -0.7 for value in logprobs) / size,
        float(min(8, sum(value < -1.6 for value in logprobs))),
        0.0 if half == 0 else sum(logprobs[half:]) / (size - half) - sum(logprobs[:half]) / half,
        math.log(size),
        float(ended),
        float(trace.finish_reason == "length"),
        math.log1p(n_words),
        math.log1p(len(answered)),
        float(bool(answered) and n_words == 0),
        0.0 if not answered else math.log1p(float(answered[-1][:18])),
        in_prompt / len(answered) if answered else 0.5,
        sum(word not in prompt.words for word in words) / n_words if n_words else 0.5,
        _longest_echo(words, prompt.words),
        _repetition(text),
        float(_HEDGE.search(lower) is not None),
        math.log1p(text.strip().count("\n")),
        n_lacking,
        float(prompt.asks_number and not answered),
        float(prompt.asks_word and n_words + len(answered) > 2),
        float(prompt.asks_yes_no and not lower.lstrip().startswith(("yes", "no", "true", "false"))),
        float(prompt.asks_json and not _is_json(text)),
        shown / max(1, len(text)),
        trace.prompt_tokens / prompt.chars,
        *_rarity(trace, content or range(shown)),
        *_against_prompt(prompt, text, stripped, words, answered),
        *_spread(key or range(shown), everywhere, logprobs, margins),
        *_form(prompt, text, stripped, words, answered, trace.finish_reason == "length"),
    )
    return values


def _spread(key: Sequence[int], everywhere: Sequence[int], logprobs: list[float], margins: list[float]) -> tuple[float, ...]:
    """How likely the runners-up were where the answer proper was least sure, and how likely all others; and these anywhere."""

    def two(index: int) -> tuple[float, float]:
        first = math.exp(logprobs[index])
        second = min(first * math.exp(-margins[index]), 1.0 - first)
        return second, max(0.0, 1.0 - first - second)

    second, others = two(min(key, key=logprobs.__getitem__))
    return second, others, max(two(index)[1] for index in everywhere)


def _form(
    prompt: PromptSignals, text: str, stripped: str, words: list[str], numbers: list[str], cut: bool
) -> tuple[float, float, float]:
    """How many demands an answer meets that leave little else to get wrong (a text repeated, a list in order), how many that
    only say what is allowed (one of the options), and how many it breaks. Three numbers for all kinds of demands: what is
    learnt of one is worth something for another."""
    fulfilled = allowed = 0
    broken = int(cut)
    n_words = len(words) + len(numbers)
    if prompt.asks_number and not prompt.asks_list and not prompt.options:
        broken += not numbers
    if prompt.asks_word:
        broken += n_words > 2
    if prompt.asks_yes_no:
        yes = stripped.startswith(("yes", "no", "true", "false"))
        allowed, broken = allowed + yes, broken + (not yes)
    elif prompt.options and not prompt.asks_list:
        known = stripped in prompt.options
        allowed, broken = allowed + known, broken + (not known and not any(word in prompt.options for word in words))
    if prompt.asks_json:
        kept = _json_kept(prompt, text)
        fulfilled, broken = fulfilled + (kept == 1), broken + (kept < 0.7)
    cased = not prompt.case or text == (text.upper() if prompt.case > 0 else text.lower())
    broken += not cased
    plain = " ".join(stripped.split())
    if prompt.case:
        fulfilled += cased and bool(words) and plain in prompt.text
    elif prompt.asks_exact:
        at = prompt.text.rfind(plain) if plain else -1
        fulfilled += at >= 0 and (len(plain) > 20 or not prompt.text[at + len(plain) :].strip(" .\"'"))
        broken += at < 0
    if prompt.order and len(prompt.items) > 1:
        given = [part.strip(" .\"'") for part in re.split(r"[,;\n]", stripped)]
        tails = [_last_word(item) for item in prompt.items]
        right = sorted(given) == sorted(tails) and given == _ordered(given, prompt.order, tails)
        fulfilled, broken = fulfilled + right, broken + (not right)
    return float(fulfilled), float(allowed), float(broken)


def _json_kept(prompt: PromptSignals, text: str) -> float:
    """Of the keys and values of an answer in JSON, the share that the question has; 0 if it is none."""
    try:
        value = json.loads(_unfenced(text)[:100_000])
    except (ValueError, RecursionError):
        return 0.0
    waiting, n, known = [value], 0, 0
    while waiting and n < 200:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            waiting += part
        else:
            n += 1
            known += str(part).lower() in prompt.text
    return known / n if n else 0.0


def _unfenced(text: str) -> str:
    """Without the marks of a block of code around all of it."""
    return text.strip().removeprefix("```").removeprefix("json").removesuffix("```").strip()


def _ordered(given: list[str], order: int, original: list[str]) -> list[str]:
    """The items as they should stand: 1 rising, -1 falling, 2 the other way round."""
    if order == 2:
        return original[::-1]
    if all(_PLAIN_NUMBER.fullmatch(item) for item in given):
        return sorted(given, key=float, reverse=order < 0)
    return sorted(given, reverse=order < 0)


def _rarity(trace: Trace, chosen: Sequence[int]) -> tuple[float, float]:
    """Mean and largest logarithm of the tokens' ids: vocabularies are numbered by how common their tokens are, nearly."""
    n = len(trace)
    logs = [math.log1p(max(0, trace.ids[index])) for index in chosen if index < n]
    return (sum(logs) / len(logs), max(logs)) if logs else (0.0, 0.0)


def _against_prompt(prompt: PromptSignals, text: str, stripped: str, words: list[str], numbers: list[str]) -> tuple[float, ...]:
    """How the answer's text relates to the question's: the features from option_place on."""
    option_place = 0.5
    if prompt.options:
        chosen = next((option for option in prompt.options if option == stripped), None)
        if chosen is None:
            chosen = next((word for word in words[:8] if word in prompt.options), None)
        if chosen is not None:
            option_place = prompt.options.index(chosen) / max(1, len(prompt.options) - 1)
    plain = " ".join(stripped.split())[:2000]
    at = prompt.text.find(plain) if plain else -1
    verbatim = float(at >= 0)
    items_kept, items_in_order = 0.5, 0.5
    if prompt.asks_list and len(prompt.items) > 1:
        given = [part.strip(" .\"'") for part in re.split(r"[,;\n]", stripped)]
        known = {_last_word(item) for item in prompt.items}
        last_words = [_last_word(part) for part in given]
        items_kept = len(known.intersection(last_words)) / max(len(known), len(given))
        items_in_order = float([_last_word(item) for item in prompt.items][-len(given) :] == last_words)
    case_obeyed = 0.0
    if prompt.case:
        case_obeyed = 1.0 if (text == text.upper() if prompt.case > 0 else text == text.lower()) else -1.0
    json_known = 0.5
    if prompt.asks_json:
        values = [value.lower() for value in _JSON_VALUE.findall(text)][:40]
        if values:
            json_known = sum(value in prompt.text for value in values) / len(values)
    same_start = same_end = 0.0
    if words and len(words) <= 6:
        answer = max(words, key=len)
        for word in prompt.words:
            if word == answer or len(word) < 3:
                continue
            start = _common(word, answer)
            same_start = max(same_start, start / len(answer))
            if word[-2:] == answer[-2:]:
                end = _common(word[::-1], answer[::-1])
                same_end = max(same_end, end / len(answer))
    says_yes = 1.0 if stripped.startswith(("yes", "true")) else -1.0 if stripped.startswith(("no", "false")) else 0.0
    distance = 0.0
    if numbers and prompt.numbers:
        largest = max(float(number[:18]) for number in prompt.numbers)
        distance = abs(math.log1p(float(numbers[-1][:18])) - math.log1p(largest))
    return (
        option_place,
        verbatim,
        verbatim * prompt.asks_copy,
        verbatim * prompt.asks_list,
        at / max(1, len(prompt.text)) if at >= 0 else 0.5,
        items_kept,
        items_in_order,
        case_obeyed,
        json_known,
        same_start,
        same_end,
        says_yes,
        distance,
    )


def _common(one: str, other: str) -> int:
    """Characters with which both begin."""
    n = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        n += 1
    return n


def _statistics(chosen: Sequence[int], logprobs: list[float], entropies: list[float], margins: list[float]) -> list[float]:
    """In the order of _TOKEN_STATISTICS."""
    some_logprobs = [logprobs[index] for index in chosen]
    some_entropies = [entropies[index] for index in chosen]
    some_margins = [margins[index] for index in chosen]
    n, total = len(some_logprobs), sum(some_logprobs)
    return [
        max(-60.0, total),
        total / n,
        min(some_logprobs),
        some_logprobs[0],
        sum(some_entropies) / n,
        max(some_entropies),
        sum(some_margins) / n,
        min(some_margins),
    ]


def _places(prompt: PromptSignals, text: str, n_tokens: int) -> tuple[list[int], list[int], list[int], list[str], list[str]]:
    """Which tokens carry meaning (`content`), which of these are not in the prompt (`new`), and which are probably the answer
    proper (`key`); then the words, in small letters, and the numbers.

    Tokens have no text here: they are laid along the words, one each, and what there is more goes to the longest. That is what
    byte-pair vocabularies do, nearly: a digit or a common word is one token.
    """
    pieces = [match[0] for match in _PIECE.finditer(text[: 8 * n_tokens + 64])]
    words, numbers = _WORD.findall(text.lower()), _NUMBER.findall(text)
    if not pieces:
        return [], [], [], words, numbers
    counts = [1] * len(pieces)
    for _ in range(min(200, n_tokens - len(pieces))):
        longest = max(range(len(pieces)), key=lambda index: len(pieces[index]) / counts[index])
        counts[longest] += 1
    content: list[int] = []
    new: list[int] = []
    digits: list[int] = []
    run: list[int] = []
    place = 0.0
    step = min(1.0, n_tokens / len(pieces))
    before_digit = False
    for piece, count in zip(pieces, counts, strict=True):
        first = int(place)
        place += count * step
        places = range(first, max(first + 1, min(n_tokens, int(place))))
        bare = piece.strip().lower()
        if bare.isdigit():
            content += places
            new += places
            run = [*run, *places] if before_digit else list(places)
            digits = run
            before_digit = True
            continue
        before_digit = before_digit and bare in (",", ".")
        if bare and bare[0].isalpha() and bare not in _STOP_WORDS:
            content += places
            if bare not in prompt.words:
                new += places
    key = digits if prompt.asks_number and digits else new or content
    return (
        [p for p in content if p < n_tokens],
        [p for p in new if p < n_tokens],
        [p for p in key if p < n_tokens],
        words,
        numbers,
    )


def _longest_echo(words: list[str], known: frozenset[str]) -> float:
    """How many words the answer begins with that the prompt holds, at most 12."""
    n = 0
    for word in words[:12]:
        if word not in known and word not in _STOP_WORDS:
            break
        n += 1
    return float(n)


def _repetition(text: str) -> float:
    """How much of a text says what was said before, 0 to 1; short texts repeat nothing."""
    if len(text) < 40:
        return 0.0
    raw = text[:4000].encode("utf-8", "replace")
    return max(0.0, 1.0 - (len(zlib.compress(raw, 1)) - 8) / (0.75 * len(raw)))


def _is_json(text: str) -> bool:
    stripped = text.strip()
    if not stripped or stripped[0] not in "{[" or len(stripped) > 100_000:
        return False
    try:
        json.loads(stripped)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Device:
    """How the machine fares. None: the platform does not tell."""

    load: float | None  # processes that want a CPU over the last minute, for each CPU
    free_bytes: int | None  # memory that could be had
    battery: float | None  # charge, 0 to 1; None also without a battery
    on_battery: bool | None

    @classmethod
    def now(cls) -> Device:
        """What is known, at most a second old."""
        global _device
        at = time.monotonic()
        if _device is None or at - _device[0] >= 1.0:
            _device = (at, cls(_load(), _free_bytes(), *_battery(Path("/sys/class/power_supply"))))
        return _device[1]


_device: tuple[float, Device] | None = None


def _load() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None


def _free_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s*(\d{1,15}) kB", path.read_text(), re.MULTILINE)
    except (OSError, ValueError):
        found = None
    if found is not None:
        return int(found[1]) * 1024
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _battery(folder: Path) -> tuple[float | None, bool | None]:
    """Charge and whether nothing else powers the machine, as Linux tells them."""
    charge: float | None = None
    discharging: bool | None = None
    try:
        for supply in sorted(folder.iterdir()):
            if (supply / "type").read_text().strip() != "Battery" or (supply / "scope").exists():  # scope: a mouse's, say
                continue
            charge = min(1.0, max(0.0, int((supply / "capacity").read_text()) / 100))
            discharging = (supply / "status").read_text().strip() == "Discharging"
            break
    except (OSError, ValueError):
        pass
    return charge, discharging

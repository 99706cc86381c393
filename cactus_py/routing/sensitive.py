"""Finds in texts what should not leave a device: e-mail addresses, phone numbers, payment cards, IBANs, secret keys.

Everything that has a checksum must pass it (Luhn for cards, ISO 13616's mod 97 for IBANs), and everything that has a plan is
checked against it (lengths by country for IBANs, by network for cards, Google's libphonenumber for telephones). What is left,
keys, is known by its shape, by the name it is assigned to, or by being too random for a word. Where in doubt the text is taken
for sensitive: a placeholder that was not needed is put back all the same.

Time is linear in the text whatever it holds: a pattern begins only where a word begins, and every repetition that can fail late
is bounded.
"""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from ..errors import ConfigError, MissingExtraError

__all__ = ["KINDS", "Finder", "Span"]

KINDS = ("email", "phone", "card", "iban", "key")
EXTRA = "privacy"


class Span(NamedTuple):
    """A stretch of a text: [start, end) in characters."""

    start: int
    end: int
    kind: str


class Finder:
    """Finds what is of these kinds. Raises MissingExtraError where a kind needs a package that is not there."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self.kinds = tuple(dict.fromkeys(kinds))
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f'there is no kind "{kind}" to be redacted; there are: {", ".join(KINDS)}')
        if "phone" in self.kinds:
            _library()

    def spans(self, text: str, name: str | None = None, *, random: bool = True) -> list[Span]:
        """What is sensitive in a text, in order and without overlap. name: what the text is the value of, as in
        {"password": text}. random: whether what merely looks random counts as a key."""
        lead = f"{name}: " if name else ""
        whole = lead + text
        found: list[Span] = []
        if "key" in self.kinds:
            if name and _SECRET_NAME.fullmatch(name) and _is_secret(text):
                return [Span(0, len(text), "key")] if text else []
            found += (Span(start, end, "key") for start, end in _keys(whole, random))
        if "email" in self.kinds and "@" in whole:
            found += (Span(*match.span(), "email") for match in _EMAIL.finditer(whole) if not _is_remote(match))
        if "iban" in self.kinds:
            found += (Span(start, end, "iban") for start, end in _ibans(whole))
        if ("card" in self.kinds or "phone" in self.kinds) and _DIGITS.search(whole):
            if "card" in self.kinds:
                found += (Span(start, end, "card") for start, end in _cards(whole))
            if "phone" in self.kinds:
                found += (Span(start, end, "phone") for start, end in _phones(whole))
        shift = len(lead)
        inside = (Span(max(0, start - shift), end - shift, kind) for start, end, kind in found if end > shift)
        return _joined(inside)


_RANK = {"key": 0, "email": 1, "iban": 2, "card": 3, "phone": 4}


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Spans that overlap become one, of the kind that says most, so that no part of any of them is left."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start < joined[-1].end:
            last = joined[-1]
            joined[-1] = Span(last.start, max(last.end, span.end), min(last.kind, span.kind, key=_RANK.__getitem__))
        else:
            joined.append(span)
    return joined


# ---- e-mail ------------------------------------------------------------------------------------------------------------

_EMAIL = re.compile(
    r"(?<![\w.+%-])\w[\w.+%'&!#$*=?^`{|}~-]{0,63}@"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{2,40})(?![^\W_])",
    re.I,
)


def _is_remote(match: re.Match[str]) -> bool:
    """git@host:path names a server, not a person."""
    return match[0].lower().startswith("git@") and match.string[match.end() : match.end() + 1] in (":", "/")


# ---- payment cards -----------------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"\d(?:\D{0,3}\d){6}")
_SEPARATOR = " .\\-\u00a0\u2009\u202f\u2010\u2011\u2012\u2013"
_CARD_RUN = re.compile(rf"(?<![^\W_])(?<!\d[.,])\d(?:[{_SEPARATOR}]?\d){{12,}}(?![^\W_])")
_GROUP = re.compile(r"\d+")


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for run in _CARD_RUN.finditer(text):
        groups = [(match.start(), match.end()) for match in _GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            end = _card_from(text, groups, first)
            if end:
                yield groups[first][0], groups[end - 1][1]
            first = max(end, first + 1)


def _card_from(text: str, groups: list[tuple[int, int]], first: int) -> int:
    """The group after the card that begins with this one; 0 without one."""
    digits, sizes = "", []
    for index in range(first, min(first + 5, len(groups))):
        start, end = groups[index]
        digits += text[start:end] if end - start < 20 else "0" * 20
        sizes.append(end - start)
        if len(digits) > 19:
            return 0
        following_fits = index + 1 < len(groups) and groups[index + 1][1] - groups[index + 1][0] + len(digits) <= 19
        if _is_card(digits, sizes) and not (sizes[-1] < 4 and following_fits and len(sizes) < 4):
            return index + 1
    return 0


def _is_card(digits: str, sizes: list[int]) -> bool:
    whole = len(sizes) == 1
    in_fours = len(sizes) >= 4 and all(size == 4 for size in sizes[:-1]) and sizes[-1] <= 4
    return (whole or in_fours or sizes in ([4, 6, 5], [4, 6, 4])) and _is_issued(digits) and _passes_luhn(digits)


def _is_issued(digits: str) -> bool:
    """Whether a network issues cards that begin so and are so long (ISO/IEC 7812, as the networks publish their ranges)."""
    n, head = len(digits), int(digits[:4])
    two, three = head // 100, head // 10
    return (
        (two // 10 == 4 and n in (13, 16, 19))  # Visa
        or ((51 <= two <= 55 or 2221 <= head <= 2720) and n == 16)  # Mastercard
        or (two in (34, 37) and n == 15)  # American Express
        or ((300 <= three <= 305 or two in (36, 38, 39)) and 14 <= n <= 19)  # Diners Club
        or ((head == 6011 or 644 <= three <= 659) and 16 <= n <= 19)  # Discover
        or (3528 <= head <= 3589 and 16 <= n <= 19)  # JCB
        or (2200 <= head <= 2204 and 16 <= n <= 19)  # Mir
        or (two in (60, 62, 65, 81, 82) and 16 <= n <= 19)  # UnionPay, RuPay
        or ((two == 50 or 56 <= two <= 69) and 13 <= n <= 19)  # Maestro
    )


def _passes_luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    doubled = (2 * value - 9 * (value > 4) for value in values[1::2])
    return (sum(values[::2]) + sum(doubled)) % 10 == 0


# ---- IBAN --------------------------------------------------------------------------------------------------------------

# Lengths by country, from the registry of ISO 13616 that SWIFT keeps.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_IBAN_HEAD = re.compile(r"(?<![^\W_])[A-Z]{2}[0-9]{2}(?=[ \-\u00a0\u202f]?[A-Z0-9])", re.I)


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for head in _IBAN_HEAD.finditer(text):
        length = _IBAN_LENGTHS.get(head[0][:2].upper())
        if length is None:
            continue
        plain, at = head[0], head.end()
        while len(plain) < length and at < len(text):
            if text[at] in " -\u00a0\u202f" and at + 1 < len(text):
                at += 1
            if not (text[at].isascii() and text[at].isalnum()):
                break
            plain += text[at]
            at += 1
        if len(plain) == length and not text[at : at + 1].isalnum() and _passes_mod97(plain):
            yield head.start(), at


def _passes_mod97(iban: str) -> bool:
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


# ---- telephone numbers -------------------------------------------------------------------------------------------------

_PHONE_RUN = re.compile(rf"(?<![\w+])(?<!\w-)(?<!\d[.,:/])(?:\+\s?|\+?\()?\d(?:[{_SEPARATOR}/()]{{0,3}}\d){{6,}}(?![^\W_])")
_PHONE_WORD = re.compile(
    r"(?:\b(?:tel|telefon|telephone|telefono|teléfono|téléphone|telefone|phone|smartphone|mobile|mobil|móvil|portable|cell|"
    r"cellphone|celular|handy|call|dial|ring|fax|whatsapp|signal|sms|anruf|rufnummer|hotline)"
    r"(?:[ _-]?(?:number|numero|número|nummer|num|no|nr))?\b|[☎📞📱])"
    r"[\"'\s:.=#(-]{0,4}(?:(?:is|me|us|him|her|them|at|on|under|unter|an|al|au|number|no|nr)\b[\"'\s:.=(-]{0,3}){0,3}$",
    re.I,
)
_PHONE_PARTS = (
    "tel", "tél", "phone", "mobil", "móvil", "portable", "cel", "handy", "call", "dial", "ring", "fax", "whatsapp", "signal",
    "sms", "anruf", "rufnummer", "hotline", "☎", "📞", "📱",
)  # fmt: skip
_OTHER_NUMBER = re.compile(
    r"(?:\b(?:order|invoice|inv|ref|reference|isbn(?:-1[03])?|issn|no|nr|num|number|id|version|ticket|sku|part|item|article|"
    r"rechnung\w{0,10}|bestell\w{0,10}|auftrag\w{0,10}|kunden\w{0,10})[.:\s#-]{0,4}|[$€£¥#])$",
    re.I,
)
_DATE = re.compile(r"(?:\d{4}([-./ ])\d{1,2}\1\d{1,2}|\d{1,2}([-./ ])\d{1,2}\2(?:19|20)\d\d)(?!\d)")
_NORTH_AMERICAN = re.compile(r"(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}|(?:1 )?[2-9]\d\d [2-9]\d\d \d{4}")
# Where a national number begins with 0, or with an area code in brackets; the first that knows a number ends the search.
_REGIONS = re.findall("[A-Z]+", "GB DE FR IT NL BE AT CH SE FI IE AU NZ ZA JP KR CN TW IN ID TR UA RO HR RS IL EG AR BR MX US")
_MAX_DIGITS = 17  # E.164 has 15; 00 in front of them


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        return importlib.import_module("phonenumbers")
    except ImportError:
        raise MissingExtraError("redaction of phone numbers", EXTRA) from None


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for run in _PHONE_RUN.finditer(text):
        at = run.start()
        while at < run.end():
            found = _phone_at(text, at, run.end())
            if not found and text[at] == "(":  # of what is in brackets as a whole
                at += 1
                found = _phone_at(text, at, run.end())
            if found:
                yield at, found
            following = found or _next_group(text, at, run.end())
            digit = _GROUP.search(text, following, run.end())
            if digit is None:
                break
            at = digit.start() - (text[digit.start() - 1] == "(")
            at = max(at, following)


def _next_group(text: str, at: int, end: int) -> int:
    group = _GROUP.search(text, at, end)
    return group.end() if group else end


def _phone_at(text: str, start: int, end: int) -> int:
    """Where the telephone number ends that begins here; 0 if there is none. The longest one wins."""
    ends: list[int] = []
    n_digits = 0
    for group in _GROUP.finditer(text, start, end):
        n_digits += group.end() - group.start()
        if n_digits > _MAX_DIGITS:
            break
        if n_digits >= 7:
            ends.append(group.end())
    if not ends or (text[start] != "+" and _DATE.match(text, start, end)):
        return 0
    before = text[max(0, start - 40) : start]
    lower = before.lower()
    called = any(part in lower for part in _PHONE_PARTS) and _PHONE_WORD.search(before)
    role = "phone" if called else None
    if not called and text[start] not in "+0(" and not _NORTH_AMERICAN.match(text, start, end):
        return 0  # most numbers are none
    if not called and text[start] != "+" and _OTHER_NUMBER.search(before):
        role = "other"
    return next((stop for stop in reversed(ends) if _is_phone(text[start:stop], role)), 0)


def _is_phone(raw: str, role: str | None) -> bool:
    """role: what the words before it say: "phone", that it is one, "other", that it is something else."""
    if raw.count("(") != raw.count(")"):
        return False
    if raw.startswith(("+", "00")):
        return _is_possible("+" + re.sub(r"^(?:\+|00)\s?", "", raw), strict=not raw.startswith("+"))
    if role is not None:
        return role == "phone"
    if _NORTH_AMERICAN.fullmatch(raw):
        return True
    groups = [len(group) for group in _GROUP.findall(raw)]
    if len(groups) < 2 or not 2 <= groups[0] <= 6 or min(groups) < 2 or not 9 <= sum(groups) <= 13:
        return False
    return raw.startswith(("0", "(")) and _is_national(re.sub(r"\D", "", raw))


@lru_cache(maxsize=1024)
def _is_possible(raw: str, strict: bool) -> bool:
    library = _library()
    try:
        number = library.parse(raw, None)
    except library.NumberParseException:
        return False
    check = library.is_valid_number if strict else library.is_possible_number
    return bool(check(number))


@lru_cache(maxsize=1024)
def _is_national(digits: str) -> bool:
    library = _library()
    for region in _REGIONS:
        try:
            if library.is_valid_number_for_region(library.parse(digits, region), region):
                return True
        except library.NumberParseException:
            continue
    return False


# ---- keys --------------------------------------------------------------------------------------------------------------

_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?=[A-Za-z_-]{0,80}\d)[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,}"  # Stripe
    r"|A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # Amazon
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"  # Slack
    r"|AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"  # Google
    r"|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{50,}|dop_v1_[0-9a-f]{40,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{20,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{50,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){1,3}"  # JSON Web Tokens
    r")"
)
_NAMES = (
    r"(?:[a-z0-9]{1,20}[_-]){0,3}(?:password|passwd|passwort|kennwort|passphrase|passcode|pwd|secret|token|apikey|"
    r"(?:api|access|auth|account|private|secret|encryption|signing|license|master|shared)[_ -]?(?:key|token|secret)|"
    r"client[_ -]?secret|contraseña|mot de passe|senha)(?:[_-](?:key|id|value|hash))?"
)
_SECRET_NAME = re.compile(_NAMES + r"|(?:[a-z0-9]{1,20}){0,1}(?:Password|Secret|Token|ApiKey|SecretKey)", re.I)
_ASSIGNED = re.compile(
    rf"(?<![^\W_])(?:{_NAMES})[\"'`\\*]{{0,3}}(?P<sign>\s{{0,4}}(?::=|=>|[:=])|\s(?:is|ist|lautet|es|est)(?=\s))[\s*`]{{0,4}}"
    r"(?:\\?\"(?P<double>[^\"\\\n]{3,300})|\\?'(?P<single>[^'\\\n]{3,300})|(?P<plain>[^\s\"'`,;<>{}]{4,300}))",
    re.I,
)
# A search for a plain text takes microseconds: texts without any of these are not searched for the patterns.
_SHAPE_PARTS = (
    "sk-", "_live_", "_test_", "whsec_", "AKIA", "ASIA", "ABIA", "ACCA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
    "glpat-", "xox", "xapp-", "AIza", "ya29.", "GOCSPX-", "hf_", "npm_", "pypi-", "dop_v1_", "shp", "SG.", "gsk_", "xai-",
    "AGE-SECRET", "eyJ",
)  # fmt: skip
_NAME_PARTS = ("pass", "kennwort", "pwd", "secret", "token", "key", "contraseña", "senha")
_BEARER = re.compile(r"(?<![^\W_])(?:bearer|basic)\s{1,4}(?P<plain>[A-Za-z0-9._~+/-]{16,}={0,2})", re.I)
_IN_URL = re.compile(r"://[^/\s:@\"'<>]{0,100}:(?P<plain>[^/\s@\"'<>]{1,200})@")
_NO_SECRET = re.compile(
    r"(?:null|none|nil|true|false|undefined|str|string|text|int|integer|number|bool|boolean|bytes|any|object|array|required|"
    r"optional|password|secret|token|hidden|redacted|missing|empty|wrong|invalid|expired|correct|incorrect|needed|"
    r"x+|\*+|\.+|\$\{.*|\$\(.*|\$[A-Z_]+|%[sd]|\(.*)[.!?)]?",
    re.I,
)
_EXPRESSION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*[(\[].*|(?:self|os|cfg|config|settings|args|env|process)\.[\w.]+")
_WORD = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{32,}={0,2}")
_CHECKSUM_WORD = re.compile(
    r"(?:\b(?:commit|sha-?\d{0,3}|md5|hash|checksum|digest|revision|rev|tree|parent|blob|merge|index|integrity|etag)\b"
    r"[\s\"'`:=@(-]{0,4})$",
    re.I,
)
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{32,}")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=:,. -]{0,80}(?:\\r|\\n|\r|\n){1,2}){0,400}[A-Za-z0-9+/=]{0,80}")
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")


def _keys(text: str, random: bool) -> Iterator[tuple[int, int]]:
    at, ends = 0, "-----END " in text
    while begin := _PEM_BEGIN.search(text, at) if "PRIVATE KEY" in text else None:
        end = _PEM_END.search(text, begin.end()) if ends else None
        ends = end is not None  # looked for to the end of the text only once
        end = end or _PEM_BODY.match(text, begin.end())
        at = end.end() if end else begin.end()
        yield begin.start(), at
    for match in _SHAPES.finditer(text) if any(part in text for part in _SHAPE_PARTS) else ():
        yield match.span()
    lower = text.lower()
    for match in _ASSIGNED.finditer(text) if any(part in lower for part in _NAME_PARTS) else ():
        group = next(name for name in ("double", "single", "plain") if match[name] is not None)
        value = match[group]
        spoken = match["sign"].strip() not in (":", "=", ":=", "=>")
        if group == "plain":
            value = value.rstrip(".,:!?)]")
            if len(value) < 4 or (match["sign"].strip() == "=" and _EXPRESSION.fullmatch(value)):
                continue
        if _is_secret(value) and not (spoken and group == "plain" and value.isalpha()):
            yield match.start(group), match.start(group) + len(value)
    for pattern, needed in ((_BEARER, " "), (_IN_URL, "://")):
        for match in pattern.finditer(text) if needed in text else ():
            if _is_secret(match["plain"]):
                yield match.span("plain")
    if random:
        for match in _WORD.finditer(text):
            if _looks_random(match[0]) and not _CHECKSUM_WORD.search(text[max(0, match.start() - 24) : match.start()]):
                yield match.span()


def _is_secret(value: str) -> bool:
    return len(value) >= 3 and _NO_SECRET.fullmatch(value[:400]) is None


def _looks_random(word: str) -> bool:
    """Whether characters change class and repeat as they do by chance: words, names and paths do neither."""
    word = word[:256].rstrip("=")
    if _HEX.fullmatch(word):
        return len(set(word.lower())) >= 8 and any(c.isdigit() for c in word) and any(c.isalpha() for c in word)
    classes = ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "s" for c in word]
    n, counts = len(word), Counter(classes)
    changes = sum(a != b for a, b in pairwise(classes)) / (n - 1)
    entropy = -sum(k / n * math.log2(k / n) for k in Counter(word).values())
    if counts["u"] and counts["l"]:
        return counts["d"] >= 1 and counts["s"] <= n // 8 and changes >= 0.42 and entropy >= 3.9
    return counts["d"] >= 4 and counts["s"] == 0 and changes >= 0.3 and entropy >= 3.6

"""What models of public clouds cost, so that answers can be accounted for.

A price belongs to a host and a model there: the same name elsewhere costs something else, or nothing. What is not in the table
has no price (None); `Endpoint.price` in the settings is always stronger.
"""

from __future__ import annotations

import re

from ..config import Endpoint, Price

__all__ = ["LOOKED_UP", "price_of", "tokens_in"]

LOOKED_UP = "2026-11-23"
"""When the table was made, from published lists of OpenAI's standard tier. Prices change: set `price` where it matters."""

_OPENAI = {  # US dollars per million tokens: of prompts, of prompts that were cached, of answers
    "gpt-5.4": (2.50, 0.25, 15.00),
    "gpt-5.4-mini": (0.75, 0.075, 4.50),
    "gpt-5.4-nano": (0.20, 0.02, 1.25),
    "gpt-5.2": (1.75, 0.175, 14.00),
    "gpt-5.1": (1.25, 0.125, 10.00),
    "gpt-5": (1.25, 0.125, 10.00),
    "gpt-5-mini": (0.25, 0.025, 2.00),
    "gpt-5-nano": (0.05, 0.005, 0.40),
    "gpt-4.1": (2.00, 0.50, 8.00),
    "gpt-4.1-mini": (0.40, 0.10, 1.60),
    "gpt-4.1-nano": (0.10, 0.025, 0.40),
    "gpt-4o": (2.50, 1.25, 10.00),
    "gpt-4o-2024-05-13": (5.00, 5.00, 15.00),
    "gpt-4o-mini": (0.15, 0.075, 0.60),
    "o3": (2.00, 0.50, 8.00),
    "o4-mini": (1.10, 0.275, 4.40),
    "o3-mini": (1.10, 0.55, 4.40),
    "gpt-3.5-turbo": (0.50, 0.50, 1.50),
    "text-embedding-3-small": (0.02, 0.02, 0.0),
    "text-embedding-3-large": (0.13, 0.13, 0.0),
}
_TABLE = {"api.openai.com": _OPENAI}
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def price_of(endpoint: Endpoint, host: str, model: str | None = None) -> Price | None:
    """What an endpoint charges for its model, or for another one there; None if that is not known."""
    if endpoint.price is not None:
        return endpoint.price
    known = _TABLE.get(host, {})
    name = model or endpoint.model
    row = known.get(name) or known.get(_DATE.sub("", name))  # a dated version costs what the model costs
    return None if row is None else Price(input=row[0], cached_input=row[1], output=row[2])


def tokens_in(text: str) -> int:
    """Roughly how many tokens a text is: four bytes of UTF-8 each, as the tokenizers of clouds go with English text."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4

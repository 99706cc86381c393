"""A model's chat template: found in the file's metadata, compiled once, rendered for each request.

A GGUF file keeps its template in `tokenizer.chat_template`, and further ones, for special uses, in
`tokenizer.chat_template.NAME`. A file without one gets the form of turns that its vocabulary has control tokens for
(`prompting.fallback`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import TemplateError
from .fallback import CHATML, fallback

if TYPE_CHECKING:
    from .sandbox import Limits

__all__ = ["ChatTemplate"]

_KEY = "tokenizer.chat_template"
_MAX_SOURCE_CHARS = 256 * 1024  # the largest templates in use have about 30 thousand


class ChatTemplate:
    """One compiled template. Immutable; may be used from any thread."""

    def __init__(
        self,
        source: str,
        *,
        tokens: Mapping[str, str] | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        """`tokens`: texts of special tokens by the names templates use ("bos_token", "eos_token", …); absent ones are empty.
        `stop`: texts with which the next turn would begin, where no token ends an answer.

        Raises TemplateError if the source is no valid template.
        """
        self.source = source
        self.stop = tuple(stop)
        self.tokens = {"bos_token": "", "eos_token": "", **(tokens or {})}
        self._compiled, self.literals, self.variables = _compile(source)

    @classmethod
    def from_metadata(
        cls,
        metadata: Mapping[str, str],
        *,
        tokens: Mapping[str, str] | None = None,
        add_bos: bool = False,
        name: str | None = None,
        vocabulary: Container[str] | None = None,
    ) -> ChatTemplate:
        """The template of a model file: the one called `name` if given and there, else the unnamed one, else the fallback for
        a `vocabulary` with such special tokens; where that is not known either, ChatML. `add_bos`: whether the tokenizer wants
        a text to begin with its bos token, which a fallback then writes; other templates decide for themselves.
        """
        source = (metadata.get(f"{_KEY}.{name}") if name else None) or metadata.get(_KEY)
        if source:
            return cls(source, tokens=tokens)
        form = CHATML if vocabulary is None else fallback(vocabulary, metadata)
        return cls(form.source, tokens=tokens if add_bos else {**(tokens or {}), "bos_token": ""}, stop=form.stop)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        now: datetime | None = None,
        limits: Limits | None = None,
    ) -> str:
        """The prompt's text. `variables` are extra names for the template; `now` replaces the clock, for tests. A message's
        `reasoning_content` is also there as `thinking`, which some templates read.

        Raises TemplateError with the template's own words if it refuses the messages, and if it fails or runs away.
        """
        from .sandbox import Limits, render

        if limits is None:
            given = _n_chars(messages) + _n_chars(tools) + _n_chars(documents)
            most = Limits()
            limits = Limits(most.steps + given, most.units + 64 * given, most.seconds)
        values: dict[str, Any] = {
            **self.tokens,
            **(variables or {}),
            "messages": [_with_thinking(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "documents": None if documents is None else list(documents),
            "add_generation_prompt": add_generation_prompt,
        }
        return render(self._compiled, values, limits, now)


def _with_thinking(message: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = message.get("reasoning_content")
    return dict(message) if reasoning is None else {"thinking": reasoning, **message}


@lru_cache(maxsize=1)
def _environment() -> Any:
    from .sandbox import environment

    return environment()


@lru_cache(maxsize=32)
def _compile(source: str) -> tuple[Any, frozenset[str], frozenset[str]]:
    """The compiled template, every string literal in it, and every name that it looks up."""
    if len(source) > _MAX_SOURCE_CHARS:
        raise TemplateError(f"the model's chat template has {len(source)} characters, more than {_MAX_SOURCE_CHARS}")
    import jinja2
    from jinja2 import nodes

    from .sandbox import parse

    env = _environment()
    try:
        tree = parse(env, source)
        literals = frozenset(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
        names = frozenset(node.name for node in tree.find_all(nodes.Name) if node.ctx == "load")
        return env.from_string(tree), literals, names
    except TemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the model's chat template is malformed in line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise TemplateError(f"the model's chat template is malformed: {error.message}") from None
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
        raise TemplateError(f"the model's chat template is too deeply nested or malformed ({type(error).__name__})") from None


def _n_chars(value: Any) -> int:
    """Characters in all strings of a JSON-like value, plus one per container and element."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        total += 1
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, Iterable) and not isinstance(item, (bytes, bytearray)):
            stack.extend(item)
    return total

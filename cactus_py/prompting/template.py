"""A model's chat template: found in the file's metadata, compiled once, rendered for each request.

A GGUF file keeps its template in `tokenizer.chat_template`, and further ones, for special uses, in
`tokenizer.chat_template.NAME`. A file without one gets `DEFAULT_TEMPLATE`: ChatML, which most instruction-tuned models that
ship without a template were trained on, and which others at least tolerate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from ..errors import TemplateError

__all__ = ["DEFAULT_TEMPLATE", "ChatTemplate"]

DEFAULT_TEMPLATE = (
    "{% if add_bos %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + (message.content or '') + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_KEY = "tokenizer.chat_template"
_MAX_SOURCE_CHARS = 256 * 1024  # the largest templates in use have about 30 thousand


class ChatTemplate:
    """One compiled template. Immutable; may be used from any thread."""

    def __init__(self, source: str, *, tokens: Mapping[str, str] | None = None, add_bos: bool = False) -> None:
        """`tokens`: texts of special tokens by the names templates use ("bos_token", "eos_token", …); absent ones are empty.

        Raises TemplateError if the source is no valid template.
        """
        self.source = source
        self.tokens = {"bos_token": "", "eos_token": "", **(tokens or {})}
        self._add_bos = add_bos
        self._compiled, self.literals = _compile(source)

    @classmethod
    def from_metadata(
        cls,
        metadata: Mapping[str, str],
        *,
        tokens: Mapping[str, str] | None = None,
        add_bos: bool = False,
        name: str | None = None,
    ) -> ChatTemplate:
        """The template of a model file: the one called `name` if given and there, else the unnamed one, else ChatML."""
        source = (metadata.get(f"{_KEY}.{name}") if name else None) or metadata.get(_KEY) or DEFAULT_TEMPLATE
        return cls(source, tokens=tokens, add_bos=add_bos)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> str:
        """The prompt's text. `variables` are extra names for the template; `now` replaces the clock, for tests.

        Raises TemplateError with the template's own words if it refuses the messages, and if it fails or runs away.
        """
        from .sandbox import Limits, render

        given = _n_chars(messages) + _n_chars(tools) + _n_chars(documents)
        limits = Limits()
        values: dict[str, Any] = {
            **self.tokens,
            **(variables or {}),
            "messages": [dict(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "documents": None if documents is None else list(documents),
            "add_generation_prompt": add_generation_prompt,
        }
        if self.source == DEFAULT_TEMPLATE:
            values["add_bos"] = self._add_bos
        return render(self._compiled, values, Limits(limits.steps + given, limits.units + 64 * given, limits.seconds), now)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from .sandbox import environment

    return environment()


@lru_cache(maxsize=32)
def _compile(source: str) -> tuple[Any, frozenset[str]]:
    """The compiled template and every string literal in it."""
    if len(source) > _MAX_SOURCE_CHARS:
        raise TemplateError(f"the model's chat template has {len(source)} characters, more than {_MAX_SOURCE_CHARS}")
    import jinja2
    from jinja2 import nodes

    from .sandbox import parse

    env = _environment()
    try:
        tree = parse(env, source)
        literals = frozenset(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
        return env.from_string(tree), literals
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

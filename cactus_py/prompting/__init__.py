"""From chat messages to prompt tokens: the model's own template, run in a sandbox; control tokens that only the template may
write; conversations that are made to fit the context.

The names below are imported when first used, so that importing this package loads neither jinja2 nor a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .context import FittedPrompt
    from .encode import PromptEncoder
    from .template import ChatTemplate

__all__ = ["ChatTemplate", "FittedPrompt", "PromptEncoder"]


def __getattr__(name: str) -> Any:
    if name == "ChatTemplate":
        from .template import ChatTemplate

        return ChatTemplate
    if name == "PromptEncoder":
        from .encode import PromptEncoder

        return PromptEncoder
    if name == "FittedPrompt":
        from .context import FittedPrompt

        return FittedPrompt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""POST /v1/completions: a prompt to be continued as it stands, without a chat template."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..errors import InvalidRequestError
from ._base import ResponseModel
from .common import (
    CompletionUsage,
    GenerationRequest,
    RouteDecision,
    StrictBool,
    StrictInt,
    StrictStr,
    Timings,
    _check_unicode,
    none_is_false,
)

__all__ = ["Completion", "CompletionChoice", "CompletionLogprobs", "CompletionRequest"]

MAX_PROMPTS = 64


class CompletionRequest(GenerationRequest):
    """One prompt or several, each a text or token ids. `prompts` has them all, in one form.

    With `echo` the prompt is given back in front of the reply, and `max_tokens` may be 0: then nothing is generated, and
    `logprobs` tells how likely the prompt itself is.
    """

    prompt: Any
    max_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    echo: Annotated[StrictBool, BeforeValidator(none_is_false)] = False
    logprobs: Annotated[StrictInt, Field(ge=0, le=5)] | None = None
    suffix: StrictStr | None = None
    best_of: Annotated[StrictInt, Field(ge=1)] | None = None

    @field_validator("prompt")
    @classmethod
    def _prompt_is_text_or_ids(cls, value: Any) -> str | list[str] | list[int] | list[list[int]]:
        if isinstance(value, str):
            return _check_unicode(value)
        if isinstance(value, (list, tuple)):
            items = [list(item) if isinstance(item, tuple) else item for item in value]
            if not items:
                raise ValueError("the list of prompts is empty")
            if all(_is_id(item) for item in items):
                return items
            if len(items) > MAX_PROMPTS:
                raise ValueError(f"at most {MAX_PROMPTS} prompts are possible in one request, not {len(items)}")
            if all(isinstance(item, str) for item in items):
                return [_check_unicode(str(item)) for item in items]
            if all(isinstance(item, list) and all(_is_id(token) for token in item) for item in items):
                return items
        raise ValueError("should be a string, a list of strings, a list of token ids, or a list of lists of token ids")

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequestError("max_tokens should be at least 1; 0 is only possible with echo=True", "max_tokens")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt of the request, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if _is_id(self.prompt[0]) else list(self.prompt)

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate; None: until the end or until the context is full."""
        return self.max_tokens


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class CompletionLogprobs(ResponseModel):
    """Log-probabilities of the tokens of an answer. The first token of an echoed prompt follows nothing and has none."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] = Field(default_factory=list)


class CompletionChoice(ResponseModel):
    """One answer, or what a chunk adds to one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length", "content_filter"] | None = None


class Completion(ResponseModel):
    """A reply, finished or, when streamed, a piece of one. Our own fields are those of ChatCompletion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None

    route: Literal["local", "cloud"] = "local"
    confidence: float | None = None
    decision: RouteDecision | None = None
    replaces: bool | None = None
    backend: str | None = None
    timings: Timings | None = None

    @property
    def text(self) -> str:
        """The text of the first answer."""
        return "".join(choice.text for choice in self.choices if choice.index == 0)

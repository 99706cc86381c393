"""Fields that several requests and replies share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, field_validator, model_validator

from ..errors import InvalidRequestError
from ._base import RequestModel, ResponseModel

__all__ = [
    "CompletionTokensDetails",
    "CompletionUsage",
    "GenerationRequest",
    "JSONSchema",
    "PromptTokensDetails",
    "ResponseFormat",
    "RouteDecision",
    "StreamOptions",
    "Timings",
]

MAX_STOP_STRINGS = 16
MAX_CHOICES = 16

StrictBool = Annotated[bool, Strict()]
StrictInt = Annotated[int, Strict()]
StrictFloat = Annotated[float, Strict()]  # takes an int, refuses a string or a bool
StrictStr = Annotated[str, Strict()]


class StreamOptions(RequestModel):
    """`include_usage`: a last chunk without choices tells what the request cost."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool | None = None  # nothing to obfuscate on a local connection; accepted, without effect


class JSONSchema(RequestModel):
    """A schema and what it is called. Without `schema`: any object. `strict=False` passes over what cannot be enforced; it is
    refused otherwise."""

    name: Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: StrictStr | None = None
    schema_: dict[str, Any] | StrictBool | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(RequestModel):
    """What form the answer shall have: OpenAI's kinds, and ours, `regex` and `grammar` (Lark, as llguidance reads it)."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JSONSchema | None = None
    regex: StrictStr | None = None
    grammar: StrictStr | None = None

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> ResponseFormat:
        for name in ("json_schema", "regex", "grammar"):
            given = getattr(self, name) is not None
            if given != (self.type == name):
                what = f'"{name}" is not possible' if given else f'"{name}" is missing'
                message = f'{what} in a response_format of type "{self.type}"'
                raise InvalidRequestError(message, f"response_format.{name}")
        return self


def none_is_false(value: Any) -> Any:
    return False if value is None else value


class GenerationRequest(RequestModel):
    """What chat and plain completions have in common.

    The fields down to `user` are OpenAI's, with OpenAI's ranges and defaults; the ones after it are ours.
    """

    model: Annotated[StrictStr, Field(min_length=1)] | None = None
    stream: Annotated[StrictBool, BeforeValidator(none_is_false)] = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[StrictFloat, Field(ge=0, le=2)] | None = None
    top_p: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: list[StrictStr] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**64)] | None = None
    presence_penalty: Annotated[StrictFloat, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[StrictFloat, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[int, float] | None = None
    user: StrictStr | None = None

    top_k: Annotated[StrictInt, Field(ge=0)] | None = None  # 0: off
    min_p: Annotated[StrictFloat, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[StrictFloat, Field(gt=0, le=10)] | None = None
    # The form of the answer; plain completions have it too. The names that begin with guided_ are those of other servers.
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | StrictStr | None = None
    guided_regex: StrictStr | None = None
    guided_choice: list[StrictStr] | None = None
    guided_grammar: StrictStr | None = None

    context_policy: Literal["error", "shift"] = "error"
    route: Literal["auto", "local", "cloud"] = "auto"
    privacy: Literal["local_only"] | None = None
    handoff: Literal["restart", "continue"] | None = None  # when an answer that has begun is handed over; None: the router's
    timeout: Annotated[StrictFloat, Field(gt=0)] | None = None  # seconds, once the model is loaded

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        return list(value) if isinstance(value, tuple) else value

    @field_validator("stop")
    @classmethod
    def _stop_is_usable(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return None
        if len(value) > MAX_STOP_STRINGS:
            raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings are possible, not {len(value)}")
        for text in value:
            if not text:
                raise ValueError("a stop string may not be empty")
            if "\0" in text:
                raise ValueError("a stop string may not hold a NUL character")
            _check_unicode(text)
        return value or None

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _logit_bias_is_by_id(cls, value: Any) -> Any:
        if value is None or not isinstance(value, Mapping):
            return value
        biases: dict[int, float] = {}
        for key, bias in value.items():
            try:
                token = int(key)
            except (TypeError, ValueError):
                raise ValueError(f"keys are token ids, not {key!r}") from None
            if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
                raise ValueError(f"the bias of token {token} should be a number from -100 to 100, not {bias!r}")
            if token < 0:
                raise ValueError(f"{token} is no token id")
            biases[token] = float(bias)
        return biases

    @model_validator(mode="after")
    def _one_form(self) -> GenerationRequest:
        names = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
        given = [name for name in names if getattr(self, name) is not None]
        if self.response_format is not None and self.response_format.type != "text":
            given.insert(0, "response_format")
        if len(given) > 1:
            raise InvalidRequestError(f"{given[0]} and {given[1]} both say what form the answer shall have", given[1])
        return self

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("stream_options is only possible with stream=True", "stream_options")
        return self


def _check_unicode(text: str) -> str:
    """Lone surrogates cannot be written as UTF-8, and so reach no tokenizer."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text holds a lone surrogate, which is not a character") from None
    return text


class PromptTokensDetails(ResponseModel):
    """`cached_tokens`: tokens of the prompt that were found in memory and not computed again."""

    cached_tokens: int = 0


class CompletionTokensDetails(ResponseModel):
    """Of the tokens that were generated: how many went into reasoning."""

    reasoning_tokens: int = 0


class CompletionUsage(ResponseModel):
    """Tokens read and written, all choices together; the prompt counts once."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class Timings(ResponseModel):
    """What a request cost in time, wall-clock, in milliseconds. With several choices: the slowest of them."""

    queue_ms: float = 0.0
    prompt_ms: float = 0.0
    decode_ms: float = 0.0
    prompt_tok_s: float | None = None
    decode_tok_s: float | None = None
    drafted_tokens: int = 0
    """computed ahead of their turn because the text seemed to repeat itself; all choices together"""
    accepted_tokens: int = 0
    """of them, those that were then chosen: each saved a step"""


class RouteDecision(ResponseModel):
    """Where an answer was made, and why.

    `confidence`: the calibrated probability that the local answer is right, as far as it was seen; `threshold`: the least that
    was enough. `calibration`: "own" if the confidence was calibrated with this model's answers, "default" if with those of
    others. Money in US dollars, estimated before and counted afterwards; None where no price is known. `handoff`: what became
    of local text that came before a handover.
    """

    policy: str
    route: Literal["local", "cloud"]
    confidence: float | None = None
    threshold: float | None = None
    reasons: list[str] = Field(default_factory=list)
    estimated_cost_usd: float | None = None
    cost_usd: float | None = None
    estimated_latency_ms: float | None = None
    calibration: Literal["own", "default"] | None = None
    handoff: Literal["restart", "continue"] | None = None

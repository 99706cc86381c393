"""POST /v1/chat/completions: request, reply and chunks, as the OpenAI API writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from ..errors import InvalidRequestError
from ._base import RequestModel, ResponseModel
from .common import CompletionUsage, GenerationRequest, RouteDecision, StrictBool, StrictInt, StrictStr, Timings, _check_unicode

__all__ = [
    "AssistantMessage",
    "AudioPart",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "ChatCompletionRequest",
    "ChatMessage",
    "Choice",
    "ChoiceDelta",
    "ChoiceDeltaFunctionCall",
    "ChoiceDeltaToolCall",
    "ChoiceLogprobs",
    "ChunkChoice",
    "DeveloperMessage",
    "FilePart",
    "FunctionMessage",
    "ImagePart",
    "RefusalPart",
    "SystemMessage",
    "TextPart",
    "TokenLogprob",
    "ToolCall",
    "ToolMessage",
    "TopLogprob",
    "UserMessage",
]

Text = Annotated[StrictStr, AfterValidator(_check_unicode)]


def _kind_of(value: Any, field: str) -> str | None:
    """The tag by which a union picks its branch: the text of `role` or `type`."""
    kind = value.get(field) if isinstance(value, Mapping) else getattr(value, field, None)
    return f"~{kind}" if isinstance(kind, str) else None


def _role_of(value: Any) -> str | None:
    return _kind_of(value, "role")


def _type_of(value: Any) -> str | None:
    return _kind_of(value, "type")


def _text_or_parts(value: Any) -> str | None:
    return "~text" if isinstance(value, str) else "~parts" if isinstance(value, list) else None


_content = Discriminator(
    _text_or_parts, custom_error_type="content_kind", custom_error_message="Input should be a string or a list of parts"
)


# ---- parts of a message ------------------------------------------------------------------------------------------------


class TextPart(RequestModel):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: Text


class RefusalPart(RequestModel):
    """A piece of an assistant's message in which it declined."""

    type: Literal["refusal"] = "refusal"
    refusal: Text


class ImageURL(RequestModel):
    """Where a picture is: a data: or http URL, or the path of a file."""

    url: StrictStr
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(RequestModel):
    """A picture."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageURL


class InputAudio(RequestModel):
    """Sound, in base64."""

    data: StrictStr
    format: Literal["wav", "mp3"]


class AudioPart(RequestModel):
    """A piece of sound."""

    type: Literal["input_audio"] = "input_audio"
    input_audio: InputAudio


class FilePart(RequestModel):
    """A file, in base64 or by its id."""

    type: Literal["file"] = "file"
    file: dict[str, Any]


_UserPart = Annotated[
    Annotated[TextPart, Tag("~text")]
    | Annotated[ImagePart, Tag("~image_url")]
    | Annotated[AudioPart, Tag("~input_audio")]
    | Annotated[FilePart, Tag("~file")],
    Discriminator(_type_of),
]
_TextPart = Annotated[Annotated[TextPart, Tag("~text")], Discriminator(_type_of)]
_AssistantPart = Annotated[Annotated[TextPart, Tag("~text")] | Annotated[RefusalPart, Tag("~refusal")], Discriminator(_type_of)]

TextContent = Annotated[
    Annotated[Text, Tag("~text")] | Annotated[list[TextPart], Tag("~parts")],
    _content,
]
UserContent = Annotated[
    Annotated[Text, Tag("~text")] | Annotated[list[_UserPart], Tag("~parts")],
    _content,
]
AssistantContent = Annotated[
    Annotated[Text, Tag("~text")] | Annotated[list[_AssistantPart], Tag("~parts")],
    _content,
]


# ---- tools -------------------------------------------------------------------------------------------------------------


class FunctionCall(RequestModel):
    """Which function an assistant wants called. `arguments` is JSON text, as the model wrote it: it may be malformed."""

    name: Text
    arguments: Text


class ToolCall(RequestModel):
    """One call that an assistant asked for."""

    id: StrictStr
    type: Literal["function"] = "function"
    function: FunctionCall


class FunctionDefinition(RequestModel):
    """A function that a model may ask to be called; `parameters` is a JSON schema."""

    name: Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class Tool(RequestModel):
    """A tool on offer; functions are the only kind."""

    type: Literal["function"] = "function"
    function: FunctionDefinition


# ---- messages ----------------------------------------------------------------------------------------------------------

Name = Annotated[StrictStr, AfterValidator(_check_unicode)]


class SystemMessage(RequestModel):
    """Instructions that hold for the whole conversation."""

    role: Literal["system"]
    content: TextContent
    name: Name | None = None


class DeveloperMessage(RequestModel):
    """The newer name of a system message; local models see it as one."""

    role: Literal["developer"]
    content: TextContent
    name: Name | None = None


class UserMessage(RequestModel):
    """What a person says."""

    role: Literal["user"]
    content: UserContent
    name: Name | None = None


class AssistantMessage(RequestModel):
    """What a model said. Replies can be put back into `messages` as they are; fields without a meaning here are ignored."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: Text | None = None
    name: Name | None = None
    reasoning_content: Text | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls and self.function_call is None and self.refusal is None:
            raise ValueError("an assistant message needs content or tool_calls")
        return self


class ToolMessage(RequestModel):
    """What a tool answered to the call `tool_call_id`."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: StrictStr
    name: Name | None = None


class FunctionMessage(RequestModel):
    """What a function answered: the older form of a tool message."""

    role: Literal["function"]
    content: Text | None
    name: Name


ChatMessage = Annotated[
    Annotated[SystemMessage, Tag("~system")]
    | Annotated[DeveloperMessage, Tag("~developer")]
    | Annotated[UserMessage, Tag("~user")]
    | Annotated[AssistantMessage, Tag("~assistant")]
    | Annotated[ToolMessage, Tag("~tool")]
    | Annotated[FunctionMessage, Tag("~function")],
    Discriminator(_role_of),
]


# ---- request -----------------------------------------------------------------------------------------------------------


class ChatCompletionRequest(GenerationRequest):
    """A conversation to be continued."""

    messages: list[ChatMessage]
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    # Understood here; whether a backend can do it, the backend says.
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    functions: list[FunctionDefinition] | None = None
    function_call: Literal["none", "auto"] | dict[str, Any] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None

    # How a model thinks that can. `reasoning_effort` is OpenAI's; "none" turns thinking off where the template can do that.
    # Ours: `reasoning_format` "auto" takes reasoning apart from the answer, "none" leaves the text as the model wrote it;
    # `chat_template_kwargs` are further variables for the chat template, as other servers name them.
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    reasoning_format: Literal["auto", "none"] = "auto"
    chat_template_kwargs: dict[str, Any] | None = None

    # Bookkeeping of OpenAI's service: accepted, without effect on a local model.
    metadata: dict[str, str] | None = None
    store: StrictBool | None = None
    service_tier: StrictStr | None = None
    safety_identifier: StrictStr | None = None
    prompt_cache_key: StrictStr | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _messages_are_dicts(cls, value: Any) -> Any:
        """Takes messages that are objects: ours, or those of the openai package."""
        if not isinstance(value, (list, tuple)):
            return value
        return [item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else item for item in value]

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables_are_names(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in value or ():
            if not name.isidentifier():
                raise ValueError(f"{name!r} is no name of a variable")
            if name in ("messages", "tools", "documents", "add_generation_prompt") or name.endswith("_token"):
                raise ValueError(f"{name} is set by the request or the model")
        return value

    @field_validator("messages")
    @classmethod
    def _messages_are_there(cls, value: list[Any]) -> list[Any]:
        if not value:
            raise InvalidRequestError("messages is empty; a conversation needs at least one message", "messages")
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatCompletionRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequestError("max_tokens and max_completion_tokens name one limit, but differ", "max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs is only possible with logprobs=True", "top_logprobs")
        return self

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate; None: until the end or until the context is full."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


# ---- replies -----------------------------------------------------------------------------------------------------------

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class TopLogprob(ResponseModel):
    """One token that could have been chosen. `bytes` are its UTF-8 bytes: a token may be less than a character."""

    token: str
    bytes: list[int] | None = None
    logprob: float


class TokenLogprob(TopLogprob):
    """A token that was chosen, and the likeliest alternatives."""

    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class ChoiceLogprobs(ResponseModel):
    """Log-probabilities of the tokens of an answer, from the model's own distribution: before temperature and penalties.

    `reasoning_content`: those of its reasoning, where that is kept apart.
    """

    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None
    reasoning_content: list[TokenLogprob] | None = None


class ChatCompletionMessage(ResponseModel):
    """What the model said. `reasoning_content`: what it thought before, where it marks that."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None  # the same for a request with `functions`
    # This and what follows: None from a local model, but there for code that looks.
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None


class Choice(ResponseModel):
    """One answer."""

    index: int
    message: ChatCompletionMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(ResponseModel):
    """A finished reply.

    Ours are `text`, `route` (where the answer was made), `confidence` (the calibrated probability that the answer is right;
    None as long as nothing calibrated has judged it), `backend` (which one answered) and `timings`.
    """

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None

    route: Literal["local", "cloud"] = "local"
    confidence: float | None = None
    decision: RouteDecision | None = None
    backend: str | None = None
    timings: Timings | None = None

    @property
    def text(self) -> str:
        """The text of the first answer."""
        return (self.choices[0].message.content or "") if self.choices else ""


class _Added(ResponseModel):
    """What is not added is not written at all: readers that join deltas field by field would take a null for a value."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class ChoiceDeltaFunctionCall(_Added):
    """What a chunk adds to a call: at first the name, then pieces of the arguments, which are JSON text together."""

    name: str | None = None
    arguments: str | None = None


class ChoiceDeltaToolCall(_Added):
    """What a chunk adds to the call `index` of an answer. The first one has the id."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: ChoiceDeltaFunctionCall | None = None


class ChoiceDelta(ResponseModel):
    """What a chunk adds to an answer. The first has the role, the following have text (of the reasoning, then of the
    answer) or pieces of tool calls, the last has none of them."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ChoiceDeltaToolCall] | None = None
    function_call: ChoiceDeltaFunctionCall | None = None


class ChunkChoice(ResponseModel):
    """What a chunk says of one answer."""

    index: int
    delta: ChoiceDelta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(ResponseModel):
    """One piece of a streamed reply. The last one that ends an answer also carries `confidence`, `decision` and `timings`.

    With `replaces` the answers begin anew: what was streamed of them before is void. It only comes where the request allows it
    with handoff="restart".
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
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
        """The text that this chunk adds to the first answer."""
        return "".join(choice.delta.content or "" for choice in self.choices if choice.index == 0)

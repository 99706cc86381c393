"""The wire format: what requests are refused with, and that the official package reads our replies."""

from __future__ import annotations

from typing import Any

import pytest
from openai import types as openai_types
from openai.types import chat as openai_chat

from cactus_py import InvalidRequestError
from cactus_py.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionRequest,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionUsage,
    ModelCard,
    ModelList,
    PromptTokensDetails,
    Timings,
    TokenLogprob,
    TopLogprob,
    parse_request,
)

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse_request(ChatCompletionRequest, {"messages": [USER], **fields})


# ---- requests ----------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"messages": []}, "messages", "messages is empty; a conversation needs at least one message"),
    ({"messages": "hi"}, "messages", "messages should be a valid list, not 'hi'"),
    (
        {"messages": [USER, {"role": "boss", "content": "x"}]},
        "messages[1].role",
        'messages[1].role is "boss"; known are system,',
    ),
    ({"messages": [{"content": "x"}]}, "messages[0]", "messages[0] should be an object with a role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is missing"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "should be a string or a list of parts, not 3"),
    (
        {"messages": [{"role": "user", "content": None}]},
        "messages[0].content",
        "should be a string or a list of parts, not None",
    ),
    ({"messages": [{**USER, "colour": 1}]}, "messages[0].colour", 'unknown field "colour" in messages[0]'),
    ({"messages": [{"role": "assistant"}]}, "messages[0]", "an assistant message needs content or tool_calls"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "messages[0].tool_call_id is missing"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "lone surrogate"),
    (
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        "messages[0].content[0].type",
        'messages[0].content[0].type is "smell"; known are text, image_url, input_audio, file',
    ),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "should be an object with a type"),
    ({"model": ""}, "model", "model should have at least 1 character"),
    ({"temprature": 1}, "temprature", 'unknown field "temprature"; did you mean "temperature"?'),
    ({"temperature": -0.1}, "temperature", "temperature should be greater than or equal to 0, not -0.1"),
    ({"temperature": 2.1}, "temperature", "temperature should be less than or equal to 2, not 2.1"),
    ({"temperature": float("nan")}, "temperature", "temperature should be a finite number, not nan"),
    ({"temperature": "1"}, "temperature", "temperature should be a valid number, not '1'"),
    ({"temperature": True}, "temperature", "temperature should be a valid number, not True"),
    ({"top_p": 0}, "top_p", "top_p should be greater than 0, not 0"),
    ({"top_p": 1.5}, "top_p", "top_p should be less than or equal to 1, not 1.5"),
    ({"top_k": -1}, "top_k", "top_k should be greater than or equal to 0, not -1"),
    ({"min_p": 2}, "min_p", "min_p should be less than or equal to 1, not 2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "repetition_penalty should be greater than 0, not 0"),
    ({"presence_penalty": 3}, "presence_penalty", "presence_penalty should be less than or equal to 2, not 3"),
    ({"frequency_penalty": -3}, "frequency_penalty", "frequency_penalty should be greater than or equal to -2, not -3"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens should be greater than or equal to 1, not 0"),
    ({"max_tokens": 1.5}, "max_tokens", "max_tokens should be a valid integer, not 1.5"),
    ({"max_completion_tokens": -1}, "max_completion_tokens", "should be greater than or equal to 1, not -1"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "name one limit, but differ"),
    ({"n": 0}, "n", "n should be greater than or equal to 1, not 0"),
    ({"n": 1000}, "n", "n should be less than or equal to 16, not 1000"),
    ({"stop": ["x"] * 17}, "stop", "at most 16 stop strings are possible, not 17"),
    ({"stop": ""}, "stop", "a stop string may not be empty"),
    ({"stop": ["a\0"]}, "stop", "a stop string may not hold a NUL character"),
    ({"stop": [3]}, "stop[0]", "stop[0] should be a valid string, not 3"),
    ({"seed": 1.5}, "seed", "seed should be a valid integer, not 1.5"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "keys are token ids, not 'x'"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "the bias of token 5 should be a number from -100 to 100, not 101"),
    ({"logit_bias": {"5": float("nan")}}, "logit_bias", "should be a number from -100 to 100, not nan"),
    ({"logit_bias": {"-5": 1}}, "logit_bias", "-5 is no token id"),
    ({"logit_bias": [1]}, "logit_bias", "logit_bias should be a valid dictionary"),
    ({"top_logprobs": 3}, "top_logprobs", "top_logprobs is only possible with logprobs=True"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "top_logprobs should be less than or equal to 20, not 21"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options is only possible with stream=True"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", 'unknown field "usage" in stream_options'),
    ({"stream": "yes"}, "stream", "stream should be a valid boolean, not 'yes'"),
    ({"route": "moon"}, "route", "route should be 'auto', 'local' or 'cloud', not 'moon'"),
    ({"privacy": "none"}, "privacy", "privacy should be 'local_only', not 'none'"),
    ({"context_policy": "drop"}, "context_policy", "context_policy should be 'error' or 'shift', not 'drop'"),
    ({"timeout": 0}, "timeout", "timeout should be greater than 0, not 0"),
    (
        {"response_format": {"type": "xml"}},
        "response_format.type",
        "should be 'text', 'json_object', 'json_schema', 'regex' or 'grammar', not 'xml'",
    ),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "should match pattern"),
]


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED)
def test_a_wrong_chat_request_is_refused_in_one_sentence(fields: dict[str, Any], param: str | None, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(**fields)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.param == param


def test_missing_messages_are_named() -> None:
    with pytest.raises(InvalidRequestError, match="messages is missing"):
        parse_request(ChatCompletionRequest, {})


def test_long_input_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(temperature="secret " * 100)
    assert "secret" not in str(caught.value)


def test_every_role_is_understood() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    request = chat(
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "a"}]},
            {"role": "developer", "content": "b"},
            {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "image_url", "image_url": {"url": "x.png"}}]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "d", "tool_call_id": "c1"},
            {"role": "function", "content": "e", "name": "f"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ]
    )
    assert [message.role for message in request.messages] == [
        "system",
        "developer",
        "user",
        "assistant",
        "tool",
        "function",
        "assistant",
    ]


def test_values_are_normalised() -> None:
    request = chat(stop="x", temperature=1, logit_bias={"5": 2, 7: -1.5})
    assert request.stop == ["x"]
    assert request.temperature == 1.0
    assert request.logit_bias == {5: 2.0, 7: -1.5}
    assert chat(stop=("a", "b")).stop == ["a", "b"]
    assert chat(stop=[]).stop is None
    assert chat(max_tokens=3).token_limit == chat(max_completion_tokens=3).token_limit == 3
    assert chat().token_limit is None


def test_replies_can_be_put_back_into_messages() -> None:
    ours = ChatCompletionMessage(content="I said it")
    theirs = openai_chat.ChatCompletionMessage(role="assistant", content="So did I")
    request = chat(messages=[USER, ours, USER, theirs, USER])
    assert [getattr(message, "content", None) for message in request.messages] == ["hi", "I said it", "hi", "So did I", "hi"]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ((1, 2), [[1, 2]]),
        ("", [""]),
    ],
)
def test_a_prompt_may_have_four_forms(prompt: Any, prompts: list[Any]) -> None:
    assert parse_request(CompletionRequest, {"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", [None, 3, [], [1, "a"], [-1], [True], [[1], "a"], {"a": 1}, ["a"] * 65, "\ud800"])
def test_a_prompt_of_another_form_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(CompletionRequest, {"prompt": prompt})
    assert caught.value.param == "prompt"


def test_no_tokens_are_only_possible_with_echo() -> None:
    with pytest.raises(InvalidRequestError, match="only possible with echo=True"):
        parse_request(CompletionRequest, {"prompt": "x", "max_tokens": 0})
    assert parse_request(CompletionRequest, {"prompt": "x", "max_tokens": 0, "echo": True}).token_limit == 0


# ---- replies -----------------------------------------------------------------------------------------------------------

USAGE = CompletionUsage(
    prompt_tokens=3, completion_tokens=2, total_tokens=5, prompt_tokens_details=PromptTokensDetails(cached_tokens=1)
)
LOGPROBS = ChoiceLogprobs(
    content=[
        TokenLogprob(token="é", bytes=[195, 169], logprob=-0.5, top_logprobs=[TopLogprob(token="e", bytes=[101], logprob=-1.5)])
    ]
)


def completion() -> ChatCompletion:
    return ChatCompletion(
        id="chatcmpl-1",
        created=1,
        model="m",
        choices=[Choice(index=0, message=ChatCompletionMessage(content="é"), logprobs=LOGPROBS, finish_reason="stop")],
        usage=USAGE,
        backend="native",
        timings=Timings(queue_ms=1, prompt_ms=2, decode_ms=3),
    )


def test_the_official_package_reads_our_chat_completion() -> None:
    read: Any = openai_chat.ChatCompletion.model_validate(completion().model_dump())
    assert read.choices[0].message.content == "é"
    assert read.choices[0].finish_reason == "stop"
    assert read.choices[0].logprobs.content[0].top_logprobs[0].token == "e"
    assert read.usage.prompt_tokens_details.cached_tokens == 1
    assert openai_chat.ChatCompletion.model_validate_json(completion().model_dump_json(exclude_none=True)) is not None


def test_the_official_package_reads_our_chunks() -> None:
    chunks = [
        ChatCompletionChunk(
            id="c", created=1, model="m", choices=[ChunkChoice(index=0, delta=ChoiceDelta(role="assistant", content=""))]
        ),
        ChatCompletionChunk(
            id="c", created=1, model="m", choices=[ChunkChoice(index=0, delta=ChoiceDelta(content="é"), logprobs=LOGPROBS)]
        ),
        ChatCompletionChunk(
            id="c", created=1, model="m", choices=[ChunkChoice(index=0, delta=ChoiceDelta(), finish_reason="length")]
        ),
        ChatCompletionChunk(id="c", created=1, model="m", choices=[], usage=USAGE),
    ]
    read: list[Any] = [openai_chat.ChatCompletionChunk.model_validate(chunk.model_dump()) for chunk in chunks]
    assert read[0].choices[0].delta.role == "assistant"
    assert read[1].choices[0].delta.content == "é"
    assert read[2].choices[0].finish_reason == "length"
    assert read[3].usage.total_tokens == 5
    assert [chunk.text for chunk in chunks] == ["", "é", "", ""]


def test_the_official_package_reads_our_plain_completion() -> None:
    logprobs = CompletionLogprobs(tokens=["a"], token_logprobs=[-1.0], top_logprobs=[{"a": -1.0}], text_offset=[0])
    ours = Completion(
        id="cmpl-1",
        created=1,
        model="m",
        choices=[CompletionChoice(index=0, text="a", logprobs=logprobs, finish_reason="stop")],
        usage=USAGE,
    )
    read: Any = openai_types.Completion.model_validate(ours.model_dump())
    assert read.choices[0].logprobs.token_logprobs == [-1.0]
    assert ours.text == "a"


def test_the_official_package_reads_our_models() -> None:
    cards = ModelList(data=[ModelCard(id="m", created=5)]).model_dump()["data"]
    assert openai_types.Model.model_validate(cards[0]).id == "m"


def test_our_own_fields() -> None:
    reply = completion()
    assert (reply.text, reply.route, reply.confidence, reply.backend) == ("é", "local", None, "native")
    assert reply.timings is not None
    assert reply.timings.prompt_ms == 2
    assert "text" not in reply.model_dump()
    assert ChatCompletion(id="x", created=1, model="m", choices=[]).text == ""


def test_replies_keep_fields_that_a_newer_server_adds() -> None:
    reply = ChatCompletion.model_validate({**completion().model_dump(), "novelty": {"a": 1}})
    assert reply.model_dump()["novelty"] == {"a": 1}

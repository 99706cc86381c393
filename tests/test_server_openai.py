"""What the official `openai` client does beyond plain chats, over a running server: tools, forms, vectors, and all at once."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pytest
from pydantic import BaseModel
from server_process import ServerProcess

MODEL = "smollm2-135m-instruct"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}
ASK: Any = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": PARAMETERS}}
TIME: Any = {
    "type": "function",
    "function": {
        "name": "get_time",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["utc", "local"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


class Weather(BaseModel):
    """What `parse` asks for."""

    city: Literal["Paris", "London"]
    degrees: int
    words: list[Literal["sunny", "rainy"]]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def check_call(call: Any) -> None:
    arguments = json.loads(call.function.arguments)
    assert call.id and call.type == "function"
    if call.function.name == "get_weather":
        assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("celsius", "fahrenheit")
    else:
        assert call.function.name == "get_time" and arguments["zone"] in ("utc", "local") and len(arguments) == 1


def test_tools(client: openai.OpenAI) -> None:
    def ask(choice: Any, **more: Any) -> Any:
        return client.chat.completions.create(
            messages=ASK, tools=[WEATHER, TIME], tool_choice=choice, max_tokens=120, **GREEDY, **more
        )

    for choice in ("required", {"type": "function", "function": {"name": "get_time"}}):
        reply = ask(choice, parallel_tool_calls=False).choices[0]
        assert reply.finish_reason == "tool_calls" and len(reply.message.tool_calls) == 1
        check_call(reply.message.tool_calls[0])
        if choice != "required":
            assert reply.message.tool_calls[0].function.name == "get_time"
    free = ask("auto").choices[0]
    assert (free.finish_reason == "tool_calls") == bool(free.message.tool_calls)
    assert free.message.content or free.message.tool_calls
    none = ask("none").choices[0]
    assert none.message.tool_calls is None and none.message.content
    with pytest.raises(openai.BadRequestError) as wrong:
        ask({"type": "function", "function": {"name": "get_lost"}})
    assert wrong.value.param is not None and wrong.value.param.startswith("tool_choice")


def test_tools_of_a_stream_and_their_results(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 120}
    whole = client.chat.completions.create(messages=ASK, **asked, **GREEDY).choices[0].message
    with client.chat.completions.stream(messages=ASK, **asked, **GREEDY) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds and kinds.count("tool_calls.function.arguments.done") == 1
    assert final.finish_reason == "tool_calls" and final.message.tool_calls is not None and whole.tool_calls is not None
    call = final.message.tool_calls[0]
    check_call(call)
    assert call.function.parsed_arguments == json.loads(call.function.arguments)
    assert call.function.arguments == whole.tool_calls[0].function.arguments

    said: Any = {
        "role": "assistant",
        "tool_calls": [{"id": call.id, "type": "function", "function": call.function.model_dump()}],
    }
    del said["tool_calls"][0]["function"]["parsed_arguments"]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'}
    answer = client.chat.completions.create(messages=[*ASK, said, result], tools=[WEATHER], max_tokens=30, **GREEDY)
    assert answer.usage is not None and answer.usage.prompt_tokens > 60 and answer.choices[0].message.content


def test_forms(client: openai.OpenAI, server: ServerProcess) -> None:
    parsed = client.chat.completions.parse(messages=ASK, response_format=Weather, max_tokens=200, **GREEDY)
    message = parsed.choices[0].message
    assert isinstance(message.parsed, Weather) and parsed.choices[0].finish_reason == "stop"
    schema = {"name": "weather", "strict": True, "schema": PARAMETERS}
    form: Any = {"type": "json_schema", "json_schema": schema}
    reply = client.chat.completions.create(
        model=MODEL, messages=ASK, response_format=form, n=3, temperature=1, seed=3, max_tokens=150
    )
    assert len(reply.choices) == 3
    for choice in reply.choices:
        assert choice.finish_reason == "stop" and json.loads(choice.message.content or "")["unit"] in ("celsius", "fahrenheit")
    chunks = client.chat.completions.create(messages=ASK, response_format=form, max_tokens=150, stream=True, **GREEDY)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert set(json.loads(streamed)) == {"city", "unit"}
    with client.chat.completions.stream(messages=ASK, response_format=Weather, max_tokens=200, **GREEDY) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == message.parsed
    with pytest.raises(openai.BadRequestError) as wrong:
        broken: Any = {"name": "a", "schema": {"type": "no such type"}}
        client.chat.completions.create(messages=ASK, response_format={"type": "json_schema", "json_schema": broken}, **GREEDY)
    assert wrong.value.param is not None and wrong.value.param.startswith("response_format")


def test_vectors(client: openai.OpenAI, minilm_path: Path) -> None:
    def ask(**more: Any) -> Any:
        return client.embeddings.create(model="all-minilm-l6-v2", input=["a cat", "a kitten", "an invoice"], **more)

    plain = np.array([item.embedding for item in ask(encoding_format="float").data])
    encoded = ask(encoding_format="base64").data
    decoded = np.array([np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in encoded])
    assert plain.shape == (3, 384) and np.abs(plain - decoded).max() < 1e-6
    assert np.abs(np.array([item.embedding for item in ask().data]) - plain).max() < 1e-6, "the client's own choice: base64"
    assert plain[0] @ plain[1] > plain[0] @ plain[2] + 0.2
    short = np.array([item.embedding for item in ask(dimensions=64).data])
    assert short.shape == (3, 64) and np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-4)
    assert np.allclose(short, plain[:, :64] / np.linalg.norm(plain[:, :64], axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(dimensions=385)
    assert wrong.value.param == "dimensions"


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    def ask(seed: int, **more: Any) -> list[str | None]:
        reply = client.chat.completions.create(
            model=MODEL, messages=ASK, temperature=1.2, seed=seed, n=2, max_tokens=12, **more
        )
        return [choice.message.content for choice in reply.choices]

    assert ask(11) == ask(11) != ask(12)
    assert ask(11)[0] != ask(11)[1]


def test_asynchronous(server: ServerProcess, minilm_path: Path, whisper_path: Path, data: Path) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:

            async def streamed() -> None:
                asked: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 120}
                async with client.chat.completions.stream(messages=ASK, **asked, **GREEDY) as stream:
                    async for _ in stream:
                        pass
                    final = await stream.get_final_completion()
                for call in final.choices[0].message.tool_calls or ():
                    check_call(call)

            async def left() -> None:
                stream = await client.chat.completions.create(messages=ASK, stream=True, logit_bias={"2": -100}, **GREEDY)
                async for _ in stream:
                    break
                await stream.close()

            clip = data / "speech" / "asterisk_en_dir-nomore.wav"
            parsed, vectors, models, spoken, *_ = await asyncio.gather(
                client.chat.completions.parse(messages=ASK, response_format=Weather, max_tokens=200, **GREEDY),
                client.embeddings.create(model="all-minilm-l6-v2", input="a cat"),
                client.models.list(),
                client.audio.transcriptions.create(model="whisper-tiny.en", file=clip),
                streamed(),
                left(),
            )
            assert isinstance(parsed.choices[0].message.parsed, Weather) and len(vectors.data[0].embedding) == 384
            assert MODEL in [card.id for card in models.data] and spoken.text
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("nothing")

    asyncio.run(run())
    assert server.idle()["models"][MODEL]["kv_pages_used"] == 0

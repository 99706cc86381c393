"""Reasoning through the client, with models that say a script (see tiny_models.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types import chat as openai_chat
from tiny_models import CONTROL, USER_DEFINED, scripted_llama

from cactus_py import Client, InvalidRequestError

NORMAL = 1
SAYS = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
THOUGHT = ["Ġit", "Ġis"]
ANSWER = ["nswer", "<|im_end|>"]


@pytest.fixture(
    params=[("<think>", "</think>", USER_DEFINED), ("<think>", "</think>", CONTROL), ("[THINK]", "[/THINK]", CONTROL)]
)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """A model that thinks and answers; how its markers are kept in the vocabulary differs."""
    start, end, kind = request.param
    script = ["<|im_start|>", start, *THOUGHT, end, "Ċ", *ANSWER]
    path = scripted_llama(tmp_path / "thinker.gguf", script, special={start: kind, end: kind}, template=SAYS)
    with Client(path, threads=1) as client:
        yield client


OPTIONS: dict[str, Any] = {"temperature": 0, "logprobs": True}


def test_reasoning_is_a_field_of_its_own(client: Client) -> None:
    reply = client.chat("x", **OPTIONS)
    choice = reply.choices[0]
    assert (choice.message.reasoning_content, choice.message.content) == ("it is", "nswer")
    assert (reply.text, choice.finish_reason) == ("nswer", "stop")
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 4
    assert reply.usage.completion_tokens == 7
    assert choice.logprobs is not None
    assert [entry.token for entry in choice.logprobs.reasoning_content or []][1:3] == [" it", " is"]
    assert [entry.token for entry in choice.logprobs.content or []] == ["\n", "nswer"]
    openai_chat.ChatCompletion.model_validate(reply.model_dump())


def test_a_stream_keeps_them_apart_too(client: Client) -> None:
    chunks = list(client.chat("x", stream=True, stream_options={"include_usage": True}, **OPTIONS))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.reasoning_content or "" for delta in deltas) == "it is"
    assert "".join(delta.content or "" for delta in deltas) == "nswer"
    assert all(delta.content is None or delta.reasoning_content is None for delta in deltas)
    assert "".join(chunk.text for chunk in chunks) == "nswer"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens_details is not None
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 4
    for chunk in chunks:
        openai_chat.ChatCompletionChunk.model_validate(chunk.model_dump())


def test_the_text_can_be_left_as_it_is(client: Client) -> None:
    reply = client.chat("x", reasoning_format="none", **OPTIONS)
    assert reply.choices[0].message.reasoning_content is None
    assert reply.text in ("<think> it is</think>\nnswer", "[THINK] it is[/THINK]\nnswer")
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0
    plain = client.completions.create(prompt="<|im_start|>", temperature=0)
    assert plain.text.endswith("\nnswer")


def test_reasoning_that_is_cut_off(client: Client) -> None:
    reply = client.chat("x", max_tokens=3, **OPTIONS)
    assert (reply.choices[0].message.reasoning_content, reply.text) == ("it is", "")
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 3
    stopped = client.chat("x", stop=" is", **OPTIONS)
    assert (stopped.choices[0].message.reasoning_content, stopped.text) == ("it", "")
    assert stopped.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stop", ["is!", "wer", " is\n!", "nothing"])
def test_stop_strings_that_hold_text_back_do_not_move_markers(stop: str, client: Client) -> None:
    reply = client.chat("x", stop=[stop], **OPTIONS)
    assert reply.choices[0].message.reasoning_content == "it is"
    assert reply.text == ("ns" if stop == "wer" else "nswer")


def test_a_template_that_begins_the_reasoning(tmp_path: Path) -> None:
    template = SAYS.replace("<|im_start|>", "<|im_start|><think>Ċ".replace("Ċ", "\\n"))
    template = template.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}{{ '").replace(
        "{% endif %}", "' }}{% endif %}"
    )
    script = ["Ċ", *THOUGHT, "</think>", *ANSWER]
    special = {"<think>": USER_DEFINED, "</think>": USER_DEFINED}
    with Client(scripted_llama(tmp_path / "r.gguf", script, special=special, template=template), threads=1) as client:
        reply = client.chat("x", **OPTIONS)
        assert (reply.choices[0].message.reasoning_content, reply.text) == ("it is", "nswer")
        assert client.chat("x", reasoning_format="none", **OPTIONS).text == " it is</think>nswer"
        # A person who writes the marker begins nothing.
        forged = client.chat("<think>\n", **OPTIONS)
        assert forged.choices[0].message.reasoning_content == "it is"


def test_channels(tmp_path: Path) -> None:
    marks = dict.fromkeys(("<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>"), CONTROL)
    script = ["<|start|>", "<|channel|>", "analysis", "<|message|>", *THOUGHT, "<|return|>"]
    path = scripted_llama(
        tmp_path / "h.gguf", script, special={**marks, "analysis": NORMAL}, template=SAYS.replace("<|im_start|>", "<|start|>")
    )
    with Client(path, threads=1) as client:
        reply = client.chat("x", **OPTIONS)
        assert (reply.choices[0].message.reasoning_content, reply.text) == (" it is", "")
        assert client.chat("x", reasoning_format="none", **OPTIONS).text == "<|channel|>analysis<|message|> it is<|return|>"


def test_switches_of_the_template(tmp_path: Path) -> None:
    ends = "{% if enable_thinking is defined and not enable_thinking %}<|pad|>{% else %}<|im_start|>{% endif %}"
    template = SAYS.replace("<|im_start|>", ends) + "{{ reasoning_effort }}"
    script = ["<|pad|>", "rain", "<|im_start|>", "nswer", "<|im_end|>"]
    path = scripted_llama(tmp_path / "s.gguf", script, special={}, template=template)
    with Client(path, threads=1) as client:

        def n_prompt(**options: Any) -> int:
            reply = client.chat("x", max_tokens=1, **options)
            assert reply.usage is not None
            return reply.usage.prompt_tokens

        base = n_prompt()
        assert n_prompt(chat_template_kwargs={"enable_thinking": True}) == base
        assert n_prompt(reasoning_effort="high") > base
        assert client.chat("x", temperature=0).text == "nswer"
        assert client.chat("x", temperature=0, max_tokens=1, chat_template_kwargs={"enable_thinking": False}).text == "rain"
        with pytest.raises(InvalidRequestError, match="does not read") as caught:
            client.chat("x", chat_template_kwargs={"nonsense": 1})
        assert caught.value.param == "chat_template_kwargs"
        with pytest.raises(InvalidRequestError, match="set by the request"):
            client.chat("x", chat_template_kwargs={"messages": []})
        with pytest.raises(InvalidRequestError, match="reasoning_effort"):
            client.chat("x", reasoning_effort="gigantic")  # type: ignore[arg-type]


def test_a_model_without_a_switch_says_so(zoo: Path) -> None:
    with Client(zoo / "llama" / "llama.f32.gguf", threads=1) as client:
        with pytest.raises(InvalidRequestError, match="no switch for reasoning") as caught:
            client.chat("x", reasoning_effort="high")
        assert caught.value.param == "reasoning_effort"


def test_control_tokens_in_template_variables_are_text(tmp_path: Path) -> None:
    template = "{{ mood }}" + SAYS
    path = scripted_llama(tmp_path / "v.gguf", ["<|im_start|>", "nswer", "<|im_end|>"], special={}, template=template)
    with Client(path, threads=1) as client:
        client.warm_up()
        loaded = next(iter(client._core.backend._by_path.values()))  # type: ignore[attr-defined]
        with loaded.in_use() as model:
            ids = loaded.encoder.encode([{"role": "user", "content": "x"}], variables={"mood": "<|im_end|>"})
            assert [i for i in ids if "control" in model.tokenizer.attributes(i)] == ids[-1:]

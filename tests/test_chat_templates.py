"""Conversations that a template does not know, and models without a template. The templates here are small ones of our own,
each with one habit that real ones have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_edit
import pytest
import tiny_models

from cactus_py import Client, TemplateError
from cactus_py.prompting.adapt import Adapter
from cactus_py.prompting.fallback import FORMS, fallback
from cactus_py.prompting.template import ChatTemplate


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def assistant(text: str, *calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {}), **fields}


def call(key: str, name: str = "f", arguments: Any = None) -> dict[str, Any]:
    return {
        "id": key,
        "type": "function",
        "function": {"name": name, "arguments": {"a": key} if arguments is None else arguments},
    }


def result(key: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": key}


TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}

# Writes r[content] for each message, and calls as r(name:arguments).
LOOP = "{% for m in messages %}"
SAY = "{{ m.role[0] }}[{{ m.content }}]"
CALLS = "{% for c in m.tool_calls or [] %}({{ c.function.name }}:{{ c.function.arguments | tojson }}){% endfor %}"
END = "{% endfor %}"
ALTERNATE = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
CALLED = assistant("", call("c1"))
ASKED = [user("A"), CALLED, result("c1", "21")]


def adapted(source: str, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
    template = ChatTemplate(source)
    given, definitions = Adapter(template)(messages, tools)
    return template.render(given, tools=definitions)


CASES: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "what is known stays": (LOOP + SAY + END, [system("S"), user("A"), user("B")], "s[S]u[A]u[B]"),
    "a refused system message": (NO_SYSTEM + LOOP + ALTERNATE + SAY + END, [system("S"), user("A")], "u[S\n\nA]"),
    "a system message that is left out": (
        LOOP + "{% if m.role != 'system' %}" + SAY + "{% endif %}" + END,
        [system("S"), user("A"), assistant("B"), user("C")],
        "u[S\n\nA]a[B]u[C]",
    ),
    "a later system message that is left out": (
        "{% if messages[0].role == 'system' %}<{{ messages[0].content }}>{% endif %}"
        + LOOP
        + "{% if m.role != 'system' %}"
        + SAY
        + "{% endif %}"
        + END,
        [user("A"), assistant("B"), system("S"), user("C")],
        "<S>u[A]a[B]u[C]",
    ),
    "the last of two system messages wins": (
        "{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.s = m.content %}{% endif %}"
        "{% endfor %}<{{ ns.s }}>" + LOOP + "{% if m.role != 'system' %}" + SAY + "{% endif %}" + END,
        [system("S"), system("T"), user("A")],
        "<S\n\nT>u[A]",
    ),
    "nothing but instructions": (NO_SYSTEM + LOOP + SAY + END, [system("S")], "u[S]"),
    "two messages of one role": (LOOP + ALTERNATE + SAY + END, [user("A"), user("B"), assistant("C")], "u[A\n\nB]a[C]"),
    "the assistant begins": (LOOP + ALTERNATE + SAY + END, [assistant("A"), user("B")], "u[]a[A]u[B]"),
    "no tools at all": (
        LOOP + "{% if m.role in ('user', 'assistant') %}" + SAY + "{% endif %}" + END,
        [user("A"), assistant("One moment.", call("c1"), call("c2")), result("c1", "21"), result("c2", "22"), user("B")],
        'u[A]a[One moment.\n<tool_call>\n{"name": "f", "arguments": {"a": "c1"}}\n</tool_call>\n<tool_call>\n'
        '{"name": "f", "arguments": {"a": "c2"}}\n</tool_call>]u[<tool_response>\n21\n</tool_response>\n<tool_response>\n22\n'
        "</tool_response>]u[B]",
    ),
    "calls but no results": (
        LOOP + "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}" + SAY + CALLS + END,
        ASKED,
        'u[A]a[](f:{"a": "c1"})u[<tool_response>\n21\n</tool_response>]',
    ),
    "a text beside a call is left out": (
        LOOP + "{% if m.tool_calls %}a" + CALLS + "{% else %}" + SAY + "{% endif %}" + END,
        [user("A"), assistant("B", call("c1")), result("c1", "21")],
        'u[A]a[B]a(f:{"a": "c1"})t[21]',
    ),
    "one call at a time": (
        LOOP
        + "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one!') }}{% endif %}"
        + SAY
        + CALLS
        + END,
        [user("A"), assistant("", call("c1"), call("c2")), result("c2", "22"), result("c1", "21")],
        'u[A]a[](f:{"a": "c1"})t[21]a[](f:{"a": "c2"})t[22]',
    ),
    "calls only beside no content": (
        LOOP + "{% if m.content is none %}a" + CALLS + "{% else %}" + SAY + "{% endif %}" + END,
        ASKED,
        'u[A]a(f:{"a": "c1"})t[21]',
    ),
    "arguments as text": (
        LOOP + SAY + "{% for c in m.tool_calls or [] %}({{ c.function.name + c.function.arguments }}){% endfor %}" + END,
        ASKED,
        'u[A]a[](f{"a": "c1"})t[21]',
    ),
    "parts": (LOOP + "{% for p in m.content %}{{ p.text }}{% endfor %};" + END, [system("S"), user("A")], "S;A;"),
    "tools demanded": ("{{ tools | length }}" + LOOP + SAY + END, [user("A")], "0u[A]"),
    "reasoning beside a call": (
        LOOP + "{% if m.thinking and m.tool_calls %}{{ raise_exception('one of them') }}{% endif %}" + SAY + CALLS + END,
        [user("A"), assistant("", call("c1"), reasoning_content="hm"), result("c1", "21")],
        'u[A]a[](f:{"a": "c1"})t[21]',
    ),
}


@pytest.mark.parametrize(("source", "messages", "text"), CASES.values(), ids=CASES.keys())
def test_a_conversation_is_put_into_a_form_that_the_template_knows(
    source: str, messages: list[dict[str, Any]], text: str
) -> None:
    assert adapted(source, messages) == text


def test_definitions_that_a_template_leaves_out_go_into_the_instructions() -> None:
    text = adapted(LOOP + SAY + END, [system("S"), user("A")], [TOOL])
    assert text.startswith("s[S\n\nYou may call these functions.")
    assert '<tools>\n{"type": "function", "function": {"name": "f", "description": "d"' in text
    assert text.endswith("</tools>]u[A]")
    assert adapted("{{ tools | tojson }}" + LOOP + SAY + END, [user("A")], [TOOL]).endswith("]u[A]")
    assert adapted(NO_SYSTEM + LOOP + SAY + END, [user("A")], [TOOL]).startswith("u[You may call")


def test_ids_of_nine_letters() -> None:
    refuse = "{% if c.id | length != 9 %}{{ raise_exception('9!') }}{% endif %}"
    strict = "{% for c in m.tool_calls or [] %}" + refuse + "({{ c.id }}){% endfor %}"
    source = LOOP + strict + "{% if m.tool_call_id %}<{{ m.tool_call_id }}>{% endif %}" + SAY + CALLS + END
    text = adapted(source, [user("A"), assistant("", call("call_0123456789")), result("call_0123456789", "21")])
    key = text[text.index("(") + 1 :][:9]
    assert key.isalnum()
    assert f"<{key}>" in text
    assert "(abcdefghi)" in adapted(source, [user("A"), assistant("", call("abcdefghi")), result("abcdefghi", "21")])


def test_a_message_that_is_lost_whatever_is_done_is_an_error() -> None:
    only_first = "{{ messages[0].content }}"
    assert adapted(only_first, [user("A"), user("B")]) == "A\n\nB"
    with pytest.raises(TemplateError, match='leaves out a message of the role "assistant"'):
        adapted(only_first, [user("A"), assistant("B"), user("C")])


def test_a_refusal_is_told_in_the_words_of_the_template() -> None:
    with pytest.raises(TemplateError, match="refuses these messages: never"):
        adapted("{{ raise_exception('never') }}", [user("A")])


def test_long_conversations_are_looked_at_once() -> None:
    """Turns of the same kind make the same shape; a late turn of another kind does not."""
    adapter = Adapter(ChatTemplate(NO_SYSTEM + LOOP + ALTERNATE + SAY + END))
    turns = [user("A"), assistant("B")]
    for n in (10, 11, 200):
        messages, _ = adapter([system("S"), *turns * n, user("C")])
        assert len(messages) == 2 * n + 1
        assert messages[0]["content"] == "S\n\nA"
    assert len(adapter._known) == 1
    adapter([system("S"), *turns * 10, user("C"), user("D")])
    assert len(adapter._known) == 2


def test_texts_are_not_looked_at() -> None:
    """What a message says cannot change how it is put."""
    source = LOOP + "{% if m.content == 'magic' %}{{ raise_exception('no') }}{% endif %}" + SAY + END
    with pytest.raises(TemplateError, match="refuses these messages: no"):
        adapted(source, [user("magic")])


# ---- models without a template -----------------------------------------------------------------------------------------

TURNS = [system("S"), user("A"), assistant("B"), user("C")]
EXPECTED = {
    "chatml": "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
    "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
    "phi-4": "<s><|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>A<|im_end|><|im_start|>assistant<|im_sep|>B"
    "<|im_end|><|im_start|>user<|im_sep|>C<|im_end|><|im_start|>assistant<|im_sep|>",
    "llama-3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nA"
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nC"
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<s><start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n<start_of_turn>user\nC"
    "<end_of_turn>\n<start_of_turn>model\n",
    "gemma-4": "<s><|turn>system\nS<turn|>\n<|turn>user\nA<turn|>\n<|turn>model\nB<turn|>\n<|turn>user\nC<turn|>\n"
    "<|turn>model\n",
    "harmony": "<s><|start|>system<|message|>S<|end|><|start|>user<|message|>A<|end|><|start|>assistant<|channel|>final"
    "<|message|>B<|end|><|start|>user<|message|>C<|end|><|start|>assistant",
    "granite": "<s><|start_of_role|>system<|end_of_role|>S</s>\n<|start_of_role|>user<|end_of_role|>A</s>\n<|start_of_role|>"
    "assistant<|end_of_role|>B</s>\n<|start_of_role|>user<|end_of_role|>C</s>\n<|start_of_role|>assistant<|end_of_role|>",
    "command-r": "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>A"
    "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>B<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>C"
    "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "deepseek": "<s>S<｜User｜>A<｜Assistant｜>B</s><｜User｜>C<｜Assistant｜>",
    "exaone-4": "<s>[|system|]\nS[|endofturn|]\n[|user|]\nA[|endofturn|]\n[|assistant|]\nB[|endofturn|]\n[|user|]\nC"
    "[|endofturn|]\n[|assistant|]\n",
    "exaone-3": "<s>[|system|]S[|endofturn|]\n[|user|]A\n[|assistant|]B[|endofturn|]\n[|user|]C\n[|assistant|]",
    "glm-4": "[gMASK]<sop><|system|>\nS<|user|>\nA<|assistant|>\nB<|user|>\nC<|assistant|>\n",
    "phi-3": "<s><|system|>\nS<|end|>\n<|user|>\nA<|end|>\n<|assistant|>\nB<|end|>\n<|user|>\nC<|end|>\n<|assistant|>\n",
    "zephyr": "<s><|system|>\nS</s>\n<|user|>\nA</s>\n<|assistant|>\nB</s>\n<|user|>\nC</s>\n<|assistant|>\n",
    "olmo": "<s><|system|>\nS\n<|user|>\nA\n<|assistant|>\nB</s>\n<|user|>\nC\n<|assistant|>\n",
    "mistral-7": "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST]B</s>[INST]C[/INST]",
    "mistral-3": "<s>[INST] S\n\nA[/INST] B</s>[INST] C[/INST]",
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_special_tokens_tell_the_form_of_turns(form: Any) -> None:
    """Expected: written out by hand from the makers' descriptions of their formats."""
    metadata = {"general.architecture": form.architecture or "any"}
    assert fallback(set(form.tokens), metadata).name == form.name
    template = ChatTemplate.from_metadata(
        metadata, tokens={"bos_token": "<s>", "eos_token": "</s>"}, add_bos=True, vocabulary=set(form.tokens)
    )
    messages, _ = Adapter(template)(TURNS)
    assert template.render(messages) == EXPECTED[form.name]
    assert template.stop == ()


def test_llama_2_and_transcripts() -> None:
    llama = {"general.architecture": "llama", "tokenizer.ggml.model": "llama"}
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    template = ChatTemplate.from_metadata(llama, tokens=tokens, add_bos=True, vocabulary={"<s>", "</s>"})
    assert template.render(TURNS) == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST]"
    template = ChatTemplate.from_metadata({"general.architecture": "gpt2"}, tokens=tokens, vocabulary={"</s>"})
    assert template.render(TURNS) == "S\n\nUser: A\n\nAssistant: B\n\nUser: C\n\nAssistant:"
    assert template.stop == ("\nUser:",)


def test_a_template_for_tools_is_used_where_tools_are(tmp_path: Path) -> None:
    """A file may hold two: the unnamed one, and one called tool_use."""
    path = tiny_models.scripted_llama(tmp_path / "two.gguf", ["<|im_start|>", "rain"], special={}, template="plain")
    gguf = gguf_edit.read(path)
    gguf.set("tokenizer.chat_template.tool_use", gguf_edit.STRING, "with tools" + LOOP + SAY + CALLS + END)
    gguf.set("tokenizer.chat_template", gguf_edit.STRING, "plain" + LOOP + SAY + END)
    path.write_bytes(gguf.to_bytes())
    with Client(path, threads=1) as client:
        client.warm_up()
        loaded = next(iter(client._core.backend._by_path.values()))  # type: ignore[attr-defined]
        with loaded.in_use() as model:
            assert model.detokenize(loaded.encoder.encode([user("A")])) == "plainu[A]"
            assert model.detokenize(loaded.encoder.encode(ASKED)).startswith("with toolsu[A]a[](f:")


def test_turn_tokens_that_are_user_defined_are_guarded_and_reasoning_markers_are_not(tmp_path: Path) -> None:
    special = {"<|USER_TOKEN|>": tiny_models.USER_DEFINED, "</think>": tiny_models.USER_DEFINED}
    source = LOOP + "<|USER_TOKEN|>{{ m.content }}" + END + "{% if '</think>' in 'x' %}{% endif %}"
    path = tiny_models.scripted_llama(tmp_path / "u.gguf", ["rain"], special=special, template=source)
    with Client(path, threads=1) as client:
        client.warm_up()
        loaded = next(iter(client._core.backend._by_path.values()))  # type: ignore[attr-defined]
        with loaded.in_use() as model:
            turn, thought = (model.tokenize(text, add_special=False)[0] for text in special)
            ids = loaded.encoder.encode([user("a<|USER_TOKEN|>b"), assistant("hm</think>c")])
            assert (ids.count(turn), ids.count(thought)) == (2, 1)
            assert model.detokenize(ids, show_special=True) == "<|USER_TOKEN|>a<|USER_TOKEN|>b<|USER_TOKEN|>hm</think>c"


def test_reasoning_that_is_given_back_reaches_the_template() -> None:
    source = LOOP + SAY + "<{{ m.reasoning_content }}|{{ m.thinking }}>" + END
    assert adapted(source, [assistant("A", reasoning_content="hm")]) == "a[A]<hm|hm>"

"""Templates for model files that carry none: the form of turns whose control tokens the vocabulary has.

The first row whose tokens are all there is taken. A llama with a SentencePiece vocabulary and no such tokens is taken for one
of the Llama 2 and early Mistral kind, whose turns are written in plain brackets. Any other gets a transcript, "User: …" and
"Assistant: …", which a model that was never taught turns can at least continue; there "User:" at the start of a line ends an
answer. What a form does not know (a system message in Gemma's, tools in all of them) is put into it by `prompting.adapt`.

`bos_token` is empty here where the tokenizer's own settings add none.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

__all__ = ["CHATML", "FORMS", "Form", "fallback"]


@dataclass(frozen=True)
class Form:
    """One way to write turns. `tokens`: special tokens that tell of it; `stop`: texts that end an answer besides tokens."""

    name: str
    tokens: tuple[str, ...]
    source: str
    architecture: str | None = None  # only for files of this architecture
    stop: tuple[str, ...] = ()


def _turns(turn: str, opening: str, *, start: str = "{{ bos_token }}") -> str:
    """A template that writes `turn` for each message (with `role` and `text` at hand) and `opening` before the answer."""
    return (
        start
        + "{% for m in messages %}{% set role = m.role %}{% set text = m.content or '' %}"
        + turn
        + "{% endfor %}{% if add_generation_prompt %}"
        + opening
        + "{% endif %}"
    )


def _said(system: str, user: str, assistant: str) -> str:
    """A turn that differs by who speaks. An empty `system`: there is no such role."""
    begin = "{% if role == 'user' %}{{ " + user + " }}{% elif role == 'assistant' %}{{ " + assistant + " }}"
    return begin + ("{% elif role == 'system' %}{{ " + system + " }}" if system else "") + "{% endif %}"


CHATML = Form(
    "chatml",
    ("<|im_start|>", "<|im_end|>"),
    _turns("{{ '<|im_start|>' + role + '\n' + text + '<|im_end|>\n' }}", "{{ '<|im_start|>assistant\n' }}"),
)
_LLAMA_2 = Form(
    "llama-2",
    (),
    _turns(
        _said(
            "'[INST] <<SYS>>\n' + text + '\n<</SYS>>\n\n'",
            "('' if loop.previtem is defined and loop.previtem.role == 'system' else '[INST] ') + text + ' [/INST]'",
            "' ' + text + ' ' + eos_token + (bos_token if not loop.last else '')",
        ),
        "",
    ),
)
_TRANSCRIPT = Form(
    "transcript",
    (),
    _turns(_said("text + '\n\n'", "'User: ' + text + '\n\n'", "'Assistant: ' + text + '\n\n'"), "{{ 'Assistant:' }}"),
    stop=("\nUser:",),
)
_ROLE_LINE = "{{ '<|' + role + '|>\n' + text + "

FORMS = (
    Form(
        "phi-4",
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        _turns("{{ '<|im_start|>' + role + '<|im_sep|>' + text + '<|im_end|>' }}", "{{ '<|im_start|>assistant<|im_sep|>' }}"),
    ),
    CHATML,
    Form(
        "llama-3",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        _turns(
            "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + text + '<|eot_id|>' }}",
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        ),
    ),
    Form(
        "gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        _turns(
            _said(
                "",
                "'<start_of_turn>user\n' + text + '<end_of_turn>\n'",
                "'<start_of_turn>model\n' + text + '<end_of_turn>\n'",
            ),
            "{{ '<start_of_turn>model\n' }}",
        ),
    ),
    Form(
        "gemma-4",
        ("<|turn>", "<turn|>"),
        _turns(
            _said(
                "'<|turn>system\n' + text + '<turn|>\n'",
                "'<|turn>user\n' + text + '<turn|>\n'",
                "'<|turn>model\n' + text + '<turn|>\n'",
            ),
            "{{ '<|turn>model\n' }}",
        ),
    ),
    Form(
        "harmony",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
        _turns(
            _said(
                "'<|start|>system<|message|>' + text + '<|end|>'",
                "'<|start|>user<|message|>' + text + '<|end|>'",
                "'<|start|>assistant<|channel|>final<|message|>' + text + '<|end|>'",
            ),
            "{{ '<|start|>assistant' }}",
        ),
    ),
    Form(
        "granite",
        ("<|start_of_role|>", "<|end_of_role|>"),
        _turns(
            "{{ '<|start_of_role|>' + role + '<|end_of_role|>' + text + eos_token + '\n' }}",
            "{{ '<|start_of_role|>assistant<|end_of_role|>' }}",
        ),
    ),
    Form(
        "command-r",
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        _turns(
            _said(
                "'<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + text + '<|END_OF_TURN_TOKEN|>'",
                "'<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + text + '<|END_OF_TURN_TOKEN|>'",
                "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + text + '<|END_OF_TURN_TOKEN|>'",
            ),
            "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}",
        ),
    ),
    Form(
        "deepseek",
        ("<｜User｜>", "<｜Assistant｜>"),
        _turns(
            _said("text", "'<｜User｜>' + text", "'<｜Assistant｜>' + text + eos_token"),
            "{{ '<｜Assistant｜>' }}",
        ),
    ),
    Form(
        "exaone-4",
        ("[|user|]", "[|assistant|]", "[|endofturn|]"),
        _turns("{{ '[|' + role + '|]\n' + text + '[|endofturn|]\n' }}", "{{ '[|assistant|]\n' }}"),
        architecture="exaone4",
    ),
    Form(
        "exaone-3",
        ("[|user|]", "[|assistant|]", "[|endofturn|]"),
        _turns(
            _said(
                "'[|system|]' + text + '[|endofturn|]\n'",
                "'[|user|]' + text + '\n'",
                "'[|assistant|]' + text + '[|endofturn|]\n'",
            ),
            "{{ '[|assistant|]' }}",
        ),
    ),
    Form(
        "glm-4",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
        _turns(_ROLE_LINE + "'' }}", "{{ '<|assistant|>\n' }}", start="[gMASK]<sop>"),
    ),
    Form(
        "phi-3",
        ("<|user|>", "<|assistant|>", "<|end|>"),
        _turns(_ROLE_LINE + "'<|end|>\n' }}", "{{ '<|assistant|>\n' }}"),
    ),
    Form(
        "zephyr",
        ("<|user|>", "<|assistant|>"),
        _turns(_ROLE_LINE + "eos_token + '\n' }}", "{{ '<|assistant|>\n' }}"),
        architecture="stablelm",
    ),
    Form(
        "olmo",  # and Falcon 3
        ("<|user|>", "<|assistant|>"),
        _turns(_ROLE_LINE + "(eos_token if role == 'assistant' else '') + '\n' }}", "{{ '<|assistant|>\n' }}"),
    ),
    Form(
        "mistral-7",
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        _turns(
            _said("'[SYSTEM_PROMPT]' + text + '[/SYSTEM_PROMPT]'", "'[INST]' + text + '[/INST]'", "text + eos_token"),
            "",
        ),
    ),
    Form(
        "mistral-3",
        ("[INST]", "[/INST]"),
        _turns(_said("", "'[INST] ' + text + '[/INST]'", "' ' + text + eos_token"), ""),
    ),
)


def fallback(vocabulary: Container[str], metadata: Mapping[str, str]) -> Form:
    """The form for a vocabulary with these special tokens. `metadata`: of the file, by GGUF keys."""
    architecture = metadata.get("general.architecture")
    for form in FORMS:
        if form.architecture in (None, architecture) and all(token in vocabulary for token in form.tokens):
            return form
    if architecture == "llama" and metadata.get("tokenizer.ggml.model") == "llama":
        return _LLAMA_2
    return _TRANSCRIPT

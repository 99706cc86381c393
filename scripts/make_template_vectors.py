"""Writes tests/data/chat_templates/vectors.json: what Hugging Face's transformers makes of conversations with each template
in that folder. The tests hold our own rendering to it.

    pip install transformers jinja2 && python scripts/make_template_vectors.py

Needs no torch and no weights. The clock stands still, so that templates which print the date always print the same one.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import chat_template_utils

FOLDER = Path(__file__).parent.parent / "tests" / "data" / "chat_templates"
NOW = datetime(2024, 7, 26, 12, 30)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather at a place, in <°C> & "words".',
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City, e.g. Zürich"}},
            "required": ["city"],
        },
    },
}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "user": {"messages": [{"role": "user", "content": "Why is the sky blue?"}]},
    "system": {
        "messages": [{"role": "system", "content": "You are terse.  "}, {"role": "user", "content": '  Hi <there> & "you"!\n'}]
    },
    "turns": {
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three? 🌵 你好"},
        ]
    },
    "thinking": {
        "messages": [
            {"role": "system", "content": "Be brief. /no_think"},
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "<think>\nIt is 2.\n</think>\n\n2"},
            {"role": "user", "content": "And </think> is what?"},
        ]
    },
    "reasoning": {
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2", "reasoning_content": "It is 2."},
            {"role": "user", "content": "And 2+2?"},
        ]
    },
    "not_thinking": {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
        "variables": {"enable_thinking": False},
    },
    "finished": {
        "messages": [{"role": "user", "content": "Ping"}, {"role": "assistant", "content": "Pong"}],
        "add_generation_prompt": False,
    },
    "tools": {"messages": [{"role": "user", "content": "Weather in Zürich?"}], "tools": [WEATHER]},
    "tool_calls": {
        "messages": [
            {"role": "user", "content": "Weather in Zürich?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": {"city": "Zürich <ZH>"}},
                    }
                ],
            },
            {"role": "tool", "content": '{"celsius": 21}', "tool_call_id": "call_1"},
        ],
        "tools": [WEATHER],
    },
}


class StillClock(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return NOW


def main() -> None:
    module: Any = chat_template_utils
    module.datetime = StillClock
    vectors = []
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for name, case in CONVERSATIONS.items():
            vector: dict[str, Any] = {"template": path.name, "case": name}
            try:
                rendered, _ = module.render_jinja_template(
                    conversations=[case["messages"]],
                    tools=case.get("tools"),
                    chat_template=source,
                    add_generation_prompt=case.get("add_generation_prompt", True),
                    **case.get("variables", {}),
                    **TOKENS,
                )
                vector["text"] = rendered[0]
            except Exception as error:  # templates refuse with whatever jinja2 raises for them
                vector["error"] = str(error)
            vectors.append(vector)
    document = {
        "made_with": f"transformers {transformers.__version__}",
        "now": NOW.isoformat(),
        "tokens": TOKENS,
        "conversations": CONVERSATIONS,
        "vectors": vectors,
    }
    text = json.dumps(document, ensure_ascii=False, indent=1)
    (FOLDER / "vectors.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How well a model calls tools: questions of the Berkeley Function Calling Leaderboard, one function offered, one call wanted.

    python scripts/check_tools.py MODEL QUESTIONS.jsonl [--choice auto|required] [--limit N]

QUESTIONS has one JSON object per line: `question` (conversations; the first is used), `function` (definitions, with Python's
names of types) and `ground_truth` (per function, the accepted values of each argument; an empty string among them: the argument
may be left out). Greedy. Prints how many answers called a function, the right one, with arguments that satisfy its schema, and
with accepted values only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from cactus_py import Client

TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def as_schema(value: Any) -> Any:
    """A schema with JSON's names of types instead of Python's."""
    if isinstance(value, list):
        return [as_schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {key: as_schema(item) for key, item in value.items()}
    kind = schema.get("type")
    if isinstance(kind, str):
        if kind == "any":
            del schema["type"]
        else:
            schema["type"] = TYPES.get(kind, kind)
    return schema


def tool_of(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {**function, "parameters": as_schema(function["parameters"])}}


def plain(value: Any) -> Any:
    """What is compared: numbers by value, texts without case, white space and punctuation."""
    if isinstance(value, str):
        return "".join(char for char in value.lower() if char.isalnum())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def accepted(value: Any, choices: list[Any]) -> bool:
    if isinstance(value, dict):
        return any(isinstance(choice, dict) and fits(value, choice) for choice in choices)
    return any(plain(value) == plain(choice) for choice in choices if choice != "" or value == "")


def fits(arguments: Mapping[str, Any], truth: Mapping[str, list[Any]]) -> bool:
    if set(arguments) - set(truth):
        return False
    return all(accepted(arguments[key], choices) if key in arguments else "" in choices for key, choices in truth.items())


def questions(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines[:limit]:
        yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--choice", choices=("auto", "required"), default="auto")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-v", "--verbose", action="store_true", help="print every answer that is not right")
    options = parser.parse_args()
    counts = dict.fromkeys(("asked", "called", "function", "valid", "right"), 0)
    began = time.perf_counter()
    with Client(options.model, threads=options.threads) as client:
        for question in questions(options.questions, options.limit):
            tools = [tool_of(function) for function in question["function"]]
            reply = client.chat(
                question["question"][0],
                tools=tools,
                tool_choice=options.choice,
                temperature=0,
                max_tokens=options.max_tokens,
            )
            message = reply.choices[0].message
            counts["asked"] += 1
            right = False
            if message.tool_calls:
                counts["called"] += 1
                function = message.tool_calls[0].function
                truth = next((truth[function.name] for truth in question["ground_truth"] if function.name in truth), None)
                counts["function"] += truth is not None
                schema = next(tool["function"]["parameters"] for tool in tools if tool["function"]["name"] == function.name)
                try:
                    arguments = json.loads(function.arguments)
                except ValueError:
                    arguments = None
                counts["valid"] += Draft202012Validator(schema).is_valid(arguments)
                right = truth is not None and isinstance(arguments, dict) and fits(arguments, truth)
                counts["right"] += right
            if options.verbose and not right:
                called = [call.function.model_dump() for call in message.tool_calls or ()]
                print(question["id"], called or repr(message.content), "| wanted", question["ground_truth"], flush=True)
    seconds = time.perf_counter() - began
    print(", ".join(f"{name} {count}" for name, count in counts.items()) + f"; {seconds:.0f} s")


if __name__ == "__main__":
    main()

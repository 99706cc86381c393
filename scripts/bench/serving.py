"""The server as its clients see it: throughput of many streams, the wait for a first token beside a long prompt, and what a
second turn costs, also after a restart.

    python scripts/bench/serving.py MODEL [--rounds N] [--json FILE] [--markdown FILE]

MODEL is what `cactus-py serve --model` takes. Every round alternates what is compared; medians, with lowest and highest.
Streams are greedy, of LENGTH tokens each, without drafts, so that text which repeats itself does not count. Times are taken by
the client, over loopback, in the process that also reads the streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

LENGTH = 128  # tokens of a stream
STREAMS = 8
LONG_TOKENS = 4000
TURN_TOKENS = 2000
_TEXT = """river stone window garden letter morning paper bridge silver market winter candle harbour forest engine mirror
village mountain question answer summer teacher number music kitchen doctor island travel picture memory"""
WORDS = _TEXT.split()


def words(seed: int, n: int) -> str:
    """About n tokens of text that no other seed begins with."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(n))


@contextmanager
def server(model: str, *options: str) -> Any:
    """A running server; yields its URL."""
    command = [
        sys.executable,
        "-m",
        "cactus_py",
        "serve",
        "--model",
        model,
        "--port",
        "0",
        "--quiet",
        "--json",
        "--speculation",
        "0",
    ]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(60)


async def stream(
    client: httpx.AsyncClient, text: str | list[dict[str, str]], max_tokens: int, **options: Any
) -> dict[str, Any]:
    """One streamed answer: seconds to the first text and to the end, and its usage."""
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    body = {"messages": messages, "max_tokens": max_tokens, "stream": True, "temperature": 0, **options}
    body["stream_options"] = {"include_usage": True}
    began, first, said, usage = time.perf_counter(), None, [], {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    said.append(choice["delta"]["content"])
    return {"first_s": first, "all_s": time.perf_counter() - began, "usage": usage, "text": "".join(said)}


async def throughput(client: httpx.AsyncClient, n: int, seed: int) -> float:
    """Tokens per second of n streams that begin together."""
    began = time.perf_counter()
    bias = {"logit_bias": {"2": -100, "0": -100}}  # SmolLM2's ends; whoever ends early is counted with what it gave
    done = await asyncio.gather(*(stream(client, words(seed * 100 + i, 12), LENGTH, **bias) for i in range(n)))
    seconds = time.perf_counter() - began
    return float(sum(answer["usage"]["completion_tokens"] for answer in done)) / seconds


async def first_tokens(client: httpx.AsyncClient, n: int, seed: int) -> list[float]:
    """Milliseconds to the first token of short questions, one after the other."""
    times = []
    for i in range(n):
        answer = await stream(client, words(seed * 1000 + i, 10), 2)
        times.append(1e3 * answer["first_s"])
        await asyncio.sleep(random.Random(seed + i).uniform(0.0, 0.03))  # at no fixed place of what else is computed
    return times


async def beside_a_long_prompt(client: httpx.AsyncClient, seed: int) -> list[float]:
    """The same while prompts of LONG_TOKENS are being read."""
    times: list[float] = []
    for i in range(3):
        reading = asyncio.create_task(stream(client, words(seed * 10000 + i, LONG_TOKENS - 60), 1))
        await asyncio.sleep(0.05)
        while not reading.done():
            before = len(times)
            times += await first_tokens(client, 1, seed * 77777 + 1000 * i + before)
            if reading.done():
                times.pop()  # the last one was beside nothing for a part of its time
        await reading
    return times


async def turns(client: httpx.AsyncClient, seed: int) -> tuple[float, float, list[dict[str, str]]]:
    """Milliseconds to the first token of a chat's first and second turn, and the chat."""
    chat = [{"role": "user", "content": words(seed * 31, TURN_TOKENS)}]
    first = await stream(client, chat, 24)
    chat += [{"role": "assistant", "content": first["text"]}, {"role": "user", "content": "And then?"}]
    second = await stream(client, chat, 24)
    return 1e3 * first["first_s"], 1e3 * second["first_s"], chat


def percentile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


async def measure(model: str, rounds: int) -> dict[str, Any]:
    found: dict[str, list[Any]] = {name: [] for name in ("one", "many", "idle", "busy", "first", "second", "restarted")}
    limits = httpx.Limits(max_connections=64)
    for index in range(rounds):
        seed = 1 + index
        with tempfile.TemporaryDirectory() as folder:
            with server(model, "--prefix-cache", folder) as url:
                async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
                    await throughput(client, 2, 900 + seed)  # warms up
                    for turn in range(3):
                        found["one"].append(await throughput(client, 1, 10 * seed + turn))
                        found["many"].append(await throughput(client, STREAMS, 500 + 10 * seed + turn))
                    found["idle"] += await first_tokens(client, 40, seed)
                    found["busy"] += await beside_a_long_prompt(client, seed)
                    first, second, chat = await turns(client, seed)
                    found["first"].append(first)
                    found["second"].append(second)
            with server(model, "--prefix-cache", folder) as url:
                async with httpx.AsyncClient(base_url=url, timeout=300) as client:
                    await stream(client, "Hello", 1)
                    found["restarted"].append(1e3 * (await stream(client, chat, 24))["first_s"])
    return found


def table(found: dict[str, list[float]], machine: str, model: str) -> str:
    one, many = statistics.median(found["one"]), statistics.median(found["many"])
    idle, busy = percentile(found["idle"], 0.95), percentile(found["busy"], 0.95)
    first, second, restarted = (statistics.median(found[name]) for name in ("first", "second", "restarted"))

    def span(name: str) -> str:
        return f"{min(found[name]):.0f} … {max(found[name]):.0f}"

    rows = [
        ("one stream, tokens/s", f"{one:.0f}", span("one"), ""),
        (f"{STREAMS} streams, tokens/s", f"{many:.0f}", span("many"), f"{many / one:.2f} x"),
        ("first token of a short question, p95 ms", f"{idle:.1f}", span("idle"), ""),
        (f"the same beside a prompt of {LONG_TOKENS} tokens, p95 ms", f"{busy:.1f}", span("busy"), f"{busy / idle:.2f} x"),
        (f"first turn of a chat of {TURN_TOKENS} words, first token, ms", f"{first:.0f}", span("first"), ""),
        ("second turn", f"{second:.1f}", span("second"), f"{first / second:.0f} x sooner"),
        ("second turn, after a restart", f"{restarted:.1f}", span("restarted"), f"{first / restarted:.0f} x sooner"),
    ]
    lines = [f"# The server: {model}", "", f"{machine}. Made by `scripts/bench/serving.py`.", ""]
    lines += ["| | median | lowest … highest | ratio |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    found = asyncio.run(measure(options.model, options.rounds))
    from cactus_py.engine import cpu_features

    machine = f"{os.cpu_count()} cores, {platform.machine()}, {' '.join(cpu_features())}"
    text = table(found, machine, options.model)
    print(text)
    if options.json is not None:
        rounded = {name: [round(value, 2) for value in values] for name, values in found.items()}
        options.json.write_text(json.dumps({"model": options.model, "machine": machine, **rounded}, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()

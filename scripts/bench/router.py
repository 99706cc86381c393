"""What the router costs a request: the same answers from the backend alone and through the router, in turns.

    python scripts/bench/router.py [--model smollm2-135m-instruct] [--rounds 30] [--tokens 64]

Prints medians: the time of a whole answer without the router, with it, and with hidden states; and the time of the parts.
Nothing leaves the device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import Any

from cactus_py.backends.base import BackendOptions, Reply
from cactus_py.backends.native import NativeBackend
from cactus_py.config import load_settings
from cactus_py.hub.store import Store
from cactus_py.routing import Hybrid
from cactus_py.routing.judge import Answer, RequestJudge, signals_of
from cactus_py.types import ChatCompletionRequest, parse_request

PROMPT = (
    "You are asked to plan a day in a small town for a family of four. They like museums, food and long walks, they arrive "
    "at 9:30 and leave at 18:00, and they have 120 euros. Write down what they do, hour by hour, and what it costs."
)


def timed(make: Callable[[], Any]) -> float:
    start = time.perf_counter()
    make()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    settings = load_settings({"model": options.model})
    fields = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": options.tokens}
    request = parse_request(ChatCompletionRequest, fields)
    with closing(NativeBackend(BackendOptions(model=options.model))) as backend:
        home = Store(settings.home).home
        hybrid = Hybrid(settings, home, None)

        def whole(reply: Reply) -> Reply:
            with reply:
                reply.rest()
                _ = reply.confidence
            return reply

        ways: dict[str, Callable[[], Any]] = {
            "backend alone": lambda: whole(backend.chat(request)),
            "with the router": lambda: whole(hybrid.generate(request, options.model, backend.chat)),
            "backend, traced states": lambda: whole(backend.chat(request, "states")),
        }
        for make in ways.values():
            make()
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, make in ways.items():
                took[name].append(timed(make))
        alone = median(took["backend alone"])
        print(f"{options.model}, answers of {options.tokens} tokens, {options.rounds} rounds, medians")
        for name, times in took.items():
            print(f"  {name:24} {median(times):8.2f} ms   {median(times) - alone:+7.2f} ms   x {median(times) / alone:.4f}")

        reply = backend.chat(request, "states")
        answer = Answer(trace=reply.traces[0])
        with reply:
            for delta in reply.rest():
                answer.add(delta)
        calibration = hybrid.calibration(options.model)
        assert calibration is not None and answer.trace is not None
        judge = RequestJudge(request, calibration, hybrid.targets, options.model)
        judge.answers = [answer]
        trace, prompt, states = answer.trace, signals_of(request), answer.trace.read_states
        assert states is not None
        parts: dict[str, Callable[[], Any]] = {
            "signals of the prompt": lambda: signals_of(request),
            "before": lambda: calibration.before(prompt),
            "during": lambda: calibration.during(prompt, trace, answer.text),
            "after": lambda: calibration.after(prompt, trace, answer.text),
            "reading states": states,
            "after, with states": lambda: calibration.after(prompt, trace, answer.text, states=states()),
        }
        print("parts, medians of 300")
        for name, make in parts.items():
            print(f"  {name:24} {median([timed(make) for _ in range(300)]):8.3f} ms")


if __name__ == "__main__":
    main()

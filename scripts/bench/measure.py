"""What every side of a benchmark shares: a job, its result, what is measured in which order. Standard library only.

A peer is a script that reads a `Job` as JSON from standard input, does what it asks and writes a `Result` as JSON to standard
output. It may be any program; one in Python brings a class with the methods of `Engine` and ends with `child_main`, as
child_llama.py does. What a peer cannot measure it leaves out of `Result.values`.

Names of values: pp512 (reading a prompt of 512 tokens), tg128@2048 (128 tokens behind a prompt of 2048; @0: behind a short
one), tg128x8 (8 sequences together), ttft128 (first token behind 128), load, private, rss. `UNITS` has their units.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

UNITS = {"pp": "tok/s", "tg": "tok/s", "ttft": "ms", "load": "ms", "private": "MB", "rss": "MB"}
SHORT = 32  # tokens of a prompt that is only there because there must be one
SLACK = 128  # tokens that a sequence of a batch may be ahead of one that began later
WARM_UP = 512  # most tokens of the prompt that is not counted


@dataclass
class Job:
    """What a child process is to measure. Prompts are windows of `ids`, each used once, so that no cached prefix can help."""

    model: str
    threads: int
    prompt_sizes: list[int]  # tokens
    depths: list[int]  # prompt tokens in front of the generated ones; 0: SHORT
    batches: list[int]  # numbers of sequences that generate together
    n_generate: int  # tokens at each of `depths`, and of each sequence in `batches`
    first_token: int  # prompt tokens in front of one first token; 0: not measured
    ids: list[int]
    options: dict[str, Any] = field(default_factory=dict)  # the engine's own

    def window(self, index: int, n: int) -> list[int]:
        """`n` tokens that differ from every other window's from the first token on (up to chance)."""
        start = (index * 97) % max(1, len(self.ids) - n)
        return self.ids[start : start + n]

    @property
    def n_ctx(self) -> int:
        """Context for one sequence at a time, in steps of 64."""
        longest = max([SHORT, self.first_token, *self.prompt_sizes, *(max(depth, SHORT) for depth in self.depths)])
        return (longest + self.n_generate + 63 + 16) // 64 * 64

    @property
    def n_ctx_each(self) -> int:
        """Context for each of many sequences."""
        return (SHORT + self.n_generate + SLACK + 63 + 16) // 64 * 64


@dataclass
class Result:
    """What one child process measured (in `UNITS`), and what it is: `about["engine"]` names program and version."""

    values: dict[str, float]
    about: dict[str, Any]


class Engine(Protocol):
    """One program with one model loaded. Every call begins with an empty cache; times are in milliseconds."""

    def read(self, ids: list[int]) -> float:
        """From handing over a prompt to its first token chosen."""

    def generate(self, ids: list[int], n: int) -> float:
        """`n` greedy tokens one at a time, from when the first token behind the prompt is known."""

    def together(self, prompts: list[list[int]], n: int) -> float:
        """Tokens per second of all sequences, over `n` steps from when each of them has its first token."""

    def first_token(self, ids: list[int]) -> float:
        """Wall clock from asking a user's interface of the program to the first token."""

    def about(self) -> dict[str, Any]:
        """Name, version and settings."""

    def close(self) -> None:
        """Frees everything."""


def measure(job: Job, start: Callable[[Job, int, int], Engine]) -> Result:
    """Loads by `start(job, context of each sequence, number of sequences)`, warms up, and measures what the job asks for: one
    sequence at a time, then memory, then the rest, whose memory is not counted."""
    index = itertools.count()
    n = job.n_generate
    began = time.perf_counter()
    engine = start(job, job.n_ctx, 1)
    values = {"load": (time.perf_counter() - began) * 1e3}
    try:
        engine.read(job.window(next(index), min(WARM_UP, max(job.prompt_sizes, default=SHORT))))
        engine.generate(job.window(next(index), SHORT), 8)
        for size in job.prompt_sizes:
            values[f"pp{size}"] = size / engine.read(job.window(next(index), size)) * 1e3
        for depth in job.depths:
            values[f"tg{n}@{depth}"] = n / engine.generate(job.window(next(index), depth or SHORT), n) * 1e3
        values.update(memory_mb())
        if job.first_token:
            engine.first_token(job.window(next(index), job.first_token))
            values[f"ttft{job.first_token}"] = engine.first_token(job.window(next(index), job.first_token))
        about = engine.about()
    finally:
        engine.close()
    if job.batches:
        engine = start(job, job.n_ctx_each, max(job.batches))
        try:
            engine.together([job.window(next(index), SHORT) for _ in range(max(job.batches))], 8)
            for count in job.batches:
                values[f"tg{n}x{count}"] = engine.together([job.window(next(index), SHORT) for _ in range(count)], n)
        finally:
            engine.close()
    return Result(values, about)


def parse_name(name: str) -> tuple[str, int, int, int]:
    """(kind, tokens, depth, sequences) of a value's name; raises ValueError for anything else."""
    found = re.fullmatch(r"([a-z]+)(\d*)(?:@(\d+))?(?:x(\d+))?", name)
    if found is None or found[1] not in UNITS:
        raise ValueError(f"{name!r} is no name of a measurement; they begin with {', '.join(UNITS)}")
    return found[1], int(found[2] or 0), int(found[3] or 0), int(found[4] or 1)


def memory_mb() -> dict[str, float]:
    """Resident memory of this process and, of it, what the process wrote itself, in 10^6 bytes, by Linux's own account
    ({} elsewhere)."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    return {"private": sizes["Anonymous"], "rss": sizes["Rss"]}


def child_main(start: Callable[[Job, int, int], Engine]) -> None:
    """Reads a job from standard input, writes its result to standard output."""
    json.dump(asdict(measure(Job(**json.load(sys.stdin)), start)), sys.stdout)

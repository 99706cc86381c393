"""What both sides of a benchmark share: a job, its result, and reading a process's memory. Standard library only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """What a child process is to do. Prompts are windows of `ids`, each used once, so that no cached prefix can help."""

    model: str
    threads: int
    n_ctx: int
    prompt_sizes: list[int]
    n_generate: int
    decode_depth: int  # prompt tokens in front of the generated ones
    ids: list[int]
    options: dict[str, Any] = field(default_factory=dict)

    def window(self, index: int, n: int) -> list[int]:
        """`n` tokens that differ from every other window's from the first token on (up to chance)."""
        start = (index * 97) % max(1, len(self.ids) - n)
        return self.ids[start : start + n]


@dataclass
class Result:
    """What one child process measured, in milliseconds and bytes."""

    load_ms: float
    prompt_ms: dict[str, float]
    decode_ms: float
    n_decoded: int
    memory: dict[str, int]
    about: dict[str, Any]


def memory_bytes() -> dict[str, int]:
    """Resident and anonymous memory of this process, by Linux's own account ({} elsewhere)."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {"rss": sizes["Rss"], "anonymous": sizes["Anonymous"]}


def child_main(run: Callable[[Job], Result]) -> None:
    """Reads a job from standard input, writes its result to standard output."""
    json.dump(asdict(run(Job(**json.load(sys.stdin)))), sys.stdout)

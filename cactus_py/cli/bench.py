"""`cactus-py bench`: how fast a model reads and writes on this machine, and what memory that takes.

    pp   reading `--pp` tokens in one request that generates one: prompt tokens over the time to the first token
    tg   generating `--tg` tokens from a one-token prompt: tokens behind the first one over the time since that one
    ttft wall-clock time from the request of pp to its first token, in the caller's eyes

Each number is the median of `--repeat` runs behind one that is not counted. The prompt's tokens are drawn from the ordinary
tokens of the vocabulary with a fixed seed, another prompt for each run, so that no cached prefix helps.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from cactus_py.engine import Model


def command(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A name or a .gguf file; the default model if not given.")
    ] = None,
    pp: Annotated[int, typer.Option("--pp", min=1, help="Prompt tokens to read.")] = 512,
    tg: Annotated[int, typer.Option("--tg", min=1, help="Tokens to generate.")] = 128,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, help="Threads; the engine's choice if not given.")
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", "-r", min=1, help="Runs; the median counts.")] = 3,
    kernels: Annotated[str | None, typer.Option("--kernels", help="A kernel set by name; the best if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure the speed and the memory of a model on this machine."""
    from cactus_py import hub
    from cactus_py.cli._common import print_json, print_pairs, pull_progress
    from cactus_py.config import load_settings

    settings = load_settings({"model": model, "threads": threads, "kernels": kernels})
    model, threads, kernels = settings.model, settings.threads, settings.kernels
    with pull_progress(model) as progress:
        path = hub.resolve(model, progress=progress)
    result = measure(model, str(path), pp=pp, tg=tg, threads=threads, repeat=repeat, kernels=kernels, kv_type=settings.kv_type)
    if as_json:
        print_json(result)
        return
    print_pairs([(key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for key, value in result.items()])


def measure(
    name: str,
    path: str,
    *,
    pp: int,
    tg: int,
    threads: int | None,
    repeat: int,
    kernels: str | None,
    kv_type: Literal["auto", "f16", "f32", "i8"] = "auto",
) -> dict[str, Any]:
    """Load the model, run the benchmark, and return the numbers. Times in ms, memory in units of 10^6 bytes."""
    import statistics
    import time

    from cactus_py.engine import Model

    _, private_before = _memory_bytes()
    began = time.perf_counter()
    model = Model.load(path, threads=threads, kernels=kernels, kv_type=kv_type, share_prefixes=False)
    load_ms = (time.perf_counter() - began) * 1e3
    try:
        vocabulary = _ordinary_tokens(model)
        draw = random.Random(20240229)
        pp_ms, ttft_ms, tg_ms = [], [], []
        for run in range(repeat + 1):
            _say(f"run {run} of {repeat}" if run else "warming up")
            began = time.perf_counter()
            with model.generate(draw.choices(vocabulary, k=pp), max_tokens=1, sampling=_GREEDY) as reading:
                next(iter(reading))
                first_ms = (time.perf_counter() - began) * 1e3
                for _ in reading:
                    pass
            with model.generate(draw.choices(vocabulary, k=1), max_tokens=tg + 1, sampling=_GREEDY) as writing:
                for _ in writing:
                    pass
            if run:
                ttft_ms.append(first_ms)
                pp_ms.append(reading.stats.prompt_ms)
                tg_ms.append(writing.stats.decode_ms)
        rss, private = _memory_bytes()
        info = model.info
    finally:
        _say("")
        model.close()
    return {
        "model": name,
        "path": path,
        "threads": info.threads,
        "kernels": info.kernels,
        "kv_type": info.kv_type,
        "pp": pp,
        "tg": tg,
        "repeat": repeat,
        "pp_tok_s": round(pp / statistics.median(pp_ms) * 1e3, 2),
        "tg_tok_s": round(tg / statistics.median(tg_ms) * 1e3, 2),
        "ttft_ms": round(statistics.median(ttft_ms), 2),
        "load_ms": round(load_ms, 2),
        "pp_tok_s_runs": _rates(pp, pp_ms),
        "tg_tok_s_runs": _rates(tg, tg_ms),
        "rss_mb": _mb(rss),
        "private_mb": _mb(private),
        "private_before_mb": _mb(private_before),
        "kv_mb": _mb(info.memory.kv_touched_bytes),
        "scratch_mb": _mb(info.memory.scratch_bytes),
    }


_GREEDY = {"temperature": 0, "ignore_eos": True}


def _ordinary_tokens(model: Model) -> list[int]:
    """Ids of the vocabulary that are plain text: no control tokens, bytes or unused places."""
    every = range(model.tokenizer.info.n_vocab)
    return [token for token in every if not model.tokenizer.attributes(token)] or list(every)


def _rates(tokens: int, runs_ms: Sequence[float]) -> list[float]:
    return [round(tokens / run_ms * 1e3, 2) for run_ms in runs_ms]


def _mb(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 1e6, 1)


def _memory_bytes() -> tuple[int | None, int | None]:
    """Resident memory of this process, and that part of it which no file backs. Where the system does not tell: its highest
    resident memory so far, and None."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return tuple(int(fields[key].split()[0]) * 1024 for key in ("Rss", "Anonymous"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak if sys.platform == "darwin" else peak * 1024), None


def _say(text: str) -> None:
    """What is going on, on the last line of a terminal; an empty text clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

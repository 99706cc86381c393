"""One measurement of this engine, in a process of its own (see bench.py)."""

from __future__ import annotations

import time
from typing import Any

from measure import Job, Result, child_main, memory_bytes

from cactus_py.engine import Model, cpu_features, kernels_available, library_version


def request(model: Model, ids: list[int], n: int) -> tuple[Any, float, float]:
    """Runs a greedy request of `n` tokens: its statistics, and by this process's clock the milliseconds to the first token
    and from there to the last."""
    start = time.perf_counter()
    generation = model.generate(ids, max_tokens=n, sampling={"temperature": 0, "ignore_eos": True})
    first = 0.0
    for token in generation:
        if token.id >= 0 and not first:
            first = time.perf_counter()
    end = time.perf_counter()
    stats = generation.stats
    if stats.cached_tokens != 0:
        raise SystemExit(f"{stats.cached_tokens} tokens of the prompt came from a cache; that is not what is measured")
    return stats, (first - start) * 1e3, (end - first) * 1e3


def run(job: Job) -> Result:
    """Load, warm up, read prompts, generate. Times are the request's own; the clock's are kept beside them."""
    start = time.perf_counter()
    model = Model.load(job.model, threads=job.threads, context=job.n_ctx, **job.options)
    load_ms = (time.perf_counter() - start) * 1e3
    try:
        request(model, job.window(0, min(512, max(job.prompt_sizes))), 9)
        prompt_ms: dict[str, float] = {}
        wall_ms: dict[str, float] = {}
        for i, n in enumerate(job.prompt_sizes, 1):
            stats, wall, _ = request(model, job.window(i, n), 1)
            prompt_ms[str(n)] = stats.prompt_ms
            wall_ms[str(n)] = wall
        stats, _, wall = request(model, job.window(len(job.prompt_sizes) + 1, job.decode_depth), job.n_generate + 1)
        about = {
            "engine": f"cactus_py {library_version()}", "kernels": model.info.kernels, "kernels_available": kernels_available(),
            "cpu_features": cpu_features(), "options": job.options, "wall_prompt_ms": wall_ms, "wall_decode_ms": wall,
        }  # fmt: skip
        return Result(load_ms, prompt_ms, stats.decode_ms, job.n_generate, memory_bytes(), about)
    finally:
        model.close()


if __name__ == "__main__":
    child_main(run)

"""One measurement of this engine, in a process of its own (see bench.py)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from measure import SLACK, Job, child_main

from cactus_py.engine import GenerationStats, Model, cpu_features, kernels_available, library_version

if TYPE_CHECKING:
    from cactus_py import Client

GREEDY = {"temperature": 0, "ignore_eos": True}


class Ours:
    """`Model` for what it measures itself; `Client`, which people use, for the first token."""

    def __init__(self, job: Job, n_ctx: int, n_sequences: int) -> None:
        self._job = job
        options = {"threads": job.threads, "context": n_ctx, "share_prefixes": False, **job.options}
        self._model = Model.load(job.model, **options)
        if n_sequences > 1:  # whose keys and values must fit together; how much that is, only a loaded model says
            memory = self._model.memory()
            self._model.close()
            n_pages = n_sequences * -(-n_ctx // memory.kv_page_tokens)
            self._model = Model.load(job.model, kv_memory=n_pages * memory.kv_page_bytes, **options)
        self._client: Client | None = None
        self._wall_ms: list[tuple[float, float]] = []

    def _request(self, ids: list[int], n: int) -> GenerationStats:
        """Runs a greedy request of `n` tokens. This process's clock is kept beside the request's: milliseconds to the first
        token, and from there to the last."""
        start = time.perf_counter()
        generation = self._model.generate(ids, max_tokens=n, sampling=GREEDY)
        next(generation)
        first = time.perf_counter()
        for _ in generation:
            pass
        self._wall_ms.append(((first - start) * 1e3, (time.perf_counter() - first) * 1e3))
        refuse_cached(generation.stats)
        return generation.stats

    def read(self, ids: list[int]) -> float:
        return self._request(ids, 1).prompt_ms

    def generate(self, ids: list[int], n: int) -> float:
        return self._request(ids, n + 1).decode_ms

    def together(self, prompts: list[list[int]], n: int) -> float:
        """Counts what is generated, not what is fetched: a sequence may be ahead of the others by a step or more. All run on
        until they are cancelled, so that the batch is full as long as the clock runs."""
        running = [self._model.generate(ids, max_tokens=n + SLACK, sampling=GREEDY) for ids in prompts]
        try:
            for generation in running:
                next(generation)
            start, before = time.perf_counter(), sum(generation.stats.generated_tokens for generation in running)
            for _ in range(n):
                events = [next(generation) for generation in running]
            end, after = time.perf_counter(), sum(generation.stats.generated_tokens for generation in running)
            if any(event.finish_reason for event in events) or any(g.stats.generated_tokens >= n + SLACK for g in running):
                raise SystemExit(f"a sequence of {len(prompts)} ended before the others had {n} tokens")
            for generation in running:
                refuse_cached(generation.stats)
        finally:
            for generation in running:
                generation.close()
        return (after - before) / (end - start)

    def first_token(self, ids: list[int]) -> float:
        if self._client is None:
            from cactus_py import Client  # here, because llama.cpp's side has no such library in its memory, either

            self._client = Client(self._job.model, threads=self._job.threads, context=self._job.n_ctx, **self._job.options)
            self._client.completions.create(prompt=ids[::-1], max_tokens=8, temperature=0)  # loads and warms up
        start = time.perf_counter()
        with self._client.completions.create(prompt=ids, max_tokens=8, temperature=0, stream=True) as stream:
            next(iter(stream))
            return (time.perf_counter() - start) * 1e3

    def about(self) -> dict[str, Any]:
        info = self._model.info
        return {
            "engine": f"cactus_py {library_version()}", "kernels": info.kernels, "kernels_available": kernels_available(),
            "cpu_features": cpu_features(), "options": self._job.options, "mostly": info.quantisation,
            "wall_ms": self._wall_ms,
        }  # fmt: skip

    def close(self) -> None:
        self._model.close()
        if self._client is not None:
            self._client.close()


def refuse_cached(stats: GenerationStats) -> None:
    """Ends the process where a prompt was not read whole."""
    if stats.cached_tokens != 0:
        raise SystemExit(f"{stats.cached_tokens} tokens of the prompt came from a cache; that is not what is measured")


if __name__ == "__main__":
    child_main(Ours)

"""One measurement of llama.cpp, in a process of its own (see bench.py). Needs llama-cpp-python and numpy only."""

from __future__ import annotations

import time

from llama_peer import Peer, system_info, version
from measure import Job, Result, child_main, memory_bytes


def read_prompt(peer: Peer, ids: list[int]) -> float:
    """Milliseconds from the first batch to the first token, from an empty cache."""
    peer.reset()
    start = time.perf_counter()
    for at in range(0, len(ids), peer.n_batch):
        peer.decode(ids[at : at + peer.n_batch])
    peer.scores().argmax()
    return (time.perf_counter() - start) * 1e3


def generate(peer: Peer, n: int) -> float:
    """Milliseconds for `n` greedy tokens behind what was read last."""
    token = int(peer.scores().argmax())
    start = time.perf_counter()
    for _ in range(n):
        peer.decode([token])
        token = int(peer.scores().argmax())
    return (time.perf_counter() - start) * 1e3


def run(job: Job) -> Result:
    """Load, warm up, read prompts, generate."""
    start = time.perf_counter()
    peer = Peer(job.model, threads=job.threads, n_ctx=job.n_ctx, n_batch=512, **job.options)
    load_ms = (time.perf_counter() - start) * 1e3
    with peer:
        read_prompt(peer, job.window(0, min(512, max(job.prompt_sizes))))
        generate(peer, 8)
        prompt_ms = {str(n): read_prompt(peer, job.window(i, n)) for i, n in enumerate(job.prompt_sizes, 1)}
        read_prompt(peer, job.window(len(job.prompt_sizes) + 1, job.decode_depth))
        decode_ms = generate(peer, job.n_generate)
        about = {"engine": f"llama-cpp-python {version()}", "system_info": system_info(), "options": job.options}
        return Result(load_ms, prompt_ms, decode_ms, job.n_generate, memory_bytes(), about)


if __name__ == "__main__":
    child_main(run)

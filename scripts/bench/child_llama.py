"""One measurement of llama.cpp, in a process of its own (see bench.py). Needs llama-cpp-python and numpy only."""

from __future__ import annotations

import time
from typing import Any

from llama_peer import Peer, system_info, version
from measure import Job, child_main


class Llama:
    """Greedy generation over the low-level calls."""

    def __init__(self, job: Job, n_ctx: int, n_sequences: int) -> None:
        self._options = job.options
        self._peer = Peer(job.model, threads=job.threads, n_ctx=n_ctx * n_sequences, n_sequences=n_sequences, **job.options)

    def read(self, ids: list[int]) -> float:
        start = time.perf_counter()
        self._peer.prefill(ids)
        self._peer.scores().argmax()
        return (time.perf_counter() - start) * 1e3

    def generate(self, ids: list[int], n: int) -> float:
        peer = self._peer
        peer.prefill(ids)
        token = int(peer.scores().argmax())
        start = time.perf_counter()
        for _ in range(n):
            peer.decode([token])
            token = int(peer.scores().argmax())
        return (time.perf_counter() - start) * 1e3

    def together(self, prompts: list[list[int]], n: int) -> float:
        """One llama_decode per step, with a row for each sequence."""
        peer = self._peer
        peer.reset()
        tokens = []
        for sequence, ids in enumerate(prompts):
            peer.decode_rows([(token, at, sequence, at == len(ids) - 1) for at, token in enumerate(ids)])
            tokens.append(int(peer.scores().argmax()))
        start = time.perf_counter()
        for step in range(n):
            peer.decode_rows([(tokens[s], len(ids) + step, s, True) for s, ids in enumerate(prompts)])
            tokens = [int(peer.scores(row).argmax()) for row in range(len(prompts))]
        return len(prompts) * n / (time.perf_counter() - start)

    def first_token(self, ids: list[int]) -> float:
        return self.read(ids)

    def about(self) -> dict[str, Any]:
        return {"engine": f"llama-cpp-python {version()}", "system_info": system_info(), "options": self._options}

    def close(self) -> None:
        self._peer.close()


if __name__ == "__main__":
    child_main(Llama)

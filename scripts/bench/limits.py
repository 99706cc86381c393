"""What the machine can do at most (limits.c, compiled here and now), and what a token of a model needs of it at least."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from measure import parse_name

SOURCE = Path(__file__).resolve().parent / "limits.c"
TARGETS = ("-march=native", "-mcpu=native")  # compilers for ARM know the one or the other

Limits = dict[str, dict[str, Any]]
"""read, vector and (where there is one) matrix -> {"rate": bytes or multiply-adds per second, "by": instruction}"""


def machine_limits(model: Path, threads: int) -> Limits:
    """Measures them in about two seconds. Raises RuntimeError where nothing compiles; what cannot run here is left out."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "limits")
        for target in TARGETS:
            command = ["cc", "-std=gnu11", "-O3", target, "-pthread", str(SOURCE), "-o", program]
            try:
                built = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                raise RuntimeError(f"there is no C compiler ({error})") from error
            if built.returncode == 0:
                break
        else:
            raise RuntimeError(f"{SOURCE.name} does not compile: {built.stderr.strip()}")
        found: Limits = {}
        for name, arguments in (("read", [str(model)]), ("vector", []), ("matrix", [])):
            done = subprocess.run([program, name, *arguments, str(threads)], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found[name] = json.loads(done.stdout)
    return found


def best_limits(measured: Iterable[Limits]) -> Limits:
    """The highest rate of each: other work on a machine only lowers them."""
    best: Limits = {}
    for limits in measured:
        for name, limit in limits.items():
            if name not in best or limit["rate"] > best[name]["rate"]:
                best[name] = limit
    return best


class Tensor(NamedTuple):
    """A row of a GGUF file's table."""

    name: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True)
class Work:
    """Weights of a model, in bytes as they lie in the file and in multiply-adds per token; those of the head, which gives the
    scores, apart: a prompt needs them once. Attention over keys and values is not in it."""

    layer_bytes: int
    layer_macs: int
    head_bytes: int
    head_macs: int

    def shares(self, name: str, value: float, limits: Limits) -> dict[str, float]:
        """Shares of the machine's limits that a measured speed comes to: {} for what is no speed.

        Prompts: multiply-adds per second against `vector` and `matrix`. Decoding one sequence: bytes of weights per second
        against `read`. Several together: both, the weights once per step."""
        kind, n, _, sequences = parse_name(name)
        if kind not in ("pp", "tg"):
            return {}
        macs = self.layer_macs + (self.head_macs / n if kind == "pp" else self.head_macs)
        found = {}
        if kind == "tg" and "read" in limits:
            found["read"] = (self.layer_bytes + self.head_bytes) * value / sequences / limits["read"]["rate"]
        if kind == "pp" or sequences > 1:
            found.update({peak: macs * value / limits[peak]["rate"] for peak in ("vector", "matrix") if peak in limits})
        return found


def work_of(tensors: Iterable[Tensor]) -> Work:
    """Counts the matrices. Raises ValueError for models of which a token uses a part only (experts)."""
    matrices = {t.name: t for t in tensors if len(t.shape) > 1 and t.name.endswith(".weight")}
    if odd := [t.name for t in matrices.values() if len(t.shape) != 2]:
        raise ValueError(f"{odd[0]} is no matrix, so what a token needs is not known")
    head = matrices.get("output.weight", matrices.get("token_embd.weight"))
    if head is None:
        raise ValueError("the file has neither output.weight nor token_embd.weight")
    layers = [t for t in matrices.values() if t.name.startswith("blk.")]
    return Work(
        sum(t.n_bytes for t in layers), sum(t.shape[0] * t.shape[1] for t in layers),
        head.n_bytes, head.shape[0] * head.shape[1],
    )  # fmt: skip


def model_work(model: Path) -> Work:
    """Reads a GGUF file's table of tensors, of a split file every part's. Raises ImportError without the gguf package."""
    from gguf import GGUFReader

    parts = [model]
    if split := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", model.name):
        parts = [model.with_name(f"{split[1]}-{i:05}-of-{split[2]}.gguf") for i in range(1, int(split[2]) + 1)]
    rows = (row for part in parts for row in GGUFReader(part).tensors)
    return work_of(Tensor(row.name, tuple(int(n) for n in row.shape), int(row.n_bytes)) for row in rows)

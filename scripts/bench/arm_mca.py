"""What the ARM kernels cost, without an ARM machine: ours and llama.cpp's, by one method.

A kernel is compiled, called once under qemu-aarch64 and followed instruction by instruction, so that nested loops, edges and
calls count as often as they really run. The instructions that ran are counted, and given in that order to llvm-mca, which
schedules them on its models of CPUs: every load hits the first cache, every branch is predicted.

llama.cpp's sources are read from the sdist of llama-cpp-python (archive or unpacked directory), which pip fetches if none is
given.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_suffix(".c")
ROWS, COLS, TOKENS = 32, 1024, 16
CPUS = {"cortex-x4": "2 vector pipes", "neoverse-v2": "4 vector pipes", "apple-m4": "3 vector pipes"}
MARCH = {"neon": "armv8-a", "dotprod": "armv8.2-a+dotprod", "i8mm": "armv8.2-a+dotprod+i8mm"}


@dataclass(frozen=True)
class Format:
    """A weight format: its blocks, and the kernels that llama.cpp has for it."""

    block_elems: int
    block_bytes: int
    sub_elems: int
    has_min: bool
    vec_dot: str
    two_by_two: bool  # vec_dot takes 2 rows x 2 tokens where there is smmla
    repack: dict[str, str]  # instruction set -> gemv and gemm over interleaved weights


FORMATS = {
    "Q4_0": Format(32, 18, 32, False, "q4_0_q8_0", True, {"dotprod": "q4_0_4x4_q8_0", "i8mm": "q4_0_4x8_q8_0"}),
    "Q8_0": Format(32, 34, 32, False, "q8_0_q8_0", True, {"dotprod": "q8_0_4x4_q8_0", "i8mm": "q8_0_4x8_q8_0"}),
    "Q4_K": Format(256, 144, 32, True, "q4_K_q8_K", True, {"dotprod": "q4_K_8x4_q8_K", "i8mm": "q4_K_8x8_q8_K"}),
    "Q4_1": Format(32, 20, 32, True, "q4_1_q8_1", True, {}),
    "Q5_0": Format(32, 22, 32, False, "q5_0_q8_0", False, {}),
    "Q6_K": Format(256, 210, 16, False, "q6_K_q8_K", True, {"dotprod": "q6_K_8x4_q8_K", "i8mm": "q6_K_8x8_q8_K"}),
}


@dataclass(frozen=True)
class Run:
    """One call of one kernel."""

    task: str  # decode (one token), gemm, or unpack (ours: weights to a panel)
    format: str
    isa: str
    who: str  # ours, vec_dot or repack

    @property
    def tokens(self) -> int:
        return TOKENS if self.task == "gemm" else 1

    @property
    def weight_bytes(self) -> int:
        f = FORMATS[self.format]
        return ROWS * COLS // f.block_elems * f.block_bytes

    @property
    def macs(self) -> int:
        return ROWS * COLS * self.tokens

    def defines(self) -> list[str]:
        f = FORMATS[self.format]
        names: dict[str, object] = {"ROWS": ROWS, "COLS": COLS, "TOKENS": self.tokens, "BLOCK_ELEMS": f.block_elems,
                                    "BLOCK_BYTES": f.block_bytes}  # fmt: skip
        if self.who == "ours":
            call = "RUN_MATVEC" if self.task == "decode" else f"RUN_{self.task.upper()}"
            names |= {"INIT": f"ct_kernels_init_{self.isa}", "TYPE": f"CT_{self.format}", "SUB_ELEMS": f.sub_elems,
                      "HAS_MIN": int(f.has_min), call: 1}  # fmt: skip
        elif self.who == "vec_dot":
            per_call = 2 if self.task == "gemm" and self.isa == "i8mm" and f.two_by_two else 1
            names |= {"PEER": f"ggml_vec_dot_{f.vec_dot}", "RUN_VEC_DOT": 1, "PER_CALL": per_call}
        else:
            names |= {"PEER": f"ggml_{'gemv' if self.task == 'decode' else 'gemm'}_{f.repack[self.isa]}", "RUN_REPACK": 1}
        return [f"-D{name}={value}" for name, value in names.items()]


@dataclass(frozen=True)
class Cost:
    instructions: int
    cycles: dict[str, int]  # by CPU


def runs(formats: Iterable[str], isas: Iterable[str], peer: bool) -> list[Run]:
    out = []
    for name in formats:
        for isa in isas:
            for task in ("decode", "gemm", "unpack"):
                out.append(Run(task, name, isa, "ours"))
                if task == "unpack" or not peer:
                    continue
                out.append(Run(task, name, isa, "vec_dot"))
                if isa in FORMATS[name].repack:
                    out.append(Run(task, name, isa, "repack"))
    return out


class Lab:
    """Compiles kernels and takes their costs; `work` holds the objects."""

    def __init__(self, work: Path, ggml: Path | None, cpus: list[str], clang: str, llvm: str, mcpu: str | None) -> None:
        self.work, self.ggml, self.cpus, self.llvm = work, ggml, cpus, llvm
        self.mcpu = mcpu
        self.gcc = "gcc" in Path(clang).name
        self.cc = [clang] if self.gcc else [clang, "--target=aarch64-linux-gnu"]
        self.version = command([clang, "--version"]).splitlines()[0]
        self.mca_version = re.sub(r"\s+", " ", command([f"llvm-mca{llvm}", "--version"]).splitlines()[0]).strip()
        self.objects: dict[tuple[str, str], Path] = {}

    def arch(self, isa: str) -> list[str]:
        if self.mcpu is None:
            return [f"-march={MARCH[isa]}", "-mtune=neoverse-n1"]
        return [f"-mcpu={self.mcpu}+nosve{'' if isa == 'i8mm' else '+noi8mm'}{'' if isa != 'neon' else '+nodotprod'}"]

    def flags(self) -> str:
        if self.mcpu is not None:
            return f"-O3 -mcpu={self.mcpu}+nosve"
        return "-O3 -march=armv8.2-a+dotprod (and +i8mm) -mtune=neoverse-n1"

    def compile(self, source: Path, isa: str, flags: list[str]) -> Path:
        """An object file; each source is compiled once per instruction set."""
        key = (str(source), isa)
        if key not in self.objects:
            out = self.work / f"{source.stem}-{source.suffix[1:]}-{isa}.o"
            cc = self.cc
            if source.suffix == ".cpp":
                cc = [c.replace("gcc", "g++") for c in cc]
            command([*cc, "-O3", "-DNDEBUG", *self.arch(isa), *flags, "-c", str(source), "-o", str(out)])
            self.objects[key] = out
        return self.objects[key]

    def link(self, run: Run) -> Path:
        exe = self.work / "run"
        driver = self.work / "driver.o"
        include = ["-I", str(ROOT / "native")]
        command([*self.cc, "-O1", "-fno-optimize-sibling-calls", "-std=c11", *include, *run.defines(), "-c", str(DRIVER),
                 "-o", str(driver)])  # fmt: skip
        objects = []
        if run.who == "ours":
            flags = ["-std=c11", "-ffp-contract=off", "-fno-math-errno", "-D_GNU_SOURCE", *include]
            for isa in ("neon", "dotprod", "i8mm"):
                objects.append(self.compile(ROOT / f"native/kernels/arm/{isa}.c", isa, flags))
        else:
            if self.ggml is None:
                raise SystemExit("arm_mca: no sources of llama.cpp")
            base = self.ggml / "src"
            flags = ["-I", str(self.ggml / "include"), "-I", str(base), "-I", str(base / "ggml-cpu"), "-w", "-D_GNU_SOURCE"]
            source = base / "ggml-cpu/arch/arm" / ("quants.c" if run.who == "vec_dot" else "repack.cpp")
            flags.append("-std=c11" if run.who == "vec_dot" else "-std=c++17")
            objects.append(self.compile(source, run.isa, flags))
        command(["aarch64-linux-gnu-gcc", "-static", "-Wl,--unresolved-symbols=ignore-all", str(driver),
                 *map(str, objects), "-lm", "-o", str(exe)])  # fmt: skip
        return exe

    def trace(self, run: Run) -> list[str]:
        """The instructions of everything that `measured` calls, in the order in which they ran."""
        exe = self.link(run)
        disassemble = [f"llvm-objdump{self.llvm}", "-d", "--no-show-raw-insn", "--mattr=+dotprod,+i8mm,+fullfp16"]
        text, symbols = instructions(command([*disassemble, str(exe)]))
        log = self.work / "trace"
        command(["qemu-aarch64", "-cpu", "max", "-singlestep", "-d", "nochain,exec", "-D", str(log), str(exe)])
        start, end = symbols["measured"]
        out, inside = [], False
        with log.open() as lines:
            for line in lines:
                found = re.search(r"\[[0-9a-f]+/([0-9a-f]+)/", line)
                if found is None:
                    continue
                pc = int(found[1], 16)
                if start <= pc < end:
                    inside = pc != end - 4  # its last instruction returns
                elif inside:
                    out.append(text[pc])
        log.unlink()
        if not out:
            raise SystemExit(f"arm_mca: {run} ran no instruction")
        return out

    def cost(self, run: Run) -> Cost:
        listing = self.trace(run)
        source = self.work / "listing.s"
        source.write_text("\n".join(listing) + "\n")
        cycles = {}
        for cpu in self.cpus:
            report = command([f"llvm-mca{self.llvm}", "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm,+fullfp16",
                              "-iterations=1", "-all-views=0", "-summary-view", str(source)])  # fmt: skip
            found = re.search(r"Total Cycles:\s+(\d+)", report)
            if found is None:
                raise SystemExit(f"arm_mca: llvm-mca printed no cycles for {cpu}: {report[:200]}")
            cycles[cpu] = int(found[1])
        return Cost(len(listing), cycles)


def command(args: list[str]) -> str:
    """Output of a program that must succeed."""
    try:
        done = subprocess.run(args, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"arm_mca: {args[0]} is missing; see scripts/bench/arm_mca.sh for the packages") from None
    if done.returncode != 0:
        raise SystemExit(f"arm_mca: {' '.join(args)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def instructions(listing: str) -> tuple[dict[int, str], dict[str, tuple[int, int]]]:
    """From objdump's listing: address -> instruction as llvm-mca takes it, and symbol -> [start, end)."""
    text: dict[int, str] = {}
    symbols: dict[str, tuple[int, int]] = {}
    name = ""
    for line in listing.splitlines():
        symbol = re.match(r"([0-9a-f]+) <(.+)>:$", line)
        if symbol:
            name = symbol[2]
            symbols[name] = (int(symbol[1], 16), int(symbol[1], 16))
            continue
        code = re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line)
        if code is None or not name:
            continue
        at = int(code[1], 16)
        body = code[2].split("//")[0].strip()
        text[at] = re.sub(r"(#?0x[0-9a-f]+|#?-?\d+) <.*>$", ".", body)  # targets of branches and literals
        symbols[name] = (symbols[name][0], at + 4)
    return text, symbols


def find_ggml(path: Path | None, work: Path) -> tuple[Path, str]:
    """The directory ggml of the sdist, and the sdist's name."""
    if path is None:
        command([sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--no-build-isolation",
                 "-d", str(work), "llama-cpp-python"])  # fmt: skip
        path = next(work.glob("llama_cpp_python-*.tar.gz"))
    name = path.name.removesuffix(".tar.gz")
    if path.is_file():
        with tarfile.open(path) as archive:
            wanted = [m for m in archive.getmembers() if "/ggml/" in m.name and (m.isfile() or m.isdir())]
            if hasattr(tarfile, "data_filter"):
                archive.extractall(work / "peer", wanted, filter="data")
            else:
                archive.extractall(work / "peer", wanted)
        path = work / "peer"
    for found in sorted(path.rglob("ggml/src/ggml-cpu/arch/arm/quants.c")):
        return found.parents[4], name
    raise SystemExit(f"arm_mca: no ggml/src/ggml-cpu/arch/arm/quants.c in {path}")


def rate(x: float) -> str:
    return f"{x:.1f}" if x < 100 else f"{x:.0f}"


LONG_PROMPT = 512  # tokens that share one unpacking


class Report:
    """Costs as Markdown tables."""

    def __init__(self, costs: dict[Run, Cost], cpus: list[str]) -> None:
        self.costs, self.cpus = costs, cpus

    def decode_rate(self, run: Run, cpu: str) -> float:
        """Bytes of weights per cycle."""
        return run.weight_bytes / self.costs[run].cycles[cpu]

    def gemm_rate(self, run: Run, cpu: str, tokens: int | None = None) -> float:
        """Multiply-adds per cycle, our unpacking spread over `tokens` (None: left out)."""
        per_token = self.costs[run].cycles[cpu] / run.tokens
        if run.who == "ours" and tokens is not None:
            per_token += self.costs[Run("unpack", run.format, run.isa, "ours")].cycles[cpu] / tokens
        return ROWS * COLS / per_token

    def rows(self, task: str) -> list[Run]:
        return [run for run in self.costs if run.task == task]

    def table(self, head: list[str], rows: list[list[str]]) -> list[str]:
        return ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]]

    def summary(self) -> list[str]:
        """Ours over each of llama.cpp's kernels for the same task and instruction set."""
        rows = []
        for task in ("decode", "gemm"):
            for run in self.rows(task):
                peers = [p for p in self.rows(task) if (p.format, p.isa) == (run.format, run.isa) and p.who != "ours"]
                if run.who != "ours" or not peers:
                    continue
                cells = []
                for cpu in self.cpus:
                    for who in ("vec_dot", "repack"):
                        theirs = [self.value(p, cpu) for p in peers if p.who == who]
                        cells.append(f"{self.value(run, cpu) / theirs[0]:.2f}" if theirs else "–")
                rows.append([task, run.format, run.isa, *cells])
        return self.table(["", "format", "set", *(f"{cpu}: {who}" for cpu in self.cpus for who in ("vec_dot", "repack"))], rows)

    def value(self, run: Run, cpu: str) -> float:
        return self.decode_rate(run, cpu) if run.task == "decode" else self.gemm_rate(run, cpu, LONG_PROMPT)

    def decode(self) -> list[str]:
        rows = [
            [run.format, run.isa, run.who, f"{self.costs[run].instructions / run.weight_bytes:.2f}",
             *(rate(self.decode_rate(run, cpu)) for cpu in self.cpus)]
            for run in self.rows("decode")
        ]  # fmt: skip
        return self.table(["format", "set", "kernel", "instructions per byte", *self.cpus], rows)

    def gemm(self) -> list[str]:
        rows = []
        for run in self.rows("gemm"):
            cells = [rate(self.gemm_rate(run, cpu)) for cpu in self.cpus]
            if run.who == "ours":
                for i, cpu in enumerate(self.cpus):
                    cells[i] += f" ({rate(self.gemm_rate(run, cpu, LONG_PROMPT))})"
            rows.append([run.format, run.isa, run.who, f"{run.macs / self.costs[run].instructions:.2f}", *cells])
        return self.table(["format", "set", "kernel", "multiply-adds per instruction", *self.cpus], rows)

    def unpack(self) -> list[str]:
        rows = [
            [run.format, run.isa, f"{self.costs[run].instructions / run.weight_bytes:.2f}",
             *(f"{rate(self.decode_rate(run, cpu))} ({self.break_even(run, cpu):.1f})" for cpu in self.cpus)]
            for run in self.rows("unpack")
        ]  # fmt: skip
        return self.table(["format", "set", "instructions per byte", *self.cpus], rows)

    def break_even(self, run: Run, cpu: str) -> float:
        """How many tokens of gemm cost as much as the unpacking."""
        gemm = Run("gemm", run.format, run.isa, "ours")
        return self.costs[run].cycles[cpu] / (self.costs[gemm].cycles[cpu] / gemm.tokens)


def document(report: Report, lab: Lab, peer: str, options: str) -> str:
    cpus = "; ".join(f"{cpu}: {CPUS.get(cpu, 'see llvm')}" for cpu in lab.cpus)
    parts = [
        "# ARM kernels: cost by counting and by model",
        "",
        "No ARM machine was used. Each kernel is compiled, run once under qemu-aarch64 and followed instruction by",
        "instruction; what ran is counted, and scheduled by llvm-mca on its models of CPUs (all loads in the first cache,",
        "all branches predicted, so memory is not in these figures). Written by",
        "",
        f"    scripts/bench/arm_mca.sh{options}",
        "",
        f"- {lab.version}; {lab.mca_version}; both programs compiled with",
        f"  `{lab.flags()}`",
        f"- llama.cpp as in {peer}" if peer else "- without llama.cpp",
        f"- llvm's models: {cpus}.",
        "  LLVM 19 schedules cortex-x4 with its model of Neoverse N2 and apple-m4 with that of Cyclone; the real ones have",
        "  4 vector pipes each. Read the columns as a small, a large and a middle core.",
        f"- {ROWS} rows x {COLS} columns; decode: 1 token; gemm: {TOKENS} tokens. Quantising activations is in no figure.",
        "- CPUs that have i8mm run the rows marked so; ours decodes there with the kernels of dotprod, but for Q4_K.",
        "- vec_dot reads the file's blocks, as ours does; with i8mm its gemm computes 2 rows x 2 tokens per call. repack",
        "  reads an interleaved copy of the weights, which llama.cpp makes by default at loading where it has such kernels.",
        "",
        "## Ours over llama.cpp's (above 1: ours is faster)",
        "",
        f"Decode by bytes per cycle; gemm by multiply-adds per cycle, with our unpacking, spread over {LONG_PROMPT} tokens.",
        "",
        *report.summary(),
        "",
        "## Decode: bytes of weights per cycle",
        "",
        *report.decode(),
        "",
        f"## Gemm: multiply-adds per cycle (with unpacking, {LONG_PROMPT} tokens)",
        "",
        *report.gemm(),
        "",
        "## Unpacking to a panel: bytes of weights per cycle (as many tokens of gemm cost the same)",
        "",
        *report.unpack(),
        "",
    ]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench/arm_mca.sh", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--llama", type=Path, help="llama-cpp-python sdist, or a directory with its contents")
    parser.add_argument("--no-peer", action="store_true", help="our kernels only")
    parser.add_argument("--out", type=Path, help="write Markdown here instead of the standard output")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--sets", nargs="+", default=["dotprod", "i8mm"], choices=MARCH)
    parser.add_argument("--cpus", nargs="+", default=list(CPUS), help="CPUs of llvm-mca")
    parser.add_argument("--cc", default="clang-19", help="clang, or aarch64-linux-gnu-gcc")
    parser.add_argument("--llvm", default="-19", help="suffix of llvm-mca and llvm-objdump")
    parser.add_argument("--mcpu", help="compile everything for this CPU (without SVE) instead of as CMakeLists.txt does")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        work = Path(tmp)
        ggml, peer = (None, "") if args.no_peer else find_ggml(args.llama, work)
        lab = Lab(work, ggml, args.cpus, args.cc, args.llvm, args.mcpu)
        costs = {run: lab.cost(run) for run in runs(args.formats, args.sets, not args.no_peer)}
    said = "" if args.cc == "clang-19" else f" --cc {args.cc}"
    said += "" if args.mcpu is None else f" --mcpu {args.mcpu}"
    text = document(Report(costs, args.cpus), lab, peer, said)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text)


if __name__ == "__main__":
    main()

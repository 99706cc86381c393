"""How fast is this engine beside llama.cpp, on the same file, with the same threads, in one sitting?

    python scripts/bench/bench.py MODEL.gguf --peer-python PEER_PYTHON [--profile full] [--rounds 7] [--out docs/bench]
    python scripts/bench/bench.py MODEL.gguf --peer none

PEER_PYTHON is a Python with llama-cpp-python compiled on this machine; the Python that runs this has cactus_py. --peer takes
another peer's script, too: measure.py says what it has to do.

Protocol
- One round is one new process per side, which measures everything that was asked for. A (ours) and B (the peer) alternate:
  A B A B …, so that a machine that slows down or speeds up does so for both. Nothing else should run; the load average at the
  start is recorded.
- Both get the same token ids, real English text, and each prompt is another part of it: no prefix is read from a cache.
- Warm-up first: a prompt and some tokens, not counted. The file is in the page cache for both.
- pp N: from handing over N tokens to the first token chosen. llama.cpp: llama_decode in batches of 512
  (n_batch = n_ubatch = 512) with scores of the last token, then argmax. Ours: the request's prompt_ms.
- tg N: N greedy tokens behind a prompt of 32 tokens (depth 0) or more, one at a time, scores read and the best taken.
  llama.cpp: N single-token llama_decode calls. Ours: the request's decode_ms, end tokens ignored.
- tg N of S sequences: the same for S prompts of 32 tokens at once, tokens per second of all together, from when each has its
  first token. llama.cpp: one llama_decode of S rows per step, in a context of its own with a share of the cache for each
  sequence. Ours: S requests, tokens counted as the engine generates them, cancelled at the end.
- ttft N: wall clock to the first token behind N tokens. Ours: from Client.completions.create to the first piece of text.
  llama.cpp: as pp, there being no other interface.
- Key/value cache f16 on both sides. llama.cpp runs without flash attention, as llama-cpp-python does unless told otherwise
  (--peer-flash changes it), and with its own weight layouts where they work on this machine.
- Reported: median over the rounds, spread (lowest to highest), and the ratio of the medians. The JSON holds every round.
- Memory is read in the child behind all that runs one sequence at a time: private = what the process wrote itself, Python and
  key/value cache included; rss counts the mapped weights too, which the system shares and may drop.
- Limits of the machine (limits.c) are measured before the first round and after the last, the better of both counts. A prompt's
  share is its multiply-adds (weights only) against the peak of vector instructions, and of matrix hardware where there is some;
  decoding's is the weights' bytes, read once per step, against the speed of reading the mapped file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from limits import Limits, Work, best_limits, machine_limits, model_work
from measure import SHORT, UNITS, Job, parse_name
from plot import Panel, draw

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
TEXTS = [REPOSITORY / "tests" / "data" / "text" / name for name in ("alice.txt", "workshop.txt")]
OURS = "ours"
PEERS = {"llama.cpp": HERE / "child_llama.py"}
PROFILES: dict[str, dict[str, Any]] = {
    "quick": {"pp": [512], "tg": 128, "depths": [0], "batch": [], "ttft": 0},
    "full": {"pp": [32, 128, 512, 2048], "tg": 128, "depths": [0, 512, 2048], "batch": [1, 4, 8, 16], "ttft": 128},
}
Document = dict[str, Any]
Rounds = dict[str, list[dict[str, Any]]]


class Side(NamedTuple):
    """One program in the comparison, and how a round of it is started."""

    name: str
    python: str
    script: Path
    options: dict[str, Any]


def machine() -> dict[str, Any]:
    """What these numbers were measured on."""
    info: dict[str, Any] = {"system": f"{platform.system()} {platform.release()}", "cpus": os.cpu_count()}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        info["cpu"] = next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model")))
        memory = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()[0]
        info["memory_gib"] = round(int(memory.split()[1]) / 2**20, 1)
    except (OSError, StopIteration):
        info["cpu"] = platform.processor() or platform.machine()
    info["load_average_at_start"] = round(os.getloadavg()[0], 2)
    return info


def commit() -> str:
    """The commit that ran, marked where the tree differs from it."""
    describe = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    done = subprocess.run(describe, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def run_child(side: Side, job: Job) -> dict[str, Any]:
    """One round of one side in a new process. Raises RuntimeError when that fails."""
    request = json.dumps(asdict(replace(job, options=side.options)))
    command = [side.python, str(side.script)]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{side.name} cannot be started: {error}") from error
    if done.returncode != 0:
        raise RuntimeError(f"{side.script.name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def peer_side(args: argparse.Namespace, job: Job) -> Side | None:
    """The peer that was asked for. llama.cpp: where its own weight layouts make it crash on this file, it runs without them."""
    if args.peer == "none":
        return None
    if args.peer not in PEERS:
        return Side(Path(args.peer).stem, args.peer_python or sys.executable, Path(args.peer), {})
    if not args.peer_python:
        raise SystemExit("--peer-python is missing: a Python with llama-cpp-python; or ask for --peer none")
    options: dict[str, Any] = {"flash_attention": {"off": 0, "on": 1, "auto": -1}[args.peer_flash], "extra_buffers": True}
    side = Side(args.peer, args.peer_python, PEERS[args.peer], options)
    probe = replace(job, prompt_sizes=[SHORT], depths=[], batches=[], first_token=0)
    try:
        run_child(side, probe)
    except RuntimeError as error:
        options["extra_buffers"] = False
        run_child(side, probe)
        print(f"llama.cpp fails with its default weight layouts, so they are switched off ({error})", file=sys.stderr)
    return side


def text_ids(model: Path, longest: int) -> list[int]:
    """Tokens of English text, enough for prompts of `longest`. Ends the program when there are none."""
    from cactus_py.engine import Tokenizer
    from cactus_py.errors import CactusError

    try:
        ids = Tokenizer.load(model).encode("\n\n".join(text.read_text(encoding="utf-8") for text in TEXTS))
    except CactusError as error:
        raise SystemExit(f"error: {error}") from error
    if len(ids) < 2 * longest:
        raise SystemExit(f"the texts give {len(ids)} tokens, and {2 * longest} are needed; ask for shorter prompts")
    return list(ids)


def summarise(measured: Rounds, work: Work | None, limits: Limits) -> list[dict[str, Any]]:
    """One row per measurement: median, spread and shares of the limits of each side; the ratio of the first to the second."""
    rows = []
    names = dict.fromkeys(name for rounds in measured.values() for r in rounds for name in r["values"])
    for name in sorted(names, key=lambda name: list(UNITS).index(parse_name(name)[0])):  # speed first
        row: dict[str, Any] = {"measurement": name, "unit": UNITS[parse_name(name)[0]]}
        for side, rounds in measured.items():
            values = [r["values"][name] for r in rounds if name in r["values"]]
            if values:
                median = statistics.median(values)
                row[side] = {"median": median, "lowest": min(values), "highest": max(values)}
                if shares := work.shares(name, median, limits) if work else {}:
                    row[side]["shares"] = shares
        medians = [row[side]["median"] for side in measured if side in row]
        row["ratio"] = medians[0] / medians[1] if len(medians) == 2 and medians[1] else None
        rows.append(row)
    return rows


def label(name: str) -> str:
    """A measurement in words."""
    kind, n, depth, sequences = parse_name(name)
    if kind == "tg":
        name = f"tg{n}" + (
            f", {sequences} sequence{'s' if sequences > 1 else ''}" if "x" in name else f" at depth {depth}" if depth else ""
        )
    return f"{name}, {UNITS[kind]}"


def rate_text(limits: Limits) -> str:
    """The machine's limits in a sentence."""
    units = {"read": "GB/s by", "vector": "GMAC/s by", "matrix": "GMAC/s by"}
    return ", ".join(f"{name} {limits[name]['rate'] / 1e9:.4g} {units[name]} {limits[name]['by']}" for name in limits)


def shares_text(cell: dict[str, Any]) -> str:
    """`12 % vector, 3 % matrix`"""
    return ", ".join(f"{share * 100:.0f} % {name}" for name, share in cell.get("shares", {}).items())


def cell_text(cell: dict[str, Any] | None) -> str:
    """`median (lowest … highest)`"""
    return "" if cell is None else f"{cell['median']:.4g} ({cell['lowest']:.4g} … {cell['highest']:.4g})"


def where(document: Document) -> list[str]:
    """What was measured on what: the paragraph on top of a report."""
    on = document["machine"]
    about = {side: rounds[0]["about"] for side, rounds in document["rounds"].items()}
    programs = [f"{about[OURS]['engine']} ({document['commit']}), kernels {about[OURS]['kernels']}"]
    programs += [f"{what['engine']}, {what.get('options', {})}" for side, what in about.items() if side != OURS]
    lines = [
        f"{on['cpu']}, {on['cpus']} CPUs, {on.get('memory_gib', '?')} GiB, {on['system']}; {document['date']}; "
        f"{'; '.join(programs)}.",
        f"Medians of {document['settings']['rounds']} {'alternating ' if len(about) > 1 else ''}rounds, in brackets lowest to "
        f"highest; load average at the start {on['load_average_at_start']}. Protocol: scripts/bench/bench.py.",
    ]
    if on["limits"]:
        lines.append(f"Limits of the machine, {document['settings']['threads']} threads: {rate_text(on['limits'])}.")
    return lines


def markdown(document: Document, plot: str | None) -> str:
    """The table that people read."""
    sides = list(document["rounds"])
    compared = len(sides) > 1
    limited = any("shares" in row.get(OURS, {}) for row in document["summary"])
    header = ["", *sides, *(["ratio"] if compared else []), *([f"share of the limit, {OURS}"] if limited else [])]
    lines = [f"# {document['model']['file']}, {document['settings']['threads']} threads", "", *where(document)]
    lines += ["", "|" + "|".join(f" {title} " if title else " " for title in header) + "|", "|" + " --- |" * len(header)]
    for row in document["summary"]:
        cells = [label(row["measurement"]), *(cell_text(row.get(side)) for side in sides)]
        if compared:
            cells.append("" if row["ratio"] is None else f"{row['ratio']:.2f}")
        if limited:
            cells.append(shares_text(row.get(OURS, {})))
        lines.append(f"| {' | '.join(cells)} |")
    if plot:
        lines += ["", f"![the same as bars]({plot})"]
    return "\n".join(lines) + "\n"


def panels(document: Document) -> list[Panel]:
    """What is drawn: speeds by what was varied, then times and memory."""
    titles = {"pp": "prompt of … tokens, tok/s", "tg": "decoding at depth …, tok/s", "batch": "decoding … sequences, tok/s"}
    titles |= {"ms": "milliseconds (less is better)", "MB": "memory, MB (less is better)"}
    found: dict[str, Panel] = {}
    for row in document["summary"]:
        kind, n, depth, sequences = parse_name(row["measurement"])
        if row["unit"] != "tok/s":
            key, shown = row["unit"], f"{kind}{n or ''}"
        elif kind == "tg" and "x" in row["measurement"]:
            key, shown = "batch", str(sequences)
        else:
            key, shown = kind, str(n if kind == "pp" else depth)
        panel = found.setdefault(key, Panel(titles[key], [], {side: [] for side in document["rounds"]}))
        panel.labels.append(shown)
        for side, values in panel.values.items():
            values.append(row[side]["median"] if side in row else 0.0)
    return [found[key] for key in titles if key in found]


def run(args: argparse.Namespace, model: Path, profile: str) -> Document:
    """All rounds of one model. Raises RuntimeError when a child fails, SystemExit for what cannot be measured."""
    chosen = {
        name: default if getattr(args, name) is None else getattr(args, name) for name, default in PROFILES[profile].items()
    }
    on = machine()
    if on["load_average_at_start"] > 0.5:
        print(f"warning: load average {on['load_average_at_start']}: other work will show in these numbers", file=sys.stderr)
    job = Job(
        str(model.resolve()), args.threads, chosen["pp"], chosen["depths"], chosen["batch"], chosen["tg"], chosen["ttft"], []
    )
    job.ids = text_ids(model, job.n_ctx)
    sides = [Side(OURS, sys.executable, HERE / "child_ours.py", {"kernels": args.kernels} if args.kernels else {})]
    if (peer := peer_side(args, job)) is not None:
        sides.append(peer)
    limits, work = [limits_or_none(model, args.threads)], work_or_none(model)
    measured: Rounds = {side.name: [] for side in sides}
    for number in range(args.rounds):
        for side in sides:
            result = run_child(side, job)
            measured[side.name].append(result)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in result["values"].items())
            print(f"{model.name} round {number + 1} {side.name}: {shown}", flush=True)
    on["limits"] = best_limits([*limits, limits_or_none(model, args.threads)])
    return {
        "made_by": "scripts/bench/bench.py", "date": time.strftime("%Y-%m-%d"), "commit": commit(), "machine": on,
        "model": {"file": model.name, "bytes": model.stat().st_size, "work_per_token": asdict(work) if work else None},
        "settings": {"threads": args.threads, **chosen, "rounds": args.rounds, "n_ctx": job.n_ctx},
        "summary": summarise(measured, work, on["limits"]), "rounds": measured,
    }  # fmt: skip


def limits_or_none(model: Path, threads: int) -> Limits:
    """The machine's limits; none, and a sentence, where they cannot be measured."""
    try:
        return machine_limits(model, threads)
    except RuntimeError as error:
        print(f"the machine's limits are left out: {error}", file=sys.stderr)
        return {}


def work_or_none(model: Path) -> Work | None:
    """What a token costs; None, and a sentence, where the file's table cannot be read or understood."""
    try:
        return model_work(model)
    except (ImportError, OSError, ValueError) as error:
        print(f"shares of the limits are left out: {error}", file=sys.stderr)
        return None


def write(out: Path, name: str, document: Document, text: Callable[[Document, str | None], str], bars: list[Panel]) -> None:
    """Writes NAME.json, NAME.png (with matplotlib) and NAME.md, and prints the last."""
    out.mkdir(parents=True, exist_ok=True)
    plot: str | None = f"{name}.png"
    try:
        draw(out / f"{name}.png", bars)
    except ImportError as error:
        print(f"there is no plot: {error}", file=sys.stderr)
        plot = None
    (out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(text(document, plot), encoding="utf-8")
    print(text(document, plot))


def natural(text: str) -> int:
    """0, 1, 2 …"""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def positive(text: str) -> int:
    """1, 2 …"""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that a single report and the suite share."""
    parser.add_argument("--peer", default="llama.cpp", help=f"{', '.join(PEERS)}, none, or a peer's script; default llama.cpp")
    parser.add_argument("--peer-python", help="the Python that runs the peer: one with llama-cpp-python")
    parser.add_argument("--peer-flash", choices=["off", "on", "auto"], default="off", help="flash attention of llama.cpp")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--pp", type=positive, nargs="*", help="prompt sizes in tokens")
    parser.add_argument("--tg", type=positive, help="tokens to generate")
    parser.add_argument("--depths", type=natural, nargs="*", help="prompt tokens in front of them; 0: a short prompt")
    parser.add_argument("--batch", type=positive, nargs="*", help="numbers of sequences that generate together")
    parser.add_argument("--ttft", type=natural, help="prompt tokens in front of a first token; 0: not measured")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--kernels", help="kernel set of ours; default: the best")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "bench")


def main() -> None:
    """One model: runs the rounds and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--profile", choices=list(PROFILES), default="full", help="what is measured, where no option says more")
    parser.add_argument("--name", help="of the files written; default: the model's")
    add_options(parser)
    args = parser.parse_args()
    try:
        document = run(args, args.model, args.profile)
    except (RuntimeError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    write(args.out, args.name or args.model.stem.lower(), document, markdown, panels(document))


if __name__ == "__main__":
    main()

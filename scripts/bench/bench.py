"""How fast is this engine beside llama.cpp, on the same file, with the same threads, in one sitting?

    python scripts/bench/bench.py MODEL.gguf --peer-python PEER_PYTHON [--rounds 7] [--pp 512] [--tg 128] [--out docs/bench]

PEER_PYTHON is a Python with llama-cpp-python compiled on this machine; the Python that runs this has cactus_py.

Protocol
- One measurement is one new process. A (ours) and B (llama.cpp) alternate: A B A B …, so that a machine that slows down or
  speeds up does so for both. Nothing else should run; the load average at the start is recorded.
- Both get the same token ids, real English text, and each prompt is another part of it: no prefix is read from a cache.
- Warm-up first: a prompt and some tokens, not counted. The file is in the page cache for both.
- pp N: milliseconds from handing over N tokens to the first token chosen. llama.cpp: llama_decode in batches of 512
  (n_batch = n_ubatch = 512) with scores of the last token, then argmax. Ours: the request's prompt_ms.
- tg N: N greedy tokens behind a prompt of --depth tokens, one at a time, scores read and the best taken. llama.cpp: N
  single-token llama_decode calls. Ours: the request's decode_ms, end tokens ignored.
- Key/value cache f16 on both sides. llama.cpp runs without flash attention, as llama-cpp-python does unless told otherwise
  (--peer-flash changes it), and with its own weight layouts where they work on this machine.
- Reported: median over the rounds, spread (lowest to highest), and the ratio of the medians. The JSON holds every round.
- Memory is read in the child when all is done: anonymous = what the process wrote itself, key/value cache included; rss
  counts the mapped weights too, which the system shares and may drop.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import Job

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
TEXTS = [REPOSITORY / "tests" / "data" / "text" / name for name in ("alice.txt", "workshop.txt")]
OURS, PEER = "ours", "llama.cpp"


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


def run_child(python: str, script: str, job: Job) -> dict[str, Any]:
    """One measurement in a new process."""
    command = [python, str(HERE / script)]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def peer_options(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """llama.cpp's settings for this machine: where its own weight layouts make it crash, it runs without them."""
    options: dict[str, Any] = {"flash_attention": {"off": 0, "on": 1, "auto": -1}[args.peer_flash], "extra_buffers": True}
    probe = Job(**{**asdict(job), "prompt_sizes": [32], "n_generate": 1, "options": options})
    try:
        run_child(args.peer_python, "child_llama.py", probe)
    except RuntimeError as error:
        print(f"llama.cpp fails with its default weight layouts, so they are switched off ({error})", file=sys.stderr)
        options["extra_buffers"] = False
    return options


def rates(rounds: list[dict[str, Any]], sizes: list[int]) -> dict[str, list[float]]:
    """Name of a measurement -> its value in every round."""
    values = {f"pp{n} tok/s": [n / r["prompt_ms"][str(n)] * 1e3 for r in rounds] for n in sizes}
    values[f"tg{rounds[0]['n_decoded']} tok/s"] = [r["n_decoded"] / r["decode_ms"] * 1e3 for r in rounds]
    values["load ms"] = [r["load_ms"] for r in rounds]
    for kind in ("anonymous", "rss"):
        values[f"{kind} MB"] = [r["memory"].get(kind, 0) / 1e6 for r in rounds]
    return values


def summary(measured: dict[str, list[dict[str, Any]]], sizes: list[int]) -> list[dict[str, Any]]:
    """One row per measurement: medians, spread, ratio of medians."""
    ours, peer = rates(measured[OURS], sizes), rates(measured[PEER], sizes)
    rows = []
    for name in ours:
        row: dict[str, Any] = {"measurement": name}
        for side, values in ((OURS, ours[name]), (PEER, peer[name])):
            row[side] = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        row["ratio"] = row[OURS]["median"] / row[PEER]["median"] if row[PEER]["median"] else None
        rows.append(row)
    return rows


def markdown(document: dict[str, Any]) -> str:
    """The table that people read."""
    on, settings = document["machine"], document["settings"]
    about = document["rounds"][PEER][0]["about"]
    lines = [
        f"# {document['model']['file']}, {settings['threads']} threads", "",
        f"{on['cpu']}, {on['cpus']} CPUs, {on.get('memory_gib', '?')} GiB, {on['system']}; {document['date']}; "
        f"{document['rounds'][OURS][0]['about']['engine']} ({document['commit']}), kernels "
        f"{document['rounds'][OURS][0]['about']['kernels']}; {about['engine']}, {about['options']}.",
        f"Medians of {settings['rounds']} alternating rounds, in brackets lowest to highest; load average at the start "
        f"{on['load_average_at_start']}. Protocol: scripts/bench/bench.py.",
        "",
        f"| | {OURS} | {PEER} | ratio |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in document["summary"]:
        cells = [f"{row[s]['median']:.4g} ({row[s]['lowest']:.4g} … {row[s]['highest']:.4g})" for s in (OURS, PEER)]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"| {row['measurement']} | {cells[0]} | {cells[1]} | {ratio} |")
    return "\n".join(lines) + "\n"


def text_ids(model: str, n: int) -> list[int]:
    """At least `n` tokens of English text."""
    from cactus_py.engine import Tokenizer

    ids = Tokenizer.load(model).encode("\n\n".join(text.read_text(encoding="utf-8") for text in TEXTS))
    if len(ids) < n:
        raise SystemExit(f"the texts give {len(ids)} tokens, and {n} are needed; ask for shorter prompts")
    return list(ids)


def main() -> None:
    """Runs the rounds and writes NAME.json and NAME.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", required=True, help="a Python with llama-cpp-python")
    parser.add_argument("--peer-flash", choices=["off", "on", "auto"], default="off", help="flash attention of llama.cpp")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pp", type=int, nargs="+", default=[512], help="prompt sizes in tokens")
    parser.add_argument("--tg", type=int, default=128, help="tokens to generate")
    parser.add_argument("--depth", type=int, default=32, help="prompt tokens in front of them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kernels", help="kernel set of ours; default: the best")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "bench")
    parser.add_argument("--name", help="of the two files; default: the model's")
    args = parser.parse_args()

    on = machine()
    if on["load_average_at_start"] > 0.5:
        print(f"warning: load average {on['load_average_at_start']}: other work will show in these numbers", file=sys.stderr)
    longest = max(*args.pp, args.depth + args.tg + 1, 512)
    n_ctx = (longest + 63 + 16) // 64 * 64
    model = str(args.model.resolve())
    job = Job(model, args.threads, n_ctx, args.pp, args.tg, args.depth, text_ids(model, 2 * longest))
    options = {OURS: {"kernels": args.kernels} if args.kernels else {}, PEER: peer_options(args, job)}
    children = {OURS: (sys.executable, "child_ours.py"), PEER: (args.peer_python, "child_llama.py")}
    measured: dict[str, list[dict[str, Any]]] = {OURS: [], PEER: []}
    for number in range(args.rounds):
        for side, (python, script) in children.items():
            result = run_child(python, script, Job(**{**asdict(job), "options": options[side]}))
            measured[side].append(result)
            shown = ", ".join(f"{name} {values[-1]:.4g}" for name, values in rates(measured[side], args.pp).items())
            print(f"round {number + 1} {side}: {shown}", flush=True)
    document = {
        "made_by": "scripts/bench/bench.py", "date": time.strftime("%Y-%m-%d"), "commit": commit(), "machine": on,
        "model": {"file": args.model.name, "bytes": args.model.stat().st_size},
        "settings": {
            "threads": args.threads, "pp": args.pp, "tg": args.tg, "depth": args.depth, "rounds": args.rounds, "n_ctx": n_ctx,
        },
        "summary": summary(measured, args.pp), "rounds": measured,
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.name or args.model.stem.lower()
    (args.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (args.out / f"{name}.md").write_text(markdown(document), encoding="utf-8")
    print(markdown(document))


if __name__ == "__main__":
    main()

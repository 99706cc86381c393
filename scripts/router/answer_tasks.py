"""Asks a local model every item of DATA and keeps what it said, and what was noticed meanwhile, for `router calibrate`.

    python scripts/router/answer_tasks.py DATA MODEL RECORDS.npz [--states] [--parallel 8] [--threads 2] [--limit N]
    python scripts/router/answer_tasks.py --table RECORDS.npz ...
    python scripts/router/answer_tasks.py --regrade RECORDS.npz ...

MODEL is a name of the catalog or a file. What is in RECORDS already (same id, same messages) is not asked again, so a run that
was interrupted goes on where it was: it saves every --save-seconds, and at Ctrl-C. --limit takes so many items of each group,
drawn with a fixed seed. --table prints the share that is right by group and level, as docs/router/tasks.md has it; --regrade
grades the texts again, after a change of `grade`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from cactus_py.backends.base import BackendOptions
from cactus_py.backends.native import NativeBackend
from cactus_py.routing.records import Item, Record, answer_items, grade, load_records, read_items, save_records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="DATA MODEL RECORDS.npz, or records")
    parser.add_argument("--states", action="store_true", help="keep hidden states, too")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, help="tokens per request; longer items are left out")
    parser.add_argument("--limit", type=int, help="items of each group, at most")
    parser.add_argument("--save-seconds", type=float, default=120)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--regrade", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table({Path(name).name.split(".")[0]: load_records(name) for name in options.files}))
        return 0
    if options.regrade:
        for name in options.files:
            regrade(Path(name))
        return 0
    if len(options.files) != 3:
        parser.error("needs DATA MODEL RECORDS.npz")
    return answer(options, Path(options.files[0]), options.files[1], Path(options.files[2]))


def answer(options: argparse.Namespace, data: Path, model: str, path: Path) -> int:
    """Asks what is not in `path` yet."""
    items = limited(read_items(data), options.limit)
    found = {record.item.id: record for record in load_records(path)} if path.exists() else {}
    kept = {item.id: replaced(found[item.id], item) for item in items if item.id in found and same(found[item.id].item, item)}
    if options.states:
        kept = {name: record for name, record in kept.items() if record.states is not None}
    missing = [item for item in items if item.id not in kept]
    random.Random(1).shuffle(missing)  # so that a part of it is a fair sample
    print(f"{len(items)} items, {len(kept)} answered before", flush=True)
    saved_at = told_at = time.monotonic()

    def save() -> None:
        save_records(path, [kept[item.id] for item in items if item.id in kept])

    def progress(done: int, total: int, record: Record) -> None:
        nonlocal saved_at, told_at
        kept[record.item.id] = record
        now = time.monotonic()
        if now - told_at > 10 or done == total:
            told_at = now
            right = sum(record.correct for record in kept.values()) / len(kept)
            print(f"{done}/{total}, {100 * right:.1f} % right", flush=True)
        if now - saved_at > options.save_seconds:
            saved_at = now
            save()

    with closing(NativeBackend(BackendOptions(model=model, threads=options.threads, context=options.context))) as backend:
        try:
            answer_items(backend, missing, states=options.states, parallel=options.parallel, progress=progress)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", flush=True)
            save()
            return 130
        except BaseException:
            save()
            raise
    save()
    return 0


def limited(items: list[Item], limit: int | None) -> list[Item]:
    """At most `limit` items of each group, the same ones every time, in the file's order."""
    if limit is None:
        return items
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item)
    chosen = {
        item.id for group in groups.values() for item in random.Random(group[0].group).sample(group, min(limit, len(group)))
    }
    return [item for item in items if item.id in chosen]


def same(left: Item, right: Item) -> bool:
    """Whether an answer to one item is one to the other."""
    return (left.messages, left.max_tokens) == (right.messages, right.max_tokens)


def replaced(record: Record, item: Item) -> Record:
    """The record of an item that may be graded in another way now."""
    return replace(record, item=item, correct=grade(item, record.text))


def regrade(path: Path) -> None:
    records = load_records(path)
    graded = [replaced(record, record.item) for record in records]
    changed = [new for old, new in zip(records, graded, strict=True) if old.correct != new.correct]
    for record in changed[:20]:
        print(f"{record.item.id}: {record.correct} now, {record.text[:60]!r} to {record.item.answers[:3]}")
    print(f"{path.name}: {len(changed)} of {len(records)} graded otherwise")
    save_records(path, graded)


def table(models: dict[str, list[Record]]) -> str:
    """Percent right by group, in all and by level, as Markdown."""
    rights: dict[tuple[str, str, int | None], list[bool]] = defaultdict(list)
    for name, records in models.items():
        for record in records:
            for level in {record.item.level, None}:
                rights[name, record.item.group, level].append(record.correct)
                rights[name, "~", level].append(record.correct)
    groups = sorted({group for _, group, _ in rights})  # "~" is the last
    levels = sorted({level for _, _, level in rights if level is not None})
    heads = [f"{name}{'' if level is None else f' {level}'}" for name in models for level in (None, *levels)]
    lines = ["| family | items | " + " | ".join(heads) + " |", "|---|--:|" + "--:|" * len(heads)]
    for group in groups:
        cells = [rights.get((name, group, level)) for name in models for level in (None, *levels)]
        shown = ["" if not found else f"{100 * sum(found) / len(found):.0f}" for found in cells]
        n_items = max(len(found or ()) for found in cells)
        lines.append(f"| {'all' if group == '~' else group} | {n_items} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

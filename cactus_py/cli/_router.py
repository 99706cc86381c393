"""What the commands of `router` share: the answers to DATA, made or kept from before, and the calibration of a model."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cactus_py.cli._common import printable
from cactus_py.errors import MissingExtraError

if TYPE_CHECKING:
    from cactus_py.backends.native import NativeBackend
    from cactus_py.config import Settings
    from cactus_py.routing.confidence import Calibration
    from cactus_py.routing.records import Item, Record

_SAVE_SECONDS = 120.0


def answers(
    data: Sequence[Path],
    settings: Settings,
    *,
    kept: Path | None = None,
    states: bool = False,
    groups: Sequence[str] = (),
    limit: int | None = None,
) -> list[Record]:
    """The answers of the model to DATA: those of record files (.npz) as they are, those in `kept` if it was asked the same, and
    the others made now. With `kept` they are written there, also what is ready at Ctrl-C. groups: only these; limit: so many
    items of each group, the first ones."""
    from cactus_py.errors import InvalidRequestError
    from cactus_py.routing.records import grade, load_records, read_items

    found = [record for path in data if path.suffix == ".npz" for record in load_records(path)]
    items = [item for path in data if path.suffix != ".npz" for item in read_items(path)]
    wanted = set(groups)
    unknown = wanted - {record.item.group for record in found} - {item.group for item in items}
    if unknown:
        there = ", ".join(sorted({record.item.group for record in found} | {item.group for item in items}))
        raise InvalidRequestError(f'there is no group "{sorted(unknown)[0]}" in the data; there are: {there}', "groups")
    if wanted:
        found = [record for record in found if record.item.group in wanted]
        items = [item for item in items if item.group in wanted]
    if limit is not None:
        chosen = _first([*(record.item for record in found), *items], limit)
        found = [record for record in found if record.item.id in chosen]
        items = [item for item in items if item.id in chosen]
    if not items:
        return found
    before = {_asked(record.item): record for record in load_records(kept)} if kept is not None and kept.exists() else {}
    made: dict[str, Record] = {}
    for item in items:
        record = before.get(_asked(item))
        if record is not None and (record.states is not None or not states):
            made[_asked(item)] = replace(record, item=item, correct=grade(item, record.text))
    missing = [item for item in items if _asked(item) not in made]
    if missing:
        _answer(missing, made, before, settings, kept, states)
    return found + [made[_asked(item)] for item in items]


def _answer(
    missing: list[Item], made: dict[str, Record], before: dict[str, Record], settings: Settings, kept: Path | None, states: bool
) -> None:
    """Adds the answers to `made`."""
    from cactus_py.routing.records import answer_items, save_records

    saved_at = time.monotonic()

    def save() -> None:
        if kept is not None:
            save_records(kept, list({**before, **made}.values()))

    with _backend(settings) as backend, progress(f"{settings.model} answers") as report:

        def done(n: int, total: int, record: Record) -> None:
            nonlocal saved_at
            made[_asked(record.item)] = record
            report(n, total)
            if time.monotonic() - saved_at > _SAVE_SECONDS:
                save()
                saved_at = time.monotonic()

        try:
            answer_items(backend, missing, states=states, progress=done)
        finally:
            save()


def answer_one(prompt: str, settings: Settings, *, max_tokens: int, states: bool) -> Record:
    """The answer to one prompt; it is not graded."""
    from cactus_py.routing.records import Item, answer_items

    item = Item("prompt", "prompt", ({"role": "user", "content": prompt},), ("",), max_tokens=max_tokens)
    with _backend(settings) as backend:
        return answer_items(backend, [item], states=states)[0]


@contextlib.contextmanager
def _backend(settings: Settings) -> Iterator[NativeBackend]:
    """Our own engine with the settings' model, which is fetched if it is not here."""
    from cactus_py import hub
    from cactus_py.backends.base import BackendOptions
    from cactus_py.backends.native import NativeBackend
    from cactus_py.cli._common import pull_progress

    with pull_progress(settings.model) as pulling:
        hub.resolve(settings.model, store=hub.Store(settings.home), progress=pulling)
    options = BackendOptions(
        model=settings.model,
        home=settings.home,
        threads=settings.threads,
        context=settings.context,
        kv_type=settings.kv_type,
        kernels=settings.kernels,
        speculation=settings.speculation,
    )
    with contextlib.closing(NativeBackend(options)) as backend:
        yield backend


def _asked(item: Item) -> str:
    """What two items have in common if an answer to one is an answer to the other."""
    return repr((item.messages, item.max_tokens))


def _first(items: Sequence[Item], limit: int) -> set[str]:
    """The ids of the first so many of each group."""
    seen: dict[str, int] = {}
    chosen = set()
    for item in items:
        seen[item.group] = seen.get(item.group, 0) + 1
        if seen[item.group] <= limit:
            chosen.add(item.id)
    return chosen


def words(values: Sequence[str] | None) -> list[str]:
    """What an option was given: several times, or with commas between."""
    return [word.strip() for value in values or () for word in value.split(",") if word.strip()]


def model_name(settings: Settings) -> str:
    """The name under which a calibration is kept: the catalog's, or that of the file without its ending."""
    from cactus_py import hub

    base = hub.split_pin(settings.model)[0]
    entry = hub.Catalog.load(hub.Store(settings.home).home).get(base)
    return entry.name if entry is not None else Path(base).stem.lower() if base.lower().endswith(".gguf") else base


def sha256_of(settings: Settings) -> str | None:
    """That of the model's file; None where it is not on this machine, as it need not be for records."""
    from cactus_py import hub
    from cactus_py.errors import CactusError

    store = hub.Store(settings.home)
    try:
        return hub.file_sha256(hub.resolve(settings.model, pull=False, store=store), store)
    except CactusError:
        return None


def calibration_of(settings: Settings, file: Path | None = None) -> Calibration:
    """The calibration of the settings' model, or that of a file."""
    from cactus_py import hub
    from cactus_py.routing.confidence import Calibration, find

    if file is not None:
        return Calibration.load(file)
    return find(model_name(settings), hub.Store(settings.home).home, sha256_of(settings))


def trainer() -> Callable[..., tuple[Calibration, Any]]:
    """What makes calibrations. Raises MissingExtraError where it cannot, before anything long has begun."""
    if find_spec("sklearn") is None:
        raise MissingExtraError("making a calibration", "router")
    from cactus_py.routing.calibrate import calibrate

    return calibrate


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A listener that draws a bar on stderr if that is a terminal, and else says twice a minute how far it is."""
    if not sys.stderr.isatty():
        told_at = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at > 30:
                told_at = time.monotonic()
                print(f"{printable(title)}: {done} of {total}", file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(printable(title), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)

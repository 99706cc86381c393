"""`cactus-py show`: what is known of a model of the catalog, of the store, or of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cactus_py.cli._common import printable
from cactus_py.hub.files import size_text


def command(
    name: Annotated[
        str, typer.Argument(help="A name, an alias, or the path of a .gguf file or a CTranslate2 folder.", show_default=False)
    ],
    metadata: Annotated[bool, typer.Option("--metadata", help="Also the metadata that the model's file carries.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Describe a model: its catalog entry, where it is, which backend runs it and why, and what the engine reads in its file.
    Downloads nothing."""
    from cactus_py import hub
    from cactus_py.backends import choose
    from cactus_py.cli._common import print_json, print_pairs
    from cactus_py.errors import CactusError, UnsupportedModelError
    from cactus_py.hub.store import size_bytes_of

    store = hub.Store()
    catalog = hub.Catalog.load(store.home)
    entry = catalog.get(name)
    model = store.installed(entry.name) if entry else None
    path = model.path if model else None if entry else hub.resolve(name, pull=False, store=store, catalog=catalog)
    facts: dict[str, Any] = {"name": entry.name if entry else name, "installed": path is not None}
    if entry is not None:
        facts |= {"aliases": catalog.aliases_of(entry), **entry.model_dump(mode="json", exclude={"name", "aliases"})}
    if path is not None:
        facts |= {"path": str(path), "size_bytes": size_bytes_of(path)}
    if path is not None and path.is_file():
        facts["sha256"] = hub.file_sha256(path, store)
    if model is not None:
        facts |= {"source": model.source, "pulled_at": model.pulled_at}
    if path is not None:
        try:
            backend, why = choose(path)
            facts |= {"backend": backend, "backend_reason": why}
            if backend is None:
                raise UnsupportedModelError(why)
            if backend != "faster_whisper":  # its folders say nothing that the catalog does not
                facts |= _read(path, metadata) if backend == "native" else _read_elsewhere(path, metadata)
        except CactusError as error:
            if entry is None:
                raise
            facts["file_error"] = str(error)  # the catalog's facts are worth having
    if as_json:
        print_json(facts)
        return
    catalog_facts = {key: value for key, value in facts.items() if value != [] and not isinstance(value, dict)}
    for title, section in (("", catalog_facts), ("file_info", facts.get("file_info")), ("metadata", facts.get("metadata"))):
        if section:
            if title:
                print(f"\n{title}")
            print_pairs([(printable(key), _text(key, value)) for key, value in section.items()])


def _read(path: Path, metadata: bool) -> dict[str, Any]:
    """What the engine says of a file."""
    from cactus_py.cli._common import as_dict
    from cactus_py.engine import Model

    model = Model.load(path, threads=1)
    try:
        facts: dict[str, Any] = {"file_info": as_dict(model.info)}
        if metadata:
            facts["metadata"] = {key: str(value) for key, value in model.metadata.items()}
        return facts
    finally:
        model.close()


def _read_elsewhere(path: Path, metadata: bool) -> dict[str, Any]:
    """What llama.cpp says of a file."""
    from cactus_py.backends.llama_cpp import LlamaModel

    found = LlamaModel.check(path)
    architecture = found.get("general.architecture", "")
    keys = {
        "name": "general.name",
        "trained_context": f"{architecture}.context_length",
        "layers": f"{architecture}.block_count",
    }
    info = {name: int(found[key]) if found[key].isdigit() else found[key] for name, key in keys.items() if key in found}
    facts: dict[str, Any] = {"file_info": {"architecture": architecture, **info}}
    return {**facts, "metadata": found} if metadata else facts


def _text(key: str, value: Any) -> str:
    """A value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return size_text(value) if key.endswith("_bytes") and value >= 1e6 else f"{value:,}"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(name, item)}" for name, item in value.items())
    text = "none" if value is None else printable(str(value))
    return text if len(text) <= 200 else f"{text[:200]}…"

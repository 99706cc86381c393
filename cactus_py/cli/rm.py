"""`cactus-py rm`: delete models from the local store."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    names: Annotated[list[str], typer.Argument(help="Names or aliases of installed models.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Delete models from the store, unfinished downloads of them included. Model files elsewhere are never touched."""
    from cactus_py import hub
    from cactus_py.cli._common import print_json
    from cactus_py.hub.catalog import is_name, unknown_model
    from cactus_py.hub.files import size_text

    store = hub.Store()
    catalog = hub.Catalog.load(store.home)
    doomed = []
    for name in names:
        entry = catalog.get(name)
        doomed.append(entry.name if entry else name.lower())
        if entry is None and (not is_name(name.lower()) or not store.path(name.lower()).is_dir()):
            raise unknown_model(name, [model.name for model in store.all_installed()])
    freed_bytes = {name: store.remove(name) for name in dict.fromkeys(doomed)}
    if as_json:
        print_json([{"name": name, "freed_bytes": freed} for name, freed in freed_bytes.items()])
        return
    for name, freed in freed_bytes.items():
        print(f"{name}: {f'deleted, {size_text(freed)} freed' if freed else 'was not installed'}")

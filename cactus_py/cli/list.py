"""`cactus-py list`: the models of the catalog and of the store."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def command(
    installed: Annotated[bool, typer.Option("--installed", help="Only what is in the store.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models of the catalog, and those in the store that the catalog no longer has."""
    from cactus_py import hub
    from cactus_py.cli._common import print_json, print_table
    from cactus_py.hub.files import size_text

    store = hub.Store()
    catalog = hub.Catalog.load(store.home)
    here = {model.name: model for model in store.all_installed()}
    rows: list[dict[str, Any]] = []
    table = []
    for name in sorted({*catalog.names(), *here}):
        entry, model = catalog.get(name), here.get(name)
        if installed and model is None:
            continue
        aliases = catalog.aliases_of(entry) if entry else []
        size_bytes = model.size_bytes if model else entry.size_bytes if entry else 0
        rows.append(
            {
                "name": name,
                "aliases": aliases,
                "description": entry.description if entry else None,
                "parameters": entry.parameters if entry else None,
                "quantisation": entry.quantisation if entry else None,
                "context": entry.context if entry else None,
                "licence": entry.licence if entry else None,
                "size_bytes": size_bytes,
                "sha256": model.sha256 if model else entry.sha256 if entry else None,
                "installed": model is not None,
                "path": str(model.path) if model else None,
            }
        )
        facts = ("", "", "", "")
        if entry is not None:
            facts = (f"{entry.parameters / 1e6:,.0f} M", entry.quantisation, f"{entry.context:,}", entry.licence)
        table.append((name, *facts, size_text(size_bytes), "yes" if model else "no", ", ".join(aliases)))
    if as_json:
        print_json(rows)
    elif not rows:
        print("No model is installed; fetch the default one with: cactus-py pull default")
    else:
        heads = ("NAME", "PARAMETERS", "TYPE", "CONTEXT", "LICENCE", "SIZE", "INSTALLED", "ALSO CALLED")
        print_table(heads, table, right=(1, 3, 5))

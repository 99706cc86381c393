"""`cactus-py pull`: bring models of the catalog into the local store."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    names: Annotated[list[str], typer.Argument(help="Names or aliases; `cactus-py list` shows them.", show_default=False)],
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash a model that is here already; pull it again if it is damaged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Download models of the catalog. Sources are tried in order; a download that was cut short is resumed; what arrives
    is verified before it is put in place."""
    import time

    from cactus_py import hub
    from cactus_py.cli._common import print_json, pull_progress
    from cactus_py.hub.files import size_text

    results = []
    for name in names:
        began = time.monotonic()
        with pull_progress(name) as progress:
            model = hub.pull(name, progress=progress, verify=verify)
        seconds = time.monotonic() - began
        results.append(
            {
                "name": model.name,
                "path": str(model.path),
                "size_bytes": model.size_bytes,
                "sha256": model.sha256,
                "source": model.source,
                "pulled_at": model.pulled_at,
                "seconds": round(seconds, 3),
            }
        )
        if not as_json:
            print(f"{model.name} ({size_text(model.size_bytes)}) is in {model.path}")
    if as_json:
        print_json(results)

"""`cactus-py serve`: the local server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cactus_py.cli._common import (
    CloudModelOption,
    LocalOnlyOption,
    MaxCloudShareOption,
    MaxCostPerDayOption,
    MinQualityOption,
    PolicyOption,
    ThresholdOption,
    router_settings,
)
from cactus_py.cli._talk import BackendOption, ContextOption, SpeculationOption, ThreadsOption

if TYPE_CHECKING:
    from cactus_py.client import ProgressCallback


def command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="A model to load at the start; may be repeated. The first answers requests that name none."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0: any free one.", show_default="8080")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="A file with the hashes of accepted API keys, one a line.")
    ] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Print a new API key and its hash, and exit.")] = False,
    context: ContextOption = None,
    threads: ThreadsOption = None,
    speculation: SpeculationOption = None,
    backend: BackendOption = None,
    policy: PolicyOption = None,
    threshold: ThresholdOption = None,
    max_cloud_share: MaxCloudShareOption = None,
    max_cost_per_day: MaxCostPerDayOption = None,
    min_quality: MinQualityOption = None,
    cloud_model: CloudModelOption = None,
    local_only: LocalOnlyOption = False,
    kv_memory: Annotated[
        str | None, typer.Option("--kv-memory", help="Most memory for the keys and values of a model, as 512MiB or 2GB.")
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option("--memory-limit", help="Most memory for all models; the least recently used go first.")
    ] = None,
    prefix_cache: Annotated[
        Path | None, typer.Option("--prefix-cache", help="A folder in which the beginnings of prompts outlive the server.")
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option("--max-queue", min=1, help="Most requests that wait; others get 429.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Longest time for one request, in seconds.", show_default="600")
    ] = None,
    grace: Annotated[
        float | None, typer.Option("--grace", help="Seconds that requests may go on after a signal.", show_default="30")
    ] = None,
    max_body: Annotated[str | None, typer.Option("--max-body", help="Largest body of a request.", show_default="32MiB")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option("--cors-origin", help="A web origin that may call the server; may be repeated.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what was asked, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log no requests.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help='Say where the server is as {"url": …}.')] = False,
) -> None:
    """Serve models over OpenAI's HTTP interface. The first line on standard output says where."""
    from cactus_py.config import load_settings
    from cactus_py.serving.keys import new_key as make_key
    from cactus_py.serving.keys import read_hashes

    if new_key:
        key, hashed = make_key()
        if as_json:
            print(json.dumps({"key": key, "hash": hashed}))
        else:
            print(f"key   {key}\nhash  {hashed}")
            print("Give the key to whoever may call the server; it is not kept. The hash goes into the configuration file:")
            print(f'[serve]\napi_keys = ["{hashed}"]')
        return

    serve = {
        "models": model or None,
        "host": host,
        "port": port,
        "api_keys": None if api_key_file is None else read_hashes(api_key_file),
        "timeout_s": timeout,
        "grace_s": grace,
        "max_body": max_body,
        "cors_origins": cors_origin or None,
        "log_prompts": True if log_prompts else None,
        "log": False if quiet else None,
    }
    serve = {name: value for name, value in serve.items() if value is not None}
    settings = load_settings(
        {
            "serve": serve or None,
            "context": context,
            "threads": threads,
            "speculation": speculation,
            "backend": backend,
            "kv_memory": kv_memory,
            "memory_limit": memory_limit,
            "prefix_cache": prefix_cache,
            "max_queue": max_queue,
            **router_settings(policy, threshold, max_cloud_share, max_cost_per_day, min_quality, cloud_model, local_only),
        }
    )
    _run(settings, as_json)


def _run(settings: Any, as_json: bool) -> None:
    import asyncio

    from cactus_py import AsyncClient
    from cactus_py.cli._common import pull_progress
    from cactus_py.serving.app import create_app
    from cactus_py.serving.run import check, listen, run, share_heaps, url_of

    check(settings.serve)
    share_heaps()
    names = settings.serve.models or [settings.model]
    report: list[ProgressCallback] = []  # where the client's news of downloads go
    client = AsyncClient(names[0], config=settings, progress=lambda *news: report[-1](*news) if report else None)
    app = create_app(settings, client)
    listener = listen(settings.serve)  # before the models: a port that is taken should not cost a download
    try:
        for name in names:
            with pull_progress(name) as progress:
                report[:] = [progress]
                asyncio.run(client.warm_up(name))
                report.clear()

        def ready() -> None:
            url = url_of(settings.serve, listener)
            print(json.dumps({"url": url}) if as_json else f"{url} serves {', '.join(names)}; Ctrl-C stops it.", flush=True)

        run(app, settings.serve, listener, ready)
    finally:
        listener.close()
        asyncio.run(client.close())
        sys.stdout.flush()

"""`cactus-py doctor`: what this machine, the engine, the store and the settings are, and what is wrong with them."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cactus_py.config import Settings


def command(as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False) -> None:
    """Check this machine, the engine, the store and the settings. Exit status 1 if something needs attention.

    Keys and passwords are never printed.
    """
    from cactus_py.cli._common import print_json

    problems: list[str] = []
    settings = _settings(problems)
    report = {
        "versions": _versions(),
        "machine": {"system": platform.system(), "cpu": platform.machine(), "cpus": os.cpu_count()},
        "engine": _engine(settings, problems),
        "llama_cpp": _llama_cpp(problems),
        "faster_whisper": _faster_whisper(problems),
        "store": _store(problems),
        "cloud": _cloud(settings, problems),
        "problems": problems,
    }
    if as_json:
        print_json(report)
    else:
        _print(report)
    if problems:
        raise typer.Exit(1)


def _versions() -> dict[str, str | None]:
    """This package, Python, and the libraries that a pull or a request depends on."""
    from cactus_py import __version__

    found: dict[str, str | None] = {"cactus-py": __version__, "python": platform.python_version()}
    for name in ("numpy", "cffi", "pydantic", "httpx", "huggingface-hub", "pip"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _settings(problems: list[str]) -> Settings | None:
    """What is configured; None if that cannot be read, which is then the problem."""
    from cactus_py.config import load_settings
    from cactus_py.errors import ConfigError

    try:
        return load_settings()
    except ConfigError as error:
        problems.append(str(error).rstrip("."))
        return None


def _engine(settings: Settings | None, problems: list[str]) -> dict[str, Any]:
    """What the C library says. A library that cannot be loaded is the problem that this command is most needed for."""
    try:
        from cactus_py import engine

        kernels = engine.kernels_available()
        asked = settings.kernels if settings else None
        if asked is not None and asked not in kernels:
            problems.append(f"the settings ask for the kernel set {asked!r}; this CPU can run {', '.join(kernels)}")
        return {
            "version": engine.library_version(),
            "library": str(engine.library_path()),
            "cpu_features": engine.cpu_features(),
            "kernels_available": kernels,
            "kernels": asked or kernels[0],
            "threads": (settings.threads if settings else None) or engine.default_threads(),
        }
    except Exception as error:  # whatever it is, the rest of the report is worth having
        problems.append(f"the engine cannot be used: {error}")
        return {"error": str(error)}


def _llama_cpp(problems: list[str]) -> dict[str, Any]:
    """Whether files that the engine does not run could be run by llama.cpp."""
    from cactus_py.backends import llama_cpp
    from cactus_py.errors import CactusError

    if not llama_cpp.installed():
        return {"installed": False, "extra": llama_cpp.EXTRA}
    try:
        return {"installed": True, "extra": llama_cpp.EXTRA, "version": llama_cpp.version()}
    except CactusError as error:
        problems.append(str(error).rstrip("."))
        return {"installed": True, "extra": llama_cpp.EXTRA, "version": None}


def _faster_whisper(problems: list[str]) -> dict[str, Any]:
    """Whether speech can be written down."""
    from cactus_py.backends import faster_whisper

    facts: dict[str, Any] = {"installed": faster_whisper.installed(), "extra": faster_whisper.EXTRA}
    if facts["installed"]:
        try:
            facts["version"] = faster_whisper.version()
        except Exception as error:  # a wheel for another machine fails in many ways
            facts["version"] = None
            problems.append(f"faster-whisper is installed, but cannot be loaded: {error}")
    return facts


def _store(problems: list[str]) -> dict[str, Any]:
    """Where models are, which ones, and whether more can be written."""
    from cactus_py import hub
    from cactus_py.errors import CactusError

    facts: dict[str, Any] = {}
    try:
        store = hub.Store()
        free = store.free_bytes()
        facts = {"path": str(store.home), "free_bytes": free, "partial_bytes": store.partial_bytes()}
        place = store.models
        while not place.exists() and place != place.parent:
            place = place.parent
        facts["writable"] = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        if not facts["writable"]:
            problems.append(f"the store cannot be written: {place} is no folder of yours; set CACTUS_PY_HOME to one")
        facts["installed"] = [{"name": m.name, "size_bytes": m.size_bytes} for m in store.all_installed()]
        facts["catalog"] = len(hub.Catalog.load(store.home))
        if not facts["catalog"]:
            problems.append("the catalog is empty: the installation is incomplete")
    except CactusError as error:
        problems.append(str(error).rstrip("."))
    return facts


def _cloud(settings: Settings | None, problems: list[str]) -> dict[str, Any]:
    """Whether requests could be handed to a cloud; of the key only that it is there."""
    from cactus_py.hub.sources import redact

    if settings is None:
        return {}
    base_url = settings.openai_base_url
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        problems.append("OPENAI_BASE_URL is not an http or https URL")
    key = settings.openai_api_key
    router = settings.router
    return {
        "base_url": redact(base_url) if base_url else None,
        "key_present": key is not None and bool(key.get_secret_value()),
        "model": settings.cloud_model,
        "endpoints": _endpoints(settings, problems),
        "policy": router.policy,
        "privacy": router.privacy,
        "redact": list(router.redact),
        "audit_log": None if router.audit_log is None else str(router.audit_log),
        "calibration": _calibration(settings, problems),
    }


def _endpoints(settings: Settings, problems: list[str]) -> list[dict[str, Any]]:
    """Where requests may go, in order, and whether there is a key for it. A keyring is not opened: that may ask the user."""
    from urllib.parse import urlsplit

    from cactus_py.backends.cloud import endpoints_of
    from cactus_py.errors import ConfigError

    found = []
    try:
        endpoints = endpoints_of(settings)
    except ConfigError as error:
        problems.append(str(error).rstrip("."))
        return []
    for endpoint in endpoints:
        key = endpoint.api_key
        present = key is not None and bool(key.get_secret_value())
        if endpoint.api_key is None and endpoint.api_key_env is not None:
            present = bool(os.environ.get(endpoint.api_key_env))
            if not present:
                problems.append(f"the variable {endpoint.api_key_env}, which should hold a cloud's key, is not set")
        state = (
            "keyring"
            if endpoint.api_key is None and not endpoint.api_key_env and endpoint.keyring
            else "set"
            if present
            else "none"
        )
        try:
            host = urlsplit(endpoint.base_url).netloc.rpartition("@")[2]
        except ValueError:
            host = ""
        found.append({"host": host, "model": endpoint.model, "key": state})
    return found


def _calibration(settings: Settings, problems: list[str]) -> dict[str, Any] | None:
    """By whose answers the default model's confidence was calibrated."""
    from cactus_py import hub
    from cactus_py.errors import CactusError
    from cactus_py.routing.confidence import find

    try:
        store = hub.Store(settings.home)
        entry = hub.Catalog.load(store.home).get(settings.model)
        name = settings.model if entry is None else entry.name
        found = find(name, store.home)
    except CactusError as error:
        problems.append(str(error).rstrip("."))
        return None
    return {"model": name, "own": not found.is_default, "note": found.note}


def _print(report: dict[str, Any]) -> None:
    from cactus_py.cli._common import print_pairs, printable
    from cactus_py.hub.files import size_text

    versions, machine, engine, store, cloud = (report[key] for key in ("versions", "machine", "engine", "store", "cloud"))
    pairs = [
        ("versions", ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())),
        ("machine", f"{machine['system']}, {machine['cpu']}, {machine['cpus']} CPUs"),
    ]
    if "error" not in engine:
        pairs += [
            ("library", f"{engine['library']} ({engine['version']})"),
            ("CPU features", " ".join(engine["cpu_features"])),
            ("kernels", f"{engine['kernels']} (of {', '.join(engine['kernels_available'])})"),
            ("threads", str(engine["threads"])),
        ]
    llama = report["llama_cpp"]
    state = f"llama-cpp-python {llama['version']}" if llama["installed"] else "not installed"
    hint = "" if llama["installed"] else f"; for what the engine does not run: pip install 'cactus-py[{llama['extra']}]'"
    pairs.append(("llama.cpp", state + hint))
    speech = report["faster_whisper"]
    state = f"faster-whisper {speech['version']}" if speech["installed"] else "not installed"
    hint = "" if speech["installed"] else f"; to write down audio files: pip install 'cactus-py[{speech['extra']}]'"
    pairs.append(("speech", state + hint))
    if store:
        free = "unknown" if store["free_bytes"] is None else size_text(store["free_bytes"])
        pairs.append(("store", f"{store['path']} ({free} free)"))
        if store["partial_bytes"]:
            pairs.append(("unfinished", f"{size_text(store['partial_bytes'])} of downloads that a new pull resumes"))
        models = [f"{model['name']} ({size_text(model['size_bytes'])})" for model in store.get("installed", [])]
        pairs.append(("models", ", ".join(models) or "none; fetch one with: cactus-py pull default"))
    if cloud:
        key = "an API key is set" if cloud["key_present"] else "no API key"
        address, model = cloud["base_url"] or "no OPENAI_BASE_URL", cloud["model"] or "no CACTUS_PY_CLOUD_MODEL"
        pairs.append(("cloud", f"{key}; {address}; {model}"))
        for place in cloud["endpoints"]:
            pairs.append(("endpoint", f"{printable(place['host'])}: {printable(place['model'])} (key: {place['key']})"))
        kept = "nothing leaves this device" if cloud["privacy"] or not cloud["endpoints"] else f"policy {cloud['policy']}"
        redacts = ", ".join(cloud["redact"]) or "nothing"
        pairs.append(("router", f"{kept}; redacts {redacts}; audit log: {printable(cloud['audit_log'] or 'none')}"))
        calibration = cloud["calibration"]
        if calibration is not None:
            whose = "its own" if calibration["own"] else "the default"
            pairs.append(("calibration", f"{whose}; {printable(calibration['note'])}"))
    print_pairs(pairs)
    for problem in report["problems"]:
        print(f"Problem: {problem.rstrip('.')}.", file=sys.stderr)
    if not report["problems"]:
        print("Nothing needs attention.")

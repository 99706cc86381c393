"""Fixtures shared by the suite: golden models, real weights, and walls around the user's own files and keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"

# The environment as it was when the tests started: real weights are kept where the user keeps them, not where a test runs.
ORIGINAL = dict(os.environ)
KEPT = {"CACTUS_PY_KERNELS", "CACTUS_PY_LIBRARY"}  # may be set on purpose to run the whole suite another way
SECRETS = ("OPENAI_", "AZURE_OPENAI_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def pytest_configure(config: pytest.Config) -> None:
    """Names the suite's markers."""
    config.addinivalue_line("markers", "weights: needs real weights, which the first run fetches (deselect: -m 'not weights')")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that asks for real weights."""
    for item in items:
        if {"smollm2_path", "gemma3_path", "whisper_path", "server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.weights)


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for each test: no file of the user is read or written, no key of theirs is seen, no hub is asked."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(SECRETS) or (name.startswith("CACTUS_PY_") and name not in KEPT):
            monkeypatch.delenv(name)
    pip_files = [Path.home() / ".config" / "pip" / "pip.conf", Path.home() / ".pip" / "pip.conf"]
    pip_file = next((file for file in pip_files if file.is_file()), None)
    if pip_file is not None and "PIP_CONFIG_FILE" not in os.environ:
        monkeypatch.setenv("PIP_CONFIG_FILE", str(pip_file))  # pip's index stays the configured one
    monkeypatch.setenv("HOME", str(home))
    for name, folder in (("CONFIG", ".config"), ("DATA", ".local/share"), ("CACHE", ".cache"), ("STATE", ".local/state")):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / folder))
    monkeypatch.setenv("CACTUS_PY_HOME", str(home / "cactus"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home


@pytest.fixture(scope="session")
def data() -> Path:
    """tests/data"""
    return DATA


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The golden models, tests/data/zoo."""
    return DATA / "zoo"


@pytest.fixture(scope="session")
def weights_home() -> Path:
    """A model store that outlives the session, so that weights are fetched once: $CACTUS_PY_HOME, or one under ~/.cache."""
    if "CACTUS_PY_HOME" in ORIGINAL:
        return Path(ORIGINAL["CACTUS_PY_HOME"])
    cache = Path(ORIGINAL.get("XDG_CACHE_HOME") or Path(ORIGINAL.get("HOME", "/")) / ".cache")
    return cache / "cactus-py-tests"


def fetched(name: str, weights_home: Path) -> Path:
    """A model of the catalog, fetched where it is not there yet."""
    from cactus_py import hub

    with pytest.MonkeyPatch.context() as patch:
        for variable in ("HOME", "PIP_CONFIG_FILE", *(f"XDG_{kind}_HOME" for kind in ("CONFIG", "DATA", "CACHE", "STATE"))):
            if variable in ORIGINAL:
                patch.setenv(variable, ORIGINAL[variable])
            else:
                patch.delenv(variable, raising=False)
        patch.setenv("CACTUS_PY_HOME", str(weights_home))
        return Path(hub.resolve(name, pull=True))


@pytest.fixture(scope="session")
def smollm2_path(weights_home: Path) -> Path:
    """SmolLM2-135M-Instruct Q4_1."""
    return fetched("smollm2-135m-instruct", weights_home)


@pytest.fixture(scope="session")
def server(smollm2_path: Path, weights_home: Path) -> Iterator[Any]:
    """`cactus-py serve` with SmolLM2, in a process of its own: a `server_process.ServerProcess`."""
    from server_process import ServerProcess

    with ServerProcess(weights_home) as running:
        yield running


@pytest.fixture(scope="session")
def minilm_path(weights_home: Path) -> Path:
    """all-MiniLM-L6-v2 F16, converted when it is pulled."""
    return fetched("all-minilm-l6-v2", weights_home)


@pytest.fixture(scope="session")
def gemma3_path(weights_home: Path) -> Path:
    """Gemma 3 270M (base) Q4_K_M."""
    return fetched("gemma-3-270m", weights_home)


@pytest.fixture(scope="session")
def whisper_path(weights_home: Path) -> Path:
    """Whisper tiny (English), a CTranslate2 folder. Skips, by name, where it cannot be had or run."""
    from cactus_py.backends import faster_whisper
    from cactus_py.errors import DownloadError

    if not faster_whisper.installed():
        pytest.skip("faster-whisper is not installed (the extra whisper)")
    try:
        return fetched("whisper-tiny.en", weights_home)
    except DownloadError as error:
        pytest.skip(f"Whisper's weights cannot be had: {error}")

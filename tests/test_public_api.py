"""The public surface: exactly what is promised, and light to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cactus_py
from cactus_py import errors

HEAVY = ("pydantic", "pydantic_settings", "jinja2", "numpy", "cffi", "httpx", "huggingface_hub", "typer", "rich", "asyncio")


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has imported after running `code`."""
    script = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_all_is_exactly_the_public_surface() -> None:
    assert set(cactus_py.__all__) == {"AsyncClient", "Client", "__version__", *errors.__all__}
    assert list(cactus_py.__all__) == sorted(cactus_py.__all__)


def test_all_names_can_be_imported() -> None:
    for name in cactus_py.__all__:
        assert getattr(cactus_py, name) is not None
    assert set(cactus_py.__all__) <= set(dir(cactus_py))


def test_errors_are_the_same_objects() -> None:
    for name in errors.__all__:
        assert getattr(cactus_py, name) is getattr(errors, name)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = cactus_py.Clinet


def test_version_is_that_of_the_package() -> None:
    from importlib import metadata

    try:
        expected = metadata.version("cactus-py")
    except metadata.PackageNotFoundError:
        expected = "unknown"
    assert cactus_py.__version__ == expected


def test_importing_the_package_imports_nothing_heavy() -> None:
    """`import cactus_py` stays far under 150 ms because of what it does not import; a clock would only measure the machine."""
    imported = modules_after("import cactus_py")
    assert {name for name in imported if name.startswith("cactus_py")} == {"cactus_py", "cactus_py.errors"}
    assert not [name for name in imported if name.split(".")[0] in HEAVY]


def test_importing_the_client_loads_neither_engine_nor_templates() -> None:
    imported = modules_after("from cactus_py import Client, AsyncClient")
    for name in ("cactus_py.engine", "cactus_py.backends.native", "jinja2", "numpy", "cffi", "httpx", "huggingface_hub"):
        assert name not in imported

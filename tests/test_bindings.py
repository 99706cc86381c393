"""The generated declarations against the header that they are made from."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "make_bindings.py"


def without_version(code: str) -> list[str]:
    """The lines, except for the one that says which cffi wrote them."""
    return [line for line in code.splitlines() if "_version" not in line]


def test_bindings_are_those_of_the_header() -> None:
    spec = importlib.util.spec_from_file_location("make_bindings", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    fresh = script.bindings(script.HEADER.read_text(encoding="utf-8"))
    assert "cactus_model_load" in fresh
    written = script.TARGET.read_text(encoding="utf-8")
    assert without_version(written) == without_version(fresh), "run: python scripts/make_bindings.py"

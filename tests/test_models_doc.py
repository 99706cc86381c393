"""docs/models.md says what the engine's tables say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from cactus_py.engine import architectures, tensor_types

ROOT = Path(__file__).resolve().parent.parent


def test_page_is_current() -> None:
    """Regenerating it changes nothing."""
    script = ROOT / "scripts" / "make_models_doc.py"
    if not script.exists():
        pytest.skip("no source checkout")
    spec = importlib.util.spec_from_file_location("make_models_doc", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == module.page()


def test_tables_are_plausible() -> None:
    """Names are unique, sizes are those that ggml's format documents for well-known types."""
    names = [row.name for row in architectures()]
    assert len(set(names)) == len(names) and {"llama", "gemma3", "mamba"} <= set(names)
    assert all(row.models and row.summary for row in architectures())
    types = {row.name: row for row in tensor_types()}
    assert types["Q4_0"].bits_per_weight == 4.5 and types["Q6_K"].bits_per_weight == 6.5625
    assert types["F16"].bits_per_weight == 16 and types["Q4_K"].number == 12

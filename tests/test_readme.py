"""The README's Python examples run as they stand, one after the other, on real weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)


@pytest.mark.weights
@pytest.mark.parametrize("index", range(len(EXAMPLES)), ids=lambda i: f"example-{i + 1}")
def test_example_runs_and_prints(
    index: int, smollm2_path: Path, weights_home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each block may use the names of the first, which every reader has by then."""
    code = "\n".join([*EXAMPLES[:1], EXAMPLES[index]] if index else EXAMPLES[:1])
    if "client.audio" in code:
        request.getfixturevalue("whisper_path")
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "CACTUS_PY_HOME": str(weights_home)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.strip()) > 0
    if index == 0:
        assert "Paris" in done.stdout
        assert done.stdout.rstrip().endswith("local")


def test_local_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_test_command_is_marked_for_ci() -> None:
    """`.ci/run` takes the command behind the marker, so that what the README promises is what is run."""
    block = re.search(r"<!-- test -->\n```sh\n(.*?)```", README, flags=re.S)
    assert block is not None
    assert "pytest" in block.group(1)

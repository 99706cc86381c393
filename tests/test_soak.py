"""scripts/soak.py, for a few seconds: the server under everything at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "soak.py"


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")
def test_soak(smollm2_path: Path, weights_home: Path, tmp_path: Path) -> None:
    from server_process import environment

    report = tmp_path / "report.json"
    # too short for memory to have settled: of the growth only what would be no soak's business is refused
    command = [sys.executable, str(SCRIPT), "--seconds", "4", "--workers", "8", "--growth", "60", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(weights_home), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["wrong"] == [] and len(found["checks"]) == 9 and found["curve"]
    assert int(found["statuses"]["200"]) > 20


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", str(tmp_path / "none.gguf"), "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 1 and "the server did not start" in done.stderr

"""Each program in examples/ runs as it stands, on real weights, and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
EXPECTED = {  # what the output must hold; patterns for greedy answers that no rounding turns over
    "chat.py": r"Paris[\s\S]*answered by smollm2-135m-instruct \(local\)",
    "conversation.py": r"> What is the capital[^\n]*\n.*Paris[\s\S]*> And of Italy[^\n]*\n.+[\s\S]*> Thank you!\n.+",
    "embeddings.py": r"0\.\d\d  The stock market",
    "hybrid.py": r"France\? .*Paris[\s\S]*  local, \d+% sure[\s\S]*kept here: local\n",
    "logprobs.py": r"'[^']+': '[^']+' \d+%[\s\S]*-\d+\.\d\d  The sky is blue\.\n\s*-\d+\.\d\d  The sky is screwdriver\.",
    "many_at_once.py": r"France: .*Paris[\s\S]*Italy: .*Rome[\s\S]*Japan: .*Tokyo[\s\S]*Egypt: .*Cairo",
    "tools.py": r"get_weather \{'city': '[^']+', 'unit': '[CF]'\}\n\S",
    "structured.py": r".+ is \d+ next year\n(yes|no)\n[0-2]\d:[0-5]\d\n",
    "transcribe.py": r"  0\.00 s to \d\.\d\d s: There are no more [^\n]*\n3\.12 s of english, [^\n]* whisper-tiny\.en\n",
    "stream.py": r"\S[\s\S]*\n\d+ tokens read, \d+ written",
}


def run(script: Path, weights_home: Path, tmp_path: Path) -> str:
    environment = {**os.environ, "CACTUS_PY_HOME": str(weights_home), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_every_example_has_an_expectation() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, smollm2_path: Path, weights_home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name == "transcribe.py":
        request.getfixturevalue("whisper_path")
    output = run(EXAMPLES / name, weights_home, tmp_path)
    assert re.search(EXPECTED[name], output), output
    if name == "logprobs.py":
        likely, unlikely = (float(score) for score in re.findall(r"(-\d+\.\d\d)  The sky", output))
        assert likely > unlikely

"""What a loaded model takes: the mapped file once for all, and little that is private beside keys and values."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from cactus_py.engine import Model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")

PROMPT_TOKENS = 512


def memory_of(path: Path) -> dict[str, int]:
    """Of this process: bytes of maps of `path` that are resident, that are private, and anonymous bytes of everything."""
    found = {"file_rss": 0, "file_private": 0, "n_maps": 0, "anonymous": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        head = line.split()
        if "-" in head[0] and not head[0].endswith(":"):
            inside = line.endswith(str(path))
            found["n_maps"] += inside
            continue
        n_bytes = int(head[1]) * 1024 if len(head) > 2 and head[2] == "kB" else 0
        if head[0] == "Anonymous:":
            found["anonymous"] += n_bytes
        if inside and head[0] == "Rss:":
            found["file_rss"] += n_bytes
        if inside and head[0] == "Private_Dirty:":
            found["file_private"] += n_bytes
    return found


def read_prompt(model: Model, path: Path) -> None:
    """A prompt of 512 tokens and a few generated ones."""
    ids = model.tokenize("The quick brown fox jumps over the lazy dog. " * 64, add_special=False)[:PROMPT_TOKENS]
    assert len(ids) == PROMPT_TOKENS
    assert len(list(model.generate(ids, max_tokens=8, sampling={"temperature": 0, "ignore_eos": True}))) == 8


def test_private_memory_is_small(smollm2_path: Path) -> None:
    """After a prompt of 512 tokens: under 60 MB beside keys and values, no page of the weights copied. In its own process."""
    code = f"import test_memory; from pathlib import Path; test_memory.report(Path({str(smollm2_path)!r}))"
    entries = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {entries!r}; {code}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    base, after, kv_bytes, file_private = (int(word) for word in done.stdout.split())
    print(f"\nanonymous MB: {base / 1e6:.1f} before loading, {after / 1e6:.1f} after, keys and values {kv_bytes / 1e6:.1f}")
    assert file_private == 0
    assert after - base - kv_bytes < 60_000_000
    # Half-precision keys and values of 30 layers, 3 heads, 64 wide, for 520 tokens in pages of 32, and hardly more.
    assert kv_bytes <= (PROMPT_TOKENS + 8 + 32) * 30 * 3 * 64 * 2 * 2


def report(path: Path) -> None:
    """Prints what `test_private_memory_is_small` reads."""
    base = memory_of(path)["anonymous"]
    with closing(Model.load(path, threads=2)) as model:
        read_prompt(model, path)
        after = memory_of(path)
        print(base, after["anonymous"], model.memory().kv_touched_bytes, after["file_private"])


def test_two_models_share_the_file(smollm2_path: Path) -> None:
    """The second costs its own keys, values and scratch memory, not the weights again; closing one leaves the other running."""
    first = Model.load(smollm2_path, threads=2)
    read_prompt(first, smollm2_path)
    one = memory_of(smollm2_path)
    with closing(Model.load(smollm2_path, threads=2)) as second:
        read_prompt(second, smollm2_path)
        two = memory_of(smollm2_path)
        assert two["n_maps"] > 0 and two["file_private"] == 0
        assert two["file_rss"] > 0.5 * smollm2_path.stat().st_size
        kv_bytes = second.memory().kv_touched_bytes
        assert two["anonymous"] - one["anonymous"] - kv_bytes < 60_000_000
        tokens = [t.id for t in first.generate([1, 2, 3], max_tokens=4, sampling={"temperature": 0, "ignore_eos": True})]
        first.close()
        again = [t.id for t in second.generate([1, 2, 3], max_tokens=4, sampling={"temperature": 0, "ignore_eos": True})]
        assert again == tokens
    assert memory_of(smollm2_path)["n_maps"] == 0


def test_memory_info_is_what_the_system_sees(zoo: Path) -> None:
    """Pages are counted as they are touched, given back to the pool when a request ends, and reused."""
    path = zoo / "llama" / "llama.f32.gguf"
    with closing(Model.load(path, threads=1)) as model:
        start = model.memory()
        assert start.file_bytes == path.stat().st_size
        assert start.kv_pages_used == 0 and start.kv_touched_bytes == 0
        # Two layers, two heads, 32 wide, keys and values in float32, 32 tokens to a page.
        assert start.kv_page_bytes == 2 * 2 * 32 * 2 * 4 * start.kv_page_tokens
        for _ in range(5):
            list(model.generate([1] * 100, max_tokens=8, sampling={"temperature": 0, "ignore_eos": True}))
        deadline = time.monotonic() + 10  # a request gives its pages back behind its last event
        while model.memory().kv_pages_used and time.monotonic() < deadline:
            time.sleep(0.01)
        end = model.memory()
        assert end.kv_pages_used == 0
        assert end.kv_touched_bytes == 4 * end.kv_page_bytes
        assert model.info.memory == end


def test_no_second_map_of_a_file_that_two_models_use(zoo: Path) -> None:
    """Opened five times, a small model still takes five maps of shared pages, none private."""
    path = zoo / "llama" / "llama.f32.gguf"
    models = [Model.load(path, threads=1) for _ in range(5)]
    try:
        for model in models:
            model.logits([1, 2, 3])
        assert memory_of(path)["file_private"] == 0
    finally:
        for model in models:
            model.close()
    assert memory_of(path)["n_maps"] == 0

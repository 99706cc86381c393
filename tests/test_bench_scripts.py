"""The benchmark's own arithmetic: names, work of a model, shares of limits, medians and ratios, reports. Nothing is timed."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts" / "bench"
NAMES = ("bench", "formats", "limits", "measure", "plot", "suite")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules; they are no package, and their names are gone afterwards."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: __import__(name) for name in NAMES}
    finally:
        sys.path[:] = [entry for entry in sys.path if entry != str(SCRIPTS)]
        for name in NAMES:
            sys.modules.pop(name, None)


def rounds_of(engine: str, *values: dict[str, float]) -> list[dict[str, Any]]:
    about = {"engine": engine, "kernels": "scalar", "mostly": "Q4_0", "options": {}}
    return [{"values": v, "about": about} for v in values]


@pytest.fixture
def document(scripts: dict[str, ModuleType]) -> dict[str, Any]:
    """A report of invented figures: 3 rounds of ours, 3 of a peer; neither measures everything."""
    limits = {
        "read": {"rate": 1e9, "by": "loads"},
        "vector": {"rate": 4e9, "by": "vmul"},
        "matrix": {"rate": 16e9, "by": "mmul"},
    }
    work = scripts["limits"].Work(layer_bytes=800_000, layer_macs=1_000_000, head_bytes=200_000, head_macs=640_000)
    measured = {
        "ours": rounds_of(
            "cactus_py 1",
            {"pp64": 1000.0, "tg8@0": 400.0, "tg8x4": 1000.0, "load": 10.0},
            {"pp64": 3000.0, "tg8@0": 500.0, "tg8x4": 800.0, "load": 30.0},
            {"pp64": 2000.0, "tg8@0": 600.0, "tg8x4": 900.0, "load": 20.0},
        ),
        "peer": rounds_of("peer 2", *[{"load": 40.0, "pp64": 500.0, "tg8@0": 250.0, "rss": 5.0}] * 3),
    }
    return {
        "date": "2001-02-03",
        "commit": "abc",
        "machine": {"cpu": "a CPU", "cpus": 2, "system": "Linux", "load_average_at_start": 0.0, "limits": limits},
        "model": {"file": "some-model.q4_0.gguf", "bytes": 1_000_000},
        "settings": {"threads": 2, "rounds": 3},
        "summary": scripts["bench"].summarise(measured, work, limits),
        "rounds": measured,
    }


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pp512", ("pp", 512, 0, 1)),
        ("tg128@2048", ("tg", 128, 2048, 1)),
        ("tg128x16", ("tg", 128, 0, 16)),
        ("load", ("load", 0, 0, 1)),
    ],
)
def test_names_are_taken_apart(scripts: dict[str, ModuleType], name: str, parts: tuple[str, int, int, int]) -> None:
    assert scripts["measure"].parse_name(name) == parts


@pytest.mark.parametrize("name", ["", "128", "speed5", "pp512 tok/s"])
def test_other_names_are_refused(scripts: dict[str, ModuleType], name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a measurement"):
        scripts["measure"].parse_name(name)


def test_a_job_asks_for_no_prompt_twice(scripts: dict[str, ModuleType]) -> None:
    """A fake engine writes down what it is given: sizes as asked, no two prompts with the same beginning, context enough."""
    prompts: list[list[int]] = []
    contexts: list[tuple[int, int]] = []

    class Fake:
        def __init__(self, _job: Any, n_ctx: int, n_sequences: int) -> None:
            contexts.append((n_ctx, n_sequences))

        def read(self, ids: list[int]) -> float:
            prompts.append(ids)
            return 250.0

        def generate(self, ids: list[int], n: int) -> float:
            assert len(ids) + n < contexts[0][0]
            prompts.append(ids)
            return 1000.0 * n

        def together(self, given: list[list[int]], n: int) -> float:
            assert max(map(len, given)) + n < contexts[1][0]
            prompts.extend(given)
            return 7.0

        def first_token(self, ids: list[int]) -> float:
            prompts.append(ids)
            return float(len(prompts))

        def about(self) -> dict[str, Any]:
            return {"engine": "fake"}

        def close(self) -> None:
            pass

    measure = scripts["measure"]
    job = measure.Job("model", 2, [32, 128], [0, 512], [1, 4], 16, 64, list(range(10_000)))
    result = measure.measure(job, Fake)
    assert len({prompt[0] for prompt in prompts}) == len(prompts)
    assert {name: v for name, v in result.values.items() if name not in ("load", "rss", "private")} == {
        "pp32": 128.0, "pp128": 512.0, "tg16@0": 1.0, "tg16@512": 1.0, "ttft64": 8.0, "tg16x1": 7.0, "tg16x4": 7.0,
    }  # fmt: skip
    assert [len(prompt) for prompt in prompts] == [128, 32, 32, 128, 32, 512, 64, 64, *[32] * 9]
    assert [n for _, n in contexts] == [1, 4]
    assert result.about == {"engine": "fake"}


def test_work_counts_the_head_once_and_no_embedding(scripts: dict[str, ModuleType]) -> None:
    tensor, work_of = scripts["limits"].Tensor, scripts["limits"].work_of
    layers = [tensor("blk.0.attn_q.weight", (64, 32), 1000), tensor("blk.1.ffn_up.weight", (64, 128), 4000)]
    other = [tensor("blk.0.attn_norm.weight", (64,), 256), tensor("blk.0.attn_q.bias", (32,), 128)]
    tied = [*layers, *other, tensor("token_embd.weight", (64, 100), 6000)]
    assert work_of(tied) == scripts["limits"].Work(5000, 64 * 32 + 64 * 128, 6000, 6400)
    assert work_of([*tied, tensor("output.weight", (64, 100), 3000)]).head_bytes == 3000
    with pytest.raises(ValueError, match=r"neither output\.weight nor token_embd\.weight"):
        work_of(layers)
    with pytest.raises(ValueError, match=r"ffn_up_exps\.weight is no matrix"):
        work_of([*tied, tensor("blk.0.ffn_up_exps.weight", (64, 32, 8), 9000)])


def test_work_of_a_file_is_what_the_file_says(scripts: dict[str, ModuleType], zoo: Path) -> None:
    """In a file of float32 every multiply-add costs four bytes."""
    pytest.importorskip("gguf")
    model = zoo / "llama" / "llama.f32.gguf"
    work = scripts["limits"].model_work(model)
    assert 0 < work.layer_bytes + work.head_bytes < model.stat().st_size
    assert (work.layer_bytes, work.head_bytes) == (4 * work.layer_macs, 4 * work.head_macs)


def test_summary_has_medians_ratios_and_shares(document: dict[str, Any]) -> None:
    rows = {row["measurement"]: row for row in document["summary"]}
    assert list(rows) == ["pp64", "tg8@0", "tg8x4", "load", "rss"]
    assert rows["pp64"]["ours"] == {
        "median": 2000.0,
        "lowest": 1000.0,
        "highest": 3000.0,
        "shares": {"vector": pytest.approx(1_010_000 * 2000 / 4e9), "matrix": pytest.approx(1_010_000 * 2000 / 16e9)},
    }
    assert rows["pp64"]["ratio"] == 4.0
    assert rows["tg8@0"]["ours"]["shares"] == {"read": pytest.approx(1_000_000 * 500 / 1e9)}
    assert rows["tg8x4"]["ours"]["shares"] == {
        "read": pytest.approx(1_000_000 * 900 / 4 / 1e9),
        "vector": pytest.approx(1_640_000 * 900 / 4e9),
        "matrix": pytest.approx(1_640_000 * 900 / 16e9),
    }
    assert "peer" not in rows["tg8x4"]
    assert rows["tg8x4"]["ratio"] is None
    assert rows["load"] == {
        "measurement": "load",
        "unit": "ms",
        "ours": {"median": 20.0, "lowest": 10.0, "highest": 30.0},
        "peer": {"median": 40.0, "lowest": 40.0, "highest": 40.0},
        "ratio": 0.5,
    }


def test_reports(scripts: dict[str, ModuleType], document: dict[str, Any]) -> None:
    report = scripts["bench"].markdown(document, None)
    assert "read 1 GB/s by loads, vector 4 GMAC/s by vmul, matrix 16 GMAC/s by mmul" in report
    assert "| pp64, tok/s | 2000 (1000 … 3000) | 500 (500 … 500) | 4.00 | 50 % vector, 13 % matrix |" in report
    assert "| tg8, 4 sequences, tok/s | 900 (800 … 1000) |  |  | 22 % read, 37 % vector, 9 % matrix |" in report
    assert "| rss, MB |  | 5 (5 … 5) |  |  |" in report
    alone = {**document, "rounds": {"ours": document["rounds"]["ours"]}}
    assert "| pp64, tok/s | 2000 (1000 … 3000) | 50 % vector, 13 % matrix |" in scripts["bench"].markdown(alone, None)
    table = scripts["suite"].markdown({"formats": {"Q4_0": document, "Q8_0": document}}, "formats.png")
    assert "| pp64, tok/s | Q4_0 | 2000 (1000 … 3000) | 500 (500 … 500) | 4.00 | 50 % vector, 13 % matrix |" in table
    assert "| pp64, tok/s | Q8_0 (mostly Q4_0) |" in table
    assert "| rss, MB | Q8_0 (mostly Q4_0) |  | 5 (5 … 5) |  |  |" in table
    assert "![the same as bars](formats.png)" in table


def test_best_limits(scripts: dict[str, ModuleType]) -> None:
    first, second = {"read": {"rate": 2.0, "by": "a"}, "vector": {"rate": 1.0, "by": "b"}}, {"read": {"rate": 3.0, "by": "a"}}
    assert scripts["limits"].best_limits([first, {}, second]) == {**first, **second}


def test_bars_are_drawn(scripts: dict[str, ModuleType], document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    panels = scripts["bench"].panels(document)
    assert [(panel.labels, panel.values["ours"]) for panel in panels] == [
        (["64"], [2000.0]), (["0"], [500.0]), (["4"], [900.0]), (["load"], [20.0]), (["rss"], [0.0]),
    ]  # fmt: skip
    scripts["plot"].draw(tmp_path / "bars.png", panels)
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "bars.png").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("file", "name"),
    [("Some-1B.Q4_K_M.gguf", "Q4_K_M"), ("some-1b-q8_0.gguf", "Q8_0"), ("a.bf16.gguf", "BF16"), ("plain.gguf", "plain")],
)
def test_formats(scripts: dict[str, ModuleType], file: str, name: str) -> None:
    formats = scripts["formats"]
    assert formats.format_of(Path(file)) == name
    assert formats.format_of(formats.path_of(Path(file), Path("x"), "Q6_K")) == "Q6_K"


def test_rows_are_named_apart(scripts: dict[str, ModuleType]) -> None:
    labels = scripts["suite"].labels
    assert labels([Path("m.Q4_0.gguf"), Path("m.Q8_0.gguf")]) == ["Q4_0", "Q8_0"]
    assert labels([Path("a.Q4_0.gguf"), Path("b.Q4_0.gguf")]) == ["a.Q4_0", "b.Q4_0"]


def test_a_report_of_a_peer_of_ones_own(scripts: dict[str, ModuleType], zoo: Path, tmp_path: Path) -> None:
    """The seam, from end to end: a peer is any script that reads a job and writes a result. No limits, no plot needed."""
    bench = scripts["bench"]
    peer = tmp_path / "snail.py"
    peer.write_text(
        "import json, sys\n"
        "job = json.load(sys.stdin)\n"
        "print(json.dumps({'values': {'pp8': len(job['ids']) and 1.0}, 'about': {'engine': 'snail 1'}}))\n"
    )
    model = zoo / "llama" / "llama.f32.gguf"
    parser = argparse.ArgumentParser()
    bench.add_options(parser)
    args = parser.parse_args(["--peer", str(peer), "--rounds", "2", "--threads", "1", "--pp", "8", "--tg", "4"])
    document = bench.run(args, model, "quick")
    rows = {row["measurement"]: row for row in document["summary"]}
    assert rows["pp8"]["snail"]["median"] == 1.0
    assert rows["pp8"]["ratio"] == rows["pp8"]["ours"]["median"] > 0
    assert rows["tg4@0"]["ours"]["median"] > 0
    assert [len(rounds) for rounds in document["rounds"].values()] == [2, 2]
    json.dumps(document)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_limits_are_measured_and_bad_arguments_refused(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(bytes(1_000_000))
    limits = scripts["limits"].machine_limits(file, 1)
    assert limits["read"]["rate"] > 1e6
    assert limits["vector"]["rate"] > 1e6
    file.write_bytes(b"short")
    assert "read" not in scripts["limits"].machine_limits(file, 1)


def test_a_failing_child_is_reported(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    bench = scripts["bench"]
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no legs')")
    job = scripts["measure"].Job("model", 1, [8], [], [], 1, 0, [1])
    with pytest.raises(RuntimeError, match=r"broken\.py ended with 1: no legs"):
        bench.run_child(bench.Side("broken", sys.executable, script, {}), job)
    with pytest.raises(RuntimeError, match="cannot be started"):
        bench.run_child(bench.Side("broken", str(tmp_path / "nothing"), script, {}), job)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rounds", "0"], "0 is not positive"),
        (["--depths", "-1"], "-1 is negative"),
        (["--profile", "none"], "invalid choice: 'none'"),
        ([], "cannot open missing.gguf"),
    ],
)
def test_the_command_line_refuses_nonsense(options: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench.py"), "missing.gguf", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rounds", "0", "--rounds is 0; it must be at least 1"),
        ("--tokens", "1", "--tokens is 1; it must be at least 2"),
        ("--speculation", "0", "--speculation is 0; it must be at least 1 and at most 16"),
        ("--speculation", "17", "--speculation is 17; it must be at least 1 and at most 16"),
    ],
)
def test_lookup_refuses_what_has_no_ratio(option: str, value: str, said: str) -> None:
    command = [sys.executable, str(SCRIPTS / "lookup.py"), "missing.gguf", option, value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_peer_needs_its_python(zoo: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench.py"), str(zoo / "llama" / "llama.f32.gguf"), "--profile", "quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "--peer-python is missing" in done.stderr
    assert "Traceback" not in done.stderr

"""The command line around the hub: what it prints, its exit statuses, and what it does not import."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cactus_py
from cactus_py import cli
from cactus_py.engine import kernels_available
from cactus_py.hub import Store

CONTENT = b"GGUF, but not much of it"
Run = Callable[..., tuple[int, str, str]]
ROOT = str(Path(cactus_py.__file__).parents[1])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`cactus-py WORDS` in this process: (exit status, stdout, stderr)."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        status = stop.value.code
        assert isinstance(status, int)
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A catalog entry "tiny", alias "t", whose source is the returned file."""
    source = tmp_path / "source.gguf"
    source.write_bytes(CONTENT)
    folder = Store().home / "catalog"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(CONTENT).hexdigest()
    (folder / "tiny.toml").write_text(
        f'name = "tiny"\naliases = ["t"]\ndescription = "A test"\nlicence = "CC0-1.0"\nparameters = 2000000\n'
        f'quantisation = "F32"\ncontext = 64\narchitecture = "llama"\nfile = "tiny.gguf"\nsize_bytes = {len(CONTENT)}\n'
        f'sha256 = "{digest}"\nsources = ["{source.as_uri()}"]\n'
    )
    return source


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cactus_py.cli import main; main()", *words],
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ---- the frame ------------------------------------------------------------------------------------------------------------


def test_help_names_every_command(run: Run) -> None:
    for words in (["--help"], ["-h"]):
        status, out, _ = run(*words)
        assert status == 0
        for name, sentence in cli.COMMANDS.items():
            assert name in out and sentence in out
    commands = {path.stem for path in Path(cli.__file__).parent.glob("[!_]*.py")}
    assert commands == set(cli.COMMANDS), "every command has its file, and every file its command"


def test_help_imports_nothing_heavy() -> None:
    heavy = ["pydantic", "httpx", "numpy", "cffi", "huggingface_hub", "jinja2", "cactus_py.hub", "cactus_py.engine"]
    code = (
        "import sys\nfrom cactus_py.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n"
        f"    print([name for name in {heavy} if name in sys.modules], stop.code)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("name", ["pull", "list", "show", "rm", "bench", "doctor"])
def test_each_command_explains_itself(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"cactus-py {name}" in out and "--json" in out


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"cactus-py {cactus_py.__version__}\n", "")


@pytest.mark.parametrize(
    "words", [["frob"], ["pull"], ["list", "--frob"], ["bench", "--pp", "0"], ["bench", "--pp", "x"], ["--frob"]]
)
def test_wrong_usage_is_status_2(run: Run, words: list[str]) -> None:
    status, out, err = run(*words)
    assert status == 2
    assert out == "" and "Usage: cactus-py" in err


def test_an_error_is_one_sentence(run: Run) -> None:
    status, out, err = run("pull", "smolm2")
    assert (status, out) == (1, "")
    assert err.startswith("Error: There is no model called 'smolm2'") and "did you mean smollm2" in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    result = process("--debug", "pull", "nothing-like-it")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "UnknownModelError" in result.stderr


def test_an_unexpected_error_is_a_sentence_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of \x1b[31mcourse")

    monkeypatch.setattr("cactus_py.hub.pull", broken)
    status, _, err = run("pull", "smollm2")
    assert status == 1
    assert err.startswith(r"Error: Unexpected ZeroDivisionError: of \x1b[31mcourse. Run `cactus-py --debug")


def test_ctrl_c_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cactus_py.hub.pull", interrupted)
    status, out, err = run("pull", "smollm2")
    assert (status, out, err) == (130, "", "")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    source = "import sys\nfrom cactus_py.cli import main\nmain(['list', '--json'])"
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert result.returncode == 1
    assert result.stderr == ""


# ---- pull, list, rm -------------------------------------------------------------------------------------------------------


def test_pull_list_rm(run: Run, tiny: Path) -> None:
    home = Store().home
    status, out, err = run("pull", "t")
    assert (status, out) == (0, f"tiny (0.0 MB) is in {home}/models/tiny/tiny.gguf\n")
    assert "Downloading t" in err
    status, out, err = run("pull", "tiny", "--json")
    assert (status, err) == (0, "")
    (model,) = json.loads(out)
    assert model["source"] == tiny.as_uri() and model["size_bytes"] == len(CONTENT)
    assert Path(model["path"]).read_bytes() == CONTENT

    rows = {row["name"]: row for row in json.loads(run("list", "--json")[1])}
    assert rows["tiny"]["installed"] is True and rows["tiny"]["aliases"] == ["t"] and rows["tiny"]["parameters"] == 2_000_000
    assert rows["smollm2-135m-instruct"]["installed"] is False and rows["smollm2-135m-instruct"]["path"] is None
    lines = run("list", "--installed")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "tiny"]
    assert lines[1].split() == ["tiny", "2", "M", "F32", "64", "CC0-1.0", "0.0", "MB", "yes", "t"]

    status, out, _ = run("rm", "t")
    assert status == 0 and out.startswith("tiny: deleted, ")
    assert run("rm", "tiny", "--json")[1] == '[\n  {\n    "name": "tiny",\n    "freed_bytes": 0\n  }\n]\n'
    assert not (home / "models" / "tiny").exists()
    assert run("list", "--installed")[1].startswith("No model is installed")


def test_rm_of_what_is_not_there_changes_nothing(run: Run, tiny: Path) -> None:
    run("pull", "tiny")
    for name in ("nothing", "../catalog", "/etc", ".", "..", ""):
        status, _, err = run("rm", "tiny", name)
        assert status == 1 and "There is no model called" in err
    assert Store().installed("tiny") is not None
    assert tiny.exists()


def test_rm_of_a_model_that_the_catalog_no_longer_has(run: Run, tiny: Path) -> None:
    run("pull", "tiny")
    (Store().home / "catalog" / "tiny.toml").unlink()
    assert "tiny" in run("list", "--installed")[1]
    assert run("rm", "tiny")[0] == 0
    assert Store().installed("tiny") is None


def test_pull_verify(run: Run, tiny: Path) -> None:
    run("pull", "tiny")
    path = Store().path("tiny", "tiny.gguf")
    path.write_bytes(b"x" * len(CONTENT))
    assert run("pull", "tiny")[0] == 0 and path.read_bytes() != CONTENT
    assert run("pull", "tiny", "--verify")[0] == 0 and path.read_bytes() == CONTENT


def test_a_damaged_catalog_is_a_sentence(run: Run, tiny: Path) -> None:
    (Store().home / "catalog" / "tiny.toml").write_text("name = 5")
    status, _, err = run("list")
    assert status == 1 and "tiny.toml is not valid" in err


# ---- show, doctor, bench --------------------------------------------------------------------------------------------------


def test_show_a_model_that_is_not_here(run: Run, tiny: Path) -> None:
    status, out, _ = run("show", "t", "--json")
    facts = json.loads(out)
    assert status == 0
    assert facts["name"] == "tiny" and facts["installed"] is False and facts["sources"] == [tiny.as_uri()]
    assert "path" not in facts


def test_show_a_file_that_the_engine_refuses(run: Run, tiny: Path) -> None:
    run("pull", "tiny")
    facts = json.loads(run("show", "tiny", "--json")[1])
    assert facts["installed"] is True and facts["file_error"]
    status, _, err = run("show", str(tiny))
    assert status == 1 and err.startswith("Error: ")


def test_show_a_file(run: Run, zoo: Path) -> None:
    path = zoo / "llama" / "llama.f32.gguf"
    facts = json.loads(run("show", str(path), "--metadata", "--json")[1])
    assert facts["file_info"]["architecture"] == facts["metadata"]["general.architecture"] == "llama"
    assert facts["size_bytes"] == path.stat().st_size
    status, out, _ = run("show", str(path), "--metadata")
    assert status == 0
    assert "\nfile_info\narchitecture " in out and "\nmetadata\ngeneral.architecture " in out


def test_what_a_file_says_does_not_reach_the_terminal_raw() -> None:
    from cactus_py.cli._common import printable

    assert printable("a\x1b]0;title\x07b\n\x9bc\u202eé日") == r"a\x1b]0;title\x07b\n\x9bc\u202eé日"


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:hidden@cloud.example/v1")
    monkeypatch.setenv("CACTUS_PY_THREADS", "3")
    status, out, err = run("doctor", "--json")
    report = json.loads(out)
    assert (status, err, report["problems"]) == (0, "", [])
    assert report["engine"]["threads"] == 3
    assert report["engine"]["kernels_available"] == kernels_available()
    assert Path(report["engine"]["library"]).is_file()
    assert report["store"]["path"] == str(Store().home) and report["store"]["free_bytes"] > 0
    assert report["cloud"]["base_url"] == "https://cloud.example/v1"
    assert (report["cloud"]["key_present"], report["cloud"]["model"], report["cloud"]["endpoints"]) == (True, None, [])
    status, text, _ = run("doctor")
    assert status == 0 and "an API key is set" in text
    for secret in ("sk-very-secret", "hidden"):
        assert secret not in out + text


def test_doctor_tells_of_the_cloud_without_asking_it(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = [
        {"base_url": "https://me:hidden@one.invalid:8443/v1", "model": "first", "api_key_env": "ONE_KEY"},
        {"base_url": "https://two.invalid/v1", "model": "second", "keyring": "service/user"},
        {"base_url": "https://three.invalid/v1", "model": "third"},
    ]
    monkeypatch.setenv("CACTUS_PY_CLOUD_ENDPOINTS", json.dumps(places))
    monkeypatch.setenv("CACTUS_PY_ROUTER_POLICY", "early_exit")
    monkeypatch.setenv("CACTUS_PY_ROUTER_REDACT", "email,iban")
    monkeypatch.setenv("CACTUS_PY_ROUTER_AUDIT_LOG", str(tmp_path / "audit.jsonl"))
    status, out, _ = run("doctor", "--json")
    cloud = json.loads(out)["cloud"]
    assert cloud["endpoints"] == [
        {"host": "one.invalid:8443", "model": "first", "key": "none"},
        {"host": "two.invalid", "model": "second", "key": "keyring"},
        {"host": "three.invalid", "model": "third", "key": "none"},
    ]
    assert (cloud["policy"], cloud["privacy"], cloud["redact"]) == ("early_exit", None, ["email", "iban"])
    assert cloud["calibration"]["own"] is True and "AUROC" in cloud["calibration"]["note"]
    assert status == 1 and any("ONE_KEY" in problem for problem in json.loads(out)["problems"])
    monkeypatch.setenv("ONE_KEY", "sk-very-secret")
    status, text, _ = run("doctor")
    assert status == 0 and "one.invalid:8443: first (key: set)" in text and "redacts email, iban" in text
    assert not (tmp_path / "audit.jsonl").exists()
    assert "sk-very-secret" not in text and "hidden" not in text + out


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("CACTUS_PY_KERNELS", "mmx", "'mmx'"),
        ("CACTUS_PY_THREADS", "many", "CACTUS_PY_THREADS"),
        ("CACTUS_PY_LIBRARY", os.devnull, "engine cannot be used"),
        ("OPENAI_BASE_URL", "cloud.example", "OPENAI_BASE_URL"),
        ("CACTUS_PY_HOME", f"{os.devnull}/none", "store cannot be written"),
    ],
)
def test_doctor_finds_what_is_wrong(variable: str, value: str, problem: str) -> None:
    result = process("doctor", "--json", **{variable: value})
    assert result.returncode == 1, result.stderr
    assert any(problem in text for text in json.loads(result.stdout)["problems"]), result.stdout
    result = process("doctor", **{variable: value})
    assert result.returncode == 1 and problem in result.stderr and "Traceback" not in result.stderr


def test_bench(run: Run, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(zoo / "llama" / "llama.f32.gguf")
    words = ["bench", "--model", model, "--pp", "16", "--tg", "4", "--threads", "1", "--repeat", "2"]
    status, out, err = run(*words, "--kernels", "scalar", "--json")
    assert (status, err) == (0, "")
    result: dict[str, Any] = json.loads(out)
    speeds = ["pp_tok_s", "tg_tok_s", "ttft_ms", "load_ms"]
    promised = ["model", "threads", "pp", "tg", *speeds, "rss_mb", "private_mb", "kernels", "kv_mb"]
    assert set(promised) <= set(result)
    assert (result["pp"], result["tg"], result["threads"], result["kernels"]) == (16, 4, 1, "scalar")
    assert len(result["pp_tok_s_runs"]) == len(result["tg_tok_s_runs"]) == result["repeat"] == 2
    assert all(result[key] > 0 for key in ("pp_tok_s", "tg_tok_s", "ttft_ms", "load_ms", "rss_mb"))
    assert min(result["pp_tok_s_runs"]) <= result["pp_tok_s"] <= max(result["pp_tok_s_runs"])
    status, out, _ = run(*words)
    assert status == 0 and "tg_tok_s" in out
    assert result["kv_type"] == "f32"  # what "auto" means for this model
    monkeypatch.setenv("CACTUS_PY_KV_TYPE", "i8")
    status, out, _ = run(*words, "--json")
    assert (status, json.loads(out)["kv_type"]) == (0, "i8")
    status, _, err = run("bench", "--model", model, "--kernels", "mmx")
    assert status == 1 and "mmx" in err

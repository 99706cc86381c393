"""The catalog, the grammar of sources, the store, and names that try to lead out of it."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cactus_py.errors import ConfigError, ModelFileError, StoreError, UnknownModelError
from cactus_py.hub import Catalog, CatalogEntry, Store, default_home, installed, resolve
from cactus_py.hub.catalog import builtin_folder, is_name
from cactus_py.hub.files import HashingFile, sha256_of
from cactus_py.hub.sources import FileSource, HfSource, PypiSource, UrlSource, parse_source, redact

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes: FIPS 180-4


def values(**changes: Any) -> dict[str, Any]:
    """A valid catalog entry, as TOML gives it."""
    entry = {
        "name": "tiny",
        "aliases": ["small"],
        "description": "A model of these tests",
        "licence": "CC0-1.0",
        "parameters": 10,
        "quantisation": "F32",
        "context": 64,
        "architecture": "llama",
        "file": "tiny.gguf",
        "size_bytes": 4,
        "sha256": EMPTY_SHA256,
        "sources": ["https://example.org/tiny.gguf"],
    }
    return {key: value for key, value in (entry | changes).items() if value is not None}


def toml(entry: dict[str, Any]) -> str:
    """TOML of flat values; JSON's strings, numbers and lists are TOML's too."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())


def write_entry(home: Path, **changes: Any) -> Path:
    entry = values(**changes)
    path = home / "catalog" / f"{entry['name']}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(toml(entry), encoding="utf-8")
    return path


def put(store: Store, name: str, data: bytes = b"data", file: str = "m.gguf", **changes: Any) -> Path:
    """A model in the store, installed by hand."""
    store.workspace(name).mkdir(parents=True, exist_ok=True)
    draft = store.workspace(name) / "whole"
    draft.write_bytes(data)
    facts = {"size_bytes": len(data), "sha256": sha256_of(draft), "source": "file:///x"} | changes
    return store.install(draft, name, file, **facts).path


# ---- the catalog ----------------------------------------------------------------------------------------------------------


def test_the_entries_that_come_with_the_package() -> None:
    catalog = Catalog.load()
    assert len(catalog) == len(list(builtin_folder().glob("*.toml"))) >= 1
    claimed = [*catalog.names(), *(alias for entry in catalog for alias in entry.aliases)]
    assert len(claimed) == len(set(claimed)), "two entries claim one name"
    for entry in catalog:
        assert (builtin_folder() / f"{entry.name}.toml").is_file(), "a file is named after its model"
        assert catalog.aliases_of(entry) == list(entry.aliases)
    default = catalog.find("default")
    assert default is catalog.find("smollm2") is catalog.find("SmolLM2-135M-Instruct")
    assert default.size_bytes == 98_362_432
    assert isinstance(parse_source(default.sources[0]), PypiSource), "the source that works wherever pip does comes first"


def test_a_user_adds_and_replaces_entries(tmp_path: Path) -> None:
    write_entry(tmp_path, name="tiny", aliases=["default"])
    write_entry(tmp_path, name="smollm2-135m-instruct", aliases=["smollm2"], description="mirror")
    catalog = Catalog.load(tmp_path)
    assert catalog.find("default").name == "tiny"
    assert catalog.find("smollm2").description == "mirror"
    assert len(catalog) == len(Catalog.load()) + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "../tiny"}, "name"),
        ({"name": "Tiny"}, "name"),
        ({"name": ".tiny"}, "name"),
        ({"name": "tiny\n"}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"aliases": ["a/b"]}, "aliases.0"),
        ({"file": "../tiny.gguf"}, "file"),
        ({"file": "/etc/passwd"}, "file"),
        ({"file": "tiny.bin"}, "file"),
        ({"file": "a\\b.gguf"}, "file"),
        ({"sha256": "abc"}, "sha256"),
        ({"sha256": EMPTY_SHA256.upper()}, "sha256"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": 1 << 60}, "size_bytes"),
        ({"size_bytes": "4"}, "size_bytes"),
        ({"licence": None}, "licence"),
        ({"license": "MIT"}, "license: Extra inputs"),
        ({"sources": []}, "neither sources nor parts"),
        ({"sources": ["ftp://example.org/x"]}, "unknown scheme 'ftp'"),
        ({"sources": ["pypi:p==1/../x"]}, "without '..'"),
        ({"sources": ["https://u:secret@exam ple.org"]}, "blank"),
    ],
)
def test_a_wrong_entry_names_its_file_and_the_field(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "catalog" / "x.toml"
    path.parent.mkdir()
    path.write_text(toml(values(**changes)), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Catalog.load(tmp_path)
    assert str(path) in str(caught.value) and reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_parts_must_add_up(tmp_path: Path) -> None:
    part = {"sources": ["https://example.org/1"], "size_bytes": 3}
    with pytest.raises(ValueError, match="do not add up"):
        CatalogEntry.model_validate(values(parts=[part]))
    assert len(CatalogEntry.model_validate(values(sources=None, parts=[part, part | {"size_bytes": 1}])).parts) == 2


@pytest.mark.parametrize("text", ["name = ", "\x00", "name = 'a'\nname = 'b'"])
def test_broken_toml_names_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog" / "x.toml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        Catalog.load(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        Catalog.load(tmp_path)


def test_unknown_names_come_with_the_nearest_ones() -> None:
    with pytest.raises(UnknownModelError, match="did you mean smollm2") as caught:
        Catalog.load().find("smolm2")
    assert caught.value.suggestions[0] == "smollm2"
    assert caught.value.name == "smolm2"
    assert pickle.loads(pickle.dumps(caught.value)).suggestions == caught.value.suggestions
    with pytest.raises(UnknownModelError, match="cactus-py list"):
        Catalog.load().find("zzzzzzzz")


# ---- sources --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("pypi:a-b==1.0.post1+x/a_b/d/m.gguf", PypiSource("a-b", "1.0.post1+x", "a_b/d/m.gguf")),
        ("hf:o/r-1.x/d/m.gguf", HfSource("o/r-1.x", "main", "d/m.gguf")),
        ("hf:o/r@v1.2/m.gguf", HfSource("o/r", "v1.2", "m.gguf")),
        ("https://h.example/m.gguf?x=1", UrlSource("https://h.example/m.gguf?x=1")),
        ("http://127.0.0.1:8/m", UrlSource("http://127.0.0.1:8/m")),
        ("http://[::1]:8/m", UrlSource("http://[::1]:8/m")),
        ("file:///a%20b/m.gguf", FileSource(Path("/a b/m.gguf"))),
    ],
)
def test_sources(spec: str, source: object) -> None:
    assert parse_source(spec) == source


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "m.gguf",
        "pypi:",
        "pypi:p/x",
        "pypi:p==1",
        "pypi:p==1/",
        "pypi:p>=1/x",
        "pypi:-r==1/x",
        "pypi:--index-url=http://evil==1/x",
        "pypi:p==--pre/x",
        "pypi:p==1//x",
        "pypi:p==1/a/../b",
        "pypi:p==1/./b",
        "pypi:p==1/a\\b",
        "pypi:p==1/a\nb",
        "pypi:p==1/a\x00b",
        "hf:o/r",
        "hf:o/r/",
        "hf:o/r/../../x",
        "hf:../r/x",
        "hf:o/r@/x",
        "https:///x",
        "https://[::1",
        "http://example.org/x",
        "http://127.0.0.1.example.org/x",
        "file:relative",
        "file://host/x",
        "file:///x?y",
        "git+https://example.org/x",
    ],
)
def test_malformed_sources(spec: str) -> None:
    with pytest.raises(ValueError, match="source"):
        parse_source(spec)


def test_redact() -> None:
    assert redact("see https://me:pw@h/x and http://tok@h") == "see https://h/x and http://h"
    assert redact("a@b https://h/@x") == "a@b https://h/@x"


# ---- the store ------------------------------------------------------------------------------------------------------------


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_home() == Path(os.environ["CACTUS_PY_HOME"]) == Store().home
    monkeypatch.setenv("CACTUS_PY_HOME", "~/here")
    assert default_home() == Path.home() / "here"
    monkeypatch.delenv("CACTUS_PY_HOME")
    monkeypatch.setattr("cactus_py.hub.store.sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_home() == tmp_path / "cactus-py"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_home() == Path.home() / ".local" / "share" / "cactus-py"
    monkeypatch.setattr("cactus_py.hub.store.sys.platform", "darwin")
    assert default_home() == Path.home() / "Library" / "Application Support" / "cactus-py"


def test_install_list_remove(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    assert store.all_installed() == [] and not store.home.exists(), "looking writes nothing"
    put(store, "b", b"bb")
    path = put(store, "a", b"aaa")
    assert [(model.name, model.size_bytes) for model in installed(store)] == [("a", 3), ("b", 2)]
    model = store.installed("a")
    assert model is not None and model.path == path == store.home / "models" / "a" / "m.gguf"
    assert model.source == "file:///x" and model.pulled_at.endswith("Z")
    assert not store.workspace("b").joinpath("whole").exists()
    assert store.remove("a") >= 3
    assert not path.exists() and [model.name for model in store.all_installed()] == ["b"]
    assert store.remove("a") == 0


def test_a_model_that_is_not_whole_is_not_installed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = put(store, "a", b"aaa")
    path.write_bytes(b"aa")
    assert store.installed("a") is None and store.all_installed() == []
    path.unlink()
    assert store.installed("a") is None


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../b/m.gguf"},
        {"file": "/etc/hosts"},
        {"file": ""},
        {"file": 7},
        {"name": "b"},
        {"size_bytes": "3"},
        {"more": 1},
        {"sha256": None},
    ],
)
def test_a_record_that_was_tampered_with_is_no_record(tmp_path: Path, change: dict[str, Any]) -> None:
    store = Store(tmp_path)
    put(store, "b", b"aaa")
    record = put(store, "a", b"aaa").with_name("model.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    assert store.installed("a") is None
    for text in ("", "[]", "null", "{", "[" * 100_000):
        record.write_text(text)
        assert store.installed("a") is None


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "a/b", "/etc", "a\\b", ".partial", "a\x00", "a" * 300, "ä", "a b", "-x", "~x"]
)
def test_no_name_leads_out_of_the_store(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    assert not is_name(name)
    assert store.installed(name) is None
    for use in (store.path, store.workspace, store.remove, lambda n: store.path("a", n), lambda n: store.lock(n).__enter__()):
        with pytest.raises(StoreError, match="cannot be the name"):
            use(name)
    assert list(tmp_path.iterdir()) == []


def test_no_link_leads_out_of_the_store(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    store = Store(tmp_path / "s")
    store.models.mkdir(parents=True)
    (store.models / "a").symlink_to(outside)
    for use in (store.path, store.remove):
        with pytest.raises(StoreError, match="leads out of the model store"):
            use("a")
    path = put(store, "b")
    path.unlink()
    path.symlink_to(outside / "precious")
    with pytest.raises(StoreError, match="leads out"):
        store.path("b", "m.gguf")
    assert (outside / "precious").read_text() == "x"


def test_the_store_itself_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "disk")
    put(Store(tmp_path / "s"), "a")
    assert Store(tmp_path / "s").installed("a") is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_store_without_permission(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.models.mkdir(parents=True)
    store.models.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="No permission"), store.lock("a"):
            pass
    finally:
        store.models.chmod(0o700)


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    store = Store(tmp_path / "s")
    assert store.all_installed() == []
    with pytest.raises(StoreError, match="Cannot write"), store.lock("a"):
        pass


def test_one_at_a_time(tmp_path: Path) -> None:
    store, order, heard = Store(tmp_path), [], []

    def second() -> None:
        with store.lock("a", lambda *step: heard.append(step)):
            order.append("second")

    with store.lock("a"), store.lock("b"):
        thread = threading.Thread(target=second)
        thread.start()
        while not heard:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert heard == [("wait", 0, None)]


def test_a_file_that_can_be_rewound(tmp_path: Path) -> None:
    with HashingFile(tmp_path / "d" / "f") as file:
        assert file.sha256 == EMPTY_SHA256
        file.write(b"abc")
        mark = file.mark()
        file.write(b"defg")
        file.rewind(mark)
        file.write(b"d")
        after = file.sha256
        file.sync()
    assert (tmp_path / "d" / "f").read_bytes() == b"abcd"
    assert after == sha256_of(tmp_path / "d" / "f")
    with HashingFile(tmp_path / "d" / "f", resume=True) as file:
        assert (file.size_bytes, file.sha256) == (4, after)
        file.rewind()
        assert file.sha256 == EMPTY_SHA256
    (tmp_path / "link").symlink_to(tmp_path / "d" / "f")
    with pytest.raises(StoreError):
        HashingFile(tmp_path / "link")


# ---- names to paths -------------------------------------------------------------------------------------------------------


def test_resolve_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"x")
    assert resolve(model) == resolve(str(model)) == model
    monkeypatch.chdir(tmp_path)
    assert resolve("m.gguf") == Path("m.gguf")
    assert resolve("./m.gguf") == Path("m.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/m.gguf") == model
    (tmp_path / "plain").write_bytes(b"x")
    assert resolve("plain") == Path("plain")
    for missing in (
        "no.gguf",
        "a/b",
        "../../etc/none",
        tmp_path / "none",
        "~nobody-of-this-name/x",
        "x" * 5000 + ".gguf",
        "a\0/b",
    ):
        with pytest.raises(ModelFileError, match=r"does not exist|cannot be opened"):
            resolve(missing)
    with pytest.raises(ModelFileError, match="is not a file"):
        resolve(tmp_path)


def test_resolve_names(tmp_path: Path) -> None:
    write_entry(tmp_path, name="tiny")
    store = Store(tmp_path)
    with pytest.raises(UnknownModelError, match="cactus-py pull tiny"):
        resolve("small", pull=False, store=store)
    orphan = put(store, "orphan")
    assert resolve("orphan", store=store) == resolve("Orphan", store=store) == orphan
    here = put(store, "tiny", b"data", "tiny.gguf", sha256=EMPTY_SHA256)
    assert resolve("small", store=store) == resolve("TINY", store=store) == here
    for name in ("orphn", "", ".", "..", "no such"):
        with pytest.raises(UnknownModelError):
            resolve(name, store=store)

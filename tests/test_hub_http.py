"""Downloads against a real server that cuts connections, lies and ignores ranges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hub_server import HubServer, patterned, tree

from cactus_py.errors import ChecksumError, DownloadError, StoreError
from cactus_py.hub import files, http

DATA = patterned(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def web() -> Iterator[httpx.Client]:
    with http.client() as client:
        yield client


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.0)


def fetch(web: httpx.Client, url: str, folder: Path, **known: object) -> http.Fetched:
    return http.download(web, http.Wanted(url, **known), folder, files.silent)  # type: ignore[arg-type]


def test_plain_download(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    url = server.add("/f", DATA)
    fetched = http.download(web, http.Wanted(url, len(DATA), SHA256), tmp_path, lambda *step: seen.append(step))
    assert fetched.path.read_bytes() == DATA
    assert (fetched.sha256, fetched.size_bytes) == (SHA256, len(DATA))
    assert seen[0] == ("download", 0, len(DATA)) and seen[-1] == ("download", len(DATA), len(DATA))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert [request.range for request in server.of("/f")] == [None]
    assert server.of("/f")[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {}], ids=["hash known", "etag"])
def test_a_cut_connection_is_resumed_where_it_was_cut(
    server: HubServer, web: httpx.Client, tmp_path: Path, known: dict[str, str]
) -> None:
    url = server.add("/f", DATA, etag='"v1"', cut_after=[100_000, 50_000, None])
    assert fetch(web, url, tmp_path, **known).path.read_bytes() == DATA
    assert [request.range for request in server.of("/f")] == [None, "bytes=100000-", "bytes=150000-"]
    assert [request.headers.get("if-range") for request in server.of("/f")] == [None, '"v1"', '"v1"']
    assert server.sent_bytes("/f") == len(DATA)  # no byte twice


def test_a_later_run_resumes_an_earlier_one(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA, cut_after=[120_000, 0])
    with pytest.raises(DownloadError, match=r"connection was cut after 0\.1 MB"):
        fetch(web, url, tmp_path, sha256=SHA256)
    assert len(server.requests) == 1 + http.FUTILE_ATTEMPTS
    assert (tmp_path / f"{SHA256}.data").stat().st_size == 120_000
    server.files["/f"].cut_after = [None]
    assert fetch(web, url, tmp_path, sha256=SHA256).path.read_bytes() == DATA
    assert server.requests[-1].range == "bytes=120000-"
    assert server.sent_bytes("/f") == len(DATA)


def test_a_date_validates_where_there_is_no_strong_etag(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    date = "Sat, 01 Feb 2025 10:00:00 GMT"
    url = server.add("/f", DATA, etag='W/"v1"', last_modified=date, cut_after=[1000, None])
    assert fetch(web, url, tmp_path).sha256 == SHA256
    assert server.requests[-1].headers["if-range"] == date


def test_a_file_that_changed_meanwhile_is_fetched_whole(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA, etag='"v1"', cut_after=[100_000, 0])
    with pytest.raises(DownloadError):
        fetch(web, url, tmp_path)
    newer = patterned(200_000, seed=2)
    server.add("/f", newer, etag='"v2"')
    assert fetch(web, url, tmp_path).path.read_bytes() == newer
    assert server.requests[-1].range == "bytes=100000-" and server.requests[-1].headers["if-range"] == '"v1"'


def test_what_cannot_be_resumed_is_deleted(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA, cut_after=[100_000])
    with pytest.raises(DownloadError):
        fetch(web, url, tmp_path)
    assert {request.range for request in server.requests} == {None}
    assert tree(tmp_path) == []


def test_a_server_without_ranges_starts_anew(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA, ranges=False, cut_after=[100_000, None])
    assert fetch(web, url, tmp_path, sha256=SHA256).path.read_bytes() == DATA
    assert [request.range for request in server.requests] == [None, "bytes=100000-"]


@pytest.mark.parametrize("lie", ["bytes 5-299999/300000", "bytes 0-299999/300000", "bytes 100000-299999/400000", "nonsense"])
def test_another_range_than_was_asked_for_is_not_believed(
    server: HubServer, web: httpx.Client, tmp_path: Path, lie: str
) -> None:
    url = server.add("/f", DATA, cut_after=[100_000, None], content_range=lie)
    assert fetch(web, url, tmp_path, sha256=SHA256).path.read_bytes() == DATA
    assert [request.range for request in server.requests] == [None, "bytes=100000-", None]


def test_fewer_bytes_than_declared(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA, ranges=False, declared_length=len(DATA) + 10)
    with pytest.raises(DownloadError, match="cut"):
        fetch(web, url, tmp_path)
    assert tree(tmp_path) == []


def test_another_length_than_expected_is_refused_before_the_body(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA + b"x")
    with pytest.raises(DownloadError, match="300,001 bytes where 300,000 are expected"):
        fetch(web, url, tmp_path, size_bytes=len(DATA), sha256=SHA256)
    assert len(server.requests) == 1
    assert tree(tmp_path) == []


def test_a_stream_without_length_is_limited(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA, chunked=True)
    assert fetch(web, url, tmp_path, limit_bytes=len(DATA)).sha256 == SHA256
    with pytest.raises(DownloadError, match="more than the 299,999 bytes"):
        fetch(web, url, tmp_path / "b", limit_bytes=len(DATA) - 1)
    assert tree(tmp_path / "b") == []


def test_wrong_bytes(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", patterned(len(DATA), seed=9))
    with pytest.raises(ChecksumError, match=SHA256):
        fetch(web, url, tmp_path, size_bytes=len(DATA), sha256=SHA256)
    assert tree(tmp_path) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("left", [b"\0" * 100_000, b"\0" * len(DATA), b"\0" * (len(DATA) + 5)], ids=["short", "full", "long"])
def test_a_damaged_partial_costs_a_second_run_and_no_more(
    server: HubServer, web: httpx.Client, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / f"{SHA256}.data").write_bytes(left)
    url = server.add("/f", DATA)
    assert fetch(web, url, tmp_path, sha256=SHA256).path.read_bytes() == DATA
    assert [request.range for request in server.requests] == [f"bytes={len(left)}-", None]


@pytest.mark.parametrize("note", ["", "[]", '{"etag": 5}', '{"total_bytes": "x"}', '{"unknown": 1}', "[" * 100_000])
def test_a_damaged_note_is_ignored(server: HubServer, web: httpx.Client, tmp_path: Path, note: str) -> None:
    (tmp_path / f"{SHA256}.data").write_bytes(DATA[:1000])
    (tmp_path / f"{SHA256}.json").write_text(note)
    url = server.add("/f", DATA, etag='"v1"')
    assert fetch(web, url, tmp_path, sha256=SHA256).path.read_bytes() == DATA
    assert json.loads((tmp_path / f"{SHA256}.json").read_text())["etag"] == '"v1"'


def test_a_complete_download_needs_no_network(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA)
    fetch(web, url, tmp_path, sha256=SHA256)
    server.close()
    assert fetch(web, url, tmp_path, sha256=SHA256).path.read_bytes() == DATA


def test_a_complete_download_of_unknown_hash_is_confirmed(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.add("/f", DATA, etag='"v1"')
    fetch(web, url, tmp_path)
    assert fetch(web, url, tmp_path).path.read_bytes() == DATA
    assert server.sent_bytes("/f") == len(DATA)


def test_statuses(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404 Not Found"):
        fetch(web, server.url + "/missing", tmp_path)
    assert len(server.requests) == 1  # no second try
    url = server.add("/busy", DATA, statuses=[503, 429, 200])
    assert fetch(web, url, tmp_path).sha256 == SHA256
    assert len(server.of("/busy")) == 3
    url = server.add("/down", DATA, statuses=[500])
    with pytest.raises(DownloadError, match="500 Internal Server Error"):
        fetch(web, url, tmp_path)
    assert len(server.of("/down")) == http.FUTILE_ATTEMPTS


def test_redirects_are_followed(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    server.add("/f", DATA)
    assert fetch(web, server.add("/old", b"", location="/f"), tmp_path).sha256 == SHA256
    with pytest.raises(DownloadError, match="redirect"):
        fetch(web, server.add("/loop", b"", location="/loop"), tmp_path)


def test_an_encoded_body_is_refused(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="encoding"):
        fetch(web, server.add("/f", DATA, encoding="gzip"), tmp_path, sha256=SHA256)
    assert tree(tmp_path) == []


def test_no_server(server: HubServer, web: httpx.Client, tmp_path: Path) -> None:
    url = server.url.replace("http://", "http://user:secret@") + "/f"
    server.close()
    with pytest.raises(DownloadError, match="no connection") as caught:
        fetch(web, url, tmp_path)
    assert "secret" not in str(caught.value)


def test_an_exception_of_the_callback_ends_it_and_keeps_what_is_there(
    server: HubServer, web: httpx.Client, tmp_path: Path
) -> None:
    def stop(phase: str, done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes > 100_000:
            raise KeyboardInterrupt

    url = server.add("/f", DATA)
    with pytest.raises(KeyboardInterrupt):
        http.download(web, http.Wanted(url, sha256=SHA256), tmp_path, stop)
    kept = (tmp_path / f"{SHA256}.data").read_bytes()
    assert len(kept) > 100_000 and DATA.startswith(kept)
    assert fetch(web, url, tmp_path, sha256=SHA256).sha256 == SHA256
    assert server.requests[-1].range == f"bytes={len(kept)}-"


def test_a_disk_that_is_too_small_is_noticed_before_the_body(
    server: HubServer, web: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 400_000

    monkeypatch.setattr("cactus_py.hub.files.shutil.disk_usage", lambda _: Usage)
    url = server.add("/f", DATA)
    with pytest.raises(StoreError, match=r"needs 0\.5 MB .*0\.4 MB are free"):
        fetch(web, url, tmp_path, sha256=SHA256, spare_bytes=200_000)
    assert not (tmp_path / f"{SHA256}.data").exists()
    assert fetch(web, url, tmp_path, sha256=SHA256, spare_bytes=50_000).sha256 == SHA256

"""One large file over HTTP: resuming, checks, retries."""

import hashlib
import json
from collections import namedtuple

import httpx
import pytest
from file_server import cut_after, respond, serve_files, stall_after, status

from edge_lib.config import ConfigError
from edge_lib.sources.download import disk, transfer
from edge_lib.sources.download.disk import require_space
from edge_lib.sources.download.transfer import (
    content_length,
    download_file,
    make_client,
    read_range,
)

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def server():
    with serve_files() as server:
        server.files["/a.zip"] = CONTENT
        yield server


@pytest.fixture
def waits(monkeypatch):
    """The seconds of each wait, which take no time."""
    seconds = []
    monkeypatch.setattr(transfer, "sleep", seconds.append)
    return seconds


@pytest.fixture
def fetch(server, tmp_path, waits):
    def fetch(size=None, sha256=None):
        with make_client() as client:
            return download_file(client, f"{server.url}/a.zip", tmp_path / "a.zip", size, sha256)

    return fetch


def assert_whole(folder):
    assert (folder / "a.zip").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["a.zip"]


def write_part(server, folder, count, content=CONTENT, **facts):
    """What a killed download leaves."""
    (folder / "a.zip.part").write_bytes(content[:count])
    etag = f'"{hashlib.md5(content).hexdigest()}"'
    facts = {"etag": etag, "last_modified": None, "total": len(content)} | facts
    (folder / "a.zip.part.json").write_text(json.dumps(facts))


def test_file_is_written_and_described(server, fetch, tmp_path):
    record = fetch(len(CONTENT), SHA256)
    assert record == {"url": f"{server.url}/a.zip", "bytes": len(CONTENT), "sha256": SHA256}
    assert_whole(tmp_path)


def test_file_that_is_there_is_not_fetched(server, fetch):
    assert fetch() == fetch()
    assert len(server.requests) == 1


def test_killed_transfer_fetches_only_the_rest(server, fetch, tmp_path):
    write_part(server, tmp_path, 5000)
    fetch(sha256=SHA256)
    assert server.ranges_of("/a.zip") == ["bytes=5000-"]
    assert_whole(tmp_path)


def test_killed_transfer_of_all_bytes_fetches_nothing(server, fetch, tmp_path):
    write_part(server, tmp_path, len(CONTENT))
    fetch(sha256=SHA256)
    assert server.requests == []
    assert_whole(tmp_path)


def test_cut_connections_resume_where_they_stopped(server, fetch, tmp_path, waits):
    server.faults["/a.zip"] = [cut_after(3000)]
    fetch()
    assert server.ranges_of("/a.zip") == [None, "bytes=3000-"]
    assert_whole(tmp_path)


def test_progress_resets_the_count_of_failures(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    server.etags = False  # so that each attempt starts over, and gets further
    server.faults["/a.zip"] = [cut_after(1000), cut_after(2000), cut_after(3000)]
    fetch()
    assert_whole(tmp_path)


def test_file_that_changed_is_fetched_anew(server, fetch, tmp_path):
    write_part(server, tmp_path, 5000, bytes(len(CONTENT)))
    fetch()
    assert_whole(tmp_path)


def test_server_without_ranges_sends_all_again(server, fetch, tmp_path):
    server.ranges = False
    write_part(server, tmp_path, 5000)
    fetch()
    assert_whole(tmp_path)


def test_part_without_validators_is_not_continued(server, fetch, tmp_path):
    write_part(server, tmp_path, 5000, etag=None)
    fetch()
    assert server.ranges_of("/a.zip") == [None]
    assert_whole(tmp_path)


def test_weak_etag_does_not_vouch_for_bytes(server, fetch, tmp_path):
    write_part(server, tmp_path, 5000, etag='W/"1"')
    fetch()
    assert server.ranges_of("/a.zip") == [None]


@pytest.mark.parametrize(
    "fault",
    [
        respond(206, CONTENT[4096:], Content_Range=f"bytes 4096-10239/{len(CONTENT)}"),
        respond(206, CONTENT[5000:9000], Content_Range="bytes 5000-8999/9000"),
        respond(206, CONTENT[5000:]),
        status(416, Content_Range="bytes */4000"),
    ],
    ids=["earlier start", "other total", "no range named", "416"],
)
def test_wrong_range_starts_the_file_over(server, fetch, tmp_path, fault):
    write_part(server, tmp_path, 5000)
    server.faults["/a.zip"] = [fault]
    fetch()
    assert server.ranges_of("/a.zip") == ["bytes=5000-", None]
    assert_whole(tmp_path)


def test_part_longer_than_the_file_starts_over(server, fetch, tmp_path):
    write_part(server, tmp_path, 20_000, CONTENT * 2, total=len(CONTENT))
    server.faults["/a.zip"] = [status(416)]
    fetch()
    assert_whole(tmp_path)


def test_wrong_sum_is_refused_and_fetched_again(server, fetch, tmp_path):
    server.files["/a.zip"] = CONTENT[::-1]
    with pytest.raises(ConfigError, match=f"where {SHA256} was published"):
        fetch(sha256=SHA256)
    assert list(tmp_path.iterdir()) == []
    server.files["/a.zip"] = CONTENT
    fetch(sha256=SHA256)
    assert_whole(tmp_path)


def test_other_length_than_published_is_refused_before_the_body(server, fetch, tmp_path):
    with pytest.raises(ConfigError, match="has 10,240 bytes, where 9 were published"):
        fetch(size=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_transient_failures_are_retried(server, fetch, tmp_path, waits, code):
    server.faults["/a.zip"] = [status(code), status(code, Retry_After="7")]
    fetch()
    assert waits == [2, 7]
    assert_whole(tmp_path)


def test_unreachable_host_is_a_line_for_each_try(fetch, server, waits, caplog, monkeypatch):
    monkeypatch.setattr(server, "url", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"a\.zip: cannot reach 127\.0\.0\.1:9 \(.*goes on"):
        fetch()
    lines = caplog.messages
    assert len(lines) == len(waits) == transfer.ATTEMPTS - 1
    assert lines[2].startswith("http://127.0.0.1:9/a.zip: cannot reach 127.0.0.1:9 (")
    assert lines[2].endswith("); try 4 of 6 in 8 s")


def test_long_retry_after_is_bounded(server, fetch, waits):
    server.faults["/a.zip"] = [status(429, Retry_After="86400")]
    fetch()
    assert waits == [transfer.LONGEST_WAIT]


def test_failures_that_stay_end_with_one_line(server, fetch, waits):
    server.faults["/a.zip"] = [status(503)] * 20
    with pytest.raises(ConfigError, match=r"a\.zip: HTTP 503 .*the same command goes on"):
        fetch()
    assert len(server.requests) == transfer.ATTEMPTS


@pytest.mark.parametrize("code", [403, 404, 410])
def test_lasting_failures_are_not_retried(server, fetch, waits, code):
    server.faults["/a.zip"] = [status(code)]
    with pytest.raises(ConfigError, match=f"HTTP {code}"):
        fetch()
    assert waits == []


def test_compressed_response_is_refused(server, fetch):
    server.faults["/a.zip"] = [respond(200, b"x", Content_Encoding="gzip")]
    with pytest.raises(ConfigError, match="compresses"):
        fetch()


def test_dead_host_is_told(tmp_path, waits):
    with make_client() as client, pytest.raises(ConfigError, match=r"127\.0\.0\.1:9/a: "):
        download_file(client, "http://127.0.0.1:9/a", tmp_path / "a")
    assert len(waits) == transfer.ATTEMPTS - 1


def test_redirects_are_followed_but_not_in_circles(server, fetch, tmp_path):
    server.faults["/a.zip"] = [status(302, Location="/b.zip")]
    server.files["/b.zip"] = CONTENT
    fetch()
    assert_whole(tmp_path)
    (tmp_path / "a.zip").unlink()
    server.faults["/a.zip"] = [status(302, Location="/a.zip")] * 100
    with pytest.raises(ConfigError, match="redirect"):
        fetch()


def test_redirect_to_a_file_is_refused(server, fetch):
    server.faults["/a.zip"] = [status(302, Location="file:///etc/passwd")]
    with pytest.raises(ConfigError, match="file"):
        fetch()


def test_full_disk_is_told_before_the_body(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 10_000))
    with pytest.raises(ConfigError, match=r"a\.zip needs 0\.0 GB, but 0\.0 GB are free"):
        fetch()
    assert not (tmp_path / "a.zip").exists()


def test_space_of_what_is_there_is_not_needed_again(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 6_000))
    write_part(server, tmp_path, 5000)
    fetch()
    assert_whole(tmp_path)


def test_require_space_names_the_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"the data needs 9,000,000\.0 GB"):
        require_space(tmp_path, 9 * 10**15, "the data")


def test_content_length_reads_no_body(server):
    server.faults["/a.zip"] = [cut_after(0)]
    with make_client() as client:
        assert content_length(client, f"{server.url}/a.zip") == len(CONTENT)


def test_read_range_gives_the_bytes(server):
    with make_client() as client:
        assert read_range(client, f"{server.url}/a.zip", 100, 300) == CONTENT[100:300]


def test_read_range_refuses_a_server_without_ranges(server):
    server.ranges = False
    with make_client() as client, pytest.raises(ConfigError, match="leave out rows"):
        read_range(client, f"{server.url}/a.zip", 100, 300)


def test_stalled_transfer_goes_on_from_where_it_was(server, tmp_path, waits):
    server.faults["/a.zip"] = [stall_after(4000)]
    with httpx.Client(timeout=0.3) as client:
        download_file(client, f"{server.url}/a.zip", tmp_path / "a.zip")
    assert server.ranges_of("/a.zip") == [None, "bytes=4000-"]
    assert_whole(tmp_path)


def test_archive_that_is_there_is_checked(server, fetch, tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT[:-1])
    with pytest.raises(ConfigError, match="was published"):
        fetch(sha256=SHA256)
    fetch(sha256=SHA256)
    assert_whole(tmp_path)


def test_client_asks_for_stored_bytes():
    with make_client() as client:
        assert client.headers["Accept-Encoding"] == "identity"
        assert isinstance(client, httpx.Client)

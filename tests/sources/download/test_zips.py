"""Members of zip archives: names, damage, resuming; and members of archives on a server."""

import errno
import io
import stat
import zipfile

import pytest
from file_server import serve_files, zip_of

from edge_lib.config import ConfigError
from edge_lib.sources.download.disk import write_whole
from edge_lib.sources.download.remote_zip import RemoteZip, fetch_members
from edge_lib.sources.download.transfer import make_client
from edge_lib.sources.download.zips import extract_zip, is_inside

MEMBERS = {"a/1.txt": b"one" * 50, "a/2.txt": b"two" * 50, "3.txt": b""}


@pytest.fixture
def extract(tmp_path):
    """extract(bytes) -> (files, skipped), with the content below tmp_path/out."""

    def extract(content, place=str):
        (tmp_path / "a.zip").write_bytes(content)
        return extract_zip(tmp_path / "a.zip", tmp_path / "out", place)

    (tmp_path / "out").mkdir()
    return extract


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def damaged(content, name):
    """The archive with a byte of a member's data changed."""
    content = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo(name)
    content[info.header_offset + 30 + len(name)] ^= 255
    return bytes(content)


def test_members_are_written(extract, tmp_path):
    assert extract(zip_of(MEMBERS)) == (3, {})
    assert contents(tmp_path / "out") == MEMBERS


def test_unwanted_members_are_left_out(extract, tmp_path):
    place = {"a/1.txt": "one.txt"}.get
    assert extract(zip_of(MEMBERS), place) == (1, {})
    assert contents(tmp_path / "out") == {"one.txt": MEMBERS["a/1.txt"]}


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "C:/out.txt", "..\\out.txt"]
)
def test_names_that_lead_out_are_counted(extract, tmp_path, name):
    files, skipped = extract(zip_of(MEMBERS | {name: b"x"}))
    assert (files, skipped) == (3, {"a name that leads out of the folder": [name]})
    assert contents(tmp_path).keys() == {"a.zip", *(f"out/{member}" for member in MEMBERS)}


def test_links_are_counted(extract, tmp_path):
    buffer = io.BytesIO(zip_of(MEMBERS))
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert extract(buffer.getvalue()) == (3, {"a link": ["link"]})
    assert not (tmp_path / "out/link").exists()


def test_corrupt_members_are_counted_and_have_no_file(extract, tmp_path):
    content = damaged(zip_of(MEMBERS), "a/2.txt")
    assert extract(content) == (2, {"a corrupt member": ["a/2.txt"]})
    assert contents(tmp_path / "out").keys() == MEMBERS.keys() - {"a/2.txt"}


def test_member_of_an_unknown_compression_is_counted(extract):
    content = bytearray(zip_of(MEMBERS))
    where = content.index(b"PK\x01\x02")
    content[where + 10] = 77  # its method, in the list of members
    _, skipped = extract(bytes(content))
    assert skipped == {"a corrupt member": ["a/1.txt"]}


def test_extraction_continues_with_what_is_missing(extract, tmp_path):
    extract(zip_of(MEMBERS))
    (tmp_path / "out/a/1.txt").unlink()
    (tmp_path / "out/a/2.txt").write_bytes(b"short")
    kept = (tmp_path / "out/3.txt").stat().st_mtime_ns
    assert extract(zip_of(MEMBERS)) == (3, {})
    assert contents(tmp_path / "out") == MEMBERS
    assert (tmp_path / "out/3.txt").stat().st_mtime_ns == kept


def test_interrupted_write_leaves_no_file(tmp_path):
    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a/b.txt", write)
    assert contents(tmp_path) == {}


def test_full_disk_is_one_line(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match=r"b\.txt: No space left .*goes on"):
        write_whole(tmp_path / "b.txt", write)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("content", [b"", b"<html>", zip_of(MEMBERS)[:-30]], ids=["0", "1", "2"])
def test_other_files_are_refused(extract, content):
    with pytest.raises(ConfigError, match=r"a\.zip.*File is not a zip file"):
        extract(content)


def test_is_inside_takes_usual_names():
    assert all(map(is_inside, ["a", "a/b.jpg", "a/..b/c", "ä/b c.jpg"]))
    assert not any(map(is_inside, ["", ".", "..", "a/..", "/a", "//a", "\\\\server\\a"]))


@pytest.fixture
def server():
    with serve_files() as server:
        server.files["/a.zip"] = zip_of(MEMBERS)
        yield server


def test_remote_members_are_those_of_the_archive(server, tmp_path):
    url = f"{server.url}/a.zip"
    wanted = {url: {f"x/{name}": name for name in MEMBERS}}
    assert fetch_members(wanted, {}, tmp_path) == {}
    assert contents(tmp_path / "x") == MEMBERS
    server.requests.clear()
    fetch_members(wanted, {}, tmp_path)
    assert server.requests == []


def test_remote_member_costs_one_request(server):
    with make_client() as client:
        archive = RemoteZip(client, f"{server.url}/a.zip")
        infos = archive.content.infolist()
        server.requests.clear()
        assert [archive.read(info) for info in infos] == [*MEMBERS.values()]
    assert len(server.requests) == len(MEMBERS)


def test_remote_stored_members_are_read(server):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.jpg", b"jpeg")
    server.files["/a.zip"] = buffer.getvalue()
    with make_client() as client:
        remote = RemoteZip(client, f"{server.url}/a.zip")
        assert remote.read(remote.content.getinfo("a.jpg")) == b"jpeg"


def test_remote_corrupt_and_absent_members_are_counted(server, tmp_path):
    server.files["/a.zip"] = damaged(zip_of(MEMBERS), "a/2.txt")
    wanted = {f"{server.url}/a.zip": {name: name for name in [*MEMBERS, "b.txt"]}}
    skipped = fetch_members(wanted, {}, tmp_path)
    assert skipped == {"not in the archive": ["b.txt"], "a corrupt member": ["a/2.txt"]}
    assert contents(tmp_path).keys() == MEMBERS.keys() - {"a/2.txt"}


def test_remote_paths_that_lead_out_are_refused(server, tmp_path):
    with pytest.raises(ConfigError, match="leads out of the folder"):
        fetch_members({f"{server.url}/a.zip": {"../a.txt": "a/1.txt"}}, {}, tmp_path)

"""Debian packages and tar archives, read without unpacking; apt-get is a stand-in."""

import random
import subprocess
import tarfile

import pytest
from package_helpers import COMPRESS, make_ar, make_deb, make_tar

from edge_lib.config import ConfigError
from edge_lib.sources.download.deb import apt_download, archive_files, deb_field, is_deb

NOISE = random.Random(0).randbytes(70_001)
FILES = [("./a/one.txt", b"1"), ("./a/empty", b""), ("./ü ñ", b"3" * 999), ("./noise", NOISE)]


@pytest.fixture
def write(tmp_path):
    def write(content, name="file"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("suffix", COMPRESS)
def test_deb_gives_its_files(suffix, write):
    path = write(make_deb(FILES, suffix))
    assert is_deb(path)
    assert [*archive_files(path)] == FILES
    assert deb_field(path, "Version") == "9.9-1"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_tarball_gives_its_files(suffix, write):
    path = write(make_tar(FILES, suffix))
    assert not is_deb(path)
    assert [*archive_files(path)] == FILES


@pytest.mark.parametrize(
    "extra",
    [
        [("_gpgorigin", b"odd")],
        [("//", b"a-name-that-is-long.txt/\n"), ("/0", b"x")],  # GNU
        [("#1/24", b"data.tar.xz-is-not-this!x")],  # BSD: the name is in the content
    ],
    ids=["odd length", "gnu", "bsd"],
)
def test_deb_passes_over_other_members(extra, write):
    assert [*archive_files(write(make_deb(FILES, extra=extra)))] == FILES


def test_archive_names_links_without_content(write):
    link, folder, device = map(tarfile.TarInfo, ("./link", "./folder", "./device"))
    link.type, link.linkname, folder.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.DIRTYPE
    device.type = tarfile.CHRTYPE
    path = write(make_tar([("", link), ("", folder), ("", device), ("../../up", b"u")]))
    assert [*archive_files(path)] == [("./link", None), ("./device", None), ("../../up", b"u")]


def test_archive_leaves_out_the_content_of_a_huge_file(write, monkeypatch):
    monkeypatch.setattr("edge_lib.sources.download.deb.MAX_BYTES", 70_000)
    assert dict(archive_files(write(make_deb(FILES)))) == dict(FILES) | {"./noise": None}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", ["deb", "tar"])
def test_truncated_archive_is_an_error_wherever_it_ends(kind, suffix, write):
    whole = {"deb": make_deb, "tar": make_tar}[kind](FILES, suffix)
    # the last byte may be padding
    for size in {len(whole) - 2, len(whole) - 9, len(whole) // 2, 100, 30, 8, 3, 0}:
        with pytest.raises(ConfigError, match="file is damaged or of another kind"):
            [*archive_files(write(whole[:size]))]


@pytest.mark.parametrize("suffix", ["gz", "xz", "bz2"])  # zstd's checksum is optional
def test_changed_byte_is_an_error(suffix, write):
    whole = bytearray(make_tar(FILES, suffix))
    whole[len(whole) // 2] ^= 1
    with pytest.raises(ConfigError, match="damaged"):
        [*archive_files(write(bytes(whole)))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Not Found\n", "neither a Debian package nor a compressed tar archive"),
        (make_ar([("a.o/", b"x")]), "no data.tar in it"),
        (make_ar([("data.tar.lzma", b"x")]), "neither"),
        (COMPRESS["gz"](b"text" * 999), "damaged"),
        (b"!<arch>\n" + b"x" * 60, "a damaged header of an ar archive"),
    ],
    ids=["text", "ar", "old compression", "gzip of a text", "header"],
)
def test_other_files_are_errors(content, message, write):
    with pytest.raises(ConfigError, match=message):
        [*archive_files(write(content))]


def test_deb_without_a_version_is_an_error(write):
    control = ("control.tar.gz", make_tar([("./control", b"Package: x\n")], "gz"))
    with pytest.raises(ConfigError, match="its control file has no Version"):
        deb_field(write(make_ar([control])), "Version")


def apt(monkeypatch, returncode, stderr="", content=None):
    calls = []

    def run(command, cwd, **_):
        calls.append(command)
        if content is not None:
            (cwd / "p_1%3a2-3_all.deb").write_bytes(content)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr("edge_lib.sources.download.deb.subprocess.run", run)
    return calls


def test_apt_fetches_a_package_once(tmp_path, monkeypatch):
    calls = apt(monkeypatch, 0, "W: unsandboxed", b"deb")
    for _ in range(2):
        assert apt_download("p", tmp_path / "cache/p").read_bytes() == b"deb"
    assert calls == [["apt-get", "download", "p"]]


def test_apt_failure_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    apt(monkeypatch, 100, "W: old lists\nE: Unable to locate package p\n", b"half")
    with pytest.raises(ConfigError) as caught:
        apt_download("p", tmp_path / "cache/p")
    assert str(caught.value) == "apt-get download p: Unable to locate package p"
    assert [*(tmp_path / "cache").iterdir()] == []


def test_apt_without_a_file_is_an_error(tmp_path, monkeypatch):
    apt(monkeypatch, 0)
    with pytest.raises(ConfigError, match="apt-get download p: exit 0"):
        apt_download("p", tmp_path / "p")

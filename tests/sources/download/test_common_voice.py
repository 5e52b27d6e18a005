"""Common Voice out of an archive that the user has."""

import io
import os
import tarfile
from collections import namedtuple

import pytest

from edge_lib import download, load_table
from edge_lib.config import ConfigError, DataConfig
from edge_lib.sources.download import disk
from edge_lib.sources.download.common_voice import sample_listing

HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\n"
COUNTS = {"train": 6, "dev": 3, "test": 3}
ROOT = "cv-corpus-22.0-2025-06-20/br"
Usage = namedtuple("Usage", "total used free")


def clip(split, number):
    return f"common_voice_br_{split}{number}.mp3"


def line(split, number):
    return f"c\t{clip(split, number)}\tsentence {number}\t2\t0\n"


def members(root=ROOT):
    """Names and contents, listings first, as in most releases."""
    files = {
        f"{root}/{split}.tsv": HEADER + "".join(line(split, n) for n in range(count))
        for split, count in COUNTS.items()
    }
    files |= {f"{root}/validated.tsv": HEADER, f"{root}/README.txt": "about"}
    files |= {
        f"{root}/clips/{clip(split, n)}": f"sound {split} {n}"
        for split, count in COUNTS.items()
        for n in range(count)
    }
    return {name.lstrip("/"): content.encode() for name, content in files.items()}


def write_tar(path, files, mode="w:gz", extra=()):
    with tarfile.open(path, mode) as archive:
        for info in extra:
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path):
    return write_tar(tmp_path / "cv-corpus-22.0-br.tar.gz", members())


@pytest.fixture
def read(tmp_path):
    """read(split) -> the table of tmp_path/cv."""
    section = {"folder": tmp_path / "cv"}
    config = DataConfig(source="common_voice", common_voice=section, cache_dir=tmp_path / "cache")
    return lambda split: load_table(config, split)


def files_below(folder):
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths} - {"download.json", ".lock"}


def test_archive_is_read_by_its_source(archive, read, tmp_path):
    summary = download("common-voice", tmp_path / "cv", file=archive)
    assert summary["rows"] == {"train": 6, "val": 3, "test": 3}
    assert summary["skipped"] == {}
    for split, rows in summary["rows"].items():
        assert len(read(split)) == rows
    assert read("train").column("texts")[0] == ["sentence 0"]
    assert (tmp_path / "cv/clips" / clip("dev", 1)).read_bytes() == b"sound dev 1"
    assert archive.exists()


@pytest.mark.parametrize("root", ["", ".", "br", "./cv/br", "a/b/c/br"])
def test_folders_before_the_language_do_not_matter(read, tmp_path, root):
    archive = write_tar(tmp_path / "cv.tar", members(root), "w")
    download("common-voice", tmp_path / "cv", file=archive)
    assert len(read("train")) == 6


def test_rows_are_clips_of_each_split(archive, read, tmp_path):
    summary = download("common-voice", tmp_path / "cv", file=archive, rows=2)
    assert summary["rows"] == {"train": 2, "val": 2, "test": 2}
    assert len(files_below(tmp_path / "cv")) == 3 + 6
    for split in summary["rows"]:
        table = read(split)
        assert all((tmp_path / "cv/clips" / name).exists() for name in table.column("id"))


def test_rows_depend_on_the_seed_alone(tmp_path):
    contents = members()
    reverse = dict(reversed(contents.items()))
    for name, files, seed in (("a", contents, 0), ("b", reverse, 0), ("c", contents, 1)):
        archive = write_tar(tmp_path / f"{name}.tar.gz", files)
        download("common-voice", tmp_path / name, file=archive, rows=2, seed=seed)
    a, b, c = (files_below(tmp_path / name) for name in "abc")
    assert a == b != c


def test_missing_archive_says_where_it_is(tmp_path):
    with pytest.raises(ConfigError, match=r"datacollective.*--file ARCHIVE"):
        download("common-voice", tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        download("common-voice", tmp_path / "a", file=tmp_path / "none.tar.gz")


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999], ids=str)
@pytest.mark.parametrize("rows", [None, 2], ids=["all", "part"])
def test_truncated_archive_is_told(archive, tmp_path, share, rows):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ConfigError, match="is not a complete tar archive"):
        download("common-voice", tmp_path / "cv", file=archive, rows=rows)


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_archive_that_ends_inside_a_clip_is_told(tmp_path, mode):
    files = members() | {f"{ROOT}/clips/{clip('train', 5)}": os.urandom(500_000)}
    archive = write_tar(tmp_path / "a.tar", files, mode)
    archive.write_bytes(archive.read_bytes()[:200_000])
    with pytest.raises(ConfigError, match="is not a complete tar archive"):
        download("common-voice", tmp_path / "cv", file=archive)
    assert not (tmp_path / "cv/clips" / clip("train", 5)).exists()


def test_complete_archive_continues_a_truncated_one(archive, read, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * 0.9)])
    with pytest.raises(ConfigError):
        download("common-voice", tmp_path / "cv", file=archive)
    archive.write_bytes(content)
    download("common-voice", tmp_path / "cv", file=archive)
    assert len(read("test")) == 3


def test_flipped_bit_is_told(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[-6] ^= 1  # of the checksum at the end
    archive.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a complete tar archive"):
        download("common-voice", tmp_path / "cv", file=archive)


def test_other_file_is_no_archive(tmp_path):
    page = tmp_path / "page.tar.gz"
    page.write_bytes(b"<html>log in</html>" * 100)
    with pytest.raises(ConfigError, match="is not a complete tar archive"):
        download("common-voice", tmp_path / "cv", file=page)


def test_other_archive_is_refused(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", {"en/clips/common_voice_en_1.mp3": b"x"})
    for out, rows in (("a", None), ("b", 2)):
        with pytest.raises(ConfigError, match=r"has no .*train\.tsv"):
            download("common-voice", tmp_path / out, file=archive, rows=rows)


def test_several_languages_are_refused(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", members("cv/br") | members("cv/fr"))
    with pytest.raises(ConfigError, match=r"several languages: \['cv/br', 'cv/fr'\]"):
        download("common-voice", tmp_path / "cv", file=archive)


def test_names_that_lead_out_are_counted(tmp_path):
    link = tarfile.TarInfo(f"{ROOT}/clips/link.mp3")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = members() | {f"../../{ROOT}/clips/out.mp3": b"x", "/abs/clips/out.mp3": b"x"}
    archive = write_tar(tmp_path / "a.tar.gz", files, extra=[link])
    summary = download("common-voice", tmp_path / "cv", file=archive)
    assert summary["skipped"] == {"a link, or a name that leads out of the folder": 3}
    assert not [*tmp_path.rglob("out.mp3"), *tmp_path.rglob("link.mp3")]


def test_clips_that_the_archive_lacks_are_counted(tmp_path):
    files = {name: c for name, c in members().items() if not name.endswith("test1.mp3")}
    archive = write_tar(tmp_path / "a.tar.gz", files)
    summary = download("common-voice", tmp_path / "cv", file=archive, rows=3)
    assert summary["skipped"] == {"no such clip in the archive": 1}


def test_full_disk_is_told_before_extraction(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 10))
    with pytest.raises(ConfigError, match="the content of the archive needs"):
        download("common-voice", tmp_path / "cv", file=archive)
    assert files_below(tmp_path / "cv") == set()


def test_sampled_sentence_keeps_its_line_break():
    listing = HEADER + line("train", 0) + "c\tcommon_voice_br_1.mp3\tone\ntwo\t2\t0\n"
    text, clips = sample_listing(listing.encode(), 2, 0)
    assert text.decode() == listing
    assert clips == [clip("train", 0), "common_voice_br_1.mp3"]


def test_clips_of_old_releases_have_no_ending():
    name = "0123456789abcdef" * 8
    _, clips = sample_listing(f"client_id\tpath\tsentence\nc\t{name}\ta\n".encode(), 1, 0)
    assert clips == [f"{name}.mp3"]


def test_empty_listing_is_kept():
    assert sample_listing(HEADER.encode(), 2, 0) == (HEADER.encode(), [])

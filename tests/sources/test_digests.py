"""Digests of files, and the fingerprints of tables that refer to files."""

import hashlib
import os
import shutil

import pytest
from datasets import Dataset

from edge_lib.config import ConfigError
from edge_lib.data.table import Table
from edge_lib.sources import digests
from edge_lib.sources.digests import digest_files, item_fingerprint, table_fingerprint


@pytest.fixture
def reads(monkeypatch):
    """The paths of the files that are read, in order; files count as settled at once."""
    read, paths = digests._digest, []
    monkeypatch.setattr(digests, "UNSETTLED_NS", -(10**18))
    monkeypatch.setattr(digests, "_digest", lambda path: paths.append(path) or read(path))
    return paths


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(f"content of {name}")
    (folder / "list.csv").write_text("a\nb\nc\n")
    return folder


def fingerprint(folder, names="abc", facts=(), cells=None):
    cells = cells or [{"bytes": None, "path": str(folder / name)} for name in names]
    dataset = Dataset.from_dict({"image": cells})
    return table_fingerprint(dataset, [folder / "list.csv"], folder.parent / "cache", *facts)


def test_digest_files_are_sha256_of_the_content(folder, tmp_path):
    paths = [folder / "b", folder / "gone", folder, folder / "a", "", "x\0y", folder / "b"]
    expected = [hashlib.sha256(f"content of {n}".encode()).hexdigest()[:32] for n in "ba"]
    b, a = expected
    assert digest_files(paths, tmp_path / "cache") == [b, "", "", a, "", "", b]


def test_digest_files_keep_the_order_of_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "MAX_BATCH", 3)
    paths = [tmp_path / f"{number}" for number in range(40)]
    for path in paths[::2]:
        path.write_text(path.name)
    expected = [hashlib.sha256(p.name.encode()).hexdigest()[:32] for p in paths[::2]]
    for _ in range(2):
        actual = digest_files(paths, tmp_path)
        assert actual[::2] == expected
        assert not any(actual[1::2])


def test_digest_files_read_a_file_once(folder, tmp_path, reads):
    paths = [folder / name for name in "abc"]
    first = digest_files(paths, tmp_path)
    assert digest_files(paths[::-1], tmp_path) == first[::-1]
    assert sorted(reads) == [os.fsencode(path) for path in paths]
    reads.clear()
    times = os.stat(paths[1])
    paths[1].write_text("content of B")  # of the same size and, as some tools do, the same time
    os.utime(paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [a == b for a, b in zip(digest_files(paths, tmp_path), first, strict=True)] == [
        True,
        False,
        True,
    ]
    assert reads == [os.fsencode(paths[1])]


def test_digest_files_do_not_remember_a_file_that_just_changed(tmp_path):
    path, contents = tmp_path / "a", [f"{number:04}" for number in range(50)]
    for content in contents:  # faster than the clock of a file system
        path.write_text(content)
        assert digest_files([path], tmp_path) == [hashlib.sha256(content.encode()).hexdigest()[:32]]


def test_digest_files_take_names_that_are_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    with open(path, "w") as file:
        file.write("x")
    assert digest_files([path], tmp_path) == [hashlib.sha256(b"x").hexdigest()[:32]]


def test_digest_files_report_a_corrupt_database(folder, tmp_path):
    (tmp_path / "digests.sqlite").write_text("no database" * 200)
    with pytest.raises(ConfigError, match=r"digests\.sqlite: file is not a database; delete it"):
        digest_files([folder / "a"], tmp_path)


def test_fingerprint_survives_touch_and_copies(folder, tmp_path):
    first = fingerprint(folder)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert fingerprint(folder) == first
    shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == first


def changed_byte(folder):
    (folder / "b").write_text("content of B")


def removed_file(folder):
    (folder / "b").unlink()


def swapped_files(folder):
    texts = [(folder / name).read_text() for name in "ab"]
    for name, text in zip("ba", texts, strict=True):
        (folder / name).write_text(text)


def changed_listing(folder):
    (folder / "list.csv").write_text("a\nb\nd\n")


@pytest.mark.parametrize("change", [changed_byte, removed_file, swapped_files, changed_listing])
def test_fingerprint_changes_with_the_content(folder, change):
    first = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != first


def test_fingerprint_changes_with_a_file_that_arrives_late(folder):
    late = fingerprint(folder, "abcd")
    (folder / "d").write_text("content of d")
    assert fingerprint(folder, "abcd") != late


def test_fingerprint_tells_rows_and_facts_apart(folder):
    kinds = [
        ("abc", ()),
        ("acb", ()),
        ("abca", ()),
        ("abcb", ()),
        ("ab", ()),
        ("abc", ("caption",)),
    ]
    assert len({fingerprint(folder, names, facts) for names, facts in kinds}) == len(kinds)


def test_fingerprint_reads_the_path_of_cells_without_content(folder, reads):
    path, other = str(folder / "a"), str(folder / "b")
    cells = {
        "empty bytes": ([{"bytes": b"", "path": path}, {"bytes": b"x", "path": other}], [path]),
        "null cells": (
            [None, {"bytes": None, "path": path}, {"bytes": None, "path": None}],
            [path],
        ),
        "member of a tar file": ([{"path": path, "offset": 2, "size": 3}], [path]),
        "texts": ([path, "data:image/png;base64,AAAA", None], [path]),
        "bytes": ([b"x", None], []),
        "struct without path": ([{"bytes": b"x"}], []),
    }
    for name, (values, expected) in cells.items():
        reads.clear()
        shutil.rmtree(folder.parent / "cache", ignore_errors=True)
        fingerprint(folder, cells=values)
        assert sorted(map(os.fsdecode, reads)) == [*expected, str(folder / "list.csv")], name


def test_fingerprint_of_selected_rows_reads_their_files_only(folder, reads):
    cells = [{"bytes": None, "path": str(folder / name)} for name in "abc"]
    dataset = Dataset.from_dict({"audio": cells}).select([2, 0])
    table_fingerprint(dataset, [], folder.parent / "cache")
    assert sorted(reads) == [os.fsencode(folder / name) for name in "ac"]


def test_item_fingerprint_names_images_apart_from_captions(folder, tmp_path):
    def name(captions=("x", "y"), images="ab", cells=None):
        cells = cells or [{"bytes": None, "path": str(folder / image)} for image in images]
        dataset = Dataset.from_dict({"image": cells, "texts": [[text] for text in captions]})
        cache = tmp_path / "cache"
        files = table_fingerprint(dataset, [], cache, *captions, str(cells))
        return item_fingerprint(Table(dataset, "t", files), "vision", cache)

    first = name()
    assert name(captions=("x", "edited")) == first
    content = [(folder / image).read_bytes() for image in "ab"]
    assert name(cells=content) == first  # the same images inside the table
    assert name(images="ba") != first
    (folder / "b").write_text("other content")
    assert name() != first
    (folder / "b").unlink()
    missing = name()
    assert name(images="ag") == missing
    assert name(cells=[content[0], None]) == missing


def test_item_fingerprint_of_a_table_without_the_modality(tmp_path):
    dataset = Dataset.from_dict({"texts": [["x"], ["y"]]})
    tables = [Table(dataset, "t", "two"), Table(dataset.select([0]), "t", "one")]
    assert len({item_fingerprint(table, "audio", tmp_path) for table in tables}) == 2

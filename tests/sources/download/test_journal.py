"""Journals: what survives torn writes, damage and full disks."""

import resource

import pytest

from edge_lib.sources.download.journal import Journal, recover

RECORDS = [({"key": 0}, b"picture"), ({"key": 1, "error": "ünicode"}, b""), ({"key": 2}, b"x" * 50)]


def write(path, records=RECORDS):
    journal = Journal(path)
    for fields, content in records:
        journal.append(fields, content)
    journal.close()


def written(folder):
    """A journal of RECORDS: its path, its bytes, and where each record ends."""
    path = folder / "a"
    write(path)
    return path, path.read_bytes(), [record.start + record.size for record in recover(path)]


def contents(path):
    data = path.read_bytes()
    return [(r.fields, data[r.start : r.start + r.size]) for r in recover(path)]


def test_journal_gives_back_its_records(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "a", [({"key": 3}, b"\0")])
    assert contents(tmp_path / "a") == [*RECORDS, ({"key": 3}, b"\0")]


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_journal_may_be_missing_or_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    assert recover(tmp_path / "a") == []


def test_journal_cut_anywhere_keeps_whole_records(tmp_path):
    path, whole, ends = written(tmp_path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        expected = RECORDS[: sum(end <= length for end in ends)]
        assert contents(path) == expected
        write(path, [({"key": 9}, b"new")])
        assert contents(path) == [*expected, ({"key": 9}, b"new")]


def test_journal_with_a_damaged_byte_keeps_the_records_before_it(tmp_path):
    path, whole, ends = written(tmp_path)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        assert contents(path) == RECORDS[: sum(end <= position for end in ends)]


def test_journal_followed_by_zeros_keeps_its_records(tmp_path):
    write(tmp_path / "a")
    with (tmp_path / "a").open("ab") as file:
        file.write(bytes(5000))
    assert contents(tmp_path / "a") == RECORDS


def test_journal_on_a_full_disk_keeps_its_records(tmp_path):
    path, limits = tmp_path / "a", resource.getrlimit(resource.RLIMIT_FSIZE)
    write(path)
    journal = Journal(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.append({"key": 3}, b"y" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.append({"key": 4}, b"z")
    assert contents(path) == [*RECORDS, ({"key": 4}, b"z")]

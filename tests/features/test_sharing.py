"""Stores that several processes write: killed, failing, hung and interrupted ones."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from edge_lib.config import FeaturesConfig, FeatureSpec
from edge_lib.features import claims, extract, store_writer
from edge_lib.features.extract import share_stores
from edge_lib.features.store import open_store
from edge_lib.features.store_writer import StoreWriter

VISION = "edge_lib.features.vision"


@pytest.fixture
def make_writer(make_table, encode_image, small_align, tmp_path):
    """make_writer(folder) -> the writer of a store of 12 shards with 4 images each, two broken."""
    vision = small_align().vision
    rows = [{"id": f"r{i}", "image": encode_image(i)} for i in range(48)]
    rows[5]["image"] = rows[30]["image"] = b"broken"

    def make(folder):
        spec = FeatureSpec({"vision": vision}, FeaturesConfig(shard_rows=4), tmp_path / folder)
        return StoreWriter(spec, "vision", make_table(rows))

    return make


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(extract, "POLL_SECONDS", (0.02, 0.1))


def share(writer):
    share_stores([writer], writer.spec)


def content(writer):
    """All files of a store, with what processes that died have left."""
    return {path.name: path.read_bytes() for path in writer.folder.iterdir()}


def share_with_one_thread(writer, seconds=0):
    """seconds: how long a shard takes at least."""
    torch.set_num_threads(1)  # the order of sums depends on it
    extract.POLL_SECONDS = 0.02, 0.1
    save_shard = store_writer.save_shard
    store_writer.save_shard = lambda *args: (time.sleep(seconds), save_shard(*args))
    share(writer)


@contextlib.contextmanager
def processes(writer, count, seconds=0):
    """Started by a server that has imported what they need, which takes much longer than they do;
    forks of this process would have locks of its threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["edge_lib.features.extract", "edge_lib.features.vision", "pytest"]
    )
    started = [
        context.Process(target=share_with_one_thread, args=(writer, seconds)) for _ in range(count)
    ]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def test_store_equals_that_of_one_process_when_one_of_three_is_killed(make_writer):
    alone = make_writer("alone")
    with processes(alone, 1) as (process,):
        process.join()
    expected, generator, killed = content(alone), random.Random(0), 0
    assert len(expected) == 12 + 2
    for attempt in itertools.count():
        writer = make_writer(f"shared-{attempt}")
        with processes(writer, 3, seconds=0.03) as started:
            goal = generator.randrange(8)
            while len(writer.missing()) > 12 - goal:
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.03))
            victim = generator.choice(started)
            victim.kill()
            for process in started:
                process.join(60)
            assert [p.exitcode for p in started if p is not victim] == [0, 0]
            killed += victim.exitcode == -signal.SIGKILL
        assert content(writer) == expected
        if killed == 10:
            break


def test_store_removes_what_dead_processes_left(make_writer):
    writer = make_writer("cache")
    writer.folder.mkdir(parents=True)
    for part in ("00003", "manifest"):
        owner = {"pid": 2**22 + 1, **claims._machine()}  # above the largest of Linux
        (writer.folder / f".claim-{part}.0").write_text(json.dumps(owner))
    for name in (".shard-00003.1a2b", ".skipped.csv.1a2b", "notes.txt"):
        (writer.folder / name).write_text("half")
    share(writer)
    names = [name for name in content(writer) if not name.startswith("shard-")]
    assert sorted(names) == ["manifest.json", "notes.txt", "skipped.csv"]
    assert writer.is_complete()


def test_store_keeps_one_of_two_versions_of_a_shard(make_writer):
    writer = make_writer("cache")
    share(writer)
    expected = content(writer)
    first = min(writer.folder.glob("shard-00000-*"))
    first.with_name("shard-00000-00000000.safetensors").write_bytes(b"of another machine")
    (writer.folder / "manifest.json").unlink()
    share(writer)
    assert content(writer) == expected
    assert open_store(writer.spec, "vision", writer.table).valid.sum() == 46


def test_sharing_takes_over_from_a_hung_process_after_the_lease(make_writer, monkeypatch, capsys):
    writer = make_writer("cache")
    writer.folder.mkdir(parents=True)
    claims.Claims(writer.folder).take("00003")  # of this process, which lives, but renews no more
    monkeypatch.setattr(extract, "REPORT_SECONDS", 0)
    holders = StoreWriter.holders

    def then_end_the_lease(writer):
        monkeypatch.setattr(claims, "LEASE_SECONDS", 0)
        return holders(writer)

    monkeypatch.setattr(StoreWriter, "holders", then_end_the_lease)
    share(writer)
    assert writer.is_complete()
    host = claims._machine()["host"]
    line = f"{writer.name}: waiting for 00003 (process {os.getpid()} on {host})"
    assert line in capsys.readouterr().out


def test_sharing_encodes_shards_that_ended_a_process_last(make_writer, monkeypatch):
    encode, failing = StoreWriter._write, [2]

    def write(self, shard, *args):
        if shard in failing:
            raise MemoryError(f"shard {shard}")
        encode(self, shard, *args)

    monkeypatch.setattr(StoreWriter, "_write", write)
    for missing in ([*range(2, 12)], [2], [2]):  # every process ends in turn
        writer = make_writer("cache")
        with pytest.raises(MemoryError, match="shard 2"):
            share(writer)
        assert writer.missing() == missing
    failing.clear()
    share(writer)
    assert writer.is_complete()


def test_interrupted_sharing_leaves_its_shard_to_any_process(make_writer, monkeypatch):
    def write(*_):
        raise KeyboardInterrupt

    writer = make_writer("cache")
    monkeypatch.setattr(StoreWriter, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        share(writer)
    assert not [*writer.folder.iterdir()]


def test_corrupt_shard_of_another_process_is_encoded_again(make_writer):
    writer = make_writer("cache")
    share(writer)
    expected = content(writer)
    path = min(writer.folder.glob("shard-00007-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (writer.folder / "manifest.json").unlink()  # written after a check of all shards
    share(make_writer("cache"))
    assert content(writer) == expected


def test_complete_store_is_not_read_again(make_writer, monkeypatch):
    share(make_writer("cache"))
    monkeypatch.setattr(store_writer, "is_whole", lambda *_: pytest.fail("read a shard"))
    share(make_writer("cache"))

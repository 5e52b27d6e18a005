"""Extraction by tasks: what is reported while they run, and when all have ended."""

import pytest

from edge_lib.config import ConfigError
from edge_lib.features import extract_tasks
from edge_lib.features.encoder import load_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.extract_tasks import run_tasks
from edge_lib.features.shards import save_shard
from edge_lib.features.store_writer import StoreWriter
from edge_lib.sources import load_table


@pytest.fixture
def config(small_align, tmp_path):
    config = small_align(f"features.shard_rows=40 data.cache_dir={tmp_path / 'cache'}")
    config.text = None
    return config


class StepTasks:
    """Tasks of this process: each look at them runs the next of some steps."""

    visible_seconds, entered, left = 0, False, False

    def __init__(self, steps):
        self.steps, self.running = steps, {"task": None}

    def ended(self):
        if not self.steps:
            self.running = {}
        elif line := self.steps.pop(0)():
            yield line

    def __enter__(self):
        self.entered = True

    def __exit__(self, *_):
        self.left = True


@pytest.fixture
def run(config, monkeypatch, tmp_path):
    """run(steps) -> counts and lines of missing shards."""
    monkeypatch.setattr(extract_tasks, "POLL_SECONDS", 0)

    def run(*steps, count=3):
        tasks = StepTasks([*steps])
        started = []

        def start(function, count, folder):
            assert folder.is_dir()
            started.append(count)
            return tasks

        monkeypatch.setattr(extract_tasks, "LocalTasks", start)
        results = run_tasks(config.data, config.feature_spec, count, "local", tmp_path / "logs")
        assert tasks.entered == tasks.left == bool(started)
        return *results, started

    return run


def test_tasks_write_what_one_process_would(run, config, capsys):
    def work():
        write_features(config.data, config.feature_spec)

    counts, missing, started = run(lambda: "task 2 ended: SIGKILL", work)
    assert counts["train/vision"] == {"items": 96, "skipped": 0, "truncated": 0}
    assert (missing, started) == ([], [3])
    output = capsys.readouterr().out
    assert "task 2 ended: SIGKILL\n" in output
    assert "132 items in " in output
    assert run()[:2] == (counts, [])


def test_complete_stores_start_no_task(run, config):
    counts = write_features(config.data, config.feature_spec)
    assert run() == (counts, [], [])


def test_corrupt_shard_starts_tasks(run, config):
    counts = write_features(config.data, config.feature_spec)
    path = next(config.data.cache_dir.glob("features/*/shard-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert run(lambda: write_features(config.data, config.feature_spec) and None) == (
        counts,
        [],
        [3],
    )


def test_missing_shards_are_listed_when_all_tasks_have_ended(run, config, capsys, monkeypatch):
    def save_first(folder, shard, tensors):
        if shard:
            raise OSError("no space left")
        save_shard(folder, shard, tensors)

    def work():
        for split in ("val", "test", "swap"):
            write_features(config.data, config.feature_spec, [split])
        writer = StoreWriter(config.feature_spec, "vision", load_table(config.data, "train"))
        monkeypatch.setattr("edge_lib.features.store_writer.save_shard", save_first)
        with pytest.raises(OSError, match="no space left"):
            writer.write(lambda: load_encoder("vision", config.vision.encoder_config))

    counts, missing, _ = run(work)
    assert set(counts) == {"val/vision", "test/vision", "swap/vision"}
    assert missing == ["scenes train vision: 2 of 3 shards missing: 1, 2"]
    assert "76 items in " in capsys.readouterr().out


def test_long_list_of_missing_shards_is_cut(run, config):
    config.features.shard_rows = 4
    _, missing, _ = run()
    assert missing[0] == (
        "scenes train vision: 24 of 24 shards missing: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    )
    assert missing[1] == "scenes val vision: 4 of 4 shards missing: 0, 1, 2, 3"


@pytest.mark.parametrize("count", [0, -1])
def test_number_of_tasks_is_checked(run, count):
    with pytest.raises(ConfigError, match=f"^--tasks: expected at least 1, got {count}$"):
        run(count=count)

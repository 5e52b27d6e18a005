"""Scenes as a table: rows, swap pairs, speech, degraded splits, generated once."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge_lib.config import DataConfig, ScenesConfig
from edge_lib.sources import load_table, splits
from edge_lib.sources.digests import item_fingerprint
from edge_lib.sources.scenes.generate import twin_groups
from edge_lib.sources.scenes.parallel import run_in_parallel
from edge_lib.sources.scenes.render import render
from edge_lib.sources.scenes.rows import scene_row
from edge_lib.sources.scenes.scene import COLOURS
from edge_lib.sources.scenes.speech import VARIANTS, speak


@pytest.fixture
def small(tmp_path):
    sizes = {f"{split}_size": 8 for split in ("train", "val", "test")}
    scenes_config = ScenesConfig(**sizes, swap_size=3)
    return DataConfig(scenes=scenes_config, cache_dir=tmp_path / "cache")


def folder_of(config):
    (folder,) = config.cache_dir.glob("scenes-*")
    return folder


def test_scenes_table_holds_captions_groups_and_images(small):
    assert splits(small) == ("train", "val", "test", "swap")
    table = load_table(small, "val")
    scenes = [s for group in twin_groups("val", 8, 4, 0) for s in group]
    assert table.captions == [scene.caption() for scene in scenes]
    assert table.groups.tolist() == [0] * 4 + [1] * 4
    assert table.ids[:2] == ["val-000000", "val-000001"]
    for image, scene in zip(table.images(range(8)), scenes, strict=True):
        expected = np.asarray(render(scene, "val"))
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_swap_split_groups_rows_in_pairs(small):
    table = load_table(small, "swap")
    assert table.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(table.captions)) == 6


def test_scenes_table_is_generated_once(small, monkeypatch):
    first = load_table(small, "test")

    def fail(*args):
        raise AssertionError("generated again")

    monkeypatch.setattr("edge_lib.sources.scenes.rows.twin_groups", fail)
    second = load_table(small, "test")
    assert second.captions == first.captions
    assert second.fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="generated again"):
        load_table(small, "val")


@pytest.mark.parametrize("change", [{"seed": 1}, {"test_size": 12}, {"max_objects": 3}], ids=str)
def test_scenes_config_change_gives_another_table(small, change):
    other = small.model_copy(update={"scenes": small.scenes.model_copy(update=change)})
    before = load_table(small, "test")
    after = load_table(other, "test")
    assert after.captions != before.captions
    assert after.fingerprint != before.fingerprint
    assert load_table(small, "test").captions == before.captions


@pytest.mark.parametrize("moment", ["drawing", "writing", "renaming"])
def test_interrupted_generation_leaves_no_partial_file(small, monkeypatch, moment):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    def write_partial(table, path, **options):
        path.write_bytes(b"PAR1 partial")
        stop()

    with monkeypatch.context() as patch:
        if moment == "drawing":
            patch.setattr("edge_lib.sources.scenes.rows.scene_row", stop)
        if moment == "writing":
            patch.setattr(pq, "write_table", write_partial)
        if moment == "renaming":
            patch.setattr(type(small.cache_dir), "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            load_table(small, "test")
    assert [p.name for p in folder_of(small).iterdir() if p.suffix != ".lock"] == []
    assert len(load_table(small, "test")) == 8


def test_partial_file_of_a_killed_process_is_ignored(small):
    load_table(small, "val")
    (folder_of(small) / ".test.parquet.123").write_bytes(b"PAR1 partial")
    assert len(load_table(small, "test")) == 8


def test_captions_of_a_row_differ_in_phrasing_only(tmp_path):
    sizes = {"train_size": 4, "val_size": 4, "test_size": 40, "swap_size": 2}
    config = DataConfig(cache_dir=tmp_path, scenes=ScenesConfig(captions=3, **sizes))
    one = DataConfig(cache_dir=tmp_path, scenes=ScenesConfig(**sizes))
    table = load_table(config, "test")
    assert np.bincount(table.caption_rows).tolist() == [3] * 40
    assert len(set(table.captions)) == 120
    assert table.captions[::3] == load_table(one, "test").captions
    colours = [{word for word in c.split() if word in COLOURS} for c in table.captions]
    assert all(colours[i] == colours[i + 1] == colours[i + 2] for i in range(0, 120, 3))


# --- speech and degraded splits ---------------------------------------------------------------


@pytest.fixture
def spoken(tmp_path):
    scenes_config = ScenesConfig(
        train_size=8, val_size=4, test_size=4, swap_size=2, speech=True, degraded_size=4
    )
    return DataConfig(scenes=scenes_config, cache_dir=tmp_path / "cache")


def test_degraded_splits_damage_the_same_rows(spoken):
    assert splits(spoken)[4:] == ("degraded-train", "degraded-val", "degraded-test")
    for split, count in (("train", 4), ("val", 4), ("test", 4)):
        clean, damaged = load_table(spoken, split), load_table(spoken, f"degraded-{split}")
        assert damaged.ids == clean.ids[:count]
        assert damaged.captions == clean.captions[:count]
        assert damaged.groups.tolist() == clean.groups[:count].tolist()
        images = zip(clean.images(range(count)), damaged.images(range(count)), strict=True)
        for one, two in images:
            hidden = (np.asarray(one) != np.asarray(two)).any(-1)
            assert 0.3 < hidden.mean() < 0.4
            assert (np.asarray(two)[hidden] == 128).all()
        for one, two in zip(clean.clips(range(count)), damaged.clips(range(count)), strict=True):
            noisy = np.abs(one - two) > 2**-14
            assert len(one) == len(two)
            assert 0.4 < noisy.mean() <= 0.51


def test_captions_are_spoken_by_voices_of_their_split(spoken, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "edge_lib.sources.scenes.speech.speak", lambda *args: calls.append(args) or speak(*args)
    )
    for split in ("train", "val", "test"):
        calls.clear()
        groups = list(twin_groups(split, 40, 4, 0))
        for number, scene in enumerate(scene for group in groups for scene in group):
            row = scene_row(spoken.scenes, scene, split, number, 0)
            assert calls[-1][0] == row["texts"][0] == scene.caption()
        speakers = {voice.name.split("+")[1] for _, voice in calls}
        assert len(speakers) > 1
        assert speakers <= set(VARIANTS[split])


def test_spoken_rows_are_identical_on_any_number_of_cores(spoken, monkeypatch):
    groups = enumerate(twin_groups("train", 40, 4, 0))
    drawn = enumerate((group, scene) for group, twins in groups for scene in twins)
    jobs = [(spoken.scenes, scene, "train", n, group) for n, (group, scene) in drawn]
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    first = list(run_in_parallel(scene_row, jobs, chunk_size=10))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "3")
    assert first == list(run_in_parallel(scene_row, jobs, chunk_size=10))
    assert [row["id"] for row in first] == [f"train-{n:06d}" for n in range(40)]
    assert all(row["audio"][:4] == b"fLaC" for row in first)


def test_caption_fingerprint_depends_on_the_captions_only(spoken, small):
    clean, damaged = load_table(spoken, "test"), load_table(spoken, "degraded-test")
    other = load_table(small, "test")

    def names(table):
        return [item_fingerprint(table, name, spoken.cache_dir) for name in ("text", "audio")]

    (text, audio), (same_text, other_audio), (other_text, _) = map(names, (clean, damaged, other))
    assert text == same_text != other_text
    assert audio != other_audio

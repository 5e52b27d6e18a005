"""The feature store: what it returns, and what a kill, a change or a broken file do to it."""

import numpy as np
import pytest
import torch
from align_targets import encode_and_die
from edge_lib.features.encoders import load_encoder

from edge_lib.config import ConfigError
from edge_lib.features.extract import extract_features, finish_store, missing_shards, write_shard
from edge_lib.features.items import Items
from edge_lib.features.online import OnlineFeatures
from edge_lib.features.store import FeatureStore, open_store, store_folder
from edge_lib.sources import load_table
from edge_lib.training.launch import WorkerError, launch


@pytest.fixture
def config(small_align, tmp_path):
    """Vision alone, three shards to the train table, a cache of its own."""
    config = small_align(f"features.shard_rows=40 features.batch_size=7 data.cache_dir={tmp_path}")
    config.text = None
    return config


def gathered(config, rows, modality="vision", split="train"):
    return open_store(config, modality, load_table(config.data, split)).gather(rows)


def stores(config):
    return sorted((config.data.cache_dir / "features").glob("vision-*"))


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_store_gives_what_the_encoder_says(small_align, modality):
    config = small_align("features.shard_rows=40 text.pooler=mean features.dtype=float32")
    extract_features(config)
    table = load_table(config.data, "train")
    rows = np.array([95, 3, 41, 3, 0])
    online = OnlineFeatures(
        Items(table, modality), load_encoder(modality, config.modalities[modality])
    )
    expected, found = online.gather(rows), open_store(config, modality, table).gather(rows)
    torch.testing.assert_close(found.mask, expected.mask)
    torch.testing.assert_close(found.pooled, expected.pooled, atol=1e-5, rtol=1e-4)
    real = expected.mask[..., None]
    torch.testing.assert_close(found.tokens * real, expected.tokens * real, atol=1e-5, rtol=1e-4)
    assert found.tokens[~found.mask].eq(0).all()


def test_killed_while_writing_goes_on_with_the_missing_shards(config, monkeypatch):
    with pytest.raises(WorkerError, match="SIGKILL"):
        launch(encode_and_die, config, 1)
    (folder,) = stores(config)
    assert [path.name[:11] for path in folder.glob("shard-*")] == ["shard-00000"]
    assert not (folder / "manifest.json").exists()
    first = next(folder.glob("shard-*")).stat().st_mtime_ns
    extract_features(config)
    assert min(path.stat().st_mtime_ns for path in folder.glob("shard-*")) == first
    resumed = gathered(config, range(96))
    config.data.cache_dir = config.data.cache_dir / "another"
    extract_features(config)
    torch.testing.assert_close(resumed.tokens, gathered(config, range(96)).tokens, atol=0, rtol=0)


def test_corrupt_shard_is_noticed_and_encoded_again(config, caplog):
    extract_features(config)
    before = gathered(config, range(96)).tokens
    folder = store_folder(config, "vision", load_table(config.data, "train"))
    path = sorted(folder.glob("shard-*"))[1]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    others = {p: p.stat().st_mtime_ns for p in folder.glob("shard-*") if p != path}
    extract_features(config)
    assert "does not match its checksum" in caplog.text
    assert others == {p: p.stat().st_mtime_ns for p in others}
    torch.testing.assert_close(gathered(config, range(96)).tokens, before, atol=0, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        "features.dtype=float32",
        "features.precision=bf16",
        "vision.pooler=pooled",
        "data.scenes.seed=1",
    ],
)
def test_change_of_config_never_reads_the_old_entry(config, small_align, tmp_path, change):
    before = store_folder(config, "vision", load_table(config.data, "train"))
    changed = small_align(f"features.shard_rows=40 data.cache_dir={tmp_path} {change}")
    assert store_folder(changed, "vision", load_table(changed.data, "train")) != before


def test_change_of_preprocessing_never_reads_the_old_entry(config, tiny_vision, tmp_path):
    copy = tmp_path / "encoder"
    copy.mkdir()
    for path in tiny_vision.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config.vision.encoder = str(copy)
    extract_features(config)
    before = gathered(config, [0]).pooled
    settings = copy / "preprocessor_config.json"
    settings.write_text(
        settings.read_text().replace('"do_normalize": true', '"do_normalize": false')
    )
    with pytest.raises(FileNotFoundError):
        gathered(config, [0])
    extract_features(config)
    assert not torch.allclose(gathered(config, [0]).pooled, before)


def test_second_encoding_loads_no_encoder(config, monkeypatch):
    extract_features(config)
    monkeypatch.setattr(
        "edge_lib.features.extract._load_encoder", lambda *_: pytest.fail("encoded again")
    )
    assert extract_features(config)["train/vision"] == {"items": 96, "skipped": 0, "truncated": 0}


def test_corrupt_images_are_skipped_and_counted(small_align, make_table, encode_image, tmp_path):
    config = small_align("features.shard_rows=3")
    table = make_table(
        [
            {"id": f"r{i}", "image": b"broken" if i in (1, 3, 4, 5) else encode_image(i)}
            for i in range(8)
        ]
    )
    items, encoder = Items(table, "vision"), load_encoder("vision", config.vision)
    shards = missing_shards({"test": tmp_path}, {"test": items}, config.features)
    for _, shard in shards:  # the second: all broken
        write_shard(tmp_path, shard, items, encoder, config.features, keep_tokens=True)
    store = finish_store(tmp_path, items, config.features)
    assert store.valid.tolist() == [True, False, True, False, False, False, True, True]
    assert sorted(table.skipped["image does not decode"]) == ["r1", "r3", "r4", "r5"]
    found = store.gather([1, 4, 6])
    assert found.pooled[:2].eq(0).all()
    assert not found.mask[:2].any()
    expected = OnlineFeatures(items, encoder).gather([6])
    torch.testing.assert_close(found.pooled[2:], expected.pooled, atol=1e-3, rtol=1e-2)


def test_two_processes_share_the_work_and_give_the_same(config):
    extract_features(config)
    alone = gathered(config, range(96)).tokens
    config.data.cache_dir = config.data.cache_dir / "two"
    results = launch(extract_features, config, num_processes=2)
    assert results[0] == results[1]
    torch.testing.assert_close(gathered(config, range(96)).tokens, alone, atol=1e-3, rtol=1e-3)


def test_token_budget_is_refused_before_the_disk_is_full(config):
    config.features.max_gb = 1e-6
    with pytest.raises(ConfigError, match=r"need about .* GB, over features.max_gb"):
        extract_features(config)
    assert not list(config.data.cache_dir.glob("features/*/*"))


def test_failed_write_leaves_no_file(config, monkeypatch):
    def full(data, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_lib.features.shards.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        extract_features(config)
    assert not list(config.data.cache_dir.glob("features/*/*"))


def test_store_that_was_not_finished_is_not_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        FeatureStore(tmp_path)

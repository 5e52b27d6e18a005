"""The feature store: its content, interrupted writes, changed inputs, corrupt files."""

import errno
import sqlite3

import numpy as np
import pytest
import torch
from align_targets import encode_and_die

from edge_lib.config import ConfigError
from edge_lib.features import shards
from edge_lib.features.encoder import load_encoder
from edge_lib.features.extract import (
    extract_features,
    has_features,
    incomplete,
    store_writers,
    write_features,
)
from edge_lib.features.items import Items
from edge_lib.features.online import OnlineFeatures
from edge_lib.features.store import FeatureStore, open_store, store_folder
from edge_lib.features.store_writer import StoreWriter
from edge_lib.sources import load_table, splits
from edge_lib.training.launch import WorkerError, launch


@pytest.fixture
def config(small_align, tmp_path):
    """Vision alone, three shards to the train table, a cache of its own."""
    config = small_align(f"features.shard_rows=40 features.batch_size=7 data.cache_dir={tmp_path}")
    config.text = None
    return config


def write(config):
    return write_features(config.data, config.feature_spec)


def extract(config, **options):
    return extract_features(config.data, config.feature_spec, **options)


def folder_of(config, split="train"):
    return store_folder(config.feature_spec, "vision", load_table(config.data, split))


def gather(config, rows):
    table = load_table(config.data, "train")
    return open_store(config.feature_spec, "vision", table).gather(rows)


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("modality", ["vision", "text"])
def test_store_equals_online_features(small_align, monkeypatch, modality, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    config = small_align("features.shard_rows=40 text.pooler=mean features.dtype=float32")
    write(config)
    table = load_table(config.data, "train")
    rows = np.array([95, 3, 41, 3, 0])
    encoder = load_encoder(modality, config.modalities[modality].encoder_config)
    expected = OnlineFeatures(Items(table, modality), encoder).gather(rows)
    stored = open_store(config.feature_spec, modality, table).gather(rows)
    torch.testing.assert_close(stored.mask, expected.mask)
    torch.testing.assert_close(stored.pooled, expected.pooled, atol=1e-5, rtol=1e-4)
    valid = expected.mask[..., None]
    torch.testing.assert_close(stored.tokens * valid, expected.tokens * valid, atol=1e-5, rtol=1e-4)
    assert stored.tokens[~stored.mask].eq(0).all()


def test_extraction_resumes_with_the_missing_shards_after_a_kill(config):
    with pytest.raises(WorkerError, match="SIGKILL"):
        launch(encode_and_die, config, 1)
    folder = folder_of(config)
    assert [path.name[:11] for path in folder.glob("shard-*")] == ["shard-00000"]
    assert not (folder / "manifest.json").exists()
    first = next(folder.glob("shard-*")).stat().st_mtime_ns
    write(config)
    assert min(path.stat().st_mtime_ns for path in folder.glob("shard-*")) == first
    resumed = gather(config, range(96))
    config.data.cache_dir = config.data.cache_dir / "another"
    write(config)
    torch.testing.assert_close(resumed.tokens, gather(config, range(96)).tokens, atol=0, rtol=0)


def test_corrupt_shard_is_encoded_again(config, caplog):
    write(config)
    before = gather(config, range(96)).tokens
    folder = folder_of(config)
    path = sorted(folder.glob("shard-*"))[1]
    corrupt(path)
    others = {p: p.stat().st_mtime_ns for p in folder.glob("shard-*") if p != path}
    write(config)
    assert "does not match its checksum" in caplog.text
    assert others == {p: p.stat().st_mtime_ns for p in others}
    torch.testing.assert_close(gather(config, range(96)).tokens, before, atol=0, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        "features.dtype=float32",
        "features.precision=bf16",
        "vision.pooler=pooled",
        "data.scenes.seed=1",
        "vision.revision=abc",
        "vision.weights=random",
    ],
)
def test_changed_config_uses_another_store(config, small_align, tmp_path, change):
    before = folder_of(config)
    changed = small_align(f"features.shard_rows=40 data.cache_dir={tmp_path} {change}")
    assert folder_of(changed) != before


def test_changed_preprocessing_uses_another_store(config, tiny_vision, tmp_path):
    copy = tmp_path / "encoder"
    copy.mkdir()
    for path in tiny_vision.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config.vision.encoder = str(copy)
    write(config)
    before = gather(config, [0]).pooled
    settings = copy / "preprocessor_config.json"
    settings.write_text(
        settings.read_text().replace('"do_normalize": true', '"do_normalize": false')
    )
    with pytest.raises(FileNotFoundError):
        gather(config, [0])
    write(config)
    assert not torch.allclose(gather(config, [0]).pooled, before)


COUNTS = {"items": 96, "skipped": 0, "truncated": 0}


def test_second_extraction_loads_no_encoder(config, monkeypatch):
    write(config)
    refuse = lambda *_: pytest.fail("loaded an encoder")  # noqa: E731
    monkeypatch.setattr("edge_lib.features.extract.load_encoder", refuse)
    assert write(config)["train/vision"] == COUNTS


def test_extract_features_launches_only_if_a_shard_is_missing_or_corrupt(config, monkeypatch):
    counts = write(config)
    launches = []

    def fake_launch(function, *args, **options):
        launches.append(options)
        return {0: function(*args)}

    monkeypatch.setattr("edge_lib.features.extract.launch", fake_launch)
    assert extract(config, num_processes=2) == counts
    assert counts["train/vision"] == COUNTS
    assert not launches
    corrupt(next(folder_of(config).glob("shard-*")))
    assert extract(config, num_processes=2) == counts
    (folder_of(config) / "manifest.json").unlink()
    assert extract(config) == counts
    assert launches == [{"log_dir": None, "num_processes": 2}, {"log_dir": None}]


def test_extraction_has_one_bar_a_store_over_its_missing_shards(config, relayed_states):
    write(config)
    ends = [s for s in relayed_states() if s["closed"] and s["options"]["unit"] == " items"]
    totals = {state["options"]["name"]: (state["options"]["total"], state["n"]) for state in ends}
    tables = [load_table(config.data, split) for split in splits(config.data)]
    sizes = {f"{table.name} vision": (len(table), len(table)) for table in tables}
    assert totals == sizes
    assert len(ends) == len(sizes)
    for shard in sorted(folder_of(config).glob("shard-*"))[1:]:  # items 40-80 and 80-96
        corrupt(shard)
    write(config)
    state = relayed_states()[-1]
    assert (state["options"]["total"], state["n"], state["closed"]) == (56, 56, True)


def test_extraction_bar_counts_the_items_of_other_processes(config, relayed_states):
    encoder = load_encoder("vision", config.vision.encoder_config)
    writer, other = (
        StoreWriter(config.feature_spec, "vision", load_table(config.data, "train"))
        for _ in range(2)
    )

    def get_encoder():
        if not other.written:
            other.write(lambda: encoder)  # the other two of three shards
        return encoder

    writer.write(get_encoder)
    assert (writer.written, other.written) == ({0}, {1, 2})
    ends = [s for s in relayed_states() if s["closed"] and s["options"]["unit"] == " items"]
    assert [(state["options"]["total"], state["n"]) for state in ends] == [(96, 56), (96, 96)]


def test_broken_images_are_skipped_and_counted(small_align, make_table, encode_image, tmp_path):
    config = small_align(f"features.shard_rows=3 data.cache_dir={tmp_path}")
    table = make_table(
        [
            {"id": f"r{i}", "image": b"broken" if i in (1, 3, 4, 5) else encode_image(i)}
            for i in range(8)
        ]
    )
    encoder = load_encoder("vision", config.vision.encoder_config)
    store_writer = StoreWriter(config.feature_spec, "vision", table)
    store_writer.write(lambda: encoder)  # all images of the second shard are broken
    assert store_writer.finish()
    assert store_writer.is_complete()
    assert store_writer.counts() == {"items": 8, "skipped": 4, "truncated": 0}
    store = open_store(config.feature_spec, "vision", table)
    assert store.valid.tolist() == [True, False, True, False, False, False, True, True]
    assert sorted(table.skipped["image does not decode"]) == ["r1", "r3", "r4", "r5"]
    output = store.gather([1, 4, 6])
    assert output.pooled[:2].eq(0).all()
    assert not output.mask[:2].any()
    expected = OnlineFeatures(Items(table, "vision"), encoder).gather([6])
    torch.testing.assert_close(output.pooled[2:], expected.pooled, atol=1e-3, rtol=1e-2)


def test_extraction_on_two_processes_equals_one(config):
    write(config)
    alone = gather(config, range(96)).tokens
    config.data.cache_dir = config.data.cache_dir / "two"
    results = launch(write_features, config.data, config.feature_spec, num_processes=2)
    assert results[0] == results[1]
    torch.testing.assert_close(gather(config, range(96)).tokens, alone, atol=1e-3, rtol=1e-3)


def test_token_budget_is_checked_before_writing(config):
    config.features.max_gb = 1e-6
    with pytest.raises(ConfigError, match=r"need about .* GB, over features.max_gb"):
        write(config)
    assert not list(config.data.cache_dir.glob("features/*/[!.]*"))


def test_failed_write_leaves_no_file(config, monkeypatch):
    def full(data, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_lib.features.shards.save_tensors", full)
    with pytest.raises(ConfigError, match="No space left"):
        write(config)
    assert not list(config.data.cache_dir.glob("features/*/[!.]*"))


def test_unfinished_store_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        FeatureStore(tmp_path)


def test_extraction_returns_counts_on_a_node_without_rank_0(config, monkeypatch):
    results = {2: {"train/vision": {"items": 96}}, 3: {}}
    monkeypatch.setattr("edge_lib.features.extract.launch", lambda *_, **options: results)
    assert extract_features(config.data, config.feature_spec) == results[2]


def test_shard_that_another_process_wrote_meanwhile_is_no_error(config, monkeypatch, tmp_path):
    """As a process that was suspended finds it when it goes on."""
    save = shards.save_tensors

    def save_after_another(tensors, path):
        save(tensors, path)
        path.rename(path.with_name("shard-00000-00000000.safetensors"))

    monkeypatch.setattr(shards, "save_tensors", save_after_another)
    shards.save_shard(tmp_path, 0, {"x": torch.ones(1)})
    assert [*shards.shard_names(tmp_path)] == [0]


def test_shard_whose_file_vanished_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "save_tensors", lambda tensors, path: None)
    with pytest.raises(FileNotFoundError):
        shards.save_shard(tmp_path, 0, {"x": torch.ones(1)})


def test_store_with_a_corrupt_shard_is_unfinished_until_it_is_written_again(config):
    counts = write(config)
    folder = folder_of(config)
    before = (folder / "manifest.json").read_bytes()
    corrupt(next(folder.glob("shard-00001-*")))
    assert incomplete(store_writers(config.data, config.feature_spec, ["train"]).values())
    assert not has_features(config.data, config.feature_spec)
    assert write(config) == counts
    assert (folder / "manifest.json").read_bytes() == before
    assert has_features(config.data, config.feature_spec)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"shard_rows": 40', '"shard_rows": 44'),
        lambda text: text.replace('"items": 96', '"items": 97'),
        lambda text: text.replace('"pooled_width": 1', '"pooled_width": 3'),
        lambda text: text[:-3],
        lambda text: "",
    ],
    ids=["rows", "items", "width", "cut", "empty"],
)
def test_damaged_manifest_is_written_again(config, monkeypatch, damage):
    counts = write(config)
    path = folder_of(config) / "manifest.json"
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    refuse = lambda *_: pytest.fail("loaded an encoder")  # noqa: E731
    monkeypatch.setattr("edge_lib.features.extract.load_encoder", refuse)
    assert write(config) == counts
    assert path.read_text() == before


def test_store_is_read_where_nothing_can_be_written(config, monkeypatch):
    """As from a cache of another user: no lock is taken, and no digest kept."""
    counts = write(config)

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name in ("generated", "arrow"):
        monkeypatch.setattr(f"edge_lib.sources.{name}.hold_lock", refuse)
    monkeypatch.setattr("edge_lib.runs.files._temporary_beside", refuse)
    monkeypatch.setattr("edge_lib.sources.digests.UNSETTLED_NS", -(10**18))
    connect = sqlite3.connect
    read_only = lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options)  # noqa: E731
    monkeypatch.setattr("edge_lib.sources.digests.sqlite3.connect", read_only)
    assert write(config) == counts

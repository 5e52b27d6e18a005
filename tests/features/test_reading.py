"""Batches that processes prepare by parts."""

import os

import pytest

from edge_lib.config import FeaturesConfig, FeatureSpec
from edge_lib.features import encoder, reading
from edge_lib.features.encoder import load_encoder
from edge_lib.features.store_writer import StoreWriter
from edge_lib.features.text import TextEncoder
from edge_lib.features.vision import VisionEncoder


@pytest.fixture
def write_store(make_table, encode_image, small_align, tmp_path):
    """write_store(folder, modality, key=value, ...) -> {file: bytes} of a store of 24 rows, two of
    them with broken images.
    """
    config = small_align("vision.pooler=mean text.pooler=mean")
    rows = [
        {
            "id": f"r{i}",
            "image": encode_image(i, size=(8 + i, 9)),
            "texts": ["a b c " * (i % 5 + 1)],
        }
        for i in range(24)
    ]
    rows[3]["image"] = rows[20]["image"] = b"broken"

    def write(folder, modality="vision", **keys):
        own = config.modalities[modality]
        features = FeaturesConfig(**{"batch_size": 7, "shard_rows": 10, **keys})
        spec = FeatureSpec({modality: own}, features, tmp_path / folder)
        writer = StoreWriter(spec, modality, make_table(rows))
        writer.write(lambda: load_encoder(modality, own.encoder_config))
        assert writer.finish()
        return {path.name: path.read_bytes() for path in writer.folder.iterdir()}

    return write


@pytest.mark.parametrize("modality", ["vision", "text"])
@pytest.mark.parametrize(("unit", "num_workers"), [(1, 0), (2, 2), (3, 1)])
def test_store_does_not_depend_on_how_batches_are_prepared(
    write_store, monkeypatch, modality, unit, num_workers
):
    whole = write_store("whole", modality)
    monkeypatch.setattr(reading, "UNIT", unit)
    assert write_store("parts", modality, num_workers=num_workers) == whole


def test_forward_passes_on_a_cpu_take_a_few_captions_of_like_length(write_store, monkeypatch):
    prepare, batches = TextEncoder.prepare, []

    def record(self, texts):
        batches.append([len(text) for text in texts])
        return prepare(self, texts)

    monkeypatch.setattr(TextEncoder, "prepare", record)
    monkeypatch.setattr(encoder, "UNIT", 4)
    write_store("store", "text", batch_size=24, shard_rows=24)
    assert max(map(len, batches)) == 4
    shard = [length for batch in batches[:6] for length in batch]
    assert len(shard) == 24
    assert shard == sorted(shard)


@pytest.mark.parametrize(
    ("device", "limit", "size"), [("cpu", 128, 32), ("cpu", 8, 8), ("meta", 128, 128)]
)
def test_batch_size_of_an_encoder_depends_on_its_device(small_align, device, limit, size):
    config = small_align().modalities["vision"].encoder_config
    assert load_encoder("vision", config).to(device).batch_size(limit) == size


def test_processes_live_for_all_shards_of_a_store(write_store, monkeypatch, tmp_path):
    (started := tmp_path / "started").mkdir()
    start = lambda number: (started / str(os.getpid())).touch()  # noqa: E731
    monkeypatch.setattr(reading, "end_with_parent", start)
    write_store("store", num_workers=2)
    assert len([*started.iterdir()]) == 2


def test_images_are_prepared_a_few_at_a_time(write_store, monkeypatch):
    prepare, sizes = VisionEncoder.prepare, []

    def record(self, images):
        sizes.append(len(images))
        return prepare(self, images)

    monkeypatch.setattr(VisionEncoder, "prepare", record)
    monkeypatch.setattr(reading, "UNIT", 4)
    write_store("store", batch_size=24, shard_rows=24)
    assert sizes == [3, 4, 4, 4, 4, 3]

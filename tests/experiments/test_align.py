"""Embeddings of tables whose rows share images, and what is right among them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from edge_lib.config import DataConfig, TrainConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.experiments.align import (
    alignment_batches,
    embed_table,
    item_labels,
    measure_aligner,
)
from edge_lib.features.encoder import run_encoder
from edge_lib.features.store import open_store
from edge_lib.metrics.recall import recall_table
from edge_lib.models import Aligner
from edge_lib.sources import load_table


class ImageStore:
    """Features of images: a vector for each."""

    def __init__(self, vectors, valid):
        self.vectors, self.valid = vectors, np.array(valid)

    def gather(self, items):
        return EncoderOutput(None, None, self.vectors[torch.as_tensor(items)])


@pytest.fixture
def shared(make_table, encode_image):
    """A table of two clips for each of four images, and its stores; image 2 does not decode."""
    images = [encode_image(number) for number in range(4)]
    rows = [
        {"id": f"{n}{k}", "image": images[n], "image_id": f"i{n}", "audio": b"x", "texts": [f"{n}"]}
        for k in "ab"
        for n in range(4)
    ]
    vision = ImageStore(one_hot(torch.arange(4)).float(), [True, True, False, True])
    audio = ImageStore(one_hot(torch.arange(8) % 4).float(), [True] * 8)
    return make_table(rows), {"vision": vision, "audio": audio}


def test_shared_image_is_embedded_for_each_of_its_rows(shared):
    table, stores = shared
    aligner = SimpleNamespace(embed_output=lambda _, features: features.pooled, device="cpu")
    embeddings, rows = embed_table(aligner, table, stores, batch_size=2)
    assert rows["vision"].tolist() == [0, 1, 3, 4, 5, 7]
    assert embeddings["vision"].argmax(1).tolist() == [0, 1, 3, 0, 1, 3]
    assert rows["audio"].tolist() == [*range(8)]
    labels = item_labels(table, stores)
    assert labels["vision"].tolist() == [0, 1, 3, 0, 1, 3]
    recall = recall_table(embeddings, rows, [4], [1], table.groups, labels=labels)
    # an image is tied with its own copies only; clips of other rows with the image are right
    assert recall.recall.tolist() == [1.0, 1.0]
    assert len(np.unique(table.groups)) == 4


def test_alignment_batches_follow_the_keys_of_data(shared):
    table, stores = shared
    data = DataConfig(captions_per_row=3, fusemix=0.5)
    batches = alignment_batches(table, stores, data, TrainConfig(batch_size=6), 0)
    rows = batches[0].rows.reshape(2, 3)
    assert (rows == rows[:, :1]).all()
    assert batches.fusemix == 0.5
    assert (batches.rank, batches.world_size) == (0, 1)


def test_batch_has_the_shared_image_of_each_row(shared):
    table, stores = shared
    batch = AlignmentBatches(table, stores, TrainConfig(batch_size=6), 0)[0]
    assert sorted(batch.rows.tolist()) == [0, 1, 3, 4, 5, 7], "others have no image"
    images = batch.features["vision"].pooled.argmax(1)
    assert images.tolist() == (batch.rows % 4).tolist() == batch.labels["vision"].tolist()
    assert batch.present["vision"].all()


@pytest.mark.parametrize("native", [True, False], ids=["bf16", "fp32"])
def test_aligner_encodes_as_its_features_were_with_auto(
    small_align, tiny_text, tmp_path, monkeypatch, native
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    auto = f"features.precision=auto text.encoder={tiny_text} data.cache_dir={tmp_path}/cache "
    config = small_align(auto + "features.dtype=float32 train.epochs=1")
    assert measure_aligner(config, tmp_path)["steps"] == 6
    aligner = Aligner.from_pretrained(tmp_path / "checkpoints/best")
    table = load_table(config.data, "test")
    stored = open_store(config.feature_spec, "vision", table).gather(range(8)).pooled
    images, encoder = table.images(range(8)), aligner.encoder("vision")
    inputs = encoder.prepare(images)
    bf16, fp32 = (run_encoder(encoder, inputs, name).pooled for name in ("bf16", "fp32"))
    used, other = (bf16, fp32) if native else (fp32, bf16)
    assert torch.equal(aligner.encode("vision", images).pooled, used)
    assert (stored - used).norm() < 0.1 * (used - other).norm()

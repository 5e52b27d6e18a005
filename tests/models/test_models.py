"""Aligner: saved and loaded, fed from stores or from raw items, trained only where it should be."""

import numpy as np
import pytest
import torch

from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.experiments.align import embed_table
from edge_lib.features.extract import extract_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_store
from edge_lib.models import Aligner
from edge_lib.nn.losses import info_nce
from edge_lib.sources import load_table


@pytest.fixture(scope="module")
def config(small_align):
    config = small_align("features.dtype=float32")
    extract_features(config)
    return config


@pytest.fixture
def aligner(config):
    torch.manual_seed(0)
    stores = {
        name: open_store(config, name, load_table(config.data, "val")) for name in config.modalities
    }
    return Aligner(config, {name: store.widths for name, store in stores.items()}).eval()


def batches(config):
    table = load_table(config.data, "train")
    return AlignmentBatches(table, open_features(config, table), config)


def test_saved_and_loaded_gives_the_same_embeddings(aligner, tmp_path):
    aligner.save_pretrained(tmp_path / "aligner")
    aligner.save_pretrained(tmp_path / "aligner")  # over an older one
    loaded = Aligner.from_pretrained(tmp_path / "aligner")
    texts = ["a large red three at the top", "a small blue seven in the centre"]
    assert torch.equal(loaded.embed("text", texts), aligner.embed("text", texts))
    assert not loaded.training
    assert [p.name for p in tmp_path.iterdir()] == ["aligner"]


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_raw_items_and_the_store_give_the_same_embeddings(config, aligner, modality):
    table = load_table(config.data, "val")
    stores = {name: open_store(config, name, table) for name in config.modalities}
    embeddings, rows = embed_table(aligner, table, stores, batch_size=5)
    items = table.images(range(6)) if modality == "vision" else table.captions[:6]
    np.testing.assert_array_equal(rows[modality], np.arange(len(table)))
    torch.testing.assert_close(
        aligner.embed(modality, items), embeddings[modality][:6], atol=1e-5, rtol=1e-4
    )


def test_loss_is_the_sum_over_dims(config, aligner):
    batch = batches(config)[0]
    vision, text = (aligner.heads[name](batch.features[name])[1] for name in ("vision", "text"))
    kept, scale = batch.present["text"], aligner.logit_scale()
    assert 0 < kept.sum() <= len(kept)
    expected = sum(info_nce(vision[kept, :d], text[kept, :d], scale) for d in config.loss.dims)
    torch.testing.assert_close(aligner(batch), expected)


def test_every_head_learns_and_no_encoder_does(config, aligner):
    aligner.train()
    aligner(batches(config)[0]).backward()
    still = [name for name, p in aligner.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    aligner.embed("vision", load_table(config.data, "val").images([0]))
    assert not any("encoder" in name for name, _ in aligner.named_parameters())
    assert not any(p.requires_grad for e in aligner._encoders.values() for p in e.parameters())


def test_online_batches_are_those_of_the_store(config):
    online = config.model_copy(deep=True)
    online.features.online = True
    stored, encoded = batches(config)[3], batches(online)[3]
    assert (stored.rows == encoded.rows).all()
    for name in config.modalities:
        assert torch.equal(stored.present[name], encoded.present[name])
        torch.testing.assert_close(
            stored.encoded[name].pooled, encoded.encoded[name].pooled, atol=1e-4, rtol=1e-3
        )


def test_augmented_batches_differ_from_epoch_to_epoch(config):
    online = config.model_copy(deep=True)
    online.features.online = online.vision.augment = True
    made = batches(online)
    first, second = made[0].encoded["vision"].pooled, made[0].encoded["vision"].pooled
    assert not torch.allclose(first, second, atol=1e-3)

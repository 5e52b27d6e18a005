"""The keys that choose layers, tokens and pooled vectors: fingerprints, stores, errors."""

from dataclasses import replace

import pytest
import torch

from edge_lib.config import MODALITIES, ConfigError, EncoderConfig
from edge_lib.features.encoder import Encoder, load_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_stores
from edge_lib.sources import load_table


class OneOutput(Encoder):
    def prepare(self, items):
        return {}

    def forward(self):
        return None


def test_encoder_with_a_forward_of_its_own_refuses_a_choice(monkeypatch, tiny_vision):
    modality = replace(MODALITIES["vision"], encoder=f"{__name__}:OneOutput")
    monkeypatch.setitem(MODALITIES, "vision", modality)
    load_encoder("vision", EncoderConfig(encoder=str(tiny_vision)))
    with pytest.raises(ConfigError, match="OneOutput has one output: layer, tokens and pooled"):
        load_encoder("vision", EncoderConfig(encoder=str(tiny_vision), layer=-2))


def test_encoder_without_a_choice_has_the_fingerprint_of_before():
    assert EncoderConfig(encoder="").digest() == "5fc3013b"
    assert EncoderConfig(encoder="x", weights="random").digest() == "1d7bb37a"


@pytest.mark.parametrize("layer", ["true", "1.5", "[]", "two", "[1, null]"])
def test_layer_takes_whole_numbers_alone(small_align, layer):
    with pytest.raises(ConfigError) as caught:
        small_align(f"vision.layer={layer}")
    expected = "overrides: vision.layer: expected a whole number or a list of them, such as -2 or ["
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_pooler_of_the_class_token_needs_it(small_align):
    with pytest.raises(ConfigError, match="pooler 'cls' needs the class token"):
        small_align("vision.pooler=cls vision.tokens=patch")


def test_store_and_online_features_hold_the_same_layers(small_align):
    config = small_align(
        "vision.layer=[-2,-1] vision.merge_layers=concat vision.tokens=patch vision.pooler=mean "
        "vision.pooled=cls_mean text.layer=3 features.dtype=float32 data.scenes.val_size=8"
    )
    write_features(config.data, config.feature_spec, ["val"])
    table = load_table(config.data, "val")
    stores = open_stores(config.feature_spec, table)
    assert stores["vision"].widths == (32, 64)
    config.features.online = True
    online = open_features(config.feature_spec, table)
    for name, store in stores.items():
        stored, encoded = store.gather(range(8)), online[name].gather(range(8))
        torch.testing.assert_close(stored.pooled, encoded.pooled, rtol=1e-4, atol=1e-5)
    stored, encoded = (x["vision"].gather(range(8)).tokens for x in (stores, online))
    torch.testing.assert_close(stored, encoded, rtol=1e-4, atol=1e-5)
    assert stored.shape == (8, 4, 32)

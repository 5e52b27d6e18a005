"""Reduced tokens: squares averaged, int8 with a scale a token."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edge_lib.config import ConfigError, FeatureSpec, ModalityConfig
from edge_lib.config.features import TokensConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.experiments.align import embed_table
from edge_lib.features.encoder import load_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.items import Items
from edge_lib.features.online import OnlineFeatures
from edge_lib.features.store import open_store, open_stores
from edge_lib.features.tokens import average_squares, quantize
from edge_lib.models import Aligner
from edge_lib.nn.poolers import build_pooler
from edge_lib.nn.positions import add_positions
from edge_lib.sources import load_table


def output(grid, before=0, width=3, batch=2):
    """Random tokens: some before the grid, then the grid's."""
    torch.manual_seed(0)
    tokens = torch.randn(batch, before + grid[0] * grid[1], width)
    return EncoderOutput(tokens, torch.ones(tokens.shape[:2], dtype=bool), tokens.mean(1), grid)


@pytest.mark.parametrize("before", [0, 1, 5], ids=["no class token", "class", "class, registers"])
@pytest.mark.parametrize("grid", [(4, 4), (6, 4), (2, 8)], ids=str)
def test_window_averages_squares_and_keeps_the_tokens_before_them(grid, before):
    whole = output(grid, before)
    reduced = average_squares(whole, 2)
    assert reduced.grid == (grid[0] // 2, grid[1] // 2)
    assert reduced.mask.shape == reduced.tokens.shape[:2]
    assert reduced.mask.all()
    assert torch.equal(reduced.tokens[:, :before], whole.tokens[:, :before])
    squares = whole.tokens[:, before:].unflatten(1, grid)
    places = torch.arange(before, before + grid[0] * grid[1]).view(grid).float()
    assert reduced.positions[:before].tolist() == list(range(before))
    for row in range(grid[0] // 2):
        for column in range(grid[1] // 2):
            square = squares[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            token = reduced.tokens[:, before + row * grid[1] // 2 + column]
            torch.testing.assert_close(token, square.mean((1, 2)))
            centre = places[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
            assert reduced.positions[before + row * grid[1] // 2 + column] == centre


@pytest.mark.parametrize("grid", [(7, 7), (4, 6), None], ids=str)
def test_window_that_divides_no_grid_is_one_error(grid):
    whole = output(grid or (2, 6))
    whole.grid = grid
    shape = "no grid" if grid is None else f"a grid of {grid[0]} x {grid[1]}"
    with pytest.raises(ConfigError, match=rf"features\.tokens\.window=4 .* they form {shape}"):
        average_squares(whole, 4)


@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0, 1e6], ids=str)
def test_int8_is_within_half_a_scale(size):
    tokens = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * size
    values, scales = quantize(tokens)
    assert (values.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float16, (50,))
    error = (values * scales.float()[:, None] - tokens).abs()
    assert (error <= 0.51 * tokens.abs().amax(1, keepdim=True) / 127 + 2**-25 * 127).all()


@pytest.mark.parametrize("pooler", ["attention", "perceiver", "tokens"])
def test_poolers_place_squares_at_their_centres(pooler):
    """Tokens that are equal within each square, at the same positions, give the same vectors."""
    whole = output((4, 4), before=1, width=8)
    reduced = average_squares(whole, 2)
    config = ModalityConfig(encoder="x", pooler=pooler, width=8, num_heads=2)
    head = build_pooler(config, 8, 8)
    plain = replace(reduced, positions=None)
    at_zero = replace(reduced, positions=torch.arange(5.0))
    torch.testing.assert_close(head(at_zero), head(plain))
    assert not torch.allclose(head(reduced), head(plain), atol=1e-3)


def test_positions_between_tokens_follow_the_sinusoid():
    waves = add_positions(torch.zeros(1, 2, 4), positions=torch.tensor([0.0, 2.5]))[0]
    expected = [np.sin(2.5), np.cos(2.5), np.sin(0.025), np.cos(0.025)]
    torch.testing.assert_close(waves[1], torch.tensor(expected, dtype=torch.float))
    assert torch.equal(waves[:1], add_positions(torch.zeros(1, 1, 4))[0])


def test_int8_of_zeros_is_zeros():
    values, scales = quantize(torch.zeros(3, 8))
    assert not (values * scales[:, None]).any()


@pytest.fixture(scope="module")
def config(small_align, tiny_vision):
    """The tiny CLIP has a class token and 2 x 2 patches."""
    return small_align(
        "features.shard_rows=40 text.pooler=mean features.tokens={window: 2, dtype: int8}"
    )


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_reduced_store_gathers_what_the_encoder_gives(config, modality):
    """The window is that of images alone; captions, of unequal lengths, keep their tokens."""
    write_features(config.data, config.feature_spec)
    table = load_table(config.data, "train")
    rows = np.array([95, 3, 41, 3, 0])
    encoder = load_encoder(modality, config.modalities[modality].encoder_config)
    expected = OnlineFeatures(Items(table, modality), encoder, window=2).gather(rows)
    stored = open_store(config.feature_spec, modality, table).gather(rows)
    assert torch.equal(stored.mask, expected.mask)
    if modality == "vision":
        assert stored.tokens.shape[1] == 2, "the class token and one square"
        assert stored.positions.tolist() == expected.positions.tolist() == [0, 2.5]
    expected_tokens = expected.tokens * expected.mask[..., None]
    largest = expected_tokens.abs().amax(2, keepdim=True)
    assert ((stored.tokens - expected_tokens).abs() <= 0.51 / 127 * largest + 1e-6).all()
    torch.testing.assert_close(stored.pooled, expected.pooled, atol=1e-3, rtol=1e-2)


def test_reduced_store_takes_an_eighth_of_the_bytes(small_align, tmp_path):
    """Of float16 at full resolution, and two bytes a token for its scale."""
    sizes = []
    for tokens in ("{}", "{window: 2, dtype: int8}"):
        config = small_align(
            f"vision.encoder=tiny-resnet data.cache_dir={tmp_path} features.tokens={tokens}"
        )
        table = load_table(config.data, "val")
        write_features(config.data, config.feature_spec, ["val"])
        shard = open_store(config.feature_spec, "vision", table).shards[0]
        sizes.append(sum(shard[name].nbytes for name in ("tokens", "scales") if name in shard))
    width = 128
    assert sizes[0] == len(table.image_rows) * 36 * width * 2
    assert sizes[1] == sizes[0] / 8 * (1 + 2 / width)


def test_aligner_trained_on_reduced_tokens_embeds_raw_images_alike(config, tmp_path):
    table = load_table(config.data, "val")
    stores = open_stores(config.feature_spec, table)
    widths = {name: store.widths for name, store in stores.items()}
    torch.manual_seed(0)
    aligner = Aligner(config.modalities, config.loss.dims, widths, token_window=2)
    aligner.save_pretrained(tmp_path)
    loaded = Aligner.from_pretrained(tmp_path)
    expected = embed_table(loaded, table, stores)[0]["vision"][:6]
    embedded = loaded.embed("vision", table.images(range(6)))
    torch.testing.assert_close(embedded, expected, atol=0.02, rtol=0.02)
    plain = config.features.model_copy(update={"tokens": TokensConfig()})
    assert loaded.feature_spec(plain, config.data.cache_dir) == FeatureSpec(
        config.modalities,
        plain.model_copy(update={"tokens": TokensConfig(window=2)}),
        config.data.cache_dir,
    )

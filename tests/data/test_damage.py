"""Damage to stored features: how strong it is, what it leaves, and which items it spares."""

import numpy as np
import pytest
import torch

from edge_lib.config import DamageConfig
from edge_lib.data import damage as damages
from edge_lib.data.damage import DamagedFeatures
from edge_lib.data.encoder_output import EncoderOutput

B, T, D = 400, 12, 16
NONE = {"noise": 0, "dropped": 0, "energy": 1}


def damage(output, config, seed=1):
    return damages.damage(output, config, torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def features(lengths=None):
    """Items of different lengths, whose columns have different means and scales."""
    lengths = torch.randint(1, T + 1, (B,)) if lengths is None else lengths
    mask = torch.arange(T) < lengths[:, None]
    scale = torch.arange(1.0, D + 1)
    tokens = (3 + torch.randn(len(mask), T, D)) * scale * mask[..., None]
    return EncoderOutput(tokens, mask, (2 + torch.randn(len(mask), D)) * scale)


def config(**kinds):
    return DamageConfig(**{"share": 1, **NONE, **kinds})


def test_noise_is_uniform_up_to_its_limit_in_standard_deviations():
    whole = features()
    damaged = damage(whole, config(noise=3))
    for before, after, std in (
        (whole.pooled, damaged.pooled, whole.pooled.std(0)),
        (whole.tokens[:, 0], damaged.tokens[:, 0], whole.tokens[whole.mask].std(0)),
    ):
        strength = ((after - before) / std).square().mean(1).sqrt()  # (B,) of 16 draws each
        assert strength.mean() == pytest.approx(1.5, abs=0.15)
        assert strength.min() < 0.2
        assert 2.4 < strength.max() < 5
    assert torch.equal(damaged.mask, whole.mask)


def test_energy_moves_an_item_towards_the_mean_of_the_batch():
    whole = features()
    damaged = damage(whole, config(energy=0.2))
    mean = whole.tokens[whole.mask].mean(0)
    factors = ((damaged.tokens - mean) / (whole.tokens - mean))[whole.mask]
    own = (damaged.pooled - whole.pooled.mean(0)) / (whole.pooled - whole.pooled.mean(0))
    assert own.median(1).values.min() == pytest.approx(0.2, abs=0.03)
    assert own.median(1).values.max() == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(
        factors.median(1).values,
        own.median(1).values.repeat_interleave(whole.mask.sum(1)),
        atol=1e-3,
        rtol=1e-3,
    )


def test_dropped_tokens_are_one_run_that_leaves_some():
    whole = features()
    damaged = damage(whole, config(dropped=0.75))
    lengths, left = whole.mask.sum(1), damaged.mask.sum(1)
    assert (left >= 1).all()
    assert not (damaged.mask & ~whole.mask).any()
    share = 1 - left / lengths
    assert share.max() <= 0.75
    assert share[lengths == T].mean() == pytest.approx(0.75 / 2 - 0.5 / T, abs=0.06)
    gaps = (whole.mask & ~damaged.mask).int().diff(dim=1, prepend=torch.zeros(B, 1)).eq(1).sum(1)
    assert gaps.max() == 1
    assert torch.equal(damaged.tokens, whole.tokens)
    assert torch.equal(damaged.pooled, whole.pooled)


def test_dropped_runs_stand_anywhere():
    whole = features(torch.full((B,), T))
    cut = ~damage(whole, config(dropped=0.5)).mask
    share = cut.float().mean(0)  # (T,) of the items that lose this token
    assert share.argmax() in (T // 2 - 2, T // 2 - 1, T // 2, T // 2 + 1)
    torch.testing.assert_close(share, share.flip(0), atol=0.1, rtol=0)
    assert share.min() > 0.03


def test_dropped_tokens_are_valid_ones_wherever_these_stand():
    mask = torch.rand(B, T) < 0.5
    mask[:, 0] = True
    damaged = damage(
        EncoderOutput(torch.randn(B, T, D), mask, torch.randn(B, D)), config(dropped=0.9)
    )
    for before, after in zip(mask, damaged.mask, strict=True):
        places = torch.cumsum(before, 0)[before & ~after]
        assert (places.diff() == 1).all(), "neighbours among the valid tokens"
        assert after.any()


def test_share_of_items_is_damaged_and_the_others_are_equal():
    whole = features()
    damaged = damage(whole, DamageConfig(share=0.3))
    same = (damaged.pooled == whole.pooled).all(1)
    assert (~same).float().mean() == pytest.approx(0.3, abs=0.06)
    assert torch.equal(damaged.tokens[same], whole.tokens[same])
    assert torch.equal(damaged.mask[same], whole.mask[same])


def test_no_share_changes_nothing():
    whole = features()
    damaged = damage(whole, DamageConfig(share=0))
    assert all(
        torch.equal(getattr(damaged, name), getattr(whole, name))
        for name in ("tokens", "mask", "pooled")
    )


def test_damage_leaves_its_input_as_it_is():
    whole = features()
    copies = whole.tokens.clone(), whole.mask.clone(), whole.pooled.clone()
    damage(whole, DamageConfig(share=1))
    assert all(
        torch.equal(a, b)
        for a, b in zip(copies, (whole.tokens, whole.mask, whole.pooled), strict=True)
    )


def test_damage_of_pooled_vectors_alone():
    whole = EncoderOutput(None, None, features().pooled)
    damaged = damage(whole, config(noise=1, dropped=0.5, energy=0.5))
    assert damaged.tokens is None
    assert damaged.mask is None
    assert (damaged.pooled != whole.pooled).any(1).all()


def test_damage_of_one_item_is_finite_and_keeps_positions_and_grid():
    positions = torch.arange(T) * 2
    one = EncoderOutput(torch.randn(1, T, D), torch.ones(1, T, dtype=torch.bool), torch.randn(1, D))
    one.grid, one.positions = (3, 4), positions
    damaged = damage(one, DamageConfig(share=1))
    assert damaged.finite().all()
    assert damaged.grid == (3, 4)
    assert torch.equal(damaged.positions, positions)


@pytest.mark.filterwarnings("error")
def test_damage_of_items_without_valid_tokens_is_finite():
    skipped = EncoderOutput(
        torch.zeros(3, 1, D), torch.zeros(3, 1, dtype=torch.bool), torch.zeros(3, D)
    )
    damaged = damage(skipped, DamageConfig(share=1))
    assert damaged.tokens.isfinite().all()
    assert damaged.pooled.isfinite().all()
    assert not damaged.mask.any()


def test_padding_does_not_change_the_damage_of_others():
    whole = features()
    damaged = damage(whole, config(energy=0.2, noise=1))
    whole.tokens = whole.tokens.masked_fill(~whole.mask[..., None], 1e6)
    other = damage(whole, config(energy=0.2, noise=1))
    assert torch.equal(damaged.tokens[whole.mask], other.tokens[whole.mask])


class Store:
    valid = np.ones(B, bool)

    def gather(self, items):
        whole = features(torch.full((B,), T))
        items = torch.as_tensor(items)
        return EncoderOutput(whole.tokens[items], whole.mask[items], whole.pooled[items])


def test_damaged_features_repeat_a_batch_and_differ_between_batches_and_seeds():
    torch.manual_seed(0)
    store, items = Store(), np.arange(8)
    tokens = store.gather(items).tokens
    gathered = []
    for seed, batch in ((0, items), (0, items), (1, items), (0, items + 1)):
        torch.manual_seed(0)
        source = DamagedFeatures(store, DamageConfig(share=1), seed)
        assert source.valid is store.valid
        gathered.append(source.gather(batch))
    assert torch.equal(gathered[0].tokens, gathered[1].tokens)
    assert torch.equal(gathered[0].mask, gathered[1].mask)
    assert not torch.equal(gathered[0].tokens, gathered[2].tokens)
    assert not torch.equal(gathered[0].tokens[1:], gathered[3].tokens[:-1])
    assert not torch.equal(gathered[0].tokens, tokens)


def test_damage_draws_no_global_random_numbers():
    whole, state = features(), torch.get_rng_state()
    damage(whole, DamageConfig(share=1))
    assert torch.equal(torch.get_rng_state(), state)

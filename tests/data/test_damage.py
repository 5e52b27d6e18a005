"""Damage to stored features: how strong it is, what it leaves, and which items it spares."""

import numpy as np
import pytest
import torch

from edge_lib.config import DamageConfig, TrainConfig
from edge_lib.data import damage as damages
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.damage import Damage, DamagedBatches, DamagedFeatures
from edge_lib.data.encoder_output import EncoderOutput

B, T, D = 400, 12, 16
NONE = {"noise": 0, "dropped": 0, "energy": 1}


class Store:
    """Features of which `output` has all items."""

    def __init__(self, output, valid=None):
        self.output = output
        self.valid = np.ones(len(output.pooled), bool) if valid is None else valid

    def gather(self, items):
        items = torch.as_tensor(items)
        if self.output.tokens is None:
            return EncoderOutput(None, None, self.output.pooled[items])
        mask = self.output.mask[items]
        longest = max(1, int(mask.any(0).nonzero().amax()) + 1) if mask.any() else 1
        parts = self.output.tokens[items][:, :longest], mask[:, :longest]
        return EncoderOutput(*parts, self.output.pooled[items])


def damage(output, config):
    return Damage(Store(output), config)(output, range(len(output.pooled)))


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(damages, "SAMPLE", B)


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


def test_energy_moves_an_item_towards_the_mean():
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


def test_statistics_are_those_of_a_sample_of_the_valid_items(monkeypatch):
    whole, valid = features(), np.arange(B) % 3 > 0
    whole.tokens[~valid] = whole.pooled[~valid] = 1e6
    expected = EncoderOutput(whole.tokens[valid], whole.mask[valid], whole.pooled[valid])
    for size, tolerance in ((B, 1e-4), (100, 0.4)):
        monkeypatch.setattr(damages, "SAMPLE", size)
        found = Damage(Store(whole, valid), DamageConfig())
        for (mean, std), x in (
            (found.pooled, expected.pooled),
            (found.tokens, expected.tokens[expected.mask]),
        ):
            scale = x.std(0, correction=0)
            assert ((mean - x.mean(0)) / scale).abs().max() < tolerance
            assert (std / scale - 1).abs().max() < tolerance


def test_statistics_leave_out_items_that_turn_out_not_to_be_valid():
    class Online(Store):
        def gather(self, items):
            self.valid[items] = np.asarray(items) % 2 > 0
            return super().gather(items)

    whole = features()
    whole.pooled[::2] = 1e6
    mean, _ = Damage(Online(whole), DamageConfig()).pooled
    torch.testing.assert_close(mean, whole.pooled[1::2].mean(0))


def test_damage_of_an_item_does_not_depend_on_the_items_beside_it():
    """Nor on their padding: the batch of one process is part of that of all."""
    store = Store(features())
    apply = Damage(store, DamageConfig(share=0.5))
    lengths = store.output.mask.sum(1).numpy()
    short = np.flatnonzero(lengths < T // 2)
    whole, part = apply(store.gather(np.arange(B)), range(B)), apply(store.gather(short), short)
    assert part.tokens.shape[1] < whole.tokens.shape[1] == T
    assert torch.equal(part.pooled, whole.pooled[short])
    for one, two, n in zip(part.tokens, whole.tokens[short], lengths[short], strict=True):
        assert torch.equal(one[:n], two[:n])
    width = part.mask.shape[1]
    assert torch.equal(part.mask, whole.mask[short, :width])


def test_absent_items_do_not_change_the_damage_of_present_ones():
    """A batch repeats an item in the place of absent ones."""
    store = Store(features(torch.full((B,), T)))
    apply, rows = Damage(store, config(noise=2)), np.arange(256)
    few = np.where(rows < 26, rows, 0)
    one, two = apply(store.gather(rows), rows), apply(store.gather(few), rows)
    assert torch.equal(one.pooled[:26], two.pooled[:26])
    assert torch.equal(one.tokens[:26], two.tokens[:26])


def test_damaged_features_repeat_an_item_and_differ_between_items_and_seeds():
    """Items of equal features."""
    equal = torch.ones(B, T, D), torch.ones(B, T, dtype=torch.bool), torch.ones(B, D)
    store = Store(EncoderOutput(*equal))
    first, second = (DamagedFeatures(store, config(dropped=0.9), seed) for seed in (0, 1))
    assert first.valid is store.valid
    masks = first.gather(np.arange(8)).mask
    assert torch.equal(first.gather(np.arange(2, 5)).mask, masks[2:5])
    assert len(masks.unique(dim=0)) > 4
    assert not torch.equal(second.gather(np.arange(8)).mask, masks)


@pytest.fixture
def make_batches(make_table):
    """make_batches(seed, rank, world_size) -> damaged images of 40 rows, in batches of 8, beside
    captions as they are.
    """
    table = make_table([{"id": f"r{i}", "texts": [str(i)]} for i in range(40)])
    stores = {name: Store(features(torch.full((40,), T))) for name in ("vision", "text")}

    def make(seed=0, rank=0, world_size=1, share=0.5):
        batches = AlignmentBatches(
            table, stores, TrainConfig(batch_size=8), seed, rank=rank, world_size=world_size
        )
        damage = Damage(stores["vision"], config(noise=2, share=share))
        return DamagedBatches(batches, {"vision": damage})

    return make


def test_damaged_batches_are_equal_on_any_number_of_processes(make_batches):
    whole, parts = make_batches(), [make_batches(0, rank, 4) for rank in range(4)]
    for step in (0, 3, 11):
        batch, shares = whole[step], [part[step] for part in parts]
        for name in ("vision", "text"):
            joined = torch.cat([share.features[name].tokens for share in shares])
            assert torch.equal(joined, batch.features[name].tokens)
        assert all(part.ids(step) == whole.ids(step) for part in parts)


def test_damaged_batches_damage_their_modality_anew_in_each_step(make_batches):
    damaged, plain, other = make_batches(), make_batches(share=0), make_batches(seed=1)
    assert damaged.steps_per_epoch == 5
    noise = {}  # row -> its noise in each epoch
    for step in range(10):
        batch, whole = damaged[step], plain[step]
        assert torch.equal(batch.features["text"].pooled, whole.features["text"].pooled)
        changes = batch.features["vision"].pooled - whole.features["vision"].pooled
        again = damaged[step].features["vision"].pooled
        assert torch.equal(again, batch.features["vision"].pooled)
        for row, change in zip(batch.rows.tolist(), changes, strict=True):
            noise.setdefault(row, []).append(change)
    touched = torch.tensor([[bool(x.any()) for x in own] for own in noise.values()])
    assert touched.float().mean() == pytest.approx(0.5, abs=0.2)
    assert (touched[:, 0] != touched[:, 1]).any()
    twice = [own for own in noise.values() if own[0].any() and own[1].any()]
    assert twice
    assert not any(torch.equal(*own) for own in twice)
    assert not torch.equal(other[0].features["vision"].pooled, damaged[0].features["vision"].pooled)


def test_damage_draws_no_global_random_numbers():
    whole, state = features(), torch.get_rng_state()
    damage(whole, DamageConfig(share=1))
    assert torch.equal(torch.get_rng_state(), state)

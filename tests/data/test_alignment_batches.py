"""Batches: which rows, captions and drops a step holds, on any number of processes."""

import numpy as np
import pytest
import torch

from edge_lib.config import ConfigError, ExperimentConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.encoder_output import EncoderOutput


class ImageCache:
    """Features whose pooled vector is the item's own number."""

    def __init__(self, valid):
        self.valid = np.asarray(valid, bool)

    def gather(self, items):
        assert ((items >= 0) & (items < len(self.valid))).all()
        return EncoderOutput(None, None, torch.as_tensor(items).float()[:, None])


def config(batch_size=8, seed=0, text_dropout=0.0, hard_negatives=False, missing=()):
    train = {"batch_size": batch_size, "text_dropout": text_dropout}
    data = {"hard_negatives": hard_negatives, "missing": dict(missing)}
    return ExperimentConfig(name="x", seed=seed, train=train, data=data)


@pytest.fixture
def make(make_table):
    """make(captions of each row, ...) -> AlignmentBatches."""

    def make(captions, groups=None, image_ok=None, text_ok=None, rank=0, world_size=1, **settings):
        groups = range(len(captions)) if groups is None else groups
        rows = zip(captions, groups, strict=True)
        table = make_table(
            [
                {"id": f"r{i}", "texts": texts, "group": int(group)}
                for i, (texts, group) in enumerate(rows)
            ]
        )
        features = {
            "vision": ImageCache(np.ones(len(table)) if image_ok is None else image_ok),
            "text": ImageCache(np.ones(len(table.captions)) if text_ok is None else text_ok),
        }
        return AlignmentBatches(table, features, config(**settings), rank, world_size)

    return make


def one_each(count):
    return [[f"caption {i}"] for i in range(count)]


def many(count, seed=0):
    """0 to 3 captions a row."""
    rng = np.random.default_rng(seed)
    return [[f"{i}.{k}" for k in range(rng.integers(4))] for i in range(count)]


def items(batch, name):
    """Item numbers, -1 where not present."""
    numbers = batch.features[name].pooled[:, 0].long()
    return torch.where(batch.present[name], numbers, -1).numpy()


# --- processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("hard_negatives", [False, True])
def test_processes_together_see_what_one_sees(make, world_size, hard_negatives):
    same = {
        "captions": many(60),
        "groups": np.arange(60) // 2,
        "text_dropout": 0.3,
        "hard_negatives": hard_negatives,
    }
    alone = make(**same)
    parts = [make(**same, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {part.steps_per_epoch for part in parts} == {alone.steps_per_epoch}
    dropped = 0
    for step in range(3 * alone.steps_per_epoch):
        whole, pieces = alone[step], [part[step] for part in parts]
        assert [len(piece.rows) for piece in pieces] == [8 // world_size] * world_size
        np.testing.assert_array_equal(np.concatenate([p.rows for p in pieces]), whole.rows)
        for name in ("vision", "text"):
            together = np.concatenate([items(piece, name) for piece in pieces])
            np.testing.assert_array_equal(together, items(whole, name))
        dropped += (items(whole, "text") < 0).sum()
        assert parts[-1].ids(step) == alone.ids(step) == [f"r{row}" for row in whole.rows]
    assert dropped > 0


def test_a_batch_is_a_function_of_its_step(make):
    one, two = (make(many(50), text_dropout=0.2) for _ in range(2))
    backwards = {step: two[step] for step in reversed(range(12))}
    for step in range(12):
        assert one[step].step == step
        np.testing.assert_array_equal(one[step].rows, backwards[step].rows)
        np.testing.assert_array_equal(items(one[step], "text"), items(backwards[step], "text"))


def test_batch_size_must_divide_among_processes(make):
    with pytest.raises(ConfigError, match=r"train\.batch_size=8 does not divide among 3"):
        make(one_each(20), world_size=3)


# --- rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [16, 21])
def test_an_epoch_visits_rows_at_most_once_in_an_order_of_its_own(make, count):
    batches = make(one_each(count))
    assert batches.steps_per_epoch == 2
    epochs = [
        np.concatenate([batches[step].rows for step in (2 * epoch, 2 * epoch + 1)])
        for epoch in range(30)
    ]
    assert all(len(set(rows)) == 16 for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 30
    assert set(np.concatenate(epochs)) == set(range(count)), "who sits out changes"


def test_seeds_order_differently(make):
    orders = {tuple(make(one_each(40), seed=seed)[0].rows) for seed in range(5)}
    assert len(orders) == 5


def test_features_belong_to_their_rows(make):
    batches = make(many(60))
    owners = batches.table.caption_rows
    for step in range(10):
        batch = batches[step]
        np.testing.assert_array_equal(items(batch, "vision"), batch.rows)
        np.testing.assert_array_equal(owners[items(batch, "text")], batch.rows)


def test_rows_without_two_modalities_never_appear(make):
    captions = many(60)
    owners = np.repeat(np.arange(60), [len(texts) for texts in captions])
    rng = np.random.default_rng(1)
    image_ok, text_ok = rng.random(60) > 0.2, rng.random(len(owners)) > 0.4
    batches = make(captions, image_ok=image_ok, text_ok=text_ok, batch_size=2)
    usable = {row for row in range(60) if image_ok[row] and text_ok[owners == row].any()}
    assert 10 < len(usable) < 50
    seen = set()
    for step in range(4 * batches.steps_per_epoch):
        batch = batches[step]
        seen |= set(batch.rows.tolist())
        chosen = items(batch, "text")
        assert text_ok[chosen].all(), "a caption that was not encoded is not chosen"
        assert batch.present["vision"].all()
    assert seen == usable


@pytest.mark.parametrize("hard_negatives", [False, True])
@pytest.mark.parametrize("captions", [one_each(7), [[]] * 20], ids=["few", "no captions"])
def test_too_few_rows_for_a_batch_are_refused(make, captions, hard_negatives):
    with pytest.raises(ConfigError, match=r"usable rows do not fill one batch of 8"):
        make(captions, hard_negatives=hard_negatives)


# --- captions --------------------------------------------------------------------------------


def test_all_captions_of_a_row_get_used(make):
    batches = make([["a", "b", "c"], ["d"], ["e", "f"]] * 4, batch_size=12)
    counts = np.zeros(24, int)
    for step in range(200):
        np.add.at(counts, items(batches[step], "text"), 1)
    assert counts[batches.table.caption_rows % 3 == 1].tolist() == [200] * 4
    threes = counts[batches.table.caption_rows % 3 == 0]
    assert threes.sum() == 800
    assert threes.min() > 40
    assert threes.max() < 95


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5], ids=str)
def test_captions_are_dropped_at_the_rate_asked(make, rate):
    batches = make(one_each(64), text_dropout=rate, batch_size=32)
    batch = [batches[step] for step in range(100)]
    dropped = np.concatenate([~b.present["text"].numpy() for b in batch])
    assert dropped.mean() == pytest.approx(rate, abs=0.03)
    assert all(b.present["vision"].all() for b in batch)
    if rate:
        of_row = np.bincount(np.concatenate([b.rows for b in batch]), weights=dropped)
        assert (of_row > 0).mean() > 0.9, "no row is always spared"
        assert len({tuple(b.present["text"].tolist()) for b in batch}) > 90


def test_dropout_changes_neither_rows_nor_choices(make):
    with_drop, without = make(many(60), text_dropout=0.4), make(many(60))
    for step in range(10):
        np.testing.assert_array_equal(with_drop[step].rows, without[step].rows)
        chosen, kept = items(with_drop[step], "text"), items(without[step], "text")
        np.testing.assert_array_equal(chosen[chosen >= 0], kept[chosen >= 0])


# --- hard negatives --------------------------------------------------------------------------


def test_hard_negative_batches_hold_whole_groups(make):
    groups = np.random.default_rng(0).permutation(np.arange(40) // 4)
    batches = make(one_each(40), groups=groups, hard_negatives=True)
    assert batches.steps_per_epoch == 5
    partners = set()
    for epoch in range(5):
        rows = [batches[5 * epoch + step].rows for step in range(5)]
        for mine in rows:
            _, sizes = np.unique(groups[mine], return_counts=True)
            assert sizes.tolist() == [4, 4]
            partners.add(frozenset(groups[mine].tolist()))
        assert sorted(np.concatenate(rows)) == list(range(40))
    assert len(partners) > 10, "groups meet other groups"


def test_a_group_that_lost_a_twin_sits_out(make):
    image_ok = np.ones(40, bool)
    image_ok[[5, 6, 12]] = False
    groups = np.arange(40) // 4
    batches = make(one_each(40), groups=groups, image_ok=image_ok, hard_negatives=True)
    seen = np.concatenate([batches[step].rows for step in range(4)])
    assert set(groups[seen]) == set(range(10)) - {1, 3}


def test_groups_must_fit_into_a_batch(make):
    with pytest.raises(ConfigError, match=r"batch_size=6 does not hold whole groups of 4"):
        make(one_each(40), groups=np.arange(40) // 4, hard_negatives=True, batch_size=6)


def test_batches_move_whole(make):
    batch = make(one_each(16))[0]
    moved = batch.to("meta")
    assert moved.encoded["text"].pooled.device.type == "meta"
    assert moved.present["vision"].device.type == "meta"
    np.testing.assert_array_equal(moved.rows, batch.rows)


# --- modalities that are to be missing -------------------------------------------------------


def seen(batches, name, epochs=3):
    """{row: the values of present[name] it ever had}."""
    found = {}
    for step in range(epochs * batches.steps_per_epoch):
        batch = batches[step]
        for row, there in zip(batch.rows, batch.present[name].tolist(), strict=True):
            found.setdefault(int(row), set()).add(there)
    return found


def test_a_share_of_rows_lacks_a_modality_for_good(make):
    batches = make(one_each(400), missing={"vision": 0.3})
    found = seen(batches, "vision")
    assert all(len(values) == 1 for values in found.values())
    kept = {row for row, values in found.items() if True in values}
    # with two modalities, a row that lost one takes no part
    assert kept == set(found)
    assert 0.6 * 400 < batches.blocks.size < 0.8 * 400
    other = make(one_each(400), missing={"vision": 0.3}, seed=1)
    assert set(other.blocks.ravel()) != set(batches.blocks.ravel())
    assert {True} == set.union(*seen(make(one_each(40)), "vision").values())


def test_groups_stay_whole_though_rows_of_them_lack_something(make):
    groups = np.arange(80) // 4
    batches = make(one_each(80), groups=groups, hard_negatives=True, missing={"text": 0.5})
    for step in range(2 * batches.steps_per_epoch):
        batch = batches[step]
        counts = np.bincount(groups[batch.rows], minlength=20)
        assert set(counts) <= {0, 4}
    found = seen(batches, "text")
    assert {False} in found.values()
    assert {True} in found.values()

"""Alignment batches: which rows and captions a step holds, on any number of processes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_lib.config import ConfigError, TrainConfig
from edge_lib.data import step_dataset
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.losses import info_nce


class FakeFeatures:
    """Features whose pooled vector is the item's own number."""

    def __init__(self, valid):
        self.valid = np.asarray(valid, bool)

    def gather(self, items):
        assert ((items >= 0) & (items < len(self.valid))).all()
        return EncoderOutput(None, None, torch.as_tensor(items).float()[:, None])


@pytest.fixture
def make(make_table):
    """make(captions of each row, ...) -> AlignmentBatches."""

    def make(
        captions,
        groups=None,
        image_valid=None,
        text_valid=None,
        seed=0,
        text_dropout=0.0,
        **options,
    ):
        groups = range(len(captions)) if groups is None else groups
        rows = zip(captions, groups, strict=True)
        table = make_table(
            [
                {"id": f"r{i}", "texts": texts, "group": int(group)}
                for i, (texts, group) in enumerate(rows)
            ]
        )
        features = {
            "vision": FakeFeatures(np.ones(len(table)) if image_valid is None else image_valid),
            "text": FakeFeatures(
                np.ones(len(table.captions)) if text_valid is None else text_valid
            ),
        }
        train = TrainConfig(batch_size=options.pop("batch_size", 8), text_dropout=text_dropout)
        return AlignmentBatches(table, features, train, seed, **options)

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
def test_shares_of_processes_equal_whole_batch(make, world_size, hard_negatives):
    options = {
        "captions": many(60),
        "groups": np.arange(60) // 2,
        "text_dropout": 0.3,
        "hard_negatives": hard_negatives,
    }
    alone = make(**options)
    parts = [make(**options, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {part.steps_per_epoch for part in parts} == {alone.steps_per_epoch}
    dropped = 0
    for step in range(3 * alone.steps_per_epoch):
        whole, pieces = alone[step], [part[step] for part in parts]
        assert [len(piece.rows) for piece in pieces] == [8 // world_size] * world_size
        np.testing.assert_array_equal(np.concatenate([p.rows for p in pieces]), whole.rows)
        for name in ("vision", "text"):
            joined = np.concatenate([items(piece, name) for piece in pieces])
            np.testing.assert_array_equal(joined, items(whole, name))
        dropped += (items(whole, "text") < 0).sum()
        assert parts[-1].ids(step) == alone.ids(step) == [f"r{row}" for row in whole.rows]
    assert dropped > 0


def test_batch_is_a_function_of_its_step(make):
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
def test_epoch_visits_rows_at_most_once_in_its_own_order(make, count):
    batches = make(one_each(count))
    assert batches.steps_per_epoch == 2
    epochs = [
        np.concatenate([batches[step].rows for step in (2 * epoch, 2 * epoch + 1)])
        for epoch in range(30)
    ]
    assert all(len(set(rows)) == 16 for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 30
    assert set(np.concatenate(epochs)) == set(range(count)), "other rows are left out in each epoch"


def test_large_epoch_visits_every_row_once(make, monkeypatch):
    monkeypatch.setattr(step_dataset, "SMALL", 100)
    batches = make(one_each(1000))
    epochs = [
        np.concatenate([batches[125 * epoch + step].rows for step in range(125)])
        for epoch in range(2)
    ]
    assert all(sorted(rows) == list(range(1000)) for rows in epochs)
    assert (epochs[0] != epochs[1]).mean() > 0.9
    assert make(one_each(1000))[77].rows.tolist() == batches[77].rows.tolist()
    assert (epochs[0] != np.arange(1000)).mean() > 0.9


def test_seeds_give_different_orders(make):
    orders = {tuple(make(one_each(40), seed=seed)[0].rows) for seed in range(5)}
    assert len(orders) == 5


def test_features_belong_to_their_rows(make):
    batches = make(many(60))
    owners = batches.table.caption_rows
    for step in range(10):
        batch = batches[step]
        np.testing.assert_array_equal(items(batch, "vision"), batch.rows)
        np.testing.assert_array_equal(owners[items(batch, "text")], batch.rows)


def test_rows_without_two_modalities_are_left_out(make):
    captions = many(60)
    owners = np.repeat(np.arange(60), [len(texts) for texts in captions])
    rng = np.random.default_rng(1)
    image_valid, text_valid = rng.random(60) > 0.2, rng.random(len(owners)) > 0.4
    batches = make(captions, image_valid=image_valid, text_valid=text_valid, batch_size=2)
    usable = {row for row in range(60) if image_valid[row] and text_valid[owners == row].any()}
    assert 10 < len(usable) < 50
    seen = set()
    for step in range(4 * batches.steps_per_epoch):
        batch = batches[step]
        seen |= set(batch.rows.tolist())
        chosen = items(batch, "text")
        assert text_valid[chosen].all(), "captions that could not be encoded are not drawn"
        assert batch.present["vision"].all()
    assert seen == usable


@pytest.mark.parametrize("hard_negatives", [False, True])
@pytest.mark.parametrize("captions", [one_each(7), [[]] * 20], ids=["few", "no captions"])
def test_too_few_rows_for_a_batch_are_a_config_error(make, captions, hard_negatives):
    with pytest.raises(
        ConfigError,
        match=r"small: (usable rows: \d+ do not fill one batch of 8|rows .*: there are none)",
    ):
        _ = make(captions, hard_negatives=hard_negatives).steps_per_epoch


# --- captions --------------------------------------------------------------------------------


def test_captions_of_a_row_are_all_drawn(make):
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
def test_text_dropout_drops_captions_at_its_rate(make, rate):
    dataset = make(one_each(64), text_dropout=rate, batch_size=32)
    batches = [dataset[step] for step in range(100)]
    dropped = np.concatenate([~batch.present["text"].numpy() for batch in batches])
    assert dropped.mean() == pytest.approx(rate, abs=0.03)
    assert all(batch.present["vision"].all() for batch in batches)
    if rate:
        of_row = np.bincount(np.concatenate([batch.rows for batch in batches]), weights=dropped)
        assert (of_row > 0).mean() > 0.9, "other rows are dropped in each epoch"
        assert len({tuple(batch.present["text"].tolist()) for batch in batches}) > 90


def test_text_dropout_changes_neither_rows_nor_other_captions(make):
    with_drop, without = make(many(60), text_dropout=0.4), make(many(60))
    for step in range(10):
        np.testing.assert_array_equal(with_drop[step].rows, without[step].rows)
        chosen, kept = items(with_drop[step], "text"), items(without[step], "text")
        np.testing.assert_array_equal(chosen[chosen >= 0], kept[chosen >= 0])


def test_equal_captions_have_equal_labels(make):
    captions = [[["a", "b ", "c", " a"][row % 4]] for row in range(40)]
    batches, caption_of = make(captions, batch_size=40), {}
    for step in range(2):
        batch = batches[step]
        for row, label in zip(batch.rows, batch.labels["text"].tolist(), strict=True):
            caption_of.setdefault(label, set()).add(captions[row][0].strip())
        assert batch.labels["text"].dtype == torch.int64
        assert batch.labels["vision"].tolist() == batch.rows.tolist(), "each has its own image"
    assert sorted(map(sorted, caption_of.values())) == [["a"], ["b"], ["c"]]


def test_labels_are_the_same_on_all_processes(make):
    options = {"captions": [[f"caption {row % 7}"] for row in range(64)], "batch_size": 32}
    whole = make(**options)[1]
    parts = [make(**options, rank=rank, world_size=2)[1] for rank in range(2)]
    for name in ("vision", "text"):
        joined = torch.cat([part.labels[name] for part in parts])
        assert joined.tolist() == whole.labels[name].tolist()
        assert whole.to("meta").labels[name].device.type == "meta"


# --- several captions a row ------------------------------------------------------------------

SEVERAL = [["a", "b", "c"], ["d"], ["e", "f"], ["g", "h", "i", "j", "k"]]


def test_captions_per_row_hold_different_captions_of_a_row(make):
    batches = make(SEVERAL * 2, batch_size=12, captions_per_row=3)
    assert batches.steps_per_epoch == 2
    owners, seen = batches.table.caption_rows, set()
    for step in range(60):
        batch = batches[step]
        rows, chosen = batch.rows.reshape(4, 3), items(batch, "text").reshape(4, 3)
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0])) == 4
        for row, captions in zip(rows[:, 0], chosen, strict=True):
            captions = captions[captions >= 0]
            assert len(captions) == min(3, (owners == row).sum()), "fewer only if it has fewer"
            assert len(set(captions)) == len(captions)
            assert (owners[captions] == row).all()
            seen |= set(captions.tolist())
        np.testing.assert_array_equal(items(batch, "vision"), batch.rows)
        assert batch.labels["vision"].tolist() == batch.rows.tolist(), "they share the answer"
    assert seen == set(range(len(owners)))


def test_captions_per_row_of_one_changes_no_batch(make):
    plain, one = (
        make(many(60), text_dropout=0.3),
        make(many(60), text_dropout=0.3, captions_per_row=1),
    )
    for step in range(5):
        np.testing.assert_array_equal(items(plain[step], "text"), items(one[step], "text"))


def test_captions_per_row_are_shared_among_processes(make):
    """Of 3 x 4 pairs each of two processes has 6, which may split a row's captions."""
    options = {"captions": SEVERAL * 2, "batch_size": 12, "captions_per_row": 4}
    whole, parts = make(**options), [make(**options, rank=r, world_size=2) for r in range(2)]
    for step in range(2):
        joined = np.concatenate([items(part[step], "text") for part in parts])
        np.testing.assert_array_equal(joined, items(whole[step], "text"))


def test_captions_per_row_keep_groups_whole(make):
    options = {"groups": np.arange(16) // 2, "hard_negatives": True, "captions_per_row": 2}
    batches = make(SEVERAL * 4, batch_size=8, **options)
    for step in range(batches.steps_per_epoch):
        counts = np.bincount(batches[step].rows // 2)
        assert counts[counts > 0].tolist() == [4, 4]
    with pytest.raises(ConfigError, match=r"group size 2 times data\.captions_per_row=2"):
        make(SEVERAL * 4, batch_size=6, **options)


def test_captions_per_row_count_towards_a_full_batch(make):
    assert make(one_each(3), batch_size=6, captions_per_row=2).steps_per_epoch == 1
    with pytest.raises(ConfigError, match="do not fill one batch"):
        _ = make(one_each(2), batch_size=6, captions_per_row=2).steps_per_epoch


def test_captions_per_row_train_the_loss_of_a_plain_loop(make):
    """Captions of a row, and equal ones, are positives: cross-entropy against a uniform target."""
    batches = make(SEVERAL * 2, batch_size=12, captions_per_row=3)
    batch = batches[0]
    torch.manual_seed(0)
    a = torch.randn(8, 6).double()[batch.rows]  # an image is one vector, wherever it stands
    b = torch.randn(12, 6).double()
    kept = batch.present["text"]
    labels = batch.labels["vision"], batch.labels["text"]
    ours = info_nce(a, b, torch.tensor(5.0), kept, labels)
    rows = torch.from_numpy(batch.rows)[kept]
    texts = np.array(batches.table.captions.take(items(batch, "text")[kept]))
    equal = torch.from_numpy(texts[:, None] == texts)
    assert equal.sum() > len(texts)
    target = ((rows[:, None] == rows) | equal).double()
    target = target / target.sum(1, keepdim=True)
    logits = 5 * F.normalize(a[kept]) @ F.normalize(b[kept]).T
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(ours, expected)


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
    assert len(partners) > 10, "groups are combined differently in each epoch"


def test_incomplete_groups_are_left_out(make):
    image_valid = np.ones(40, bool)
    image_valid[[5, 6, 12]] = False
    groups = np.arange(40) // 4
    batches = make(one_each(40), groups=groups, image_valid=image_valid, hard_negatives=True)
    seen = np.concatenate([batches[step].rows for step in range(4)])
    assert set(groups[seen]) == set(range(10)) - {1, 3}


def test_batch_size_must_be_a_multiple_of_the_group_size(make):
    with pytest.raises(ConfigError, match=r"batch_size=6 is not a multiple of the group size 4"):
        make(one_each(40), groups=np.arange(40) // 4, hard_negatives=True, batch_size=6)


def test_batch_moves_to_a_device(make):
    batch = make(one_each(16))[0]
    moved = batch.to("meta")
    assert moved.features["text"].pooled.device.type == "meta"
    assert moved.present["vision"].device.type == "meta"
    np.testing.assert_array_equal(moved.rows, batch.rows)


# --- missing modalities ----------------------------------------------------------------------


def presence(batches, name, epochs=3):
    """{row: the values of present[name] in all epochs}."""
    values = {}
    for step in range(epochs * batches.steps_per_epoch):
        batch = batches[step]
        for row, present in zip(batch.rows, batch.present[name].tolist(), strict=True):
            values.setdefault(int(row), set()).add(present)
    return values


def test_missing_modalities_stay_missing_in_all_epochs(make):
    batches = make(one_each(400), missing={"vision": 0.3})
    values = presence(batches, "vision")
    # of two modalities a row needs both
    assert all(row_values == {True} for row_values in values.values())
    assert 0.6 * 400 < batches.blocks.size < 0.8 * 400
    other = make(one_each(400), missing={"vision": 0.3}, seed=1)
    assert set(other.blocks.ravel()) != set(batches.blocks.ravel())
    assert {True} == set.union(*presence(make(one_each(40)), "vision").values())


def test_groups_stay_whole_if_their_rows_lack_modalities(make):
    groups = np.arange(80) // 4
    batches = make(one_each(80), groups=groups, hard_negatives=True, missing={"text": 0.5})
    for step in range(2 * batches.steps_per_epoch):
        counts = np.bincount(groups[batches[step].rows], minlength=20)
        assert set(counts) <= {0, 4}
    values = presence(batches, "text")
    assert all(len(row_values) == 1 for row_values in values.values())
    assert {False} in values.values()
    assert {True} in values.values()

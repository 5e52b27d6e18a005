"""The rival of the `align` benchmark: its batches, and a short training of both."""

import pytest

from edge_lib.bench.align import align
from edge_lib.bench.align_rival import GROUP, WholeGroups

SMALL = "data.scenes.train_size=32 data.scenes.val_size=8 data.scenes.test_size=4 "
SMALL += "data.scenes.swap_size=2 train.batch_size=16 train.epochs=2 train.eval_every=2 "
SMALL += "train.warmup=0.5 vision.width=16 text.width=16 vision.num_heads=2 loss.dims=[8,4]"
NAMES = "ours", "sentence_transformers"


def batches(epoch: int) -> list[list[int]]:
    sampler = WholeGroups(range(6 * GROUP), 2 * GROUP, drop_last=True, seed=3)
    sampler.set_epoch(epoch)
    assert len([*sampler]) == len(sampler) == 3
    return [*sampler]


def test_batches_of_the_rival_hold_whole_groups_in_an_order_of_their_epoch():
    rows = [row for batch in batches(0) for row in batch]
    assert sorted(rows) == [*range(6 * GROUP)]
    starts = rows[::GROUP]
    assert rows == [start + i for start in starts for i in range(GROUP)]
    assert all(start % GROUP == 0 for start in starts)
    assert batches(0) == batches(0) != batches(1)


def test_trailing_rows_that_fill_no_batch_are_left_out():
    sampler = WholeGroups(range(5 * GROUP), 2 * GROUP, drop_last=True)
    assert [len(batch) for batch in sampler] == [2 * GROUP] * 2


def recalls(printed: str, name: str) -> list[float]:
    lines = (line.split() for line in printed.splitlines() if line.startswith(f"{name}: R@1"))
    return [float(value) for _, _, value, *_ in lines]


def test_training_that_misses_its_goal_ends_with_the_highest_recall(capsys):
    result = align(goal=2, overrides=SMALL)
    printed = capsys.readouterr().out
    for name in NAMES:
        values = recalls(printed, name)
        assert len(values) == 2  # evaluations, in four steps
        assert result[f"r1.{name}"] == pytest.approx(max(values), abs=1e-3)
        assert result[f"seconds.{name}"] > 0


def test_training_ends_when_the_goal_is_reached(monkeypatch, capsys):
    align(goal=0, overrides=SMALL)
    printed = capsys.readouterr().out
    assert [len(recalls(printed, name)) for name in NAMES] == [1, 1]

"""The order of large epochs: a permutation of which any part is computed alone."""

import numpy as np
import pytest

from edge_lib.data.shuffle import Shuffle


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 997, 65537, 100_003])
def test_shuffle_holds_every_number_once(size):
    assert sorted(Shuffle(size, [0, 1])[0:size]) == list(range(size))


def test_parts_of_a_shuffle_equal_the_whole():
    shuffle = Shuffle(10_007, [3, 4])
    whole = shuffle[:]
    parts = [Shuffle(10_007, [3, 4])[i : i + 100] for i in range(0, 10_007, 100)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert shuffle[10_007:].tolist() == []


def test_shuffles_of_two_keys_are_unrelated():
    one, other = (Shuffle(4096, [0, epoch])[:] for epoch in (0, 1))
    assert (one == other).sum() < 12
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_shuffle_mixes_places_and_neighbours():
    orders = np.stack([Shuffle(1000, [seed])[:] for seed in range(300)])
    assert abs(orders.mean(0) - 499.5).max() < 5 * 288.7 / np.sqrt(300), "each place, all numbers"
    steps = np.abs(np.diff(orders, axis=1))
    assert steps.mean() == pytest.approx(1000 / 3, rel=0.02), "that of two independent numbers"
    together = np.array([np.isin(order[:100], np.arange(100)).sum() for order in orders])
    assert together.mean() == pytest.approx(10, abs=0.6)
    assert together.std() == pytest.approx(np.sqrt(10 * 0.9 * 900 / 999), rel=0.2), "hypergeometric"


def test_shuffle_of_many_numbers_stays_in_range():
    part = Shuffle(10**12 + 39, [0])[10**11 : 10**11 + 1000]
    assert len(set(part.tolist())) == 1000
    assert 0 <= part.min() < 10**11
    assert 9 * 10**11 < part.max() < 10**12 + 39

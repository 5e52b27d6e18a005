"""Bootstrap intervals against the normal approximation, their coverage, and degenerate cases."""

import math

import numpy as np
import pytest

from edge_lib.metrics.bootstrap import bootstrap_interval


def test_interval_matches_normal_approximation_for_single_rows():
    hits = np.random.default_rng(0).random(400) < 0.7
    low, high = bootstrap_interval(hits, np.arange(400), 2000)
    error = 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / 400)
    assert (low, high) == pytest.approx((hits.mean() - error, hits.mean() + error), abs=0.01)


def test_interval_is_wider_for_correlated_groups():
    hits = np.repeat(np.random.default_rng(0).random(100) < 0.6, 4)
    groups = np.repeat(np.arange(100), 4)
    low, high = bootstrap_interval(hits, groups, 2000)
    narrow_low, narrow_high = bootstrap_interval(hits, np.arange(400), 2000)
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(2, abs=0.25)
    assert low < hits.mean() < high


def test_interval_covers_the_true_mean_at_its_nominal_rate():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    covered = 0
    for trial in range(200):
        rates = rng.beta(2, 2, 60)
        low, high = bootstrap_interval(rng.random(240) < rates[groups], groups, 300, seed=trial)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_weights_groups_by_size_and_accepts_any_labels():
    hits = np.array([1, 1, 1, 0.0])
    names = np.array([90, 90, 90, 7])
    low, high = bootstrap_interval(hits, names, 500)
    assert (low, high) == (0, 1)
    assert bootstrap_interval(hits, names, 500, seed=1) == (low, high)
    assert bootstrap_interval(np.ones(8), np.arange(8), 50) == (1, 1)
    assert all(map(math.isnan, bootstrap_interval(hits, names, 0)))


def test_interval_of_one_group_is_its_mean():
    assert bootstrap_interval(np.array([1, 1, 0, 0]), np.zeros(4), 50) == (0.5, 0.5)


def test_interval_of_identical_seeds_equals_that_of_one():
    hits = np.random.default_rng(0).random(400) < 0.7
    groups = np.arange(400) // 4
    three_seeds = bootstrap_interval(np.stack([hits] * 3, axis=1), groups, 500)
    assert three_seeds == pytest.approx(bootstrap_interval(hits, groups, 500))


def test_interval_is_wider_for_seeds_that_differ():
    rng = np.random.default_rng(0)
    same = rng.random((400, 3)) < [0.7, 0.7, 0.7]
    different = rng.random((400, 3)) < [0.5, 0.7, 0.9]
    (low, high), (wide_low, wide_high) = (
        bootstrap_interval(values, np.arange(400), 2000) for values in (same, different)
    )
    assert wide_high - wide_low > 3 * (high - low)
    assert wide_low < different.mean() < wide_high

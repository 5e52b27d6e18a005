"""Bootstrap confidence intervals."""

import math

import numpy as np


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean of `values`, resampling whole groups (N,).

    values (N,), or (N, S) for S training seeds, which are resampled as well. Rows of a group are
    not independent. With few seeds the interval is too narrow. NaN if `resamples` is 0.
    """
    if not resamples:
        return math.nan, math.nan
    _, member = np.unique(groups, return_inverse=True)
    columns = np.asarray(values, float).reshape(len(member), -1).T
    sums = np.stack([np.bincount(member, column) for column in columns])  # (S, G)
    sizes = np.bincount(member)  # (G,)

    def mean(groups: np.ndarray, seeds: np.ndarray, axis: int) -> np.ndarray:
        means = sums.take(groups, 1).sum(axis) / sizes.take(groups).sum(axis)  # (S, resamples)
        return np.take_along_axis(means, seeds.T, 0).mean(0)

    from scipy import stats  # takes half a second to import

    # scipy needs two observations: a single group or seed is listed twice
    indices = [np.resize(np.arange(size), max(size, 2)) for size in sums.T.shape]
    settings = {"method": "percentile", "vectorized": True, "n_resamples": resamples}
    interval = stats.bootstrap(indices, mean, rng=seed, **settings).confidence_interval
    return float(interval.low), float(interval.high)

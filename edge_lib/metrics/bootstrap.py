"""Bootstrap intervals."""

import numpy as np


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` (N,), resampling whole groups (N,).

    Twins share most of what makes them hard, so single rows are not independent. NaN if
    `resamples` is 0.
    """
    if not resamples:
        return float("nan"), float("nan")
    _, member = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(member, weights=values), np.bincount(member)
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)

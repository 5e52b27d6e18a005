"""What the names in a benchmark's result mean.

`X.ours` and `X.RIVAL` are the costs (time, memory) of ours and of a rival, `X.RIVAL.ratio` is
rival / ours, as the median over the rounds, and `X.RIVAL.ratio_min` the lowest of them. A rival
named `ours_...` is a variant of ours, such as one without its cache, or a plain way that is written
here and installed from nowhere: neither counts as a rival. One named `limit` is the least that the
work takes, such as its matrix products alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

LIMIT, VARIANT = "limit", "ours_"


class Comparison(NamedTuple):
    """A cost of ours beside that of a rival. lowest: the ratio in the worst round."""

    metric: str
    rival: str
    ours: float
    theirs: float
    ratio: float
    lowest: float


def comparisons(result: Mapping[str, float | str]) -> list[Comparison]:
    """The comparisons in a result, in its order."""
    keys = [key.removesuffix(".ratio") for key in result if key.endswith(".ratio")]
    return [_comparison(result, *key.rsplit(".", 1)) for key in keys]


def _comparison(result: Mapping[str, float | str], metric: str, rival: str) -> Comparison:
    own = f"{metric}.{rival}"
    ratio = result[f"{own}.ratio"]
    lowest = result.get(f"{own}.ratio_min", ratio)
    return Comparison(metric, rival, result[f"{metric}.ours"], result[own], ratio, lowest)

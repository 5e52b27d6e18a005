"""A random part of a list that is read in parts, in the order of the list."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from edge_lib.config import ConfigError

LARGEST = 1_000_000_000  # rows that numpy draws from


def sample_rows(parts: Iterable[pa.Table], total: int, rows: int, seed: int) -> Iterator[pa.Table]:
    """`rows` of the `total` rows of all parts, each subset as likely as another.

    A part gets as many as a draw from all that are left gives it, so no list of rows is kept.
    """
    if total >= LARGEST:
        raise ConfigError(f"rows: the list has {total:,} rows; name fewer of its files")
    generator, wanted = np.random.default_rng(seed), min(rows, total)
    for part in parts:
        count = generator.hypergeometric(wanted, total - wanted, len(part)) if len(part) else 0
        numbers = generator.choice(len(part), count, replace=False, shuffle=False)
        yield part.take(pa.array(np.sort(numbers), pa.int64()))
        total, wanted = total - len(part), wanted - count

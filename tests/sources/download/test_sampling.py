"""Random parts of lists."""

from collections import Counter

import pyarrow as pa
import pytest

from edge_lib.config import ConfigError
from edge_lib.sources.download.url_lists import sample_rows


def sample(sizes, rows, seed=0):
    """The numbers that are drawn from parts of these sizes."""
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    parts = [pa.table({"row": [*range(a, a + n)]}) for a, n in zip(starts, sizes, strict=True)]
    drawn = sample_rows(
        (part.cast(pa.schema({"row": pa.int64()})) for part in parts), sum(sizes), rows, seed
    )
    return [row for part in drawn for row in part["row"].to_pylist()]


def test_sample_has_so_many_rows_in_order():
    rows = sample([5, 0, 100, 1, 30], 40)
    assert len(rows) == 40
    assert rows == sorted({*rows})


def test_sample_depends_on_the_seed_alone():
    draws = {tuple(sample([50, 50], 10, seed)) for seed in (0, 0, 1)}
    assert len(draws) == 2


@pytest.mark.parametrize("rows", [7, 8, 100])
def test_sample_of_all_is_all(rows):
    assert sample([3, 4], rows) == [*range(7)]


def test_sample_is_uniform():
    draws = Counter(tuple(sample([1, 3, 2], 2, seed)) for seed in range(3000))
    assert len(draws) == 15  # pairs of six
    assert max(abs(count - 200) for count in draws.values()) < 60  # over four deviations


def test_sample_refuses_a_list_that_is_too_long():
    with pytest.raises(ConfigError, match="1,000,000,000 rows"):
        next(sample_rows([], 10**9, 5, 0))

"""What the names in a benchmark's result mean."""

import pytest

from edge_lib.bench.comparisons import comparisons
from edge_lib.bench.tools import ratios


def test_comparisons_have_costs_the_median_ratio_and_the_lowest():
    result = ratios("seconds.batch", {"ours": [1.0, 2.0, 4.0], "faiss": [3.0, 2.0, 8.0]})
    (row,) = comparisons(result)
    assert (row.metric, row.rival) == ("seconds.batch", "faiss")
    assert (row.ours, row.theirs, row.ratio, row.lowest) == (2, 3, 2, 1)


def test_ratio_of_one_measurement_is_its_own_lowest():
    result = {"memory_mb.ours": 2.0, "memory_mb.naive": 6.0, "memory_mb.naive.ratio": 3.0}
    assert comparisons(result)[0].lowest == 3


def test_numbers_without_a_rival_are_no_comparison():
    assert comparisons({"recall10": 1.0, "seconds.ours": 2.0, "error": "no memory"}) == []


def test_part_of_a_benchmark_stays_in_the_name_of_its_cost():
    result = {"loss.seconds.b16.ours": 1.0, "loss.seconds.b16.open_clip": 2.0}
    (row,) = comparisons(result | {"loss.seconds.b16.open_clip.ratio": 2.0})
    assert (row.metric, row.rival) == ("loss.seconds.b16", "open_clip")


def test_comparison_without_ours_is_an_error():
    with pytest.raises(KeyError, match=r"seconds\.ours"):
        comparisons({"seconds.naive": 1.0, "seconds.naive.ratio": 2.0})

"""Items of rows in offsets, against lists of each row's items."""

import numpy as np
import pytest

from edge_lib.data.row_items import RowItems, compact

ROWS = np.array([0, 0, 2, 5, 5, 5])
ITEMS = np.array([7, 8, 1, 3, 2, 9])
LISTS = [[7, 8], [], [1], [], [], [3, 2, 9], []]


def lists(items):
    return [items[row].tolist() for row in range(len(items))]


@pytest.fixture
def grouped():
    return RowItems.group(ITEMS, ROWS, 7)


def test_items_are_grouped_by_row(grouped):
    assert lists(grouped) == LISTS
    assert grouped.counts.tolist() == [2, 0, 1, 0, 0, 3, 0]
    assert grouped.rows.tolist() == ROWS.tolist()
    order = np.array([3, 0, 4, 2, 5, 1])
    assert lists(RowItems.group(ITEMS[order], ROWS[order], 7)) == LISTS, "rows need no order"


def test_no_items_are_grouped_into_empty_rows():
    empty = RowItems.group(np.array([], np.int64), np.array([], np.int64), 3)
    assert lists(empty) == [[], [], []]
    assert empty.pick(np.array([1, 2]), np.array([0.0, 0.9])).tolist() == [-1, -1]


def test_items_are_kept_by_a_mask(grouped):
    kept = grouped.keep(np.isin(grouped.items, [8, 2, 9]))
    assert lists(kept) == [[8], [], [], [], [], [2, 9], []]


def test_rows_are_selected_in_any_order(grouped):
    assert lists(grouped.select(np.array([5, 1, 0, 5]))) == [[3, 2, 9], [], [7, 8], [3, 2, 9]]
    assert len(grouped.select(np.array([], np.int64))) == 0


def test_picked_items_are_the_rows_own(grouped):
    rows, draws = np.array([5, 5, 5, 0, 1, 6]), np.array([0.0, 0.34, 0.999, 0.5, 0.3, 0.99])
    assert grouped.pick(rows, draws).tolist() == [3, 2, 9, 8, -1, -1]


def test_numbers_take_32_bits_where_they_fit():
    assert compact(np.array([0, 2**31 - 1])).dtype == np.int32
    assert compact(np.array([2**31])).tolist() == [2**31]

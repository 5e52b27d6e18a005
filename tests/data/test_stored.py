"""Columns as Arrow stores them: labels by name, and the rows of a selection."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets

from edge_lib.data import stored as module
from edge_lib.data.stored import select_rows, stored_column, stored_rows, take_rows


def test_stored_labels_are_their_names():
    features = Features(label=ClassLabel(names=["cat", "dog"]), n=Value("int64"))
    dataset = Dataset.from_dict({"label": [1, 0, -1, None], "n": [1, 0, -1, None]}, features)
    assert stored_column(dataset, "label").to_pylist() == ["dog", "cat", None, None]
    assert stored_column(dataset, "n").to_pylist() == [1, 0, -1, None]
    assert stored_column(dataset.select([]), "label").type == pa.string()


def test_stored_images_are_not_decoded(encode_image):
    cell = {"bytes": encode_image(), "path": None}
    dataset = Dataset.from_dict({"image": [cell]}, Features(image=Image()))
    assert stored_column(dataset, "image").to_pylist() == [cell]


def test_missing_column_is_null():
    dataset = Dataset.from_dict({"a": [1, 2, 3]})
    assert stored_column(dataset, "b").to_pylist() == [None] * 3


def test_stored_rows_are_those_of_a_selection():
    dataset = Dataset.from_dict({"a": [*range(10)]})
    assert stored_rows(dataset) is None
    for rows in ([7, 0, 7], [3, 4, 5]):
        part = dataset.select(rows)
        stored, numbers = stored_column(part, "a").to_pylist(), stored_rows(part)
        assert (stored if numbers is None else [stored[i] for i in numbers]) == rows
    assert stored_rows(dataset.select([9, 1, 5]).select([2, 0])).tolist() == [5, 9]


def test_selected_rows_equal_those_of_datasets():
    dataset = Dataset.from_dict({"a": [*range(10)], "b": [[str(n)] for n in range(10)]})
    for rows in ([7, 0, 7], [3, 4, 5], [], [-1]):
        assert select_rows(dataset, rows, "x")["a"][:] == [range(10)[row] for row in rows]
    again = select_rows(select_rows(dataset, [9, 1, 5], "x"), [2, 0], "y")
    assert again[:] == dataset.select([5, 9])[:]
    joined = concatenate_datasets([again, dataset])
    assert joined["a"][:3] == [5, 9, 0]
    for outside in (10, -11):
        with pytest.raises(IndexError):
            select_rows(dataset, [outside], "x")


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.string()), pa.null()], ids=str)
def test_taken_rows_equal_a_loop(kind, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 50)
    cells = [None if pa.types.is_null(kind) or n % 7 == 0 else f"row {n}" for n in range(300)]
    cells = [[cell] if cell and pa.types.is_list(kind) else cell for cell in cells]
    sizes = [0, 1, 99, 0, 0, 150, 50, 0]
    ends = np.cumsum(sizes)
    parts = [pa.array(cells[end - size : end], kind) for size, end in zip(sizes, ends, strict=True)]
    values, rng = pa.chunked_array(parts, kind), np.random.default_rng(0)
    orders = [rng.integers(0, 300, 400), np.sort(rng.integers(0, 300, 120)), np.arange(300)]
    for rows in (*orders, np.array([], np.int64)):
        taken = take_rows(values, rows)
        assert taken.to_pylist() == [cells[row] for row in rows]
        assert taken.num_chunks <= 8, "a chunk for each block"
        assert taken.type == kind

"""Columns of a data set under the names of the schema: fields of structs, labels, selections."""

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from edge_lib.config import ConfigError
from edge_lib.data.fields import select_columns

COLUMNS = {
    "caption": [{"short": "a", "long": "aa"}, None, {"short": None, "long": "cc"}],
    "several": [[{"raw": "x", "n": 1}], None, [{"raw": "y", "n": 2}, {"raw": "z", "n": 3}]],
    "picture": [b"1", None, b"3"],
    "species": ["cat", "dog", None],
}


@pytest.fixture
def dataset():
    return Dataset.from_dict(COLUMNS)


def test_selected_columns_have_the_names_of_the_schema(dataset):
    selected = select_columns(dataset, {"image": "picture", "texts": "species"}, "a.parquet")
    assert selected[:] == {"image": COLUMNS["picture"], "texts": COLUMNS["species"]}


def test_field_of_a_struct_becomes_a_column(dataset):
    selected = select_columns(dataset, {"texts": "caption.long", "image": "picture"}, "a.parquet")
    assert selected[:] == {"texts": ["aa", None, "cc"], "image": [b"1", None, b"3"]}
    (texts,) = select_columns(dataset, {"texts": "caption.short"}, "a").to_dict().values()
    assert texts == ["a", None, None]


def test_field_of_structs_in_lists_becomes_a_column_of_lists(dataset):
    selected = select_columns(dataset, {"texts": "several.raw"}, "a.parquet")
    assert selected["texts"][:] == [["x"], None, ["y", "z"]]


@pytest.mark.parametrize("rows", [[2, 0], [1, 2], [1]], ids=str)
def test_fields_follow_a_selection_of_rows(dataset, rows):
    names = {"texts": "several.raw", "question": "caption.long", "image": "picture"}
    selected = select_columns(dataset.select(rows), names, "a.parquet")
    expected = [[["x"], None, ["y", "z"]][row] for row in rows]
    assert selected["texts"][:] == expected
    assert selected["question"][:] == [["aa", None, "cc"][row] for row in rows]
    assert selected["image"][:] == [COLUMNS["picture"][row] for row in rows]


def test_one_column_may_have_two_uses(dataset):
    selected = select_columns(dataset, {"id": "species", "texts": "species"}, "a.parquet")
    assert selected[:] == {"id": COLUMNS["species"], "texts": COLUMNS["species"]}


def test_labels_become_their_names():
    features = Features(label=ClassLabel(names=["cat", "dog"]), image=Value("binary"))
    dataset = Dataset.from_dict({"label": [1, 0, -1, None], "image": [b"x"] * 4}, features)
    selected = select_columns(dataset, {"texts": "label", "image": "image"}, "a.parquet")
    assert selected["texts"][:] == ["dog", "cat", None, None]


def test_fields_of_a_dataset_of_many_chunks_are_whole():
    structs = [{"text": str(i)} if i % 3 else None for i in range(100)]
    parts = [pa.array(structs[i : i + 7]) for i in range(0, 100, 7)]
    dataset = Dataset(pa.table({"s": pa.chunked_array(parts)}))
    selected = select_columns(dataset.select(range(5, 95)), {"texts": "s.text"}, "a")
    assert selected["texts"][:] == [s and s["text"] for s in structs[5:95]]


JSON = ['{"short": "a", "long": "b"}', ' ["a", "b"]\n']


@pytest.mark.parametrize("texts", [JSON, ["", None, *JSON]], ids=["only", "after nulls"])
def test_json_in_place_of_texts_is_refused(texts):
    with pytest.raises(ConfigError, match=r"^a\.tsv: column 'c' holds JSON, not plain text: '\{"):
        select_columns(Dataset.from_dict({"c": texts}), {"texts": "c"}, "a.tsv")


@pytest.mark.parametrize(
    "texts", [["[1] a footnote", "{x}"], ["3", "true"], ['"quoted"'], [*JSON, "a dog"], []], ids=str
)
def test_texts_that_only_look_like_json_are_taken(texts):
    features = Features(c=Value("string"))
    selected = select_columns(Dataset.from_dict({"c": texts}, features), {"texts": "c"}, "a.tsv")
    assert selected["texts"][:] == texts


def test_wrong_columns_name_the_file(dataset):
    with pytest.raises(ConfigError, match=r"^a\.parquet: column 'several' is list<.*several\.raw"):
        select_columns(dataset, {"texts": "several"}, "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: no column 'captions' \(did you mean"):
        select_columns(dataset, {"texts": "captions"}, "a.parquet")


def test_nested_features_are_no_obstacle():
    features = Features(c={"all": List({"text": Value("string"), "score": Value("float32")})})
    rows = {"c": [{"all": [{"text": "a", "score": 1.0}]}, {"all": []}]}
    selected = select_columns(Dataset.from_dict(rows, features), {"texts": "c.all.text"}, "a")
    assert selected["texts"][:] == [["a"], []]

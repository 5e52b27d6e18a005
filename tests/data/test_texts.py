"""Texts of a column: every Arrow type gives the same texts, rows and digest."""

import numpy as np
import pyarrow as pa
import pytest

from edge_lib.config import ConfigError
from edge_lib.data import texts as module
from edge_lib.data.texts import read_texts, refuse_json

STRINGS = [" a ", "", None, "\u3000b\t", "\x1c\u2028", "c\x85d"]
LISTS = [[" a ", ""], [], None, [None, "b", "b"], ["  "], ["c\x85d"]]
ONE_A_ROW = (["a", "b", "c\x85d"], [0, 3, 5])
SEVERAL_A_ROW = (["a", "b", "b", "c\x85d"], [0, 3, 3, 5])
CODES = pa.dictionary(pa.int32(), pa.string())
TYPES = [
    (STRINGS, pa.string(), ONE_A_ROW),
    (STRINGS, pa.large_string(), ONE_A_ROW),
    (STRINGS, pa.string_view(), ONE_A_ROW),
    (STRINGS, CODES, ONE_A_ROW),
    (LISTS, pa.list_(pa.string()), SEVERAL_A_ROW),
    (LISTS, pa.large_list(pa.large_string()), SEVERAL_A_ROW),
    (LISTS, pa.list_(CODES), SEVERAL_A_ROW),
    ([None if x is None else [x, None] for x in STRINGS], pa.list_(pa.string(), 2), ONE_A_ROW),
    ([None, None], pa.null(), ([], [])),
    ([[], None, [None]], pa.list_(pa.null()), ([], [])),
    ([], pa.string(), ([], [])),
]


@pytest.mark.parametrize(("values", "kind", "expected"), TYPES, ids=[str(t[1]) for t in TYPES])
def test_texts_of_any_type_are_stripped_and_filled(values, kind, expected):
    column = pa.array(values, kind)
    for chunks in ([column], [column.slice(0, 2), column.slice(2)], [column.slice(0, 0), column]):
        texts = read_texts(pa.chunked_array(chunks, kind))
        assert (list(texts), texts.rows.tolist()) == expected
        assert texts.rows.dtype == np.int64
        assert texts[:] == texts.take(range(len(texts))) == expected[0]


def test_texts_of_a_slice_are_those_of_its_rows():
    column = pa.array([["out"], *LISTS, ["out"]]).slice(1, len(LISTS))
    texts = read_texts(pa.chunked_array([column]))
    assert (list(texts), texts.rows.tolist()) == SEVERAL_A_ROW


def test_texts_under_a_null_list_are_left_out():
    lists = pa.ListArray.from_arrays([0, 1, 2], ["hidden", "b"], mask=pa.array([True, False]))
    texts = read_texts(pa.chunked_array([lists]))
    assert (list(texts), texts.rows.tolist()) == (["b"], [1])


def test_texts_of_selected_rows_follow_their_order():
    texts = read_texts(pa.chunked_array([LISTS[:3], LISTS[3:]]), np.array([5, 3, 2, 0, 3]))
    assert list(texts) == ["c\x85d", "b", "b", "a", "b", "b"]
    assert texts.rows.tolist() == [0, 1, 1, 3, 4, 4]
    assert texts.missing_rows(5).tolist() == [2]


def test_texts_are_a_sequence():
    texts = read_texts(pa.chunked_array([["a", " ", "b", "c"]]))
    assert (texts[0], texts[-1], texts[np.int64(1)], len(texts)) == ("a", "c", "b", 3)
    assert texts[::-2] == ["c", "a"]
    assert texts.take(np.array([2, 0, 2])) == ["c", "a", "c"]
    assert texts.take([]) == []
    assert texts == ["a", "b", "c"]
    assert texts != ["a", "b"]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            texts[outside]


@pytest.fixture
def many():
    rng = np.random.default_rng(0)
    return [[f"{i} {'x' * int(n)} "] * int(n % 3) for i, n in enumerate(rng.integers(0, 40, 3000))]


def test_texts_of_many_rows_equal_a_loop(many, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 256)
    expected = [text.strip() for row in many for text in row]
    chunked = pa.chunked_array([many[i : i + 700] for i in range(0, len(many), 700)])
    texts = read_texts(chunked)
    assert list(texts) == expected
    assert texts.rows.tolist() == [row for row, own in enumerate(many) for _ in own]
    some = np.random.default_rng(1).integers(0, len(expected), 500)
    assert texts.take(some) == [expected[i] for i in some]
    assert texts.take(range(40, 200)) == expected[40:200]


def test_digest_depends_on_texts_alone(many, monkeypatch):
    digest = read_texts(pa.chunked_array([many])).digest()
    monkeypatch.setattr(module, "BLOCK", 100)
    chunked = pa.chunked_array([many[:1], many[1:2000], many[2000:]])
    assert read_texts(chunked).digest() == digest
    assert read_texts(chunked.cast(pa.large_list(pa.large_string()))).digest() == digest
    assert read_texts(chunked, np.arange(len(many))).digest() == digest
    assert read_texts(chunked, np.arange(len(many))[::-1]).digest() != digest


def test_digests_of_other_texts_differ():
    cases = [["ab", "c"], ["a", "bc"], ["abc"], ["ab", "d"], ["c", "ab"], []]
    digests = {read_texts(pa.chunked_array([case], pa.string())).digest() for case in cases}
    assert len(digests) == len(cases)


JSON = ['{"short": "a", "long": "b"}', ' ["a", "b"]\n']


@pytest.mark.parametrize("texts", [JSON, ["", None, *JSON]], ids=["only", "after nulls"])
@pytest.mark.parametrize("lists", [False, True], ids=["texts", "lists"])
def test_json_in_place_of_texts_is_refused(texts, lists):
    column = pa.chunked_array([[[text] for text in texts] if lists else texts])
    with pytest.raises(ConfigError, match=r"^a: column 'c' holds JSON, not plain text: '\{\"short"):
        refuse_json(column, "a: column 'c'")


PLAIN = [["[1] a footnote", "{x}"], ["3", "true"], ['"quoted"'], [*JSON, "a dog"], [], [None, " "]]


@pytest.mark.parametrize("texts", PLAIN, ids=str)
def test_texts_that_only_look_like_json_are_taken(texts):
    refuse_json(pa.chunked_array([texts], pa.string()), "a")

"""Val and test taken from one set: what stays together, shares, order, errors."""

import numpy as np
import pytest
from datasets import Dataset

from edge_lib.config import (
    ConfigError,
    ConversationsConfig,
    DataConfig,
    QuestionsConfig,
    SplitConfig,
)
from edge_lib.config.registry import SOURCES
from edge_lib.data.table import Table
from edge_lib.sources import load_table
from edge_lib.sources.split import connected, divide, row_keys

COLUMNS = {}  # what `load_columns` makes a table of


def load_columns(config, split):
    assert split == "train", "val and test are taken from train"
    return Table(Dataset.from_dict(COLUMNS), "columns train", str(hash(str(COLUMNS))))


@pytest.fixture
def load(monkeypatch, tmp_path):
    """load(columns, **split) -> {split: Table}, divided by data.split."""
    monkeypatch.setitem(SOURCES, "columns", f"{__name__}:load_columns")

    def load(columns, **split):
        COLUMNS.clear()
        COLUMNS.update(columns)
        config = DataConfig(source="columns", split=split, cache_dir=tmp_path / "cache")
        return {name: load_table(config, name) for name in ("train", "val", "test")}

    return load


def rows(count, pictures=None):
    """Columns of `count` rows; row n has picture number n % pictures."""
    cells = [b"picture %d" % (n % (pictures or count)) for n in range(count)]
    return {"id": [f"r{n}" for n in range(count)], "image": cells, "texts": ["x"] * count}


def test_split_takes_shares_of_the_rows_each_once(load):
    tables = load(rows(200), val=0.05, test=0.1)
    assert {name: len(table) for name, table in tables.items()} == {
        "train": 170,
        "val": 10,
        "test": 20,
    }
    assert sorted(name for table in tables.values() for name in table.ids) == sorted(
        rows(200)["id"]
    )
    assert tables["val"].name == "columns val"
    assert len({table.fingerprint for table in tables.values()}) == 3


def test_split_keeps_rows_of_equal_pictures_together(load):
    tables = load(rows(120, pictures=40), val=0.1, test=0.1)
    pictures = [set(table.column("image")) for table in tables.values()]
    assert [len(table) for table in tables.values()] == [96, 12, 12]
    assert sum(map(len, pictures)) == len(set().union(*pictures)) == 40


@pytest.mark.parametrize("column", ["image_id", "group", "split_by"])
def test_split_keeps_rows_of_equal_keys_together(load, column):
    keys = [n % 30 for n in range(90)]
    values = keys if column == "group" else list(map(str, keys))
    tables = load(rows(90) | {column: values}, val=0.1, test=0.1)
    shared = [set(table.column(column)) for table in tables.values()]
    assert sum(map(len, shared)) == len(set().union(*shared)) == 30


def test_split_follows_chains_of_keys(load):
    # each picture has two rows, and each speaker's rows are of two pictures
    pictures = [b"picture %d" % (n // 2) for n in range(60)]
    columns = {"image": pictures, "split_by": [str((n + 1) % 60 // 2) for n in range(60)]}
    with pytest.raises(
        ConfigError, match=r"data\.split: (val|test) is empty: columns train has 60"
    ):
        load(columns, val=0.1, test=0.1)


def test_split_does_not_join_rows_without_a_key(load):
    columns = {"id": list(map(str, range(50))), "image": [None] * 50, "texts": ["x"] * 50}
    columns["split_by"] = [None] * 40 + ["a"] * 10
    tables = load(columns, val=0.1, test=0.1)
    assert [len(table) for table in tables.values()] == [40, 5, 5]
    assert tables["val"].column("split_by") == [None] * 5


def test_split_is_the_same_in_another_order(load):
    columns = rows(100, pictures=50)
    first = load(columns, val=0.1, test=0.2)
    order = np.random.default_rng(0).permutation(100)
    second = load({name: [v[n] for n in order] for name, v in columns.items()}, val=0.1, test=0.2)
    assert {n: set(t.ids) for n, t in first.items()} == {n: set(t.ids) for n, t in second.items()}


def test_split_depends_on_the_seed_and_val_not_on_the_share_of_test(load):
    columns = rows(100)
    one, other, more = (
        load(columns, val=0.1, test=test, seed=seed)
        for seed, test in ((0, 0.1), (1, 0.1), (0, 0.3))
    )
    assert set(one["val"].ids) != set(other["val"].ids)
    assert set(one["val"].ids) == set(more["val"].ids)
    assert set(one["test"].ids) < set(more["test"].ids)


def test_split_leaves_groups_that_are_too_large_in_train(load):
    columns = rows(100) | {"split_by": ["big"] * 60 + [str(n) for n in range(40)]}
    tables = load(columns, val=0.1, test=0.1)
    assert [len(table) for table in tables.values()] == [80, 10, 10]
    assert tables["train"].column("split_by").count("big") == 60


@pytest.mark.parametrize("count", [1, 4, 9])
def test_split_that_comes_out_empty_is_an_error(load, count):
    with pytest.raises(ConfigError, match=f"is empty: columns train has {count} rows"):
        load(rows(count), val=0.05, test=0.05)


def test_split_without_rows_to_train_on_is_an_error():
    with pytest.raises(ValueError, match=r"val 0\.5 and test 0\.5 leave no rows to train on"):
        SplitConfig(val=0.5, test=0.5)


def test_split_reads_the_content_of_files(tmp_path):
    for name, content in (("a.png", b"one"), ("copy of a.png", b"one"), ("b.png", b"two")):
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in ("a.png", "copy of a.png", "b.png", "missing.png")]
    member, contents = {"path": str(tmp_path / "a.png"), "offset": 1, "size": 2}, []
    for cells in (
        paths,
        [{"bytes": None, "path": path} for path in paths],
        [{"bytes": b"one", "path": "x"}, {"bytes": b"one", "path": "y"}, {"bytes": b"x"}, None],
        [member, member, member | {"size": 1}, None],
        ["data:,one", "data:;base64,b25l", "data:,two", None],
    ):
        table = Table(Dataset.from_dict({"image": cells}), "t", "f")
        (keys,) = row_keys(table, tmp_path / "cache")
        contents.append(keys)
        assert connected([keys]).tolist() == [0, 0, 1, 2]
        assert keys[3] is None
    assert len({key for keys in contents for key in keys[:1]}) == 2, "one, and ne of the member"


def test_divide_gives_each_split_its_share_of_rows():
    keys = np.array([f"k{n // 3}" for n in range(3000)], object)
    numbers = divide([keys], SplitConfig(val=0.1, test=0.3))
    assert np.bincount(numbers).tolist() == [1800, 300, 900]


CONVERSATION_FILES = {"train": "a.json", "val": "b.json"}
QUESTION_FILES = {"questions": CONVERSATION_FILES, "images": "images"}


@pytest.mark.parametrize(
    ("section", "source", "options"),
    [
        (QuestionsConfig, "gqa", QUESTION_FILES),
        (QuestionsConfig, "vqav2", QUESTION_FILES | {"annotations": {}, "images": {}}),
        (ConversationsConfig, "llava", {"files": CONVERSATION_FILES, "images": "images"}),
        (ConversationsConfig, "messages", {"files": CONVERSATION_FILES}),
        (ConversationsConfig, "instructions", {"files": CONVERSATION_FILES}),
        (ConversationsConfig, "parquet", CONVERSATION_FILES),
    ],
    ids=["gqa", "vqav2", "llava", "messages", "instructions", "parquet"],
)
def test_split_is_named_once(section, source, options):
    options = {"source": source, source: options}
    with pytest.raises(ValueError, match=rf"{source}\.val and split\.val both name this split"):
        section(**options, split={"val": 0.1, "test": 0.1})
    assert section(**options, split={"val": 0, "test": 0.1}).split.test == 0.1

"""Questions in csv, json and Parquet tables, and in data sets of the Hub."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from edge_lib.config import ConfigError, DataConfig
from edge_lib.sources import load_table
from edge_lib.sources.split_names import SPLITS


@pytest.fixture
def rows(tmp_path, encode_image):
    """Ten questions, five about each of two pictures, 10 and 11 pixels wide."""
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(encode_image(n, size=(10 + n, 8)))
    return [{"image": f"{n % 2}.png", "question": f"q{n}", "answer": f"a{n}"} for n in range(10)]


@pytest.fixture
def load(tmp_path):
    """load(source, section, split, divide) -> the table of data.questions."""

    def load(source, section, split="train", divide=None):
        questions = {"source": source, source: section, "split": divide}
        return load_table(DataConfig(questions=questions, cache_dir=tmp_path / "c"), f"qa-{split}")

    return load


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        Dataset.from_list(rows).to_pandas().to_csv(path, index=False)
    return {"train": str(path)}


def check(table):
    assert table.questions.texts == [f"q{n}" for n in range(10)]
    assert table.questions.answers == [[f"a{n}"] for n in range(10)]
    assert table.image_index.tolist() == [0, 1] * 5
    assert [image.width for image in table.images(table.image_rows)] == [10, 11]
    assert len({*table.groups}) == 2


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_question_table_reads_ten_rows(rows, load, tmp_path, suffix):
    check(load("table", write(tmp_path / f"q.{suffix}", rows)))


def test_question_table_takes_several_answers(rows, load, tmp_path):
    answers = [["yes", "no"], 2, [1, "one"], None, {"a": "b"}]
    lines = [row | {"answer": answer} for row, answer in zip(rows, answers, strict=False)]
    lines[0]["kind"] = 3
    table = load("table", write(tmp_path / "q.json", lines) | {"kind_column": "kind"})
    assert table.questions.answers == [["yes", "no"], ["2"], ["1", "one"]]
    assert table.questions.kinds == ["3", "question", "question"]
    assert table.skipped == {
        "column 'answer' is dict; answers takes text or lists of texts": ["q.json:5"],
        "no answer": ["3"],
    }


def test_question_table_is_divided_by_picture(rows, load, tmp_path, encode_image):
    for n in range(10):
        (tmp_path / f"{n}.png").write_bytes(encode_image(n))
    lines = [row | {"image": f"{n % 10}.png"} for n, row in enumerate(rows * 3)]
    section, divide = write(tmp_path / "q.csv", lines), {"val": 0.2, "test": 0.2}
    tables = [load("table", section, split, divide=divide) for split in SPLITS]
    assert [len(table) for table in tables] == [18, 6, 6]
    assert [len(table.image_rows) for table in tables] == [6, 2, 2]
    with pytest.raises(
        ConfigError, match=r"questions\.table\.val names .*data\.questions\.split\.val"
    ):
        load("table", section, "val")
    with pytest.raises(ValueError, match=r"table\.val and split\.val both name this split"):
        load("table", section | {"val": "v.csv"}, divide=divide)


def test_question_hub_reads_ten_rows_saved_to_disk(rows, load, tmp_path):
    lines = [
        {
            "picture": {"bytes": (tmp_path / row["image"]).read_bytes(), "path": None},
            "question": row["question"],
            "answers": [{"answer": row["answer"], "confidence": "yes"}],
        }
        for row in rows
    ]
    Dataset.from_list(lines).save_to_disk(tmp_path / "saved")
    section = {"name": str(tmp_path / "saved"), "image_column": "picture"}
    check(load("hub", section | {"answer_column": "answers.answer"}))
    with pytest.raises(ConfigError, match=r"questions\.hub: .*: no column 'answer' .*'answers'"):
        load("hub", section)
    with pytest.raises(ConfigError, match=r"hub\.val is null; .* data\.questions\.split\.val"):
        load("hub", section | {"val": None}, "val")

"""Lists of URLs in the formats and shapes that people have."""

import gzip
import json
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_lib.config import ConfigError
from edge_lib.sources.download import download, download_class
from edge_lib.sources.download.base import path_fields
from edge_lib.sources.download.url_lists import (
    ListFormat,
    UrlList,
    copy_list,
    list_files,
    list_sha256,
    sample_rows,
)
from edge_lib.sources.download.url_sets import Cc3mDownload, LaionDownload, PixmoCapDownload

FORM = ListFormat("url", "caption")
ROWS = [{"url": f"https://a.example/{n}", "caption": f"ä, {n}"} for n in range(7)]


def copied(path, out, form=FORM, shard_rows=3, rows=None, seed=0):
    """The rows of a list, copied."""
    copy_list(path, form, out, shard_rows, rows, seed)
    urls = UrlList(out)
    return [row for number in range(urls.shards) for row in urls.shard(number).to_pylist()]


def numbered(rows):
    return [{"row": number, **row} for number, row in enumerate(rows)]


def to_csv(rows, delimiter=","):
    lines = [
        [row["url"], f'"{row["caption"]}"' if delimiter == "," else row["caption"]] for row in rows
    ]
    return "\n".join(map(delimiter.join, [["url", "caption"], *lines])) + "\n"


def to_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_parquet(path, rows, **types):
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", to_csv(ROWS)),
        ("a.tsv", to_csv(ROWS, "\t")),
        ("a.json", json.dumps(ROWS)),
        ("a.jsonl", to_lines(ROWS)),
        ("a.csv.gz", gzip.compress(to_csv(ROWS).encode())),
        ("a.tsv.gz", gzip.compress(to_csv(ROWS, "\t").encode())),
        ("a.jsonl.gz", gzip.compress(to_lines(ROWS).encode())),
        ("[a]{b} c.csv", to_csv(ROWS)),
        ("a.csv", "\ufeff" + to_csv(ROWS).replace("\n", "\r\n")),
    ],
    ids=["csv", "tsv", "json", "jsonl", "csv.gz", "tsv.gz", "jsonl.gz", "odd name", "excel"],
)
def test_list_is_read_from_any_format(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert copied(path, tmp_path / "out") == numbered(ROWS)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_list_is_read_from_parquet(tmp_path, kind):
    path = write_parquet(tmp_path / "a.parquet", ROWS, url=kind, caption=kind)
    assert copied(path, tmp_path / "out") == numbered(ROWS)


def test_list_is_divided_into_shards(tmp_path):
    (tmp_path / "a.csv").write_text(to_csv(ROWS))
    copy_list(tmp_path / "a.csv", FORM, tmp_path, 3, None, 0)
    urls = UrlList(tmp_path)
    assert urls.lengths() == [3, 3, 1]
    assert [urls.shard(number)["row"].to_pylist() for number in range(3)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6],
    ]


def test_list_copy_replaces_what_a_killed_process_left(tmp_path):
    (tmp_path / "a.csv").write_text(to_csv(ROWS))
    for number in (os.getpid(), 0):
        (tmp_path / f"out/.list.{number}").mkdir(parents=True)
    assert copied(tmp_path / "a.csv", tmp_path / "out") == numbered(ROWS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["list"]


def test_list_longer_than_a_part_of_its_reader(tmp_path):
    rows = [{"url": f"https://a.example/{n}", "caption": None} for n in range(2500)]
    path = write_parquet(tmp_path / "a.parquet", rows, caption=pa.string())
    assert copied(path, tmp_path / "out", shard_rows=700) == numbered(rows)
    assert UrlList(tmp_path / "out").lengths() == [700, 700, 700, 400]


def test_list_of_a_folder_has_all_files_in_order(tmp_path):
    folder = tmp_path / "part [1]"
    (folder / "deep").mkdir(parents=True)
    write_parquet(folder / "b.parquet", ROWS[2:4])
    write_parquet(folder / "deep/c.parquet", ROWS[4:])
    write_parquet(folder / "a.parquet", ROWS[:2])
    (folder / ".cache").mkdir()
    hidden = ".hidden.parquet", "._SUCCESS", ".cache/a.parquet"
    for name in (*hidden, "README.md", "download.json", "a.parquet.bak"):
        (folder / name).write_text("no list")
    assert copied(folder, tmp_path / "out") == numbered(ROWS)
    assert copied(folder / "*.parquet", tmp_path / "glob") == numbered(ROWS[:4])


def test_list_of_a_folder_that_holds_the_download_is_an_error(tmp_path):
    write_parquet(tmp_path / "a.parquet", ROWS)
    for out in (tmp_path, tmp_path / "out"):
        with pytest.raises(ConfigError, match="contains the folder to write"):
            copied(tmp_path, out)


def test_list_of_an_empty_folder_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("")
    with pytest.raises(ConfigError, match=r"no file in .* ends in .*parquet"):
        list_files(tmp_path)
    with pytest.raises(ConfigError, match="list: no file matches"):
        list_files(tmp_path / "*.csv")


def test_list_files_may_disagree_on_other_columns(tmp_path):
    laion = [{"URL": row["url"], "TEXT": row["caption"], "WIDTH": 5} for row in ROWS]
    folder = tmp_path / "list"
    folder.mkdir()
    write_parquet(folder / "a.parquet", laion[:3], WIDTH=pa.int32())
    write_parquet(folder / "b.parquet", laion[3:], WIDTH=pa.float64(), TEXT=pa.large_string())
    form = LaionDownload(out=tmp_path, list=folder).list_format
    assert copied(folder, tmp_path / "out", form) == numbered(ROWS)


def test_list_files_that_disagree_on_captions_are_an_error(tmp_path):
    write_parquet(tmp_path / "a.parquet", ROWS)
    write_parquet(tmp_path / "b.parquet", [row | {"caption": 5} for row in ROWS])
    with pytest.raises(
        ConfigError, match=r"b.parquet: column 'caption' is int64; caption takes text"
    ):
        copied(tmp_path / "*.parquet", tmp_path / "out")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_list_without_the_column_suggests_another(tmp_path, name):
    path = tmp_path / name
    rows = [{"urls": row["url"], "caption": row["caption"]} for row in ROWS]
    if name == "a.parquet":
        write_parquet(path, rows)
    else:
        path.write_text(
            to_lines(rows) if "json" in name else to_csv(ROWS).replace("url", "urls", 1)
        )
    with pytest.raises(ConfigError, match=r"no column 'url' \(did you mean 'urls'\?\)"):
        copied(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "url,caption\n", "\n\n"], ids=["empty", "header", "blank"])
def test_list_without_rows_is_an_error(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ConfigError, match="no rows"):
        copied(tmp_path / "a.csv", tmp_path / "out")


def test_list_whose_column_has_no_urls_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text(to_csv(ROWS))
    with pytest.raises(ConfigError, match=r"a.csv: column 'caption' has no URLs, but 'ä, 0'"):
        copied(tmp_path / "a.csv", tmp_path / "out", ListFormat("caption", "url"))


def test_list_keeps_null_and_blank_urls_and_captions(tmp_path):
    urls, captions = [None, "", " ", "\thttp://a \n"], [None, "", " x ", None]
    rows = [{"url": u, "caption": c} for u, c in zip(urls, captions, strict=True)]
    path = write_parquet(tmp_path / "a.parquet", rows)
    expected = [{**row, "url": row["url"] and row["url"].strip()} for row in rows]
    assert copied(path, tmp_path / "out") == numbered(expected)


def test_list_of_nulls_alone_is_kept(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"url": None, "caption": None}] * 2)
    assert copied(path, tmp_path / "out") == numbered([{"url": None, "caption": None}] * 2)


def test_list_counts_lines_that_are_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text(
        to_csv(ROWS[:1]) + "https://b.example/1,a,b,c\n" + "https://b.example/2,d\n"
    )
    rows = copied(tmp_path / "a.csv", tmp_path / "out")
    assert [row["url"][-1] for row in rows] == ["0", "2"]
    assert UrlList(tmp_path / "out").facts["skipped"] == {
        "another number of fields than the header": 1
    }


def test_list_of_nested_fields(tmp_path):
    rows = [{"image": {"url": row["url"]}, "caption": row["caption"]} for row in ROWS]
    (tmp_path / "a.jsonl").write_text(to_lines(rows))
    write_parquet(tmp_path / "a.parquet", rows)
    for name in ("a.jsonl", "a.parquet"):
        assert copied(
            tmp_path / name, tmp_path / name[2:], ListFormat("image.url", "caption")
        ) == numbered(ROWS)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_list_part_is_random_and_in_order(tmp_path, name):
    rows = [{"url": f"https://a.example/{n}", "caption": str(n)} for n in range(3000)]
    path = tmp_path / name
    path.write_text(to_csv(rows)) if name == "a.csv" else write_parquet(path, rows)
    part = copied(path, tmp_path / "out", rows=1000)
    numbers = [row["row"] for row in part]
    assert part == [{"row": n, **rows[n]} for n in sorted({*numbers})]
    assert len(part) == 1000
    assert 1350 < sum(numbers) / 1000 < 1650
    assert copied(path, tmp_path / "other", rows=1000, seed=1) != part


def test_pixmo_list_keeps_its_transcripts(tmp_path):
    rows = [
        {"image_url": f"https://a.example/{n}", "caption": "c", "transcripts": ["x", "y"][:n]}
        for n in range(3)
    ]
    path = write_parquet(tmp_path / "a.parquet", rows, transcripts=pa.list_(pa.string()))
    form = PixmoCapDownload(out=tmp_path).list_format
    expected = [{"url": row.pop("image_url"), **row} for row in rows]
    assert copied(path, tmp_path / "out", form) == numbered(expected)


def test_cc3m_list_has_no_header(tmp_path):
    captions = ['a dog , in the "park"', '"quoted"', "o'clock"]
    path = tmp_path / "Train_GCC-training.tsv"
    path.write_text("".join(f"{text}\thttp://a.example/{n}\n" for n, text in enumerate(captions)))
    form = Cc3mDownload(out=tmp_path, list=path).list_format
    rows = copied(path, tmp_path / "out", form)
    assert [row["url"] for row in rows] == [f"http://a.example/{n}" for n in range(3)]
    assert [row["caption"] for row in rows] == ['a dog , in the "park"', "quoted", "o'clock"]


def test_list_sha256_is_remembered_until_the_list_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text(to_csv(ROWS))
    digest = list_sha256(path, tmp_path)
    copied(path, tmp_path)
    monkeypatch.setattr("edge_lib.sources.download.url_lists._sha256", lambda stamps: "computed")
    assert list_sha256(path, tmp_path) == digest
    path.write_text(to_csv(ROWS[1:]))
    assert list_sha256(path, tmp_path) == "computed"
    path.unlink()
    assert list_sha256(path, tmp_path) == digest
    with pytest.raises(ConfigError, match="no file matches"):
        list_sha256(tmp_path / "b.csv", tmp_path)


@pytest.mark.parametrize("name", ["urls", "pixmo-cap", "cc3m", "laion"])
def test_list_is_a_path(name):
    assert path_fields(download_class(name)) == {"out", "list"}


@pytest.mark.parametrize(
    ("name", "where"),
    [("cc3m", "Train_GCC-training.tsv .*ConceptualCaptions"), ("laion", "relaion2B.*on the Hub")],
    ids=["cc3m", "laion"],
)
def test_list_that_is_not_given_says_where_it_is(tmp_path, name, where):
    with pytest.raises(ConfigError, match=f"^{name}: list: name the list; .*{where}"):
        download(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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

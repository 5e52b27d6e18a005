"""csv, tsv, json, jsonl and Parquet tables of pictures: columns, paths, captions, broken rows."""

import base64
import json
import os
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from edge_lib.config import ROOT, ConfigError, DataConfig, TableConfig
from edge_lib.sources import load_table


@pytest.fixture
def pictures(tmp_path, encode_image):
    """A folder with 0.png ... 9.png; picture n is 10 + n pixels wide."""
    folder = tmp_path / "odd [v2] folder*"
    folder.mkdir()
    for n in range(10):
        (folder / f"{n}.png").write_bytes(encode_image(n, size=(10 + n, 8)))
    return folder


@pytest.fixture
def load(tmp_path):
    """load(file, ..., key=value) -> the train table of these files."""

    def load(*files, split="train", divide=None, **keys):
        names = {"val": ["val.csv"], "test": ["test.csv"]} if divide is None else {}
        section = TableConfig(train=list(map(str, files)), **names, **keys)
        config = DataConfig(
            source="table", table=section, split=divide, cache_dir=tmp_path / "cache"
        )
        return load_table(config, split)

    return load


def rows():
    return [{"image": f"{n}.png", "caption": f'a "{n}", it\'s', "key": n} for n in range(10)]


def write(path, rows):
    """Rows in the format of the file's suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        Dataset.from_list(rows).to_pandas().to_csv(path, sep=separator, index=False)
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_table_reads_ten_rows(pictures, load, suffix):
    table = load(write(pictures / f"captions.{suffix}", rows()), id_column="key")
    assert table.ids == list(map(str, range(10)))
    assert table.captions == [f'a "{n}", it\'s' for n in range(10)]
    assert [image.size for image in table.images(range(10))] == [(10 + n, 8) for n in range(10)]
    assert not table.skipped


def test_rows_share_a_picture_by_its_id(pictures, load):
    cells = [("0.png", 7), ("1.png", 8), ("0.png", 7), (None, 8), ("1.png", None)]
    clips = [f"data:audio/wav;base64,{'AAAA' * n}" for n in range(1, 6)]
    rows = [
        {"image": image, "audio": clip, "photo": key, "caption": "x"}
        for (image, key), clip in zip(cells, clips, strict=True)
    ]
    file = write(pictures / "a.jsonl", rows)
    table = load(file, audio_column="audio", image_id_column="photo")
    assert table.image_rows.tolist() == [0, 1, 4]
    assert table.image_index.tolist() == [0, 1, 0, 1, 2]


def test_table_reads_data_uris(pictures, load):
    content = base64.b64encode((pictures / "3.png").read_bytes()).decode()
    cells = [f"data:image/png;base64,{content}", "4.png", "data:,broken"]
    table = load(write(pictures / "a.csv", [{"image": c, "caption": "x"} for c in cells]))
    assert [image and image.size for image in table.images(range(3))] == [(13, 8), (14, 8), None]
    assert table.skipped == {"image does not decode": ["2"]}


@pytest.mark.parametrize("place", ["folder", "repository", "absolute", "named", "windows"])
def test_table_finds_paths(pictures, load, place, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    prefix = {
        "folder": f"../{pictures.name}/",
        "repository": "tests/sources/../../docs/",
        "absolute": f"{pictures}/",
        "named": "",
        "windows": f"..\\{pictures.name}\\",
    }[place]
    name = "data.md" if place == "repository" else "3.png"
    file = write(other / "a.csv", [{"image": f"{prefix}{name}", "caption": "x"}])
    table = load(file, folder=pictures if place == "named" else None)
    expected = ROOT / "docs/data.md" if place == "repository" else pictures / "3.png"
    (path,) = table.column("image")
    assert other.joinpath(path).resolve() == expected.resolve()
    assert path.startswith("/")


@pytest.mark.parametrize("name", ["~$3.png", "~", "~no such user/3.png"])
def test_table_takes_a_tilde_in_a_name_as_it_stands(pictures, load, name):
    path = pictures / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((pictures / "3.png").read_bytes())
    rows = [{"image": n, "caption": "x"} for n in (name, "~$absent.png", "~absent/3.png")]
    table = load(write(pictures / "a.csv", rows))
    assert [image and image.size for image in table.images(range(3))] == [(13, 8), None, None]
    assert table.skipped == {"image does not decode": ["1", "2"]}


def test_table_counts_a_missing_file_and_an_empty_cell(pictures, load):
    cells = ["0.png", "missing.png", "", " "]
    table = load(write(pictures / "a.csv", [{"image": c, "caption": "x"} for c in cells]))
    assert [image is None for image in table.images(range(4))] == [False, True, True, True]
    assert table.skipped == {"image does not decode": ["1"], "no image": ["2", "3"]}


def test_table_joins_the_rows_of_a_picture(pictures, load):
    names = ["0.png", "1.png", "0.png", "2.png", "1.png", "0.png"]
    file = write(
        pictures / "captions.txt",
        [{"image": n, "caption": f"{n} {i}"} for i, n in enumerate(names)],
    )
    table = load(file)
    assert table.column("texts") == [
        ["0.png 0", "0.png 2", "0.png 5"],
        ["1.png 1", "1.png 4"],
        ["2.png 3"],
    ]
    assert [image.size[0] for image in table.images(range(3))] == [10, 11, 12]


def test_table_joins_several_caption_columns(pictures, load):
    lines = [
        {"image": "0.png", "caption": "a", "transcripts": ["b", "c"]},
        {"image": "1.png", "caption": None, "transcripts": ["d"]},
        {"image": "2.png", "caption": "e", "transcripts": None},
    ]
    table = load(write(pictures / "a.jsonl", lines), caption_column=["caption", "transcripts"])
    assert table.captions == ["a", "b", "c", "d", "e"]
    assert table.caption_rows.tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_table_reads_fields_of_structs(pictures, load, suffix):
    lines = [{"image": f"{n}.png", "captions": {"short": "s", "long": f"l{n}"}} for n in range(3)]
    file = write(pictures / f"a.{suffix}", lines)
    assert load(file, caption_column="captions.long").captions == ["l0", "l1", "l2"]
    with pytest.raises(ConfigError, match=r"name a field of it: captions\.short, captions\.long"):
        load(file, caption_column="captions")


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_table_reads_fields_of_structs_in_lists(pictures, load, suffix):
    sentences = [[{"raw": "a"}, {"raw": "b"}], [], None, [{"raw": "c"}]]
    lines = [{"image": f"{n}.png", "sentences": s} for n, s in enumerate(sentences)]
    table = load(write(pictures / f"a.{suffix}", lines), caption_column="sentences.raw")
    assert [texts or [] for texts in table.column("texts")] == [["a", "b"], [], [], ["c"]]


def test_table_reads_json_lists_in_csv(pictures, load):
    captions = ['["a", "it\'s b"]', "[a] c", '[ "d" ]', "", "[1, 2]"]
    lines = [{"image": f"{n}.png", "caption": c} for n, c in enumerate(captions)]
    table = load(write(pictures / "a.csv", lines))
    assert table.captions == ["a", "it's b", "[a] c", "d", "[1, 2]"]


@pytest.mark.parametrize("text", ["['a', 'b']", "[\"it's\", 'b']", "['a' 'b']"])
def test_table_rejects_python_lists(pictures, load, text):
    file = write(pictures / "a.csv", [{"image": "0.png", "caption": text}])
    with pytest.raises(ConfigError, match=r"a\.csv: column 'caption': a list of .* must be JSON"):
        load(file)


def test_table_keeps_a_caption_in_brackets_and_quotes(pictures, load):
    captions = ["a", "['b']", "", '["c", "d"]']
    lines = [{"image": f"{n}.png", "caption": c} for n, c in enumerate(captions)]
    table = load(write(pictures / "a.csv", lines))
    assert table.captions == ["a", "['b']", "c", "d"]


def test_table_rejects_json_objects_as_captions(pictures, load):
    captions = ['{"short": "a"}', '[{"raw": "b"}]', ""]
    lines = [{"image": f"{n}.png", "caption": c} for n, c in enumerate(captions)]
    with pytest.raises(
        ConfigError, match=r"a\.csv: column 'caption' holds JSON, not plain text: '"
    ):
        load(write(pictures / "a.csv", lines))


def test_table_takes_empty_json_lists_for_no_caption(pictures, load):
    lines = [{"image": "0.png", "caption": "[]"}, {"image": "1.png", "caption": '["a"]'}]
    assert load(write(pictures / "a.csv", lines)).captions == ["a"]


def test_table_keeps_texts_as_they_stand(pictures, load):
    texts = [
        "None",
        "nan",
        "007",
        "true",
        "2020-01-01",
        " padded ",
        "line\nbreak",
        "emoji 😀",
        "NULL",
    ]
    lines = [{"image": f"{n}.png", "caption": t} for n, t in enumerate(texts)]
    for suffix in ("csv", "jsonl"):
        table = load(write(pictures / f"a.{suffix}", lines))
        assert table.column("texts") == [[text] for text in texts]


def test_table_reads_labels_by_name(pictures, load):
    features = Features({"image": Value("string"), "label": ClassLabel(names=["big_cat", "dog"])})
    columns = {"image": ["0.png", "1.png", "2.png"], "label": [1, 0, -1]}
    Dataset.from_dict(columns, features).to_parquet(pictures / "a.parquet")
    table = load(pictures / "a.parquet", caption_column="label")
    assert table.column("texts") == [["dog"], ["big cat"], [None]]


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        (b"\xef\xbb\xbfimage,caption\r\n0.png,a\r\n1.png,b\r\n", ["a", "b"]),
        (b"image;caption\n0.png;a, b\n", ["a, b"]),
        (b"image|caption\n0.png|a\n", ["a"]),
        (b'caption,image\n"two\nlines",0.png\n', ["two\nlines"]),
        (b"image,caption\n\n0.png,a\n\n", ["a"]),
        ("image\tcaption\r\n0.png\ta\r\n".encode("utf-16"), ["a"]),
        (b"image,caption\r0.png,a\r1.png,b\r", ["a", "b"]),
        (b'image,caption\n0.png,a 5" screen\n1.png,b\n', ['a 5" screen', "b"]),
        (b'image,caption\n0.png,"a\n1.png,b\n2.png,"c\n', ['"a', "b", '"c']),
        (b'image,caption\n0.png,"big" cat\n1.png,"b \\"c\\" d"\n', ['"big" cat', '"b \\"c\\" d"']),
        (b'image,caption\n0.png,a\n1.png,"b', ["a", '"b']),
    ],
    ids=[
        *("byte-order-mark", "semicolons", "bars", "line-break", "blank-lines", "utf-16", "mac"),
        *("inches", "not-closed", "quotes-inside", "not-closed-at-the-end"),
    ],
)
def test_table_reads_variants_of_csv(pictures, load, content, captions):
    (pictures / "a.csv").write_bytes(content)
    assert load(pictures / "a.csv").captions == captions


def test_table_takes_quotes_in_tsv_as_they_stand(pictures, load):
    lines = ["image\tcaption", '0.png\t"big" cat', '1.png\ta 5" screen', '2.png\t"a', '3.png\tb"']
    (pictures / "a.tsv").write_text("\n".join(lines))
    assert load(pictures / "a.tsv").captions == ['"big" cat', 'a 5" screen', '"a', 'b"']


def test_table_skips_lines_with_other_fields(pictures, load):
    content = b"image,caption\n0.png,a\n1.png,b, c\n2.png\n1.png,caf\xe9\n3.png,d\n"
    (pictures / "a.csv").write_bytes(content)
    for _ in range(2):  # again from the cache
        table = load(pictures / "a.csv")
        assert table.captions == ["a", "d"]
        assert table.skipped == {
            "another number of fields than the header": ["a.csv:3", "a.csv:4"],
            "not UTF-8": ["a.csv:5"],
        }


def test_table_skips_odd_objects(pictures, load):
    good = [{"image": f"{n}.png", "caption": "x", "key": n} for n in range(6)]
    odd = [
        "[1]",
        "not json",
        '{"image": 3, "caption": "x"}',
        '{"image": "7.png", "caption": {"a": 1}}',
        "[" * 100_000,
    ]
    good[4]["caption"] = float("nan")
    (pictures / "a.jsonl").write_text(
        "\n".join([*map(json.dumps, good[:3]), *odd, "", *map(json.dumps, good[3:])])
    )
    table = load(pictures / "a.jsonl", id_column="key")
    assert table.ids == list("012345")
    assert table.captions == ["x"] * 5
    assert table.skipped == {
        "not a JSON object": ["a.jsonl:4", "a.jsonl:5", "a.jsonl:8"],
        "column 'image' is int; image takes bytes, text (a path or data URI), {bytes, path} or "
        "{path, offset, size}": ["a.jsonl:6"],
        "column 'caption' is dict; texts takes text or lists of texts": ["a.jsonl:7"],
        "no caption": ["4"],
    }


def test_table_mixes_texts_and_lists_of_captions(pictures, load):
    lines = [
        {"image": f"{n}.png", "caption": c} for n, c in enumerate(["a", ["b", None, "c"], [], None])
    ]
    lines[0]["key"], lines[1]["key"] = 1, "two"
    table = load(write(pictures / "a.json", lines), id_column="key")
    assert table.captions == ["a", "b", "c"]
    assert table.ids == ["1", "two", "2", "3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"image,caption\n0.png,\xe9\n", r"no file has rows; not UTF-8: a\.csv:2"),
        ("a.csv", b"", "table train: no file has rows"),
        ("a.csv", b"image,caption\n", "table train: no file has rows"),
        ("a.csv", b"picture,text\n0.png,a\n", r"no column 'image'; it has 'picture', 'text'"),
        ("a.csv", b"image,captoin\n0.png,a\n", r"no column 'caption' \(did you mean 'captoin'\?\)"),
        ("a.csv", b"image,caption\nnone.png,a\n", r"image: no such file as none\.png in .* or "),
        (
            "a.csv",
            b"image,caption\n" + b"iVBOR" * 1000 + b",a\n",
            r"no such file as (iVBOR){12}\.\.\. \(base64 is written as a data URI, ",
        ),
        ("a.csv", b"image,caption\nhttps://x/0.png,a\n", r"https://x/0\.png is a URL"),
        (
            "a.json",
            b'{"images": "a", "more": {"a": 1}}',
            r"no column 'image' \(did you mean 'images",
        ),
        ("a.json", b"[{", r"a\.json is not JSON: Expecting"),
        ("a.json", b"[" * 100_000, r"a\.json is not JSON: maximum recursion depth"),
        ("a.jsonl", b"\n\n", "table train: no file has rows"),
        (
            "a.jsonl",
            b'{"image": "0.png", "caption": 3}\n',
            r"a\.jsonl: column 'caption' is int; texts takes",
        ),
        ("a.parquet", b"PAR1", r"a\.parquet is not a Parquet file"),
    ],
    ids=range(14),
)
def test_table_error_names_file_and_cause(pictures, load, name, content, message):
    (pictures / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(pictures / name)
    assert len(str(caught.value).splitlines()) == 1 + message.startswith("no column 'image'")


def test_table_reports_every_wrong_column(pictures, load):
    file = write(pictures / "a.csv", rows())
    with pytest.raises(ConfigError) as caught:
        load(file, image_column="img", caption_column=["text", "caption"], id_column="id")
    assert [
        line.partition(";")[0].partition(" no ")[2] for line in str(caught.value).splitlines()
    ] == [
        "column 'img' (did you mean 'image'?)",
        "column 'text'",
        "column 'id'",
    ]


def test_table_reads_an_empty_json_field_of_a_list(pictures, load):
    (pictures / "a.json").write_text(json.dumps({"info": {}, "data": rows(), "version": [1]}))
    assert len(load(pictures / "a.json")) == 10


def test_table_reads_compressed_lines(pictures, load):
    file = write(pictures / "a.jsonl", rows())
    with pa.CompressedOutputStream(str(pictures / "a.jsonl.gz"), "gzip") as stream:
        stream.write(file.read_bytes())
    assert load(pictures / "a.jsonl.gz").captions == load(file).captions


def test_table_reads_several_files_and_formats(pictures, load):
    files = [
        write(pictures / name, rows()[n : n + 2]) for n, name in enumerate(["a.csv", "b.jsonl"])
    ]
    assert len(load(*files).captions) == 4
    assert len(load(*files)) == 3, "the second row of the first file is the first of the second"


def test_table_rejects_one_file_in_two_splits(pictures, tmp_path, load):
    file = write(pictures / "a.csv", rows())
    with pytest.raises(ValueError, match=r"train and val name the same files: .*a\.csv; to divide"):
        TableConfig(train=str(file), val=str(file), test="b.csv")
    section = TableConfig(train="a*.csv".join([f"{tmp_path}/*/", ""]), val=str(file), test="b.csv")
    config = DataConfig(source="table", table=section, cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"data\.table: val and train both read .*a\.csv"):
        load_table(config, "val")


def test_table_without_val_asks_for_a_split(pictures, tmp_path):
    file = write(pictures / "a.csv", rows())
    config = DataConfig(source="table", table={"train": str(file)}, cache_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"data\.table\.val names no files; .*data\.split\.val"):
        load_table(config, "val")
    with pytest.raises(ValueError, match=r"table\.val and split\.val both name this split"):
        DataConfig(source="table", table={"train": "a", "val": "b"}, split={"val": 0.1})


def test_table_is_divided_by_a_column(pictures, load):
    lines = [row | {"writer": row["key"] // 2} for row in rows()]
    file = write(pictures / "a.csv", lines)
    divide = {"val": 0.2, "test": 0.2, "by": "writer"}
    tables = [load(file, split=s, divide=divide, id_column="key") for s in ("train", "val", "test")]
    assert [len(table) for table in tables] == [6, 2, 2]
    writers = [{int(name) // 2 for name in table.ids} for table in tables]
    assert sum(map(len, writers)) == 5 == len(set.union(*writers))
    with pytest.raises(ConfigError, match=r"no column 'author'; it has"):
        load(file, divide=divide | {"by": "author"})


def test_table_fingerprint_follows_pictures_not_places(pictures, load, encode_image, tmp_path):
    before = load(write(pictures / "a.csv", rows())).fingerprint
    (pictures / "a.csv").touch()
    assert load(pictures / "a.csv").fingerprint == before
    copy = pictures.rename(tmp_path / "copy")
    assert load(copy / "a.csv").fingerprint == before
    (copy / "3.png").write_bytes(encode_image(99))
    assert load(copy / "a.csv").fingerprint != before


def test_table_reads_no_picture_when_it_is_opened(pictures, load, monkeypatch):
    file = write(pictures / "a.csv", rows())
    load(file)
    for n in range(10):
        (pictures / f"{n}.png").unlink()
    table = load(file)
    assert len(table) == 10
    assert table.images([0]) == [None]


def test_table_resolves_paths_in_structs(pictures, load):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    content = (pictures / "3.png").read_bytes()
    cells = [{"bytes": content, "path": "a name"}, {"bytes": None, "path": "4.png"}, None]
    columns = {"image": pa.array(cells, kind), "caption": ["a", "b", "c"]}
    pq.write_table(pa.table(columns), pictures / "a.parquet")
    table = load(pictures / "a.parquet")
    assert [image and image.size[0] for image in table.images(range(3))] == [13, 14, None]
    assert table.skipped == {"no image": ["2"]}
    rows = [{"image": {"path": f"{n}.png"}, "caption": "x"} for n in range(3)]
    table = load(write(pictures / "b.jsonl", rows))
    assert [image.size[0] for image in table.images(range(3))] == [10, 11, 12]


@pytest.mark.parametrize(
    ("images", "captions"),
    [
        (
            pa.array(["0.png", "1.png"], pa.large_string()),
            pa.array([["a"], ["b", "c"]], pa.large_list(pa.large_string())),
        ),
        (
            pa.array(["0.png", "1.png"]).dictionary_encode(),
            pa.array(["a", "b"]).dictionary_encode(),
        ),
        (
            pa.array(["0.png", "1.png"], pa.string_view()),
            pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
        ),
    ],
    ids=["large", "dictionary", "view"],
)
def test_table_reads_other_arrow_types(pictures, load, images, captions):
    pq.write_table(pa.table({"image": images, "caption": captions}), pictures / "a.parquet")
    table = load(pictures / "a.parquet")
    assert table.captions[:2] == ["a", "b"]
    assert [image.size[0] for image in table.images(range(2))] == [10, 11]


@pytest.mark.parametrize("several", [False, True], ids=["text", "list"])
def test_table_skips_texts_of_parquet_that_are_not_utf8(pictures, load, several):
    def texts(*values):
        return pa.array(values, pa.binary()).view(pa.string())

    captions = texts(b"a", b"\xff", b"c", b"d")
    if several:
        captions = pa.ListArray.from_arrays(list(range(5)), captions)
    columns = {"image": texts(b"0.png", b"1.png", b"\xc3(.png", b"3.png"), "caption": captions}
    pq.write_table(
        pa.table(columns | {"key": texts(b"k", b"l", b"m", b"\xe9")}), pictures / "a.parquet"
    )
    table = load(pictures / "a.parquet", id_column="key")
    assert (table.captions, table.ids) == (["a", "c", "d"], ["k", "l", "m", "3"])
    assert [image and image.size[0] for image in table.images(range(4))] == [10, 11, None, 13]
    assert table.skipped == {"no caption": ["l"], "no image": ["m"]}


def test_table_keeps_the_rows_of_empty_files_apart(pictures, load):
    for name in ("0.png", "1.png", "2.png"):
        (pictures / name).write_bytes(b"")  # as a download that failed leaves it
    cells = ["0.png", "1.png", "2.png", "3.png", "data:,"]
    table = load(write(pictures / "a.csv", [{"image": c, "caption": c} for c in cells]))
    assert table.column("texts") == [[name] for name in cells]
    assert [image is None for image in table.images(range(5))] == [True, True, True, False, True]
    assert table.skipped == {"no image": ["0", "1", "2", "4"]}


def test_table_reads_halves_of_emojis(pictures, load):
    (pictures / "a.jsonl").write_text('{"image": "0.png", "caption": "a \\ud83d"}\n')
    assert load(pictures / "a.jsonl").captions == ["a ?"]


def test_table_rejects_two_columns_of_one_name(pictures, load):
    (pictures / "a.csv").write_text("image,caption,caption\n0.png,a,b\n")
    with pytest.raises(ConfigError, match=r"a\.csv: several columns are called 'caption'"):
        load(pictures / "a.csv")


def test_table_paths_are_relative_to_their_own_file(pictures, load, encode_image, tmp_path):
    """Both files were read beside the first one."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/0.png").write_bytes(encode_image(0, size=(50, 8)))
    row = [{"image": "0.png", "caption": "x"}]
    files = [write(folder / "a.parquet", row) for folder in (pictures, tmp_path / "other")]
    assert [image.size[0] for image in load(*files).images(range(2))] == [10, 50]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_table_goes_on_after_odd_rows_in_a_later_part(pictures, load, suffix, monkeypatch):
    """The last part of a file may be one row: it decides nothing about the others."""
    monkeypatch.setattr("edge_lib.sources.json_files.MAX_ROWS", 2)
    monkeypatch.setattr("edge_lib.sources.parquet.BATCH", 2)
    cells = ["0.png", "1.png", "gone.png", "https://a.org/a.png", "2.png"]
    odd = [{"image": "3.png", "caption": 5}, {"image": {"path": 3}, "caption": "x"}]
    lines = [{"image": cell, "caption": "x"} for cell in cells]
    table = load(write(pictures / f"a.{suffix}", lines + odd * (suffix == "jsonl")))
    assert [image and image.size[0] for image in table.images(range(5))] == [10, 11, None, None, 12]
    assert [len(names) for names in table.skipped.values()] == (
        [2] if suffix == "parquet" else [1, 1, 2]
    )


def test_table_opens_more_files_than_a_process_may(pictures, load):
    for n in range(40):
        write(pictures / f"{n}.parquet", [{"image": f"{n % 10}.png", "caption": f"{n}"}])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, limits[1]))
    try:
        assert len(load(pictures.parent / "*/*.parquet").captions) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_table_reads_one_line_of_jsonl_with_a_list(pictures, load):
    line = {"image": "0.png", "caption": "x", "objects": [{"image": "1.png", "caption": "y"}]}
    assert load(write(pictures / "a.jsonl", [line])).captions == ["x"]

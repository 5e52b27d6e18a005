"""Types of columns: what is taken, what is one clear error, and shards that disagree."""

import datetime

import pyarrow as pa
import pytest
from datasets import Audio, ClassLabel, Features, Image, List, Value

from edge_lib.config import ConfigError
from edge_lib.data.columns import SCHEMA_TYPES, check_columns, check_shards, missing_column
from edge_lib.data.table import SCHEMA

TEXT = pa.string()
FILE = pa.struct([("bytes", pa.binary()), ("path", TEXT)])
MEMBER = pa.struct([("path", TEXT), ("offset", pa.int64()), ("size", pa.int64())])
TURN = pa.struct([("role", TEXT), ("content", TEXT)])
PAIR = pa.struct([("short", TEXT), ("long", TEXT)])
LABEL = pa.dictionary(pa.int8(), TEXT)

TAKEN = [
    *(("texts", kind) for kind in (TEXT, pa.large_string(), pa.string_view(), LABEL)),
    *(("texts", pa.list_(kind)) for kind in (TEXT, pa.large_string(), LABEL, pa.null())),
    *(("texts", kind) for kind in (pa.large_list(TEXT), pa.list_(TEXT, 5))),
    *(("image", kind) for kind in (pa.binary(), pa.large_binary(), TEXT, FILE, MEMBER)),
    ("image", pa.struct([("bytes", pa.null()), ("path", TEXT)])),
    *(("id", kind) for kind in (TEXT, pa.int64(), pa.uint8(), LABEL)),
    *(("group", kind) for kind in (pa.int32(), TEXT)),
    *(("image_ids", pa.list_(kind)) for kind in (TEXT, pa.int64())),
    ("turns", pa.list_(TURN)),
    *((name, pa.null()) for name in SCHEMA.names),
    *((field.name, field.type) for field in SCHEMA),
]
REFUSED = [
    *(("texts", kind) for kind in (PAIR, pa.list_(PAIR), pa.map_(TEXT, TEXT), pa.int64())),
    *(("texts", kind) for kind in (pa.binary(), pa.float64(), pa.bool_(), pa.date32())),
    *(("texts", kind) for kind in (pa.list_(pa.list_(TEXT)), pa.list_(pa.int64()), pa.json_())),
    *(("image", kind) for kind in (pa.list_(pa.uint8()), pa.int64(), pa.list_(FILE), PAIR)),
    ("image", pa.struct([("bytes", TEXT), ("path", TEXT)])),
    ("image", pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.int64())])),
    *(("id", kind) for kind in (pa.float64(), pa.timestamp("us"), pa.list_(TEXT), pa.bool_())),
    *(("question", kind) for kind in (pa.list_(TEXT), pa.int64())),
    ("answers", pa.list_(pa.struct([("answer", TEXT)]))),
    ("group", pa.float64()),
    ("turns", TEXT),
    ("turns", pa.list_(pa.struct([("from", TEXT), ("value", TEXT)]))),
    ("turns", pa.struct([("role", pa.list_(TEXT)), ("content", pa.list_(TEXT))])),
]


@pytest.mark.parametrize(("name", "kind"), TAKEN, ids=str)
def test_columns_of_right_types_are_taken(name, kind):
    check_columns(pa.schema({"column": kind}), {name: "column"}, "a.parquet")


@pytest.mark.parametrize(("name", "kind"), REFUSED, ids=str)
def test_columns_of_wrong_types_are_refused(name, kind):
    with pytest.raises(ConfigError) as error:
        check_columns(pa.schema({"column": kind}), {name: "column"}, "a.parquet")
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"a.parquet: column 'column' is {kind}; {name} takes ")


def test_every_column_of_the_schema_has_types():
    assert [*SCHEMA_TYPES] == [*SCHEMA.names, "url", "caption"]  # the last of lists of URLs


def test_wrong_columns_are_one_error_with_a_line_each():
    schema = pa.schema({"caption": pa.int64(), "picture": FILE, "key": TEXT})
    with pytest.raises(ConfigError) as error:
        check_columns(schema, {"texts": "caption", "image": "pictures", "id": "key"}, "a.parquet")
    assert str(error.value).splitlines() == [
        "a.parquet: column 'caption' is int64; texts takes text or lists of texts",
        "a.parquet: no column 'pictures' (did you mean 'picture'?); "
        "it has 'caption', 'picture', 'key'",
    ]


# --- fields of structs -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PAIR, pa.list_(PAIR)], ids=["struct", "list"])
def test_struct_is_refused_with_the_names_of_its_fields(kind):
    with pytest.raises(ConfigError, match=r"name a field of it: captions\.short, captions\.long$"):
        check_columns(pa.schema({"captions": kind}), {"texts": "captions"}, "a")


def test_dotted_names_are_fields():
    deep = pa.struct([("a", pa.struct([("b", TEXT), ("n", pa.int64())]))])
    schema = pa.schema({"c": PAIR, "d": deep, "e": pa.list_(PAIR), "f.g": TEXT, "f": pa.int64()})
    for column in ("c.long", "d.a.b", "e.short", "f.g"):
        check_columns(schema, {"texts": column}, "a")
    with pytest.raises(ConfigError, match=r"'d\.a\.n' is int64; texts takes"):
        check_columns(schema, {"texts": "d.a.n"}, "a")
    for column in ("c.wide", "c.long.x", "x.long", ".", "c.", "f.h"):
        with pytest.raises(ConfigError, match="no column"):
            check_columns(schema, {"texts": column}, "a")
    with pytest.raises(ConfigError, match=r"did you mean 'c\.long'"):
        check_columns(schema, {"texts": "c.lonf"}, "a")


# --- Hugging Face features -------------------------------------------------------------------


def test_features_of_hugging_face_are_taken():
    features = Features(
        image=Image(), audio=Audio(), label=ClassLabel(names=["cat", "dog"]), day=Value("date32")
    )
    check_columns(features, {"image": "image", "audio": "audio", "texts": "label"}, "a")
    check_columns(features, {"group": "label"}, "a")
    for wrong in ({"texts": "image"}, {"texts": "day"}):
        with pytest.raises(ConfigError, match="takes"):
            check_columns(features, wrong, "a")
    check_columns(features.arrow_schema, {"texts": "label"}, "the same in a file's schema")


def test_list_of_labels_is_no_text():
    features = Features(tags=List(ClassLabel(names=["cat", "dog"])))
    with pytest.raises(ConfigError, match=r"'tags' is list<.*int64>; texts takes"):
        check_columns(features, {"texts": "tags"}, "a")


# --- shards ----------------------------------------------------------------------------------


def test_shards_of_one_type_agree():
    kinds = [TEXT, pa.large_string(), LABEL, pa.null()]
    check_shards({f"{i}.parquet": pa.schema({"t": kind}) for i, kind in enumerate(kinds)})
    lists = [pa.list_(pa.null()), pa.list_(TEXT), pa.large_list(pa.large_string())]
    check_shards({f"{i}.parquet": pa.schema({"t": kind}) for i, kind in enumerate(lists)})
    check_shards({"a": pa.schema({"n": pa.int32()}), "b": pa.schema({"n": pa.int64()})})
    check_shards({"a": pa.schema({"x": FILE}), "b": pa.schema({"x": FILE, "y": TEXT})}, ["x"])
    check_shards({})


@pytest.mark.parametrize(
    ("kinds", "line"),
    [
        ((TEXT, pa.list_(TEXT)), "a.parquet and b.parquet disagree: column 't' is string in the "),
        ((pa.null(), TEXT, pa.int64()), "b.parquet and c.parquet disagree: column 't' is string"),
        ((FILE, MEMBER), "a.parquet and b.parquet disagree: column 't' is struct<bytes"),
        ((pa.list_(TEXT), pa.list_(pa.int64())), "a.parquet and b.parquet disagree"),
        (
            (TEXT, pa.binary()),
            "a.parquet and b.parquet disagree: column 't' is string in the first, ",
        ),
    ],
    ids=["list", "after nulls", "struct", "items", "bytes"],
)
def test_shards_of_two_types_are_an_error_with_both_files(kinds, line):
    schemas = zip(("a.parquet", "b.parquet", "c.parquet"), kinds, strict=False)
    with pytest.raises(ConfigError) as error:
        check_shards({file: pa.schema({"t": kind}) for file, kind in schemas})
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_shard_that_lacks_a_column_is_an_error_with_both_files():
    schemas = {"a": pa.schema({"t": TEXT, "u": TEXT}), "b": pa.schema({"t": TEXT})}
    check_shards(schemas, ["t"])
    for order in (schemas, dict(reversed(schemas.items()))):
        with pytest.raises(ConfigError, match=r"disagree: column 'u' is .*missing"):
            check_shards(order)


def test_dates_are_refused_with_their_type():
    schema = pa.table({"d": [datetime.date(2024, 1, 1)]}).schema
    with pytest.raises(ConfigError, match=r"column 'd' is date32\[day\]; id takes text or whole"):
        check_columns(schema, {"id": "d"}, "a")


def test_missing_column_lists_ten_names():
    names = [f"p{number:02}.png" for number in range(60)]
    listed = ", ".join(map(repr, names[:10]))
    assert missing_column("image", names) == f"no column 'image'; it has {listed}, and 50 more"
    assert missing_column("image", names[:10]) == f"no column 'image'; it has {listed}"

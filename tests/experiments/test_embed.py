"""Tables embedded into a Parquet file, and what other libraries read from it."""

import json
import re

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch.nn.functional as F
from audio_helpers import encode, sine
from datasets import Dataset
from torch import nn

from edge_lib import __main__ as command_line
from edge_lib.config import ROOT, ConfigError, DecoderConfig, FeaturesConfig, ModalityConfig
from edge_lib.data.vocabulary import Vocabulary
from edge_lib.experiments import embed
from edge_lib.experiments.embed import embed_source, write_embeddings
from edge_lib.models import Aligner, QAModel
from edge_lib.models.saving import model_digest
from edge_lib.search import MatryoshkaIndex
from edge_lib.sources import load_table
from edge_lib.sources.own_files import data_of_path

DOCS = ROOT / "docs" / "models.md"
CAPTIONS = ["a red nine", "a small blue one", "seven at the top", "a green two", "three"]


@pytest.fixture(scope="module")
def aligner():
    return Aligner.from_pretrained("tiny-align")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(cache_dir, monkeypatch):
    """Features of a path are stored below the tests' folder; equal pictures are encoded once."""

    def data(path, **columns):
        return data_of_path(path, **columns).model_copy(update={"cache_dir": cache_dir})

    monkeypatch.setattr(embed, "data_of_path", data)
    return data


@pytest.fixture
def pictures(tmp_path, encode_image):
    """A folder of five captioned pictures, and one that is broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.png").write_bytes(encode_image(n, size=(40, 40)))
    (folder / "broken.png").write_bytes(b"no picture")
    rows = [f"{n}.png,{caption}" for n, caption in enumerate(CAPTIONS)]
    rows.insert(2, "broken.png,nothing")
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *rows]))
    return folder


@pytest.fixture
def vectors(aligner, pictures, cache):
    """The unit embeddings (5, D) of the pictures, by the aligner itself."""
    images = load_table(cache(pictures), "train").images([0, 1, 3, 4, 5])
    return {d: F.normalize(aligner.embed("vision", images)[:, :d], dim=1).numpy() for d in (16, 64)}


def column(frame, name):
    return np.stack(frame[name]).astype(np.float32)


def test_two_processes_write_the_same_file_as_one(aligner, pictures, cache, tmp_path):
    tables, counts, options = [], [], {"dims": [16], "features": FeaturesConfig(shard_rows=2)}
    for number in (1, 2):
        data = cache(pictures).model_copy(update={"cache_dir": tmp_path / f"cache-{number}"})
        out, options["num_processes"] = tmp_path / f"{number}.parquet", number
        counts.append(write_embeddings(aligner, data, ["train"], out, **options))
        tables.append(pq.read_table(out).to_pandas())
    (folder,) = (tmp_path / "cache-2/logs").iterdir()
    logs = "".join((folder / f"rank-{rank}.log").read_text() for rank in (0, 1))
    for start in (0, 2, 4):  # each by one of the two
        assert logs.count(f"train vision: items {start}-{start + 2} of 6") == 1
    assert counts[0] == counts[1]
    np.testing.assert_allclose(*(column(table, "embedding_16") for table in tables), atol=1e-3)
    one, two = (table.drop(columns="embedding_16") for table in tables)
    pd.testing.assert_frame_equal(one, two)


def test_file_has_a_row_for_each_picture_and_caption(aligner, pictures, tmp_path, vectors):
    out = tmp_path / "new" / "out.parquet"
    counts = embed_source(aligner, pictures, out, dims=[64, 16])
    assert counts == {
        "train/vision": {"embedded": 5, "skipped": 1},
        "train/text": {"embedded": 6, "skipped": 0},
    }
    frame = pd.read_parquet(out)
    seen, texts = (frame[frame["modality"] == name] for name in ("vision", "text"))
    assert seen["id"].tolist() == [f"{n}.png" for n in range(5)]
    assert seen["row"].tolist() == [0, 1, 3, 4, 5]
    assert seen["text"].tolist() == CAPTIONS
    assert seen["path"].tolist() == [str(pictures / f"{n}.png") for n in range(5)]
    assert texts["text"].tolist() == [*CAPTIONS[:2], "nothing", *CAPTIONS[2:]]
    assert texts["path"].isna().all()
    for dim in (16, 64):
        assert np.allclose(column(seen, f"embedding_{dim}"), vectors[dim], atol=2e-3)
    own = F.normalize(aligner.embed("text", [*texts["text"]])[:, :64], dim=1).numpy()
    assert np.allclose(column(texts, "embedding_64"), own, atol=2e-3)


def test_int8_times_its_scale_is_the_embedding(aligner, pictures, tmp_path, vectors):
    embed_source(aligner, pictures, tmp_path / "out.parquet", dims=[16, 64], dtype="int8")
    frame = pd.read_parquet(tmp_path / "out.parquet")[:5]
    for dim in (16, 64):
        stored = np.stack(frame[f"embedding_{dim}"])
        assert stored.dtype == np.int8
        assert (np.abs(stored).max(1) == 127).all()
        values = stored * frame[f"scale_{dim}"].to_numpy()[:, None]
        assert np.abs(values - vectors[dim]).max() < frame[f"scale_{dim}"].max() / 2 + 2e-3


def test_metadata_says_what_made_the_file(aligner, pictures, tmp_path):
    embed_source(aligner, pictures, tmp_path / "out.parquet", dims=[64], dtype="int8")
    schema = pq.read_schema(tmp_path / "out.parquet")
    metadata = json.loads(schema.metadata[b"edge_glass"])
    assert metadata["model_sha256"] == model_digest(aligner.source)
    assert (metadata["dims"], metadata["dtype"]) == ([64], "int8")
    assert metadata["scale"] == "embedding_D * scale_D has unit length"
    assert metadata["encoders"]["vision"] == "tiny-resnet"
    assert str(schema.field("embedding_64").type) == "fixed_size_list<element: int8>[64]"


def test_datasets_searches_the_file(aligner, pictures, tmp_path, vectors):
    pytest.importorskip("faiss")
    embed_source(aligner, pictures, tmp_path / "out.parquet", dims=[64])
    rows = Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "hf"))
    rows = rows.filter(lambda row: row["modality"] == "vision").with_format("numpy")
    assert rows["embedding_64"][:].shape == (5, 64)
    index = rows.add_faiss_index("embedding_64", metric_type=0)  # inner product
    scores, nearest = index.get_nearest_examples("embedding_64", vectors[64][3], k=2)
    assert nearest["id"][0] == "3.png"
    assert scores[0] == pytest.approx(1, abs=2e-3)


def test_faiss_finds_what_the_exact_index_finds(aligner, pictures, tmp_path):
    faiss = pytest.importorskip("faiss")
    embed_source(aligner, pictures, tmp_path / "out.parquet", dims=[64])
    x = column(pd.read_parquet(tmp_path / "out.parquet"), "embedding_64")
    index = faiss.IndexFlatIP(64)
    index.add(x)
    scores, rows = index.search(x, 3)
    expected = MatryoshkaIndex(x, dims=[64]).search(x, k=3)
    assert np.allclose(scores, expected.scores, atol=1e-3)
    assert np.allclose((x[rows] * x[:, None]).sum(2), expected.scores, atol=1e-3)


def test_lancedb_searches_the_file(aligner, pictures, tmp_path, vectors):
    lancedb = pytest.importorskip("lancedb")
    embed_source(aligner, pictures, tmp_path / "out.parquet", dims=[64])
    database = lancedb.connect(tmp_path / "lance")
    table = database.create_table("items", pq.read_table(tmp_path / "out.parquet"))
    query = table.search(vectors[64][3], vector_column_name="embedding_64").distance_type("cosine")
    hits = query.where("modality = 'vision'").limit(2).to_list()
    assert hits[0]["id"] == "3.png"
    assert hits[0]["_distance"] == pytest.approx(0, abs=2e-3)


def test_groups_of_rows_are_written_one_by_one(aligner, pictures, tmp_path, monkeypatch):
    embed_source(aligner, pictures, tmp_path / "one.parquet", dims=[16])
    monkeypatch.setattr(embed, "ROW_GROUP", 2)
    embed_source(aligner, pictures, tmp_path / "many.parquet", dims=[16])
    file = pq.ParquetFile(tmp_path / "many.parquet")
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sizes == [2, 2, 1, 2, 2, 2]
    assert file.read().equals(pq.read_table(tmp_path / "one.parquet"))


def test_sounds_without_captions_are_embedded(tmp_path):
    (folder := tmp_path / "sounds").mkdir()
    for n in range(2):
        (folder / f"{n}.wav").write_bytes(encode(sine(0.5, 16000, 300 + n), 16000, "WAV"))
    config = {"audio": ModalityConfig(encoder="tiny-whisper")}
    aligner = Aligner(config, [8], {"audio": (128, 128)})
    counts = embed_source(aligner, folder, tmp_path / "out.parquet")
    assert counts == {"train/audio": {"embedded": 2, "skipped": 0}}
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert frame["text"].isna().all()
    assert frame["path"].tolist() == [str(folder / "0.wav"), str(folder / "1.wav")]


def test_config_embeds_its_splits(aligner, tmp_path, cache_dir):
    sizes = " ".join(f"data.scenes.{name}_size=8" for name in ("train", "val", "test"))
    overrides = f"data.cache_dir={cache_dir} data.scenes.swap_size=4 {sizes}"
    out, splits = tmp_path / "out.parquet", ["val", "test"]
    options = {"dims": [8], "num_processes": 1}
    counts = embed_source(aligner, "params/tiny/align.yaml", out, splits, overrides, **options)
    assert [*counts] == ["val/vision", "val/text", "test/vision", "test/text"]
    frame = pd.read_parquet(out)
    assert frame.groupby(["split", "modality"]).size().to_dict() == {
        (split, name): 8 for split in ("val", "test") for name in ("vision", "text")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": [48]}, r"dims: no dim 48; the aligner has \[8, 16"),
        ({"dtype": "float32"}, "dtype: expected float16 or int8, got 'float32'"),
        ({"splits": ["test"]}, "splits: no split 'test'; .*pictures has train"),
        ({"overrides": "seed=1"}, "overrides: .*pictures is not a config"),
        ({"out": "."}, "is a folder; name a file"),
        ({"out": "/dev/null/out.parquet"}, "/dev/null: cannot be written to: File exists"),
        ({"columns": {"image_column": "x"}}, "a folder has no image_column"),
        ({"num_processes": 0}, "num_processes: expected at least 1, got 0"),
    ],
    ids=["dims", "dtype", "split", "overrides", "folder", "unwritable", "column", "processes"],
)
def test_wrong_option_is_one_error(options, message, aligner, pictures, tmp_path):
    arguments = {"out": tmp_path / "out.parquet"} | options
    with pytest.raises(ConfigError, match=message):
        embed_source(aligner, pictures, **arguments)
    assert not (tmp_path / "out.parquet").exists()


def test_other_models_are_refused(pictures, tmp_path):
    with pytest.raises(ConfigError, match="only aligners embed, and this is a Linear"):
        embed_source(nn.Linear(1, 1), pictures, tmp_path / "out.parquet")


def test_file_of_an_earlier_call_stays_if_the_next_fails(aligner, pictures, tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    embed_source(aligner, pictures, out, dims=[16])
    before = out.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(embed, "_texts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        embed_source(aligner, pictures, out, dims=[64])
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == [out.name]


def test_table_without_items_for_the_aligner_is_an_error(aligner, tmp_path):
    (tmp_path / "a.wav").write_bytes(encode(sine(0.5, 16000), 16000, "WAV"))
    (tmp_path / "t.csv").write_text("path\na.wav\n")
    with pytest.raises(ConfigError, match=r"no row has image or texts, and the aligner embeds"):
        embed_source(aligner, tmp_path / "t.csv", tmp_path / "out.parquet")


def test_command_prints_counts_and_the_file(pictures, tmp_path, capsys):
    out = str(tmp_path / "out.parquet")
    arguments = ["embed", "tiny-align", str(pictures), "--out", out, "--dims", "16", "--dtype"]
    assert command_line.main([*arguments, "int8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = ["train/vision: 5 embedded, 1 skipped", "train/text: 6 embedded, 0 skipped", out]
    assert lines[-3:] == expected
    assert len(pd.read_parquet(out)) == 11


def test_command_embeds_with_the_aligner_of_a_question_answerer(pictures, tmp_path):
    aligner = Aligner.from_pretrained("tiny-align")
    vocabulary = Vocabulary.learn(["where is it?"], 60)
    model = QAModel(aligner, "plain", DecoderConfig(width=16, heads=2), vocabulary)
    model.save_pretrained(tmp_path / "qa")
    for run, name in (("tiny-align", "one"), (f"{tmp_path}/qa", "two")):
        arguments = ["embed", run, str(pictures), "--out", f"{tmp_path}/{name}.parquet"]
        assert command_line.main([*arguments, "--dims", "16"]) == 0
    one, two = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    vectors = [np.stack(table["embedding_16"].to_pylist()) for table in (one, two)]
    np.testing.assert_allclose(*vectors, atol=1e-3)
    metadata = json.loads(two.schema.metadata[b"edge_glass"])
    assert metadata["model_sha256"] == model_digest(tmp_path / "qa" / "aligner")


def test_command_takes_names_of_columns(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("alt,number\na red nine,7\n")
    arguments = ["embed", "tiny-align", str(tmp_path / "t.csv"), "--out", f"{tmp_path}/o.parquet"]
    assert command_line.main([*arguments, "--caption-column", "alt", "--id-column", "number"]) == 0
    frame = pd.read_parquet(tmp_path / "o.parquet")
    assert frame[["id", "text"]].to_numpy().tolist() == [["7", "a red nine"]]
    assert column(frame, "embedding_256").shape == (1, 256)


def test_documented_lines_read_the_file(aligner, pictures, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    pytest.importorskip("lancedb")
    embed_source(aligner, pictures, tmp_path / "pictures.parquet")
    (code,) = re.findall(r"```python\n(import faiss.*?)```", DOCS.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    names = {}
    exec(code, names)
    assert len(names["frame"]) == len(names["rows"]) == names["index"].ntotal == 11
    assert names["table"].count_rows() == 11

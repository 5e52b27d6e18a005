"""Search in the Parquet file of `edge-glass embed`."""

import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_helpers import to_file
from PIL import Image

from edge_lib.config import ConfigError
from edge_lib.experiments.embed import EmbeddingColumns, embed_source
from edge_lib.models import Aligner
from edge_lib.models.saving import model_digest
from edge_lib.search import MatryoshkaIndex, MixedIndex
from edge_lib.serving.index import SearchIndex

KINDS = ["vision", "text", "vision", "audio", "text"] * 20
VECTORS = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)


def write_index(path, vectors=VECTORS, kinds=KINDS, paths=None, dims=(4, 16), dtype="float16"):
    """A file as `edge-glass embed` writes it."""
    columns, count = EmbeddingColumns([*dims], dtype), len(vectors)
    described = {
        "id": [f"r{n}" if n % 7 else None for n in range(count)],
        "split": ["train"] * count,
        "row": range(count),
        "modality": kinds[:count],
        "text": [f"caption {n}" if n % 5 else None for n in range(count)],
        "path": paths or [None] * count,
    }
    aligner = SimpleNamespace(source=None, modalities={})
    with columns.open(path, aligner) as writer:
        arrays = columns.arrays(torch.from_numpy(vectors))
        writer.write_table(pa.table(described | arrays, columns.schema))
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return SearchIndex(write_index(tmp_path_factory.mktemp("index") / "index.parquet"))


def cosines(dim, vectors=VECTORS, query=VECTORS[3]):
    unit = vectors[:, :dim] / np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True)
    return unit @ query[:dim] / np.linalg.norm(query[:dim])


@pytest.mark.parametrize("dim", [4, 16])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_index_finds_the_nearest_rows_of_all_modalities(tmp_path, dim, dtype):
    index = SearchIndex(write_index(tmp_path / "index.parquet", dtype=dtype))
    hits = index.search(VECTORS[3], 10, dim)
    expected = cosines(dim)
    np.testing.assert_allclose([h.score for h in hits], np.sort(expected)[::-1][:10], atol=0.02)
    np.testing.assert_allclose([h.score for h in hits], expected[[h.row for h in hits]], atol=0.02)
    assert hits[0].row == 3
    assert (len(index), index.dims) == (100, [4, 16])


def test_index_is_searched_at_all_sizes_of_the_model(tmp_path):
    """The first columns of an embedding are the smaller ones, which need not be in the file."""
    path = write_index(tmp_path / "index.parquet", dims=(16,))
    index = SearchIndex(path, dims=[4, 16, 32])
    assert index.dims == [4, 16]
    hits = index.search(VECTORS[3], 10, 4)
    assert [h.row for h in hits] == np.argsort(-cosines(4), kind="stable")[:10].tolist()


def test_index_finds_rows_of_a_modality(index):
    hits = index.search(VECTORS[3], 40, modality="text")
    expected = [n for n in np.argsort(-cosines(16)) if KINDS[n] == "text"]
    assert [h.row for h in hits] == expected
    assert {h.modality for h in hits} == {"text"}
    with pytest.raises(KeyError):
        index.search(VECTORS[3], 1, modality="video")
    with pytest.raises(KeyError):
        index.search(VECTORS[3], 1, dim=5)


@pytest.mark.parametrize("dim", [4, 16])
def test_index_equals_the_matryoshka_index(index, dim):
    queries = np.random.default_rng(1).standard_normal((20, 16)).astype(np.float32)
    hits = MatryoshkaIndex(VECTORS.astype(np.float16).astype(np.float32), [4, 16])
    hits = hits.search(queries, 30, dim)
    for query, rows, scores in zip(queries, hits.rows, hits.scores, strict=True):
        hits = index.search(query, 30, dim)
        np.testing.assert_allclose([h.score for h in hits], scores, atol=2e-3)
        assert len({h.row for h in hits} & {*rows.tolist()}) >= 28


@pytest.mark.parametrize("dim", [4, 16])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_index_centers_as_the_mixed_index_does(tmp_path, dim, dtype):
    """Modalities apart from one another, a row of zeros, and one modality with a single row."""
    shifts = {"vision": 3 * np.eye(16)[0], "text": -3 * np.eye(16)[1], "audio": np.zeros(16)}
    vectors = VECTORS + np.array([shifts[kind] for kind in KINDS], np.float32)
    vectors[2] = 0
    kinds = ["audio" if n == 3 else "text" if k == "audio" else k for n, k in enumerate(KINDS)]
    index = SearchIndex(write_index(tmp_path / "index.parquet", vectors, kinds, dtype=dtype))
    parts = {name: vectors[rows] for name, rows in index._rows.items()}
    mixed, order = MixedIndex(parts, [4, 16]), np.concatenate([*index._rows.values()])
    queries = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    for modality in ("vision", "text"):
        for query in queries:
            hits = {hit.row: hit.score for hit in index.search(query, 100, dim, center=modality)}
            scores, rows = mixed.search(query[None], 100, modality, dim, center=True)
            expected = dict(zip(order[rows[0]].tolist(), scores[0].tolist(), strict=True))
            assert hits == pytest.approx(expected, abs=0.03 if dtype == "int8" else 3e-3)
            assert (hits[2], hits[3]) == (0, 0)


def test_index_centers_nothing_to_a_score_of_zero(tmp_path):
    vectors = np.tile(VECTORS[:1], (6, 1))
    index = SearchIndex(write_index(tmp_path / "index.parquet", vectors, ["text"] * 6))
    for query in (VECTORS[0], np.zeros(16, np.float32), VECTORS[1]):
        assert [hit.score for hit in index.search(query, 6, center="text")] == [0] * 6
    with pytest.raises(ValueError, match="vision"):
        index.search(VECTORS[0], 6, center="vision")


def test_index_gives_zero_vectors_no_score(tmp_path):
    vectors = VECTORS[:5].copy()
    vectors[2] = 0
    index = SearchIndex(write_index(tmp_path / "index.parquet", vectors))
    assert {h.row: h.score for h in index.search(VECTORS[0], 5)}[2] == 0
    assert [h.score for h in index.search(np.zeros(16, np.float32), 5)] == [0] * 5


def test_index_gives_all_rows_for_a_larger_k(index):
    assert sorted(h.row for h in index.search(VECTORS[0], 1000)) == [*range(100)]


def test_index_orders_equal_rows_by_number(tmp_path):
    index = SearchIndex(write_index(tmp_path / "index.parquet", np.tile(VECTORS[:1], (10, 1))))
    assert [h.row for h in index.search(VECTORS[0], 4)] == [0, 1, 2, 3]


def test_index_describes_its_rows(index):
    first, *_ = index.search(VECTORS[8], 1)
    assert (first.id, first.text, first.modality) == ("r8", "caption 8", "audio")
    null, *_ = index.search(VECTORS[70], 1)
    assert (null.id, null.text, null.has_picture) == (None, None, False)


# --- pictures --------------------------------------------------------------------------------


def test_index_picture_is_a_thumbnail_without_other_data(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "GPS of my home"
    photo = to_file(Image.new("RGB", (600, 300), "red"), "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(photo)
    (tmp_path / "b.png").write_bytes(to_file(Image.new("RGBA", (8, 6), (0, 0, 255, 128)), "PNG"))
    paths = [str(tmp_path / "a.jpg"), None, str(tmp_path / "b.png")]
    index = SearchIndex(write_index(tmp_path / "index.parquet", VECTORS[:3], KINDS, paths))
    thumbnail = Image.open(io.BytesIO(index.picture(0)))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (128, 256))
    assert b"GPS" not in index.picture(0)
    assert Image.open(io.BytesIO(index.picture(2))).size == (8, 6)
    assert [h.has_picture for h in index.search(VECTORS[0], 3, 16)].count(True) == 2


def test_index_has_no_picture_of_other_rows(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    paths = [str(tmp_path / "gone.png"), str(secret), str(tmp_path / "broken.png"), str(secret)]
    index = SearchIndex(write_index(tmp_path / "index.parquet", VECTORS[:4], KINDS, paths))
    assert [index.picture(row) for row in (0, 1, 2, 3, 4, -1, 10**12)] == [None] * 7


def test_index_of_real_files_finds_the_picture_of_a_caption(tmp_path, encode_image):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.png").write_bytes(encode_image(n, size=(40, 40)))
    aligner = Aligner.from_pretrained("tiny-align")
    embed_source(aligner, folder, tmp_path / "index.parquet", dims=[64])
    index = SearchIndex(tmp_path / "index.parquet")
    query = aligner.embed("vision", Image.open(folder / "2.png").convert("RGB"))[0].numpy()
    best, *_ = index.search(query, 2, 64)
    assert (best.id, best.has_picture) == ("2.png", True)
    assert best.score > 0.999
    index.check_model(model_digest(aligner.source))
    index.check_model(None)
    with pytest.raises(ConfigError, match="was embedded by another model"):
        index.check_model("0" * 64)


# --- other files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.write_bytes(b"PAR1 and more"), "is no file of `edge-glass embed`"),
        (lambda path: pq.write_table(pa.table({"id": ["a"]}), path), "is no file of"),
        (lambda path: path.mkdir(), "is no file of"),
        (lambda path: write_index(path, VECTORS[:0]), "has no rows"),
    ],
    ids=["missing", "bytes", "table", "folder", "empty"],
)
def test_index_refuses_other_files(tmp_path, write, message):
    write(tmp_path / "index.parquet")
    with pytest.raises(ConfigError, match=message):
        SearchIndex(tmp_path / "index.parquet")

"""The search index against brute force in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from edge_lib.search import MatryoshkaIndex, matryoshka

DIMS = [4, 16, 32]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def brute_force(rows, queries, dim, k):
    """Cosines (Q, k) and rows (Q, k); equal cosines in order of their rows."""
    a, b = (F.normalize(x[:, :dim].double(), dim=1) for x in (queries, rows))
    scores = (a @ b.T).numpy()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def assert_same(hits, expected, atol=1e-5):
    np.testing.assert_array_equal(hits.rows.numpy(), expected[1])
    np.testing.assert_allclose(hits.scores.numpy(), expected[0], atol=atol)


# --- exact search ----------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [*DIMS, None])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 700])
def test_search_is_exact_at_every_dim(count, dim):
    rows, queries = torch.randn(count, 40) * torch.rand(count, 1) * 9, torch.randn(7, 40) * 5
    hits = MatryoshkaIndex(rows, DIMS).search(queries, 10, dim)
    assert_same(hits, brute_force(rows, queries, dim or 32, 10))


@pytest.mark.parametrize(("scores", "floats"), [(64, 40), (7 * 128, 32 * 10), (10**6, 10**6)])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_search_does_not_depend_on_chunk_sizes(monkeypatch, scores, floats, dtype):
    rows, queries = torch.randn(500, 32), torch.randn(7, 32)
    whole = MatryoshkaIndex(rows, DIMS, dtype)
    expected = whole.search(queries, 20), whole.search_coarse_to_fine(queries, 5, DIMS, 50)
    monkeypatch.setattr(matryoshka, "MAX_SCORES", scores)
    monkeypatch.setattr(matryoshka, "MAX_FLOATS", floats)
    index = MatryoshkaIndex(rows, DIMS, dtype)
    hits = index.search(queries, 20), index.search_coarse_to_fine(queries, 5, DIMS, 50)
    for actual, wanted in zip(hits, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_search_of_a_batch_equals_single_queries():
    index, queries = MatryoshkaIndex(torch.randn(300, 32), DIMS), torch.randn(9, 32)
    single = [index.search(query[None], 5, 16) for query in queries]
    batch = index.search(queries, 5, 16)
    assert torch.equal(torch.cat([hits.rows for hits in single]), batch.rows)


def test_search_returns_equal_rows_in_order():
    """With small integers, equal cosines are also equal in float32."""
    rows = torch.eye(32)[torch.randint(4, (1000,))] * 2
    queries = torch.eye(32)[:4]
    for k in (1, 3, 200, 900):
        hits = MatryoshkaIndex(rows, DIMS).search(queries, k)
        assert_same(hits, brute_force(rows, queries, 32, k))


def test_search_returns_equal_rows_in_order_across_chunks(monkeypatch):
    monkeypatch.setattr(matryoshka, "MAX_SCORES", 64)
    hits = MatryoshkaIndex(torch.ones(300, 4), [4]).search(torch.ones(2, 4), 150)
    assert hits.rows.tolist() == [list(range(150))] * 2


def test_search_for_more_than_all_rows_returns_all():
    rows, queries = torch.randn(5, 32), torch.randn(3, 32)
    index = MatryoshkaIndex(rows, DIMS)
    assert_same(index.search(queries, 99), brute_force(rows, queries, 32, 5))
    hits = index.search_coarse_to_fine(queries, 99, DIMS)
    assert_same(hits, brute_force(rows, queries, 32, 5))


def test_search_gives_zero_rows_a_cosine_of_zero():
    rows = torch.tensor([[-1.0, 0], [0, 0], [1, 0]])
    index = MatryoshkaIndex(rows, [2])
    assert index.search(torch.tensor([[1.0, 0]]), 3).rows.tolist() == [[2, 1, 0]]
    hits = index.search(torch.zeros(1, 2), 3)
    assert hits.rows.tolist() == [[0, 1, 2]]
    assert hits.scores.tolist() == [[0, 0, 0]]


# --- coarse to fine --------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[4, 32], [4, 16], DIMS], ids=str)
def test_coarse_to_fine_is_exact_with_all_rows_on_the_shortlist(dims):
    rows, queries = torch.randn(200, 32), torch.randn(6, 32)
    hits = MatryoshkaIndex(rows, DIMS).search_coarse_to_fine(queries, 10, dims, shortlist=800)
    assert_same(hits, brute_force(rows, queries, dims[-1], 10))


def test_coarse_to_fine_ranks_its_shortlist_by_exact_cosines():
    rows, queries = torch.randn(400, 32), torch.randn(6, 32)
    index = MatryoshkaIndex(rows, DIMS)
    hits = index.search_coarse_to_fine(queries, 5, [4, 32], shortlist=20)
    coarse = index.search(queries, 20, 4).rows
    scores = F.normalize(queries, dim=1) @ F.normalize(rows, dim=1).T
    best = scores.gather(1, coarse).sort(dim=1, descending=True)
    torch.testing.assert_close(hits.scores, best.values[:, :5])
    assert torch.equal(hits.rows, coarse.gather(1, best.indices[:, :5]))


# --- int8 ------------------------------------------------------------------------------------


def test_int8_index_is_a_quarter_as_large_and_accurate():
    rows, queries = torch.randn(3000, 256), torch.randn(20, 256)
    exact, small = (MatryoshkaIndex(rows, [64, 256], dtype) for dtype in ("float32", "int8"))
    assert small.nbytes < 0.27 * exact.nbytes
    everything = small.search(queries, 3000)
    order = everything.rows.argsort(dim=1)
    scores = F.normalize(queries, dim=1) @ F.normalize(rows, dim=1).T
    # a step of max / 127 is 0.025 standard deviations: 3e-3 is 6 times the error 0.007 / sqrt(256)
    torch.testing.assert_close(everything.scores.gather(1, order), scores, atol=3e-3, rtol=0)


def test_int8_index_of_one_hot_rows_is_exact():
    rows, queries = torch.eye(8)[torch.randint(8, (100,))] * 3, torch.eye(8)
    hits = MatryoshkaIndex(rows, [4, 8], "int8").search(queries, 30)
    assert_same(hits, brute_force(rows, queries, 8, 30))


# --- files and errors ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_loaded_index_gives_the_same_results(tmp_path, dtype):
    index, queries = MatryoshkaIndex(torch.randn(90, 32), DIMS, dtype), torch.randn(4, 32)
    index.save(tmp_path / "index.safetensors")
    loaded = MatryoshkaIndex.load(tmp_path / "index.safetensors")
    assert (loaded.dims, len(loaded), loaded.nbytes) == (DIMS, 90, index.nbytes)
    for expected, actual in zip(index.search(queries, 9), loaded.search(queries, 9), strict=True):
        torch.testing.assert_close(actual, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["index.safetensors"]


def test_save_and_load_resolve_paths_against_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MatryoshkaIndex(torch.randn(3, 4), [4]).save("index.safetensors")
    assert (tmp_path / "index.safetensors").is_file()
    assert len(MatryoshkaIndex.load("index.safetensors")) == 3


def test_load_rejects_other_files(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "broken").write_bytes(b"not safetensors at all")
    for name in ("weights.safetensors", "broken"):
        with pytest.raises(ValueError, match="is not a saved index"):
            MatryoshkaIndex.load(tmp_path / name)


@pytest.mark.parametrize(
    ("rows", "dims", "message"),
    [
        (torch.ones(0, 8), [8], "needs embeddings"),
        (torch.ones(8), [8], "needs embeddings"),
        (torch.ones(3, 8), [16], "must be numbers from 1 to 8"),
        (torch.ones(3, 8), [], "must be numbers from 1 to 8"),
        (torch.tensor([[1.0, 2], [3, torch.nan]]), [2], "row 1 of the embeddings is not finite"),
    ],
    ids=["no_rows", "one_dimension", "dim_too_wide", "no_dims", "nan"],
)
def test_index_rejects_bad_embeddings_and_dims(rows, dims, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaIndex(rows, dims)


@pytest.mark.parametrize("dims", [64, np.int64(4), None], ids=str)
def test_index_rejects_dims_that_are_no_sequence(dims):
    with pytest.raises(ValueError, match=r"dims must be a sequence such as .*, got"):
        MatryoshkaIndex(torch.eye(4), dims)


def test_index_takes_reversed_arrays():
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    hits = MatryoshkaIndex(rows[::-1], [4, 8]).search(rows[::-1], 1)
    np.testing.assert_array_equal(hits.rows[:, 0], np.arange(50))
    hits = MatryoshkaIndex(rows[:, ::-1], [4, 8]).search(rows[:, ::-1], 3, dim=4)
    assert_same(hits, brute_force(*[torch.tensor(rows[:, ::-1].copy())] * 2, 4, 3))


def test_search_rejects_bad_queries_and_dims():
    index = MatryoshkaIndex(torch.randn(5, 32), DIMS)
    for queries, dim, message in (
        (torch.randn(2, 8), None, r"\(Q, 32 or more\)"),
        (torch.randn(32), None, r"\(Q, 32 or more\)"),
        (torch.randn(2, 32), 5, r"no dim 5; its dims are \[4, 16, 32\]"),
        (torch.full((1, 32), torch.inf), None, "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            index.search(queries, 3, dim)
    with pytest.raises(ValueError, match="in ascending order"):
        index.search_coarse_to_fine(torch.randn(2, 32), 3, [32, 4])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("k", [0, 5, 99])
def test_search_takes_no_queries_no_k_and_more_k_than_rows(dtype, count, k):
    rows, queries = torch.randn(20, 32), torch.randn(count, 32)
    index = MatryoshkaIndex(rows, DIMS, dtype)
    for hits in (
        index.search(queries, k),
        index.search_coarse_to_fine(queries, k, DIMS, 10),
    ):
        assert hits.scores.shape == hits.rows.shape == (count, min(k, 20))
        assert hits.rows.dtype == torch.long
        if k > 20 and count:
            assert hits.rows.sort(1).values.equal(torch.arange(20).expand(count, -1))


@pytest.mark.parametrize(
    "convert",
    [np.float64, np.float32, np.float16, lambda x: torch.tensor(x).bfloat16(), list],
    ids=["float64", "float32", "float16", "bfloat16", "lists"],
)
def test_index_takes_arrays_lists_and_any_float(convert):
    rows, queries = np.eye(8)[:5], np.eye(8)[[3, 0]]
    convert = (lambda x: x.tolist()) if convert is list else convert
    index = MatryoshkaIndex(convert(rows), np.array([4, 8]))
    hits = index.search(convert(queries), np.int64(1))
    assert hits.rows.tolist() == [[3], [0]]
    assert hits.scores.tolist() == [[1], [1]]


def test_index_of_array_dims_is_saved(tmp_path):
    MatryoshkaIndex(np.eye(8), np.array([4, 8])).save(tmp_path / "index")
    assert MatryoshkaIndex.load(tmp_path / "index").dims == [4, 8]


@pytest.mark.parametrize(
    ("queries", "k", "dim", "message"),
    [
        ([], 1, None, r"queries must be \(Q, 32 or more\), got \(0,\)"),
        (np.ones(32), 1, None, r"queries must be \(Q, 32 or more\), got \(32,\)"),
        (np.ones((1, 32)), -1, None, "k must be 0 or more, got -1"),
        (np.ones((1, 32)), 1, 0, "no dim 0; its dims are"),
        (np.full((1, 32), np.nan), 0, None, "must be finite"),
    ],
    ids=["empty list", "one query alone", "negative k", "dim 0", "nan"],
)
def test_search_explains_what_it_cannot_take(queries, k, dim, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaIndex(np.eye(32), DIMS).search(queries, k, dim)


def test_index_rejects_a_dim_given_twice():
    with pytest.raises(
        ValueError, match=r"dims \[4, 4, 8\] must be numbers from 1 to 8, each once"
    ):
        MatryoshkaIndex(np.eye(8), [4, 8, 4])

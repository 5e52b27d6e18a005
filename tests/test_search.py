"""The index against brute force in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from edge_lib import search as retrieval
from edge_lib.search import MatryoshkaIndex

DIMS = [4, 16, 32]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def brute_force(rows, queries, dim, k):
    """Cosines (Q, k) and rows (Q, k), the lower row first among equals."""
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
def test_exact_search_at_every_dim(count, dim):
    rows, queries = torch.randn(count, 40) * torch.rand(count, 1) * 9, torch.randn(7, 40) * 5
    hits = MatryoshkaIndex(rows, DIMS).search(queries, 10, dim)
    assert_same(hits, brute_force(rows, queries, dim or 32, 10))


@pytest.mark.parametrize(("scores", "floats"), [(64, 40), (7 * 128, 32 * 10), (10**6, 10**6)])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_chunks_change_nothing(monkeypatch, scores, floats, dtype):
    rows, queries = torch.randn(500, 32), torch.randn(7, 32)
    whole = MatryoshkaIndex(rows, DIMS, dtype)
    expected = whole.search(queries, 20), whole.search_coarse_to_fine(queries, 5, DIMS, 50)
    monkeypatch.setattr(retrieval, "SCORES", scores)
    monkeypatch.setattr(retrieval, "FLOATS", floats)
    index = MatryoshkaIndex(rows, DIMS, dtype)
    found = index.search(queries, 20), index.search_coarse_to_fine(queries, 5, DIMS, 50)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_a_batch_is_its_queries_one_by_one():
    index, queries = MatryoshkaIndex(torch.randn(300, 32), DIMS), torch.randn(9, 32)
    alone = [index.search(query[None], 5, 16) for query in queries]
    together = index.search(queries, 5, 16)
    assert torch.equal(torch.cat([hits.rows for hits in alone]), together.rows)


def test_equal_rows_come_in_their_order():
    """Small integers, so that equal cosines are equal in float32 too."""
    rows = torch.eye(32)[torch.randint(4, (1000,))] * 2
    queries = torch.eye(32)[:4]
    for k in (1, 3, 200, 900):
        hits = MatryoshkaIndex(rows, DIMS).search(queries, k)
        assert_same(hits, brute_force(rows, queries, 32, k))


def test_equal_rows_are_in_order_across_chunks(monkeypatch):
    monkeypatch.setattr(retrieval, "SCORES", 64)
    hits = MatryoshkaIndex(torch.ones(300, 4), [4]).search(torch.ones(2, 4), 150)
    assert hits.rows.tolist() == [list(range(150))] * 2


def test_more_asked_for_than_there_is_gives_all():
    rows, queries = torch.randn(5, 32), torch.randn(3, 32)
    index = MatryoshkaIndex(rows, DIMS)
    assert_same(index.search(queries, 99), brute_force(rows, queries, 32, 5))
    found = index.search_coarse_to_fine(queries, 99, DIMS)
    assert_same(found, brute_force(rows, queries, 32, 5))


def test_zeros_have_a_cosine_of_zero():
    rows = torch.tensor([[-1.0, 0], [0, 0], [1, 0]])
    index = MatryoshkaIndex(rows, [2])
    assert index.search(torch.tensor([[1.0, 0]]), 3).rows.tolist() == [[2, 1, 0]]
    hits = index.search(torch.zeros(1, 2), 3)
    assert hits.rows.tolist() == [[0, 1, 2]]
    assert hits.scores.tolist() == [[0, 0, 0]]


# --- coarse to fine --------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[4, 32], [4, 16], DIMS])
def test_coarse_to_fine_over_all_rows_is_exact(dims):
    rows, queries = torch.randn(200, 32), torch.randn(6, 32)
    found = MatryoshkaIndex(rows, DIMS).search_coarse_to_fine(queries, 10, dims, shortlist=800)
    assert_same(found, brute_force(rows, queries, dims[-1], 10))


def test_coarse_to_fine_ranks_its_shortlist_by_exact_cosines():
    rows, queries = torch.randn(400, 32), torch.randn(6, 32)
    index = MatryoshkaIndex(rows, DIMS)
    found = index.search_coarse_to_fine(queries, 5, [4, 32], shortlist=20)
    coarse = index.search(queries, 20, 4).rows
    scores = F.normalize(queries, dim=1) @ F.normalize(rows, dim=1).T
    best = scores.gather(1, coarse).sort(dim=1, descending=True)
    torch.testing.assert_close(found.scores, best.values[:, :5])
    assert torch.equal(found.rows, coarse.gather(1, best.indices[:, :5]))


# --- int8 ------------------------------------------------------------------------------------


def test_int8_is_a_quarter_and_near():
    rows, queries = torch.randn(3000, 256), torch.randn(20, 256)
    exact, small = (MatryoshkaIndex(rows, [64, 256], dtype) for dtype in ("float32", "int8"))
    assert small.nbytes < 0.27 * exact.nbytes
    everything = small.search(queries, 3000)
    order = everything.rows.argsort(dim=1)
    scores = F.normalize(queries, dim=1) @ F.normalize(rows, dim=1).T
    # a step is max/127, about 0.025 of a Gaussian's deviation: errors of 0.007 / sqrt(256), 6 sd
    torch.testing.assert_close(everything.scores.gather(1, order), scores, atol=3e-3, rtol=0)


def test_int8_of_few_values_is_exact():
    rows, queries = torch.eye(8)[torch.randint(8, (100,))] * 3, torch.eye(8)
    hits = MatryoshkaIndex(rows, [4, 8], "int8").search(queries, 30)
    assert_same(hits, brute_force(rows, queries, 8, 30))


# --- files and mistakes ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_saved_and_loaded_finds_the_same(tmp_path, dtype):
    index, queries = MatryoshkaIndex(torch.randn(90, 32), DIMS, dtype), torch.randn(4, 32)
    index.save(tmp_path / "index.safetensors")
    again = MatryoshkaIndex.load(tmp_path / "index.safetensors")
    assert (again.dims, len(again), again.nbytes) == (DIMS, 90, index.nbytes)
    for one, two in zip(index.search(queries, 9), again.search(queries, 9), strict=True):
        torch.testing.assert_close(one, two)
    assert [path.name for path in tmp_path.iterdir()] == ["index.safetensors"]


def test_another_file_is_not_an_index(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "broken").write_bytes(b"not safetensors at all")
    for name in ("weights.safetensors", "broken"):
        with pytest.raises(ValueError, match="is not a saved index"):
            MatryoshkaIndex.load(tmp_path / name)


@pytest.mark.parametrize(
    ("rows", "dims", "said"),
    [
        (torch.randn(0, 8), [8], "needs rows"),
        (torch.randn(8), [8], "needs rows"),
        (torch.randn(3, 8), [16], "do not fit a width of 8"),
        (torch.randn(3, 8), [], "do not fit"),
        (torch.tensor([[1.0, 2], [3, torch.nan]]), [2], "row 1 is not finite"),
    ],
)
def test_what_cannot_be_indexed(rows, dims, said):
    with pytest.raises(ValueError, match=said):
        MatryoshkaIndex(rows, dims)


def test_what_cannot_be_asked():
    index = MatryoshkaIndex(torch.randn(5, 32), DIMS)
    for queries, dim, said in (
        (torch.randn(2, 8), None, r"\(Q, 32 or more\)"),
        (torch.randn(32), None, r"\(Q, 32 or more\)"),
        (torch.randn(2, 32), 5, r"no dim 5, only \[4, 16, 32\]"),
        (torch.full((1, 32), torch.inf), None, "not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            index.search(queries, 3, dim)
    with pytest.raises(ValueError, match="from coarse to fine"):
        index.search_coarse_to_fine(torch.randn(2, 32), 3, [32, 4])

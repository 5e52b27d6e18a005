"""Late-interaction search against plain loops; two stages against all comparisons."""

import pytest
import torch
import torch.nn.functional as F

from edge_lib.nn.maxsim import TokenVectors
from edge_lib.nn.token_pooling import pool_tokens
from edge_lib.search import MatryoshkaIndex, MaxSimIndex

WIDTH = 12


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def token_vectors(lengths, rank=0, longest=None):
    mask = torch.arange(longest or max(lengths)) < torch.tensor(lengths)[:, None]
    vectors = torch.randn(*mask.shape, WIDTH).masked_fill(~mask[..., None], torch.nan)
    return TokenVectors(vectors, mask, rank)


def plain_scores(words, parts):
    rows = [
        [F.normalize(x.vectors[i][x.mask[i]], dim=1) for i in range(len(x))] for x in (words, parts)
    ]
    return torch.stack([torch.stack([(t @ p.T).amax(1).mean() for p in rows[1]]) for t in rows[0]])


IMAGES, TEXTS = [4, 2, 6, 1, 3, 5, 4, 4, 2, 6, 3], [3, 1, 5, 2]


@pytest.mark.parametrize("k", [1, 3, 11, 50])
@pytest.mark.parametrize("most", [1, 200, 1 << 22])
@pytest.mark.parametrize("search", ["search", "search_two_stage"])
def test_maxsim_index_gives_the_best_of_plain_scores(search, k, most, monkeypatch):
    monkeypatch.setattr("edge_lib.search.maxsim.MAX_COSINES", most)
    images, texts = token_vectors(IMAGES), token_vectors(TEXTS, rank=2)
    scores = plain_scores(texts, images)
    for queries, items, matrix in ((texts, images, scores), (images, texts, scores.T)):
        hits = getattr(MaxSimIndex(items), search)(queries, k)
        best = matrix.topk(min(k, len(items)), dim=1)
        torch.testing.assert_close(hits.scores, best.values)
        assert torch.equal(hits.rows, best.indices)


def test_two_stage_search_ranks_the_shortlist_only():
    images, texts = token_vectors(IMAGES), token_vectors(TEXTS, rank=2)
    index = MaxSimIndex(images)
    pooled = F.normalize(texts.mean()) @ F.normalize(images.mean()).T
    kept = pooled.topk(4, dim=1).indices.sort(dim=1).values
    best = plain_scores(texts, images).gather(1, kept).topk(3, dim=1)
    hits = index.search_two_stage(texts, 3, shortlist=4)
    torch.testing.assert_close(hits.scores, best.values)
    assert torch.equal(hits.rows, kept.gather(1, best.indices))


def test_two_stage_search_keeps_as_many_as_it_returns():
    hits = MaxSimIndex(token_vectors(IMAGES)).search_two_stage(
        token_vectors([2], 2), 6, shortlist=1
    )
    assert hits.rows.shape == (1, 6)


def test_maxsim_index_of_one_token_is_an_index_of_vectors():
    items, queries = token_vectors([1] * 20), token_vectors([1] * 3, rank=2)
    expected = MatryoshkaIndex(items.vectors[:, 0], [WIDTH]).search(queries.vectors[:, 0], 5)
    for hits in (
        MaxSimIndex(items).search(queries, 5),
        MaxSimIndex(items).search_two_stage(queries, 5),
    ):
        assert torch.equal(hits.rows, expected.rows)
        torch.testing.assert_close(hits.scores, expected.scores)


def test_maxsim_index_puts_the_lower_of_equal_rows_first():
    items = token_vectors([3] * 4)
    items = items[[0, 1, 0, 2, 0]]
    for search in ("search", "search_two_stage"):
        hits = getattr(MaxSimIndex(items), search)(items[[0]], 3)
        assert hits.rows.tolist() == [[0, 2, 4]]


def test_maxsim_index_loads_as_it_was_saved(tmp_path):
    index = MaxSimIndex(token_vectors(IMAGES, rank=1))
    index.save(tmp_path / "a.safetensors")
    loaded = MaxSimIndex.load(tmp_path / "a.safetensors")
    queries = token_vectors(TEXTS, rank=2)
    for search in ("search", "search_two_stage"):
        before, after = (getattr(x, search)(queries, 4) for x in (index, loaded))
        assert torch.equal(before.rows, after.rows)
        torch.testing.assert_close(before.scores, after.scores)
    assert (loaded.items.rank, loaded.nbytes) == (1, index.nbytes)
    assert index.nbytes >= 11 * 6 * WIDTH * 4


def test_maxsim_index_refuses_other_files(tmp_path):
    MatryoshkaIndex(torch.randn(3, 4), [4]).save(tmp_path / "vectors.safetensors")
    (tmp_path / "text").write_text("no index")
    for name in ("vectors.safetensors", "text"):
        with pytest.raises(ValueError, match="is not a saved index"):
            MaxSimIndex.load(tmp_path / name)


def changed(items, row, value):
    items.vectors[row, 0] = value
    return items


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: token_vectors([2, 0, 1]), "the index: item 1 has no tokens"),
        (lambda: token_vectors([2, 1])[[]], "an index needs items"),
        (lambda: changed(token_vectors([2, 1]), 1, torch.nan), "the index: vectors must be finite"),
        (lambda: changed(token_vectors([2, 1]), 0, torch.inf), "the index: vectors must be finite"),
    ],
    ids=["no tokens", "no items", "nan", "inf"],
)
def test_maxsim_index_refuses_items(make, message):
    with pytest.raises(ValueError, match=message):
        MaxSimIndex(make())


def test_maxsim_index_refuses_queries():
    index = MaxSimIndex(token_vectors(IMAGES))
    narrow = TokenVectors(torch.ones(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="queries must be 12 wide, as the index, got 4"):
        index.search(narrow, 1)
    with pytest.raises(ValueError, match="queries: item 0 has no tokens"):
        index.search_two_stage(token_vectors([0, 1]), 1)
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        index.search(token_vectors([1]), 0)


@pytest.mark.parametrize("search", ["search", "search_two_stage"])
def test_maxsim_index_of_no_queries_has_no_hits(search):
    hits = getattr(MaxSimIndex(token_vectors(IMAGES)), search)(token_vectors([1])[[]], 3)
    assert hits.rows.shape == hits.scores.shape == (0, 3)


# --- pooling of tokens ----------------------------------------------------------------------------


def test_pooled_tokens_are_means_of_those_alike():
    """Two directions with noise, and two tokens of each."""
    a, b = F.normalize(torch.randn(2, WIDTH))
    tokens = torch.stack([a, b, 3 * a, b]) + 1e-3 * torch.randn(4, WIDTH)
    items = TokenVectors(tokens[None], torch.ones(1, 4, dtype=torch.bool), 2)
    pooled = pool_tokens(items, 2)
    assert (pooled.mask.tolist(), pooled.rank) == ([[True, True]], 2)
    assert (pooled.vectors[0] @ torch.stack([a, b]).T > 0.999).sum(1).tolist() == [1, 1]
    torch.testing.assert_close(pooled.vectors.norm(dim=2), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("factor", "counts"),
    [(1, [5, 8, 1]), (2, [3, 4, 1]), (4, [2, 2, 1])],
    ids=["all", "half", "quarter"],
)
def test_pooled_tokens_are_a_share_of_all(factor, counts):
    items = token_vectors([5, 8, 1], longest=9)
    pooled = pool_tokens(items, factor)
    assert pooled.mask.sum(1).tolist() == counts
    assert pooled.vectors.isfinite().all()


def test_tokens_pooled_by_one_keep_their_scores():
    items, queries = token_vectors(IMAGES), token_vectors(TEXTS, rank=2)
    expected = plain_scores(queries, items)
    torch.testing.assert_close(next(queries.scores(pool_tokens(items, 1), [WIDTH])), expected)


def test_pooling_of_equal_tokens_and_of_no_items():
    equal = TokenVectors(torch.ones(1, 6, WIDTH), torch.ones(1, 6, dtype=torch.bool))
    pooled = pool_tokens(equal, 3)
    torch.testing.assert_close(pooled.vectors, equal.unit().vectors[:, : pooled.mask.sum()])
    assert len(pool_tokens(token_vectors([1])[[]], 2)) == 0
    with pytest.raises(ValueError, match="factor must be 1 or more, got 0"):
        pool_tokens(equal, 0)

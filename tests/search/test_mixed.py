"""Search in a gallery of several modalities against plain numpy in float64."""

import numpy as np
import pytest
import torch

from edge_lib.search import MixedIndex

DIMS = [8, 32]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def pairs():
    """40 images and their captions: close to one another but for an offset of each modality."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((40, 32))
    images = shared + 0.1 * rng.standard_normal((40, 32)) + 12 * np.eye(32)[0]
    captions = shared + 0.1 * rng.standard_normal((40, 32)) - 12 * np.eye(32)[1]
    return {"vision": images.astype("float32"), "text": captions.astype("float32")}


@pytest.mark.parametrize(
    ("center", "standardize"), [(False, False), (True, False), (True, True)], ids=str
)
@pytest.mark.parametrize("dim", [None, *DIMS])
def test_mixed_search_equals_brute_force(pairs, dim, center, standardize):
    index, queries = MixedIndex(pairs, DIMS), pairs["text"][:7] * 3
    hits = index.search(queries, 12, "text", dim, center, standardize)
    parts = {name: unit(x.astype("float64")) for name, x in pairs.items()}
    means = {name: x.mean(0) * center for name, x in parts.items()}
    scales = {name: x.std(0) if standardize else 1 for name, x in parts.items()}
    gallery = np.concatenate([(x - means[name]) / scales[name] for name, x in parts.items()])
    queries = (unit(queries.astype("float64")) - means["text"]) / scales["text"]
    scores = unit(queries[:, :dim]) @ unit(gallery[:, :dim]).T
    order = np.argsort(-scores, axis=1)[:, :12]
    np.testing.assert_array_equal(hits.rows, order)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, order, 1), atol=1e-5)


def test_mixed_search_finds_the_other_modality_once_centered(pairs):
    index, queries = MixedIndex(pairs, DIMS), pairs["text"]
    shares = {}
    for center in (False, True):
        modality, row = index.locate(index.search(queries, 2, "text", center=center).rows)
        assert (row[:, 0] == torch.arange(40)).all(), "a caption itself comes first"
        assert (modality[:, 0] == 1).all()
        right = (modality[:, 1] == 0) & (row[:, 1] == torch.arange(40))
        shares[center] = float(right.float().mean())
    assert shares[True] > 0.95
    assert shares[False] < 0.2


def test_mixed_search_locates_the_rows_of_each_modality():
    parts = {"vision": torch.eye(4)[:3], "audio": torch.eye(4)[3:], "text": torch.ones(2, 4)}
    modality, row = MixedIndex(parts, [4]).locate(torch.tensor([[0, 2], [3, 5]]))
    assert modality.tolist() == [[0, 0], [1, 2]]
    assert row.tolist() == [[0, 2], [0, 1]]


def test_mixed_search_gives_items_without_a_direction_a_cosine_of_zero(pairs):
    """A zero vector; the only item of its modality; items that are all alike."""
    alike = np.full((5, 32), 0.1, "float32")
    parts = {"vision": np.vstack([pairs["vision"], np.zeros((1, 32), "float32")]), "text": alike}
    for standardize in (False, True):
        index = MixedIndex({**parts, "audio": alike[:1]}, DIMS)
        hits = index.search(pairs["vision"], 47, "vision", 32, True, standardize)
        assert hits.scores.isfinite().all()
        assert (hits.scores[hits.rows >= 40] == 0).all()


def test_mixed_search_rejects_what_it_cannot_search(pairs):
    index = MixedIndex(pairs, DIMS)
    with pytest.raises(ValueError, match="no modality 'audio' in the index, only vision, text"):
        index.search(pairs["text"], 3, "audio", center=True)
    with pytest.raises(ValueError, match=r"queries must be \(1 or more, 32 or more\)"):
        index.search(pairs["text"][:, :8], 3, "text")
    with pytest.raises(ValueError, match="no dim 16"):
        index.search(pairs["text"], 3, "text", 16)
    with pytest.raises(ValueError, match=r"text must be .*, got \(0, 32\)"):
        MixedIndex({**pairs, "text": np.zeros((0, 32))}, DIMS)
    pairs["text"][3, 1] = np.nan
    with pytest.raises(ValueError, match="text: row 3 is not finite"):
        MixedIndex(pairs, DIMS)

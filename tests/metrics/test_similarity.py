"""CKA and mutual neighbours against loops over their definitions, and cases worked by hand."""

from itertools import permutations

import numpy as np
import pytest
import torch

from edge_lib.metrics.similarity import linear_cka, mutual_knn, unbiased_cka


@pytest.fixture
def pair():
    """(12, 5) and (12, 3), which share a part."""
    rng = np.random.default_rng(0)
    a = rng.normal(1, 1, (12, 5))
    return a, a[:, :3] * 2 + rng.normal(0, 1, (12, 3))


def hsic_of_gretton(k, l):  # noqa: E741
    """Tr(K H L H), with H that centres (Kornblith et al., equation 2)."""
    centre = np.eye(len(k)) - 1 / len(k)
    return np.trace(k @ centre @ l @ centre)


def hsic_of_song(k, l):  # noqa: E741
    """The U-statistic as a mean over all ordered quadruples (Song et al., equation 4)."""
    total = sum(
        k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(len(k)), 4)
    )
    return total / len([*permutations(range(len(k)), 4)])


@pytest.mark.parametrize(
    ("function", "hsic"), [(linear_cka, hsic_of_gretton), (unbiased_cka, hsic_of_song)]
)
def test_cka_equals_its_definition(pair, function, hsic):
    k, l = (x @ x.T for x in pair)  # noqa: E741
    expected = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    assert function(*map(torch.from_numpy, pair)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("function", [linear_cka, unbiased_cka])
def test_cka_ignores_rotation_scale_and_shift(pair, function):
    a, b = map(torch.from_numpy, pair)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.double))
    assert function(a, a @ rotation * 7 + 3) == pytest.approx(1)
    assert function(a + 100, b) == pytest.approx(function(a, b))
    assert function(a, b) == pytest.approx(function(b, a))


def test_unbiased_cka_of_wide_unrelated_vectors_is_zero():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(100, 500, generator=generator) for _ in range(2))
    assert linear_cka(a, b) > 0.7
    assert abs(unbiased_cka(a, b)) < 0.05


@pytest.mark.parametrize("function", [linear_cka, unbiased_cka])
def test_cka_of_a_constant_is_nan(pair, function):
    assert np.isnan(function(torch.from_numpy(pair[0]), torch.full((12, 2), 3.0)))


def test_mutual_knn_equals_sets_of_neighbours(pair):
    sets = []
    for x in pair:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        others = [[j for j in range(12) if j != i] for i in range(12)]
        near = [sorted(own, key=lambda j, i=i: -unit[i] @ unit[j]) for i, own in enumerate(others)]
        sets.append([set(own[:4]) for own in near])
    expected = np.mean([len(p & q) / 4 for p, q in zip(*sets, strict=True)])
    assert 0 < expected < 1
    assert mutual_knn(*map(torch.from_numpy, pair), 4) == pytest.approx(expected)


def test_mutual_knn_by_hand():
    angles = torch.tensor([0.0, 0.1, 1.0, 1.1])
    a = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1], [5], [2], [9]])
    assert mutual_knn(a, a, 1) == 1
    assert mutual_knn(a, a[[0, 2, 1, 3]], 1) == 0, "the nearest are now 2, 3, 0 and 1"
    assert mutual_knn(a, a[[0, 2, 1, 3]], 3) == 1, "of all others, all are shared"


def test_mutual_knn_of_equal_vectors_takes_the_first_rows():
    a = torch.ones(5, 2)
    assert mutual_knn(a, a, 2) == 1

"""Embedding-space measures against an eigendecomposition, loops, and cases worked by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_lib.metrics.embedding_space import (
    alignment,
    modality_gap,
    principal_components,
    uniformity,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_principal_components_match_the_eigenvectors_of_the_covariance():
    fitted = {"a": torch.randn(60, 6) * torch.arange(1, 7), "b": torch.randn(40, 6) + 1}
    new = {"a": torch.randn(5, 6), "b": torch.randn(3, 6)}
    projected = principal_components(fitted, new, 4)
    unit = F.normalize(torch.cat([*fitted.values()]), dim=1).double()
    values, vectors = np.linalg.eigh(np.cov(unit.numpy().T))
    axes = vectors[:, np.argsort(-values)[:4]]
    for name, x in new.items():
        expected = (F.normalize(x, dim=1).double() - unit.mean(0)).numpy() @ axes
        np.testing.assert_allclose(projected[name].abs().numpy(), np.abs(expected), atol=1e-5)


def test_alignment_and_modality_gap_by_hand():
    a, b = torch.tensor([[2.0, 0], [0, 3]]), torch.tensor([[5.0, 0], [1, 0]])
    assert alignment(a, b) == pytest.approx((0 + 2) / 2)  # the second pair is orthogonal
    assert modality_gap(a, b) == pytest.approx(math.dist([0.5, 0.5], [1, 0]))


def test_uniformity_equals_a_loop_over_pairs():
    x = torch.randn(12, 5)
    unit = F.normalize(x).double()
    pairs = combinations(unit, 2)
    potentials = [math.exp(-2 * float((a - b).square().sum())) for a, b in pairs]
    assert uniformity(x) == pytest.approx(math.log(np.mean(potentials)), abs=1e-5)
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0, abs=1e-6)

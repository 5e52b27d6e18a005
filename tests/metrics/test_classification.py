"""Linear probe, nearest neighbours and their scores, against plain numpy and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_lib.metrics import classification
from edge_lib.metrics.classification import classification_scores, knn_labels, linear_probe


@pytest.fixture
def clusters():
    """Train (120, 5) and its labels, test (60, 5) and its labels: three classes that overlap."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 5, generator=generator)
    labels = torch.arange(180) % 3
    rows = centres[labels] + 0.9 * torch.randn(180, 5, generator=generator)
    return rows[:120], labels[:120].numpy(), rows[120:], labels[120:].numpy()


def fit_in_torch(x, y, test, strength):
    """Logistic regression in float64: mean cross entropy and |W|^2 / (2 C N), no penalty on b."""
    x, test = F.normalize(x.double(), dim=1), F.normalize(test.double(), dim=1)
    weight, bias = torch.zeros(3, 5).double().requires_grad_(), torch.zeros(3).double()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, torch.from_numpy(y))
        value = value + weight.square().sum() / (2 * strength * len(x))
        value.backward()
        return value

    optimizer.step(loss)
    return (test @ weight.T + bias).argmax(1).detach().numpy()


@pytest.mark.parametrize("strength", [0.05, 1.0, 100.0], ids=str)
def test_probe_equals_logistic_regression_in_torch(clusters, monkeypatch, strength):
    monkeypatch.setattr(classification, "STRENGTHS", [strength])
    train, labels, test, truth = clusters
    predicted = linear_probe(train * torch.rand(120, 1), labels, test)
    expected = fit_in_torch(train, labels, test, strength)
    assert (predicted == expected).mean() > 0.98  # one row may lie on the border
    assert 0.5 < (predicted == truth).mean() < 1


def test_probe_chooses_the_penalty_on_held_out_groups(monkeypatch):
    """Each label is a point on the circle, in a group of its own: only a weak penalty fits."""
    angles = torch.linspace(0, 3, 60)
    points = torch.stack([angles.cos(), angles.sin()], 1)
    labels = (np.arange(60) // 15) % 4
    monkeypatch.setattr(classification, "STRENGTHS", [1e-4, 1e4])
    assert (linear_probe(points, labels, points) == labels).mean() > 0.9
    monkeypatch.setattr(classification, "STRENGTHS", [1e-4])
    assert (linear_probe(points, labels, points) == labels).mean() < 0.9


def test_groups_are_held_out_whole():
    groups = np.repeat(np.arange(10), 3)
    fitted, held = classification._split(groups)
    assert len(held) == 6
    assert not {*groups[fitted]} & {*groups[held]}
    assert sorted([*fitted, *held]) == [*range(30)]


@pytest.mark.parametrize("k", [1, 5, 20, 1000])
def test_neighbours_vote_by_weight(clusters, k):
    train, labels, test, _ = clusters
    a, b = (F.normalize(x.double(), dim=1).numpy() for x in (train, test))
    expected = []
    for cosines in b @ a.T:
        nearest = np.argsort(-cosines)[:k]
        votes = [np.exp(cosines[n] / 0.07) * (labels[n] == np.arange(3)) for n in nearest]
        expected.append(np.sum(votes, axis=0).argmax())
    assert knn_labels(train, labels, test, k).tolist() == expected


@pytest.mark.parametrize("predict", [linear_probe, knn_labels], ids=["probe", "knn"])
def test_rows_without_a_label_are_left_out(clusters, predict):
    train, labels, test, _ = clusters
    known = np.arange(120) % 2 == 0
    masked = np.where(known, labels, -1)
    np.testing.assert_array_equal(
        predict(train, masked, test), predict(train[known], labels[known], test)
    )


@pytest.mark.parametrize("predict", [linear_probe, knn_labels], ids=["probe", "knn"])
def test_no_label_and_no_finite_embedding_are_value_errors(predict):
    with pytest.raises(ValueError, match="no training row has a label"):
        predict(torch.randn(3, 2), np.full(3, -1), torch.randn(1, 2))
    train = torch.tensor([[1.0, 0], [float("nan"), 1]])
    with pytest.raises(ValueError, match="NaN"):
        predict(train, np.array([0, 1]), torch.randn(1, 2))


def test_probe_of_one_label_is_a_value_error():
    with pytest.raises(ValueError, match="two labels or more"):
        linear_probe(torch.randn(3, 2), np.zeros(3, int), torch.randn(1, 2))


def test_two_rows_are_enough():
    train = torch.tensor([[1.0, 0], [0, 1.0]])
    assert linear_probe(train, np.array([4, 7]), train).tolist() == [4, 7]
    assert knn_labels(train, np.array([4, 7]), train, 1).tolist() == [4, 7]


def test_scores_by_hand():
    labels = np.array([0, 0, 0, 2, -1, 2])
    predicted = np.array([0, 0, 1, 2, 0, 0])
    scores = classification_scores(labels, predicted, np.arange(6), 200)
    assert scores["accuracy"] == 3 / 5
    assert scores["class_mean"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (scores["majority"], scores["items"]) == (3 / 5, 5)
    assert scores["low"] < 3 / 5 < scores["high"]


def test_scores_without_a_known_label_are_nan():
    scores = classification_scores(np.array([-1]), np.array([0]), np.array([0]), 10)
    assert scores["items"] == 0
    assert np.isnan(scores["accuracy"])

"""Labels of embeddings: by a linear probe, by nearest neighbours, and how many are right."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from edge_lib.metrics.bootstrap import bootstrap_interval

STRENGTHS = (1e2, 1.0, 1e4, 1e-2)  # scikit-learn's C, inverse of the penalty; of equals the first
HELD_OUT = 0.2  # of the training groups, to choose among them
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO


def linear_probe(
    train: Tensor, labels: np.ndarray, test: Tensor, groups: np.ndarray | None = None
) -> np.ndarray:
    """(M,) labels of `test` (M, D) by multinomial logistic regression on `train` (N, D) of unit
    length, as for CLIP (Radford et al. 2021, appendix A.3): L-BFGS, with the penalty that is best
    on a fifth of the training groups, then fitted to all.

    groups (N,): rows that are not independent share a number; by default all differ. ValueError for
    fewer than two labels, and as in `knn_labels`.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = _known(train, labels)
    if len(np.unique(y)) < 2:
        raise ValueError("a linear probe needs training rows of two labels or more")
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    fitted, held = _split(groups[np.asarray(labels) >= 0])
    models = [LogisticRegression(C=c, max_iter=1000, tol=1e-6) for c in STRENGTHS]
    scores = [0.0] * len(models)
    if len(held) and len(np.unique(y[fitted])) > 1:
        scores = [model.fit(x[fitted], y[fitted]).score(x[held], y[held]) for model in models]
    best = models[int(np.argmax(scores))]
    return best.fit(x, y).predict(_unit(test))


def knn_labels(train: Tensor, labels: np.ndarray, test: Tensor, k: int = 20) -> np.ndarray:
    """(M,) labels of `test` (M, D) by the votes of the k nearest rows of `train` (N, D) by cosine,
    each with weight exp(cosine / 0.07) (Wu et al. 2018; DINO, Caron et al. 2021).

    labels (N,) of train: numbers from 0; rows with a negative one are left out. ValueError if none
    remains, or for embeddings that are not finite.
    """
    from sklearn.neighbors import KNeighborsClassifier

    x, y = _known(train, labels)
    options = {"metric": "cosine", "algorithm": "brute", "weights": _votes}
    model = KNeighborsClassifier(min(k, len(y)), **options).fit(x, y)
    return model.predict(_unit(test))


def classification_scores(
    labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, bootstrap: int = 0
) -> dict[str, float]:
    """The accuracy with its 95% interval over groups, the mean of the classes' accuracies, what the
    most frequent label alone would have (majority), and the number of items.

    labels, predicted, groups (N,): items with a negative label are left out. NaN if none remains.
    """
    known = np.asarray(labels) >= 0
    labels, predicted = np.asarray(labels)[known], np.asarray(predicted)[known]
    if not len(labels):
        names = "accuracy", "low", "high", "class_mean", "majority"
        return dict.fromkeys(names, float("nan")) | {"items": 0}
    right, counts = labels == predicted, np.bincount(labels)
    by_class = np.bincount(labels, right)[counts > 0] / counts[counts > 0]
    low, high = bootstrap_interval(right, np.asarray(groups)[known], bootstrap)
    return {
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "class_mean": float(by_class.mean()),
        "majority": float(counts.max() / counts.sum()),
        "items": len(labels),
    }


def _known(train: Tensor, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    known = np.flatnonzero(np.asarray(labels) >= 0)
    if not len(known):
        raise ValueError("no training row has a label")
    return _unit(train[known]), np.asarray(labels)[known]


def _split(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of four fifths of the groups, and of the others; none of a single group."""
    unique = np.unique(groups)
    held = np.random.default_rng(0).permutation(unique)[: int(HELD_OUT * len(unique))]
    is_held = np.isin(groups, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _unit(x: Tensor) -> np.ndarray:
    return F.normalize(x.double(), dim=1).cpu().numpy()


def _votes(distances: np.ndarray) -> np.ndarray:
    return np.exp((1 - distances) / TEMPERATURE)

"""How alike two representations of the same rows are, before anything is trained on them.

Each takes (N, P) and (N, Q): row i of both stands for the same thing. Widths may differ.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Centred kernel alignment with linear kernels, 0 to 1 (Kornblith et al. 2019, arXiv
    1905.00414, equation 3). NaN if all rows of one are equal. With fewer rows than columns it is
    high for unrelated vectors as well; see `unbiased_cka`.
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    return float((a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))


def unbiased_cka(a: Tensor, b: Tensor) -> float:
    """`linear_cka` with unbiased estimates of HSIC (Song et al. 2012, equation 5): about 0 for
    unrelated vectors of any width, and then sometimes below. Needs 4 rows.
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    kernels = [(x @ x.T).fill_diagonal_(0) for x in (a, b)]
    product, *norms = (_hsic(*pair) for pair in (kernels, kernels[:1] * 2, kernels[1:] * 2))
    return float(product / (norms[0] * norms[1]).sqrt())


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Of kernels (N, N) without a diagonal, times N (N - 3)."""
    n = len(k)
    trace, sums = (k * l).sum(), (k.sum(), l.sum())
    rest = sums[0] * sums[1] / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(0))
    return trace + rest


def mutual_knn(a: Tensor, b: Tensor, k: int) -> float:
    """The mean share of a row's k nearest neighbours which are the same in both, 0 to 1 (Huh et al.
    2024, arXiv 2405.07987). By chance k / (N - 1).
    """
    return shared_neighbours(nearest_neighbours(a, k), nearest_neighbours(b, k))


def nearest_neighbours(x: Tensor, k: int) -> Tensor:
    """(N, k) rows by cosine, the nearest first, without the row itself; of equals the first."""
    unit = F.normalize(x.double())
    cosines = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return cosines.argsort(dim=1, descending=True, stable=True)[:, :k]


def shared_neighbours(a: Tensor, b: Tensor) -> float:
    """The mean share of the (N, k) `nearest_neighbours` that are in both, in any order."""
    return float((a[:, :, None] == b[:, None]).any(2).double().mean())

"""The shape of an embedding space: principal components, alignment, uniformity, modality gap.

All measures normalise the embeddings first, as cosine similarity does.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA


def principal_components(
    fitted: dict[str, torch.Tensor], embeddings: dict[str, torch.Tensor], dim: int
) -> dict[str, torch.Tensor]:
    """Embeddings (N_m, D) projected on the `dim` largest principal components of `fitted` (M_m, D).

    All modalities share one rotation and one mean; the first d columns equal a PCA to d dims.
    """
    pca = PCA(dim, svd_solver="covariance_eigh")
    pca.fit(np.concatenate([_unit(x) for x in fitted.values()]))
    return {name: torch.from_numpy(pca.transform(_unit(x))) for name, x in embeddings.items()}


def alignment(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared distance of paired rows (N, D); 0 is best (Wang & Isola 2020, section 4)."""
    return float((F.normalize(a) - F.normalize(b)).square().sum(1).mean())


def uniformity(x: torch.Tensor, t: float = 2.0) -> float:
    """Log of the mean Gaussian potential over all pairs of rows (N, D); lower is more spread out
    (Wang & Isola 2020, section 4)."""
    return float(torch.pdist(F.normalize(x)).square().mul(-t).exp().mean().log())


def modality_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Distance between the mean embeddings of (N, D) and (M, D) (Liang et al. 2022, section 3)."""
    return float((F.normalize(a).mean(0) - F.normalize(b).mean(0)).norm())


def _unit(x: torch.Tensor) -> np.ndarray:
    return F.normalize(x.float()).cpu().numpy()

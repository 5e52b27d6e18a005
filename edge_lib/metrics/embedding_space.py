"""The shape of an embedding space: its principal components, how near pairs lie, how it spreads.

All on unit vectors, as cosines compare them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA


def principal_components(
    fitted: dict[str, torch.Tensor], embeddings: dict[str, torch.Tensor], dim: int
) -> dict[str, torch.Tensor]:
    """Embeddings (N_m, D) turned to the `dim` largest principal components of `fitted` (M_m, D).

    One rotation and one mean for all modalities; the first d columns are what PCA to d keeps.
    """
    pca = PCA(dim, svd_solver="covariance_eigh")
    pca.fit(np.concatenate([_unit(x) for x in fitted.values()]))
    turned = ((name, pca.transform(_unit(x))) for name, x in embeddings.items())
    return {name: torch.from_numpy(x) for name, x in turned}


def alignment(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared distance of the pairs (N, D); 0 is best (Wang & Isola 2020, section 4)."""
    return float((F.normalize(a) - F.normalize(b)).square().sum(1).mean())


def uniformity(x: torch.Tensor, t: float = 2.0) -> float:
    """Log of the mean Gaussian potential of all pairs of (N, D); lower is more spread
    (Wang & Isola 2020, section 4)."""
    return float(torch.pdist(F.normalize(x)).square().mul(-t).exp().mean().log())


def modality_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Distance of the two centres of (N, D) and (M, D) (Liang et al. 2022, section 3)."""
    return float((F.normalize(a).mean(0) - F.normalize(b).mean(0)).norm())


def _unit(x: torch.Tensor) -> np.ndarray:
    return F.normalize(x.float()).cpu().numpy()

"""Fewer token vectors: tokens that are alike become one, as ColPali's indices do.

Ward clusters of the cosine distances (Clavié et al. 2024, "Reducing the footprint of multi-vector
retrieval with minimal performance impact via token pooling", arXiv 2409.14683).
"""

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edge_lib.nn.maxsim import TokenVectors


def pool_tokens(items: TokenVectors, factor: int) -> TokenVectors:
    """Each item's vectors as the means of clusters, 1/factor of their number, rounded up.

    Vectors are at unit length before and after. Runs on the CPU, item by item.
    """
    if factor < 1:
        raise ValueError(f"factor must be 1 or more, got {factor}")
    if not len(items):
        return items
    unit = items.unit()
    rows = [_pool(x[m], factor) for x, m in zip(unit.vectors.cpu(), unit.mask.cpu(), strict=True)]
    vectors = pad_sequence(rows, batch_first=True).to(items.vectors.device)
    counts = torch.tensor([len(row) for row in rows], device=vectors.device)
    mask = torch.arange(vectors.shape[1], device=vectors.device) < counts[:, None]
    return TokenVectors(vectors, mask, items.rank).unit()


def _pool(tokens: Tensor, factor: int) -> Tensor:
    """(n, D) unit vectors -> (ceil(n / factor), D), or fewer if some are equal."""
    count = -(-len(tokens) // factor)
    if count == len(tokens):
        return tokens
    distances = squareform((1 - tokens @ tokens.T).clamp(min=0).double().numpy(), checks=False)
    clusters = fcluster(linkage(distances, "ward"), count, "maxclust")
    numbers = torch.from_numpy(np.unique(clusters, return_inverse=True)[1])
    return tokens.new_zeros(int(numbers.max()) + 1, tokens.shape[1]).index_add_(0, numbers, tokens)

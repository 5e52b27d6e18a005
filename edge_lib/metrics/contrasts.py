"""Text, image and group scores of pictures beside captions that are nearly right.

Each example has two captions and two pictures, one for each caption (Winoground, Thrush et al.
2022), or one picture, for which the second caption is wrong (SugarCrepe, Hsieh et al. 2023; ARO,
Yuksekgonul et al. 2023).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.metrics.scores import Embeddings, scores_by_dim

COLUMNS = ["dim", "score", "value", "low", "high", "chance"]


def contrast_scores(scores: Sequence[Tensor], dims: Sequence[int], bootstrap: int = 0):
    """A data frame with the mean of each score at each dim and its 95% interval over examples.

    scores: for each of `dims` (N, image, text), with one or two images and two texts; the n-th text
    is right for the n-th image. Text score: for every image its caption scores highest. Image
    score: for both captions their image scores highest. Group score: both. Chance is 1/4, 1/4 and
    1/6 with two images, and 1/2 for the text score with one, which has no others. A tie is wrong.
    Columns: dim, score, value, low, high, chance.
    """
    records = []
    for dim, part in zip(dims, scores, strict=True):
        for name, hits, chance in _hits(part):
            interval = bootstrap_interval(hits, np.arange(len(hits)), bootstrap)
            records.append((dim, name, hits.mean(), *interval, chance))
    return pd.DataFrame(records, columns=COLUMNS)


def example_scores(
    images: Tensor | Embeddings, texts: Tensor | Embeddings, dims: Sequence[int], chunk: int = 128
) -> list[Tensor]:
    """Scores (N, image, text) within each example, at each dim.

    images (N or 2N, D), texts (2N, D): those of one example stand together. chunk: examples at a
    time.
    """
    order, parts, count = sorted(dims), [], len(texts) // 2
    pictures = len(images) // max(1, count)
    for first in range(0, count, chunk):
        own = [slice(n * first, n * (first + chunk)) for n in (pictures, 2)]
        scores = scores_by_dim(images[own[0]], texts[own[1]], order)
        blocks = (s.unflatten(1, (-1, 2)).unflatten(0, (-1, pictures)) for s in scores)
        parts.append([s.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone() for s in blocks])
    by_dim = dict(zip(order, map(torch.cat, zip(*parts, strict=True)), strict=True))
    return [by_dim[dim] for dim in dims]


def _hits(scores: Tensor) -> Iterator[tuple[str, np.ndarray, float]]:
    """scores (N, image, text) -> name, hits (N,) and chance of each score."""
    right = scores.diagonal(dim1=1, dim2=2)
    images = right.shape[1]
    text = (right > scores.flip(2).diagonal(dim1=1, dim2=2)).all(1)
    yield "text", text.cpu().numpy(), 1 / 2**images
    if images == 2:
        image = (right > scores.flip(1).diagonal(dim1=1, dim2=2)).all(1)
        yield "image", image.cpu().numpy(), 1 / 4
        yield "group", (text & image).cpu().numpy(), 1 / 6

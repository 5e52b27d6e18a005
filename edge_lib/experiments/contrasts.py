"""Scores of an aligner on files of pictures beside captions that are nearly right."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from edge_lib.config import ConfigError
from edge_lib.data.unusable import UnusableItem
from edge_lib.metrics.contrasts import contrast_scores, example_scores
from edge_lib.metrics.flat_names import metrics_by_dim
from edge_lib.models import Aligner
from edge_lib.sources.contrasts import ContrastExample, ContrastSet

Usable = list[tuple[ContrastExample, list[Image.Image]]]


def score_contrasts(
    aligner: Aligner,
    dataset: ContrastSet,
    dims: Sequence[int],
    bootstrap: int = 0,
    batch_size: int = 32,
) -> pd.DataFrame:
    """`contrast_scores` of a set's examples at each dim, with columns `set` and `examples`.

    An example with a picture that does not decode is skipped and counted in the set. Raises
    ConfigError for an aligner without vision or text, and if no example can be used.
    """
    if missing := {"vision", "text"} - aligner.modalities.keys():
        raise ConfigError(f"evaluate.contrasts: the aligner has no {min(missing)}")
    parts = [
        _scores(aligner, batch, dims) for batch in _usable_batches(dataset, batch_size) if batch
    ]
    dataset.log_skipped()
    if not parts:
        raise ConfigError(f"evaluate.contrasts.{dataset.name}: no picture can be decoded")
    scores = [torch.cat(own) for own in zip(*parts, strict=True)]
    table = contrast_scores(scores, dims, bootstrap)
    return table.assign(set=dataset.name, examples=len(scores[0]))


def _usable_batches(dataset: ContrastSet, batch_size: int) -> Iterator[Usable]:
    for start in range(0, len(dataset.examples), batch_size):
        batch = []
        for example in dataset.examples[start : start + batch_size]:
            try:
                batch.append((example, example.pictures()))
            except Exception as error:  # decoders raise nearly anything on a broken file
                known = isinstance(error, UnusableItem)
                reason = str(error) if known else "picture does not decode"
                dataset.skipped[reason].append(example.id)
        yield batch


def _scores(aligner: Aligner, batch: Usable, dims: Sequence[int]) -> list[Tensor]:
    images = aligner.embed("vision", [picture for _, pictures in batch for picture in pictures])
    texts = aligner.embed("text", [text for example, _ in batch for text in example.captions])
    return [scores.cpu() for scores in example_scores(images, texts, dims)]


def contrast_metrics(scores: pd.DataFrame) -> dict[str, float]:
    """By flat name: contrast.<set>.text (full dim), contrast.<set>.text.dim64, ..."""
    return metrics_by_dim(scores, lambda row: f"contrast.{row.set}.{row.score}")

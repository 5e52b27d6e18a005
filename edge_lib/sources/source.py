"""What a source of tables is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.splits import SPLITS


def standard_splits(config: DataConfig) -> tuple[str, ...]:
    return SPLITS


@dataclass(frozen=True)
class Source:
    """A source with more than train, val and test.

    load: the table of one split.
    splits: names of all its splits.
    probe: (data config, embed, dims) -> metrics that only this source's tables can give;
        `embed(table)` returns the embeddings {modality: (N, D)} of the rows that have all.
    """

    load: Callable[[DataConfig, str], Table]
    splits: Callable[[DataConfig], tuple[str, ...]] = standard_splits
    probe: Callable | None = None

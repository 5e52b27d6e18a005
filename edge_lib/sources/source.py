"""The type of a source of tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.split_names import SPLITS


@dataclass(frozen=True)
class Source:
    """A function that loads tables, with what else a source may define.

    load: the table of one split.
    splits: names of all its splits; train, val and test by default.
    probe: (data config, embed, dims) -> metrics that only this source's tables can give;
        `embed(table)` returns the embeddings {modality: (N, D)} of the rows that have all.
    kind_sets: kinds of question -> {name: kinds}, the sets that are also scored as a whole.
    licence: of its data, for model cards; empty if it depends on the user's files.
    """

    load: Callable[[DataConfig, str], Table]
    splits: Callable[[DataConfig], tuple[str, ...]] = lambda _: SPLITS
    probe: Callable | None = None
    kind_sets: Callable[[Sequence[str]], dict[str, list[str]]] = lambda _: {}
    licence: str = ""

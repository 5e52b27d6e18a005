"""Mined hard negatives: the rows of a table that an aligner confuses, brought into one batch.

Negatives of a random batch soon teach little. Every few epochs the training rows are searched with
the heads as they are (ANCE, Xiong et al. 2021, arXiv 2007.00808), and an epoch's order then has
near rows side by side (as NGAME, Dahiya et al. 2023, arXiv 2207.04452): each row once, as before.
"""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from edge_lib.config import MiningConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.models import Aligner
from edge_lib.nn.maxsim import TokenVectors
from edge_lib.nn.one_pass import world_size
from edge_lib.runs.arrays import load_array, save_array
from edge_lib.search import MatryoshkaIndex
from edge_lib.training.device import process_rank

SPARE = 16  # results beyond those needed, in place of equal items


class HardNegatives:
    """`miner(epoch)` gives for each unit of `batches` (a row, or a group of rows) its nearest ones.

    pair: the modalities compared: items of the second one search those of the first. folder: of the
    results. A search is done once, by the first process; a resumed run reads what it found.
    """

    def __init__(
        self,
        aligner: Aligner,
        batches: AlignmentBatches,
        pair: tuple[str, str],
        config: MiningConfig,
        folder: Path,
    ):
        self.aligner, self.batches, self.pair = aligner, batches, pair
        self.config, self.folder = config, folder

    def __call__(self, epoch: int) -> np.ndarray | None:
        """(U, k) unit numbers, -1 for none; None in the first epochs, before the heads know much.

        Every process must call it, in the same epochs.
        """
        searched = epoch - epoch % self.config.every
        if not searched:
            return None
        path = self.folder / f"epoch-{searched}.npz"
        if process_rank()[0] == 0 and not path.exists():
            save_array(path, self.find())
        if world_size() > 1:
            dist.barrier()
        return load_array(path)

    def find(self) -> np.ndarray:
        """(U, k) the units nearest to each one by the first items of their first rows, -1 where
        there are none; those with an equal item are left out.
        """
        rows, k = self.batches.blocks[:, 0], self.config.k
        items = [self.batches.items[name].pick(rows, np.zeros(len(rows))) for name in self.pair]
        known = np.flatnonzero(np.minimum(*items) >= 0)
        gallery, queries = (
            self._embed(name, own[known]) for name, own in zip(self.pair, items, strict=True)
        )
        index = MatryoshkaIndex(gallery, [gallery.shape[1]])
        nearest = known[index.search(queries, k + 1 + SPARE).rows.cpu().numpy()]
        labels, neighbours = self._labels(rows), np.full((len(rows), k), -1)
        for unit, candidates in zip(known, nearest, strict=True):
            other = [c for c in candidates if labels[unit].isdisjoint(labels[c])][:k]
            neighbours[unit, : len(other)] = other
        return neighbours

    @torch.no_grad()
    def _embed(self, modality: str, items: np.ndarray, batch_size: int = 1024) -> Tensor:
        """(n, D) the embeddings of items; of token vectors the mean."""
        training, aligner = self.aligner.training, self.aligner.eval()
        features, parts = self.batches.features[modality], []
        for start in range(0, len(items), batch_size):
            output = features.gather(items[start : start + batch_size]).to(aligner.device)
            embedded = aligner.embed_output(modality, output)
            parts.append(embedded.mean() if isinstance(embedded, TokenVectors) else embedded)
        aligner.train(training)
        return torch.cat(parts)

    def _labels(self, rows: np.ndarray) -> list[set]:
        """For each row what names its items in both modalities."""
        names = [set() for _ in rows]
        for modality in self.pair:
            own = self.batches.items[modality].select(rows)
            labels = self.batches.table.item_labels(modality, own.items)
            for row, label in zip(own.rows, labels.tolist(), strict=True):
                names[row].add((modality, label))
        return names

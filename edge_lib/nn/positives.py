"""Which pairs of a batch are right answers: a row with itself, and rows with an equal item.

Five speakers of a sentence have five clips and five times the same caption. Each clip is a right
answer for each of the captions, not a negative. The target of a query is uniform over its right
answers (L_out of SupCon, Khosla et al. 2020, arXiv 2004.11362); every row of the batch is one
answer, equal ones too, so that with different items the target is the identity.
"""

import torch
from torch import Tensor


class Positives:
    """The pairs (i, j) of M rows in which the items of `a`, or those of `b`, are equal.

    labels: (M, 2) int64, equal numbers for equal items of `a` and of `b`; None if all differ.
    present: (M,) bool; a missing row is equal to itself only.
    """

    def __init__(self, labels: Tensor | None, present: Tensor, dtype: torch.dtype):
        self.labels, self.numbers = None, torch.arange(len(present), device=present.device)
        self.shares = torch.ones_like(present, dtype=dtype)
        if labels is not None:
            columns = [column.unique(return_inverse=True)[1] for column in labels.unbind(1)]
            alone = len(present) + self.numbers
            a, b = self.labels = [torch.where(present, x, alone) for x in columns]
            self.order = [x.argsort(stable=True) for x in self.labels]
            self.ordered = [x[order] for x, order in zip(self.labels, self.order, strict=True)]
            # rows that share the item of a, of b, less those that share both
            counts = _group_sizes(a) + _group_sizes(b) - _group_sizes(a * (2 * len(a)) + b)
            self.shares = 1 / counts.to(dtype)

    def of(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of some rows: i (P,), counted from the first row, j (P,), and their weight
        (P,): the mean of j's share in i's target and of i's share in j's.
        """
        own = self.numbers[rows]
        if self.labels is None:
            return own - rows.start, own, self.shares[rows]
        (i, j), (k, m) = (self._equal(side, rows) for side in (0, 1))
        new = self.labels[0][rows][k] != self.labels[0][m]
        i, j = torch.cat([i, k[new]]), torch.cat([j, m[new]])
        return i, j, (self.shares[rows][i] + self.shares[j]) / 2

    def _equal(self, side: int, rows: slice) -> tuple[Tensor, Tensor]:
        """The pairs whose items of `a` (side 0) or `b` (side 1) are equal."""
        ordered, own = self.ordered[side], self.labels[side][rows]
        first, last = (torch.searchsorted(ordered, own, right=right) for right in (False, True))
        counts = last - first
        i = self.numbers[: len(own)].repeat_interleave(counts)
        within = torch.arange(len(i), device=i.device) - (counts.cumsum(0) - counts)[i]
        return i, self.order[side][first[i] + within]


def _group_sizes(labels: Tensor) -> Tensor:
    """(M,) how many rows have the label of each."""
    _, numbers, counts = labels.unique(return_inverse=True, return_counts=True)
    return counts[numbers]

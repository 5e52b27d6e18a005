"""Contrastive losses: InfoNCE, and InfoNCE at every Matryoshka size (computed in `one_pass.py`).

The sigmoid loss is in `sigmoid.py`, that of late interaction in `maxsim.py`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_lib.config import LossConfig
from edge_lib.config.registry import LOSSES, load_registered
from edge_lib.nn.one_pass import BackpropType, OnePass, Strip, world_size


class LogitScale(nn.Module):
    """Learnable multiplier of cosine similarities: `exp(log_scale)`, at most `maximum` (CLIP)."""

    def __init__(self, init: float = 1 / 0.07, maximum: float = 100.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(init)))
        self.log_maximum = math.log(maximum)

    def forward(self) -> Tensor:
        """The multiplier, a scalar."""
        # The parameter itself is clamped: if only the result were, a scale beyond the maximum would
        # have no gradient and could never come back.
        with torch.no_grad():
            self.log_scale.clamp_(max=self.log_maximum)
        return self.log_scale.exp()


def info_nce(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    present: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
    backprop: BackpropType = BackpropType.GLOBAL,
) -> Tensor:
    """Symmetric InfoNCE of CLIP (arXiv 2103.00020) over in-batch negatives: `matryoshka_info_nce`
    at the full size. a, b (B, D), logit_scale (), present (B,) bool, labels as there -> loss ().
    """
    options = {"present": present, "labels": labels, "backprop": backprop}
    return matryoshka_info_nce(a, b, logit_scale, a.shape[-1:], **options)


def matryoshka_info_nce(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    chunk: int | None = None,
    present: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
    sample_single_dim: bool = False,
    generator: torch.Generator | None = None,
    backprop: BackpropType = BackpropType.GLOBAL,
) -> Tensor:
    """Sum over `dims` of weight * symmetric InfoNCE on the first d columns.

    Args:
        a, b: (B, D) features, not normalised; row i of `a` belongs to row i of `b`.
        logit_scale: () positive multiplier of the cosines; gets a gradient.
        dims: different sizes d in any order, 1 <= d <= D.
        weights: of the sizes, in the order of `dims`; 1 each by default.
        chunk: rows held at a time, for one more matrix product: memory is about
            len(dims) * chunk * (global B) floats. None holds all rows.
        present: (B,) bool, True where both items of the row exist. Other rows are neither queries
            nor negatives, and their gradient is 0 whatever they hold, NaN included.
        labels: of the items of `a` and of `b`, each (B,) int64, equal for equal items. A row j with
            an equal item in `a` or in `b` is a right answer for row i, not a negative: the target
            is uniform over the right answers, each row of the batch counting as one. Without
            equal items the loss is that without labels. By default all items differ.
        sample_single_dim: use one of `dims`, drawn at random, with its weight unchanged, as
            sentence-transformers' `MatryoshkaLoss(n_dims_per_step=1)` does. The expectation is
            1/len(dims) of the full loss.
        generator: of that draw, on the CPU; required with several processes, with equal seeds.
        backprop: see `BackpropType`.

    Returns:
        The scalar loss in fp32 (fp64 for fp64 inputs); 0 when no pair is present.

    Under torch.distributed every rank must call this with the same B and the same arguments, even
    if none of its rows is present. Each gets the loss of the *global* batch. Its gradients are its
    part of that loss's gradient times the number of ranks: averaged by DistributedDataParallel,
    they equal those of one process on the global batch.

    Raises:
        ValueError: mismatched shapes; wrong dims, weights or chunk; no generator across ranks.
        RuntimeError: the ranks' batch sizes differ.
    """
    check_pairs(a, b, chunk, present, labels)
    sizes = matryoshka_sizes(a.shape[1], dims, weights)
    if sample_single_dim:
        sizes = draw_size(sizes, generator)
    scale = torch.as_tensor(logit_scale, device=a.device)
    options = present, labels, sorted(sizes), chunk, backprop, torch.is_grad_enabled()
    return OnePass.apply(Strip, a, b, scale, *options)


class MatryoshkaInfoNCE(nn.Module):
    """`matryoshka_info_nce` with a learned logit scale."""

    def __init__(
        self,
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        chunk: int | None = None,
        sample_single_dim: bool = False,
        temperature: float = 0.07,
    ):
        super().__init__()
        self.dims, self.weights, self.chunk = dims, weights, chunk
        self.sample_single_dim = sample_single_dim
        self.logit_scale = LogitScale(1 / temperature)

    @classmethod
    def from_config(cls, config: LossConfig) -> "MatryoshkaInfoNCE":
        options = config.chunk, config.sample_single_dim, config.temperature
        return cls(config.dims, config.weights, *options)

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        present: Tensor | None = None,
        generator: torch.Generator | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """a, b (B, D), present (B,) bool, labels ((B,), (B,)) int64 -> loss (). generator: of
        `sample_single_dim`.
        """
        options = self.weights, self.chunk, present, labels, self.sample_single_dim, generator
        return matryoshka_info_nce(a, b, self.logit_scale(), self.dims, *options)


def build_loss(config: LossConfig) -> nn.Module:
    """The loss that `config.kind` names, a module
    `loss(a, b, present, generator, labels)`.
    """
    return load_registered(LOSSES[config.kind]).from_config(config)


def matryoshka_sizes(
    width: int, dims: Sequence[int], weights: Sequence[float] | None
) -> list[tuple[int, float]]:
    """(dim, weight) pairs of vectors of this width; ValueError for wrong ones."""
    dims = [int(d) for d in dims]
    if not dims or len(set(dims)) < len(dims) or not all(1 <= d <= width for d in dims):
        raise ValueError(f"dims must be distinct and between 1 and {width}, got {dims}")
    weights = [1.0] * len(dims) if weights is None else [float(w) for w in weights]
    if len(weights) != len(dims):
        raise ValueError(f"{len(dims)} dims but {len(weights)} weights")
    return list(zip(dims, weights, strict=True))


def draw_size(
    sizes: list[tuple[int, float]], generator: torch.Generator | None
) -> list[tuple[int, float]]:
    """One of the sizes at random; ValueError if processes could draw different ones."""
    if generator is None and world_size() > 1:
        raise ValueError("sample_single_dim across ranks needs a generator, seeded alike on all")
    return [sizes[int(torch.randint(len(sizes), (), generator=generator))]]


def check_pairs(a: Tensor, b: Tensor, *options) -> None:
    """ValueError unless a and b are pairs of vectors and the options of `check_rows` fit them."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"a and b must both be (B, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    check_rows(len(a), *options)


def check_rows(
    rows: int, chunk: int | None, present: Tensor | None, labels: tuple[Tensor, Tensor] | None
) -> None:
    """ValueError unless the arguments fit a batch of this many rows."""
    if present is not None and (present.shape != (rows,) or present.dtype != torch.bool):
        raise ValueError(
            f"present must be bool of shape ({rows},), got {present.dtype} {tuple(present.shape)}"
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 row, got {chunk}")
    kinds = [(tuple(x.shape), x.dtype) for x in labels or ()]
    if labels is not None and kinds != [((rows,), torch.int64)] * 2:
        raise ValueError(f"labels must be two int64 tensors of shape ({rows},), got {kinds}")

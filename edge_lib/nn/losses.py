"""Contrastive losses: InfoNCE, and InfoNCE at every Matryoshka size (see `one_pass.py` for how)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_lib.nn.one_pass import BackpropType, OnePass, world_size


class LogitScale(nn.Module):
    """Learnable multiplier of cosine similarities: `exp(log_scale)`, at most `maximum` (CLIP)."""

    def __init__(self, init: float = 1 / 0.07, maximum: float = 100.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(init)))
        self.log_maximum = math.log(maximum)

    def forward(self) -> Tensor:
        """Return the multiplier, a scalar."""
        # The parameter itself is clamped: clamping only the result would cut its gradient off, and
        # a scale that once went too far could never come back.
        with torch.no_grad():
            self.log_scale.clamp_(max=self.log_maximum)
        return self.log_scale.exp()


def info_nce(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    present: Tensor | None = None,
    backprop: BackpropType = BackpropType.GLOBAL,
) -> Tensor:
    """Symmetric InfoNCE of CLIP (arXiv 2103.00020) over in-batch negatives: `matryoshka_info_nce`
    at the full size. a, b (B, D), logit_scale (), present (B,) bool -> loss ().
    """
    return matryoshka_info_nce(a, b, logit_scale, a.shape[-1:], present=present, backprop=backprop)


def matryoshka_info_nce(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    chunk: int | None = None,
    present: Tensor | None = None,
    sample_single_dim: bool = False,
    generator: torch.Generator | None = None,
    backprop: BackpropType = BackpropType.GLOBAL,
) -> Tensor:
    """Sum over `dims` of weight * symmetric InfoNCE on the first d columns.

    Args:
        a, b: (B, D) features, not normalised; row i of `a` belongs to row i of `b`.
        logit_scale: () positive multiplier of the cosines; gets a gradient.
        dims: sizes d in any order, 1 <= d <= D, no two alike.
        weights: one a size, in the order of `dims`; 1 each by default.
        chunk: rows held at a time. Memory is about len(dims) * chunk * (global B) floats, for
            one more matrix product. None holds all rows.
        present: (B,) bool, True where both items of the row exist. The others are neither rows nor
            negatives for anybody, and their gradient is 0 whatever they hold, NaN included.
        sample_single_dim: use one of `dims`, drawn at random, with its weight left as it is, as
            sentence-transformers' `MatryoshkaLoss(n_dims_per_step=1)` does. The expectation is
            therefore 1/len(dims) of the full loss.
        generator: where to draw from, on the CPU. Needed with several processes, seeded alike.
        backprop: see `BackpropType`.

    Returns:
        The scalar loss in fp32 (fp64 for fp64 inputs); 0 when no pair is present.

    Under torch.distributed every rank must call this with the same B and the same arguments, also
    when it has nothing present. Each gets the loss of the *global* batch. Its gradients (features
    and scale) are its part of that loss's gradient times the number of ranks, so that after the
    averaging of DistributedDataParallel the parameters' gradients are those of one process on the
    global batch.

    Raises:
        ValueError: shapes that do not fit; wrong dims, weights or chunk; no generator where needed.
        RuntimeError: the ranks' batch sizes differ.
    """
    sizes = _checked_sizes(a, b, dims, weights, chunk, present)
    if sample_single_dim:
        if generator is None and world_size() > 1:
            raise ValueError(
                "sample_single_dim across ranks needs a generator, seeded alike on all"
            )
        sizes = [sizes[int(torch.randint(len(sizes), (), generator=generator))]]
    scale = torch.as_tensor(logit_scale, device=a.device)
    want_grad = torch.is_grad_enabled()
    return OnePass.apply(a, b, scale, present, sorted(sizes), chunk, backprop, want_grad)


def pairwise_loss(
    embeddings: dict[str, Tensor],
    present: dict[str, Tensor],
    pairs: Sequence[tuple[str, str]],
    weights: Sequence[float] | None,
    logit_scale: Tensor,
    dims: Sequence[int],
    dim_weights: Sequence[float] | None = None,
    **options,
) -> Tensor:
    """Weighted mean over pairs of modalities of `matryoshka_info_nce`.

    Args:
        embeddings: modality -> (B, D).
        present: modality -> (B,) bool. A row takes part in the pairs of which it has both.
        pairs: those to bring together. One left out may still end up aligned, through a third
            modality (ImageBind, Girdhar et al. 2023, arXiv 2305.05665).
        weights: one a pair; 1 each by default.
        logit_scale: () shared by all pairs.
        dims, dim_weights, options: as `matryoshka_info_nce` takes them.
    """
    weights, total = weights or [1.0] * len(pairs), 0
    for (a, b), weight in zip(pairs, weights, strict=True):
        both = present[a] & present[b]
        one, other = embeddings[a], embeddings[b]
        total += weight * matryoshka_info_nce(
            one, other, logit_scale, dims, dim_weights, present=both, **options
        )
    return total / sum(weights)


def _checked_sizes(a, b, dims, weights, chunk, present) -> list[tuple[int, float]]:
    """Validate the arguments and return (dim, weight) pairs."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"a and b must both be (B, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    if present is not None and (present.shape != a.shape[:1] or present.dtype != torch.bool):
        raise ValueError(
            f"present must be bool of shape ({len(a)},), got {present.dtype} {tuple(present.shape)}"
        )
    dims = [int(d) for d in dims]
    if not dims or len(set(dims)) < len(dims) or not all(1 <= d <= a.shape[1] for d in dims):
        raise ValueError(f"dims must be distinct and between 1 and {a.shape[1]}, got {dims}")
    weights = [1.0] * len(dims) if weights is None else [float(w) for w in weights]
    if len(weights) != len(dims):
        raise ValueError(f"{len(dims)} dims but {len(weights)} weights")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 row, got {chunk}")
    return list(zip(dims, weights, strict=True))

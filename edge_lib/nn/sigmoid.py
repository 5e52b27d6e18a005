"""The sigmoid loss of SigLIP (Zhai et al. 2023, arXiv 2303.15343), at every Matryoshka size.

Each pair of the batch is a decision of its own, "these two belong together": with logits
`S_ij = scale * cos(a_i, b_j) + bias` and z = 1 for right pairs and -1 for all others, the loss is
the sum of `softplus(-z_ij * S_ij)` over all pairs, divided by the number of rows. Nothing is
normalised over rows or columns. The similarities of all sizes, and the gradients of the features
from those of the logits, are computed as in `one_pass.py`.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edge_lib.config import LossConfig
from edge_lib.nn.losses import LogitScale, check_pairs, draw_size, matryoshka_sizes
from edge_lib.nn.one_pass import BackpropType, OnePass, Strip


class SigmoidStrip(Strip):
    """The sigmoid loss of one rank's rows of `a` and all columns. parameters (2,): scale, bias."""

    def __init__(self, a, b, parameters, *options):
        super().__init__(a, b, parameters[0], *options)
        self.bias = parameters[1].to(self.scale)
        self.dbias = torch.zeros_like(self.bias)
        self.count = self.count / 2  # rows alone: a pair is one term

    def loss(self) -> Tensor:
        """The loss of the global batch."""
        total = zero = torch.zeros_like(self.bias)
        for tile in self.tiles:
            self._similarities(tile)
            for band, positives in self._pairs(tile):
                for k, weight in enumerate(self.weights):
                    logits, _ = self._wrong_logits(k, tile, band, positives)
                    total = total + weight * torch.logaddexp(logits, zero, out=logits).sum()
        total = total / self.count
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def _wrong_logits(
        self, k: int, tile: slice, band: slice, positives: tuple
    ) -> tuple[Tensor, Tensor]:
        """-z * S_k (R, M) of a band, which is to become small, and -z (P,) of its positive pairs.

        A missing row counts as a negative of itself: its logits are `EXCLUDED`.
        """
        (i, j, _), s = positives, self._work(tile)[k, band]
        logits = torch.add(s, self.bias, out=self.spare[0, : len(s)])
        sign = 1 - 2 * self.here[tile][band][i].to(s)
        return logits.index_put_((i, j), logits[i, j] * sign), sign

    def _logit_gradient(self, k: int, tile: slice, band: slice, positives: tuple) -> Tensor:
        """count / weight * dL/dS_k (R, M) of a band: -z * sigmoid(-z * S_k)."""
        logits, sign = self._wrong_logits(k, tile, band, positives)
        g, (i, j, _) = logits.sigmoid_(), positives
        g.index_put_((i, j), g[i, j] * sign)
        self.dbias += self.world * self.weights[k] / self.count * g.sum()
        return g

    def gradients(self, backprop: BackpropType) -> tuple[Tensor, Tensor, Tensor]:
        da, db, dscale = super().gradients(backprop)
        return da, db, torch.stack([dscale, self.dbias])


def matryoshka_sigmoid(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    chunk: int | None = None,
    present: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
    sample_single_dim: bool = False,
    generator: torch.Generator | None = None,
    backprop: BackpropType = BackpropType.GLOBAL,
) -> Tensor:
    """Sum over `dims` of weight * sigmoid loss on the first d columns.

    logit_scale and logit_bias (): both get gradients. labels: pairs with an equal item are right
    ones, like each row with itself. The loss is a sum over pairs divided by the present rows of the
    global batch. All else, several processes included, is as in `matryoshka_info_nce`.
    """
    check_pairs(a, b, chunk, present, labels)
    sizes = matryoshka_sizes(a.shape[1], dims, weights)
    if sample_single_dim:
        sizes = draw_size(sizes, generator)
    scalars = [torch.as_tensor(x, device=a.device) for x in (logit_scale, logit_bias)]
    options = present, labels, sorted(sizes), chunk, backprop, torch.is_grad_enabled()
    return OnePass.apply(SigmoidStrip, a, b, torch.stack(scalars), *options)


class MatryoshkaSigmoid(nn.Module):
    """`matryoshka_sigmoid` with a learned scale and a learned bias."""

    def __init__(self, config: LossConfig):
        super().__init__()
        self.config = config
        self.logit_scale = LogitScale(1 / config.temperature)
        self.logit_bias = nn.Parameter(torch.tensor(config.bias))

    @classmethod
    def from_config(cls, config: LossConfig) -> "MatryoshkaSigmoid":
        return cls(config)

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        present: Tensor | None = None,
        generator: torch.Generator | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As `MatryoshkaInfoNCE.forward`."""
        config, scale = self.config, self.logit_scale()
        options = config.chunk, present, labels, config.sample_single_dim, generator
        return matryoshka_sigmoid(
            a, b, scale, self.logit_bias, config.dims, config.weights, *options
        )

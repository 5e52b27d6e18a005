"""The root-mean-square norm of decoders and projectors."""

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """In the precision of its weights, as autocast runs LayerNorm: torch has no fused kernel for
    16-bit inputs and weights in fp32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        return super().forward(x.to(self.weight.dtype))

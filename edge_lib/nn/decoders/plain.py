"""The plain decoder: one pass through its layers."""

from collections.abc import Callable

from torch import Tensor

from edge_lib.nn.decoders.base import Decoder


class PlainDecoder(Decoder):
    """A decoder-only transformer whose prefix and question are read in both directions."""

    def recur(self, inputs: Tensor, read: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Inputs (B, A, W) -> [states (B, A, W)]."""
        return [read(inputs)]

    def layer_tokens(self, context: float, answer: float) -> float:
        """Rows that pass through a layer, over all layers: what a forward costs."""
        return self.context_layers * context + self.config.layers * answer

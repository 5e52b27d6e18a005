"""The plain decoder: one pass through its layers."""

from collections.abc import Callable

from torch import Tensor

from edge_lib.nn.decoders.base import Decoder


class PlainDecoder(Decoder):
    """A decoder-only transformer with bidirectional attention in prefix and question."""

    def recur(self, inputs: Tensor, run_stack: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Inputs (B, A, W) -> [states (B, A, W)]."""
        return [run_stack(inputs)]

    def layer_tokens(self, context: float, answer: float) -> float:
        return self.context_layers * context + self.num_layers * answer

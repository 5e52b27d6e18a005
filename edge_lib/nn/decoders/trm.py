"""The recursive decoder: a tiny network, applied again and again, that answers token by token.

After the Tiny Recursive Model (Jolicoeur-Martineau 2025, arXiv 2510.04871), which fills a grid all
at once. Here each place i of the answer has two rows, an answer y_i and a latent z_i:

1. The input of place i is the token before it. It is added to both rows at every step.
2. A step is one pass of the shared layers over all y and z; what comes out is the next y and z.
   y_i and z_i see the context, and y_j and z_j for j <= i, so no answer token is seen too early.
3. `inner_steps` make a round; of `outer_steps` rounds only the last carries gradient, or, under
   deep supervision, each its own. The head reads y.

Without z it is a loop of the plain decoder with tied weights; with one step it is that decoder.
With the additive update, z and y take turns in one row, as they were published: z <- f(z + y + x)
at every inner step, y <- f(y + z) at the end of a round.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from edge_lib.config import DecoderConfig
from edge_lib.nn.decoders.base import START, Decoder


class RecursiveDecoder(Decoder):
    """`inner_steps` and `outer_steps` may be set anew: one checkpoint runs at any depth."""

    def __init__(self, config: DecoderConfig, prefix_width: int, vocabulary: int):
        super().__init__(config, prefix_width, vocabulary)
        self.inner_steps, self.outer_steps = config.inner_steps, config.outer_steps
        concat = config.latent and config.update == "concat"
        self.rows_per_token = 2 if concat else 1
        if config.latent:
            # with rounds that carry no gradient the first z gets none: it stays as drawn
            learnt = config.outer_steps == 1 or config.deep_supervision
            self.z_start = nn.Parameter(START * torch.randn(config.width), requires_grad=learnt)
        if concat:
            self.z_segment = nn.Parameter(START * torch.randn(config.width))  # tells z_i from y_i

    def recur(self, inputs: Tensor, read: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Inputs (B, A, W) -> y (B, A, W) after each step."""
        y, states = torch.zeros_like(inputs), []
        z = self.z_start.expand_as(inputs) if self.config.latent else None
        for number in range(self.outer_steps):
            learns = number == self.outer_steps - 1 or self.config.deep_supervision
            if number:
                y, z = y.detach(), z if z is None else z.detach()
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                steps = list(self._round(y, z, inputs, read))
            y, z = steps[-1]
            states += [y for y, _ in steps]
        return states

    def _round(self, y, z, inputs, read) -> Iterator[tuple[Tensor, Tensor | None]]:
        """y and z after each step of a round."""
        for _ in range(self.inner_steps):
            if z is None:
                y = read(y + inputs)
            elif self.config.update == "concat":
                rows = torch.cat([y + inputs, z + inputs + self.z_segment], dim=1)
                y, z = read(rows).chunk(2, dim=1)
            else:
                z = read(z + y + inputs)
            yield y, z
        if z is not None and self.config.update == "additive":
            y = read(y + z)
            yield y, z

    @property
    def round_passes(self) -> int:
        """Passes through the stack in a round."""
        return self.inner_steps + (self.config.latent and self.config.update == "additive")

    def supervised(self, states: list[Tensor]) -> list[Tensor]:
        """The last state, or under deep supervision that of each round."""
        if not self.config.deep_supervision:
            return states[-1:]
        return states[self.round_passes - 1 :: self.round_passes]

    def layer_tokens(self, context: float, answer: float) -> float:
        """Rows that pass through a layer, over all layers and steps: what a forward costs."""
        passes = self.outer_steps * self.round_passes * self.config.layers
        return self.context_layers * context + passes * self.rows_per_token * answer

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

import contextlib
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor, nn

from edge_lib.config import DecoderConfig
from edge_lib.decoders.base import Cache, Context, Decoder


class RecursiveDecoder(Decoder):
    """`inner_steps` and `outer_steps` may be set anew: one checkpoint runs at any depth."""

    def __init__(self, config: DecoderConfig, prefix_width: int, vocabulary: int):
        super().__init__(config, prefix_width, vocabulary)
        self.inner_steps, self.outer_steps = config.inner_steps, config.outer_steps
        if config.latent:
            # with rounds that carry no gradient the first z gets none: it stays as drawn
            learnt = config.outer_steps == 1 or config.deep_supervision
            self.z_start = nn.Parameter(torch.randn(config.width), requires_grad=learnt)
        if config.latent and config.update == "concat":
            self.z_segment = nn.Parameter(torch.randn(config.width))  # tells z_i from y_i

    def read_answer(self, inputs: Tensor, context: Context, cache: Cache) -> list[Tensor]:
        """Inputs (B, A, W) -> y (B, A, W) after each step."""
        place = torch.arange(inputs.shape[1], device=inputs.device) + cache.length
        cache.length += inputs.shape[1]
        start = self.z_start.expand_as(inputs) if self.config.latent else None
        state, states, passes = (torch.zeros_like(inputs), start), [], count()
        for number in range(self.outer_steps):
            learns = number == self.outer_steps - 1 or self.config.deep_supervision
            if number:
                state = tuple(x if x is None else x.detach() for x in state)
            with contextlib.nullcontext() if learns else torch.no_grad():
                for state in self._round(*state, inputs, place, (context, cache), passes):  # noqa: B020
                    states.append(state[0])
        return states

    def _round(self, y, z, inputs, place, seen, passes) -> Iterator[tuple[Tensor, Tensor | None]]:
        """y and z after each step of a round."""
        for _ in range(self.inner_steps):
            number = next(passes)
            if z is None:
                y = self.read_pass(y + inputs, place, *seen, number)
            elif self.config.update == "concat":
                rows = torch.cat([y + inputs, z + inputs + self.z_segment], dim=1)
                y, z = self.read_pass(rows, place.repeat(2), *seen, number).chunk(2, dim=1)
            else:
                z = self.read_pass(z + y + inputs, place, *seen, number)
            yield y, z
        if z is not None and self.config.update == "additive":
            y = self.read_pass(y + z, place, *seen, next(passes))
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
        rows = 2 if self.config.latent and self.config.update == "concat" else 1
        passes = self.outer_steps * self.round_passes
        return self.config.layers * (context + passes * rows * answer)

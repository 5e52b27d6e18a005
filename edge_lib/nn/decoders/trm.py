"""The recursive decoder: a tiny network, applied repeatedly, that answers token by token.

After the Tiny Recursive Model (Jolicoeur-Martineau 2025, arXiv 2510.04871), which predicts a
whole grid at once. Here each position i of the answer has two rows, an answer y_i and a latent z_i:

1. The input of position i is the token before it. It is added to both rows at every step.
2. A step is one pass of the shared layers over all y and z; the output is the next y and z. y_i and
   z_i attend to the context, and to y_j and z_j for j <= i, so no later answer token is visible.
3. `inner_steps` make a round; of `outer_steps` rounds only the last one has gradients, or, with
   deep supervision, each its own. The head reads y.

Without z it is a plain decoder with tied weights, applied in a loop; with one step it is the
plain decoder. With the additive update, z and y alternate in one row, as published:
z <- f(z + y + x) at every inner step, y <- f(y + z) at the end of a round.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from edge_lib.config import DecoderConfig
from edge_lib.nn.decoders.base import INIT_STD, Decoder

RECURSION = {"inner_steps", "outer_steps", "latent", "update", "deep_supervision"}


class RecursiveDecoder(Decoder):
    """`inner_steps` and `outer_steps` may be changed later: one checkpoint runs at any depth."""

    def __init__(
        self,
        *sizes: int,
        inner_steps: int = 4,
        outer_steps: int = 1,
        latent: bool = True,
        update: str = "concat",
        deep_supervision: bool = False,
        **options,
    ):
        """sizes, options: of `Decoder`."""
        super().__init__(*sizes, **options)
        self.inner_steps, self.outer_steps = inner_steps, outer_steps
        self.latent, self.update, self.deep_supervision = latent, update, deep_supervision
        concat, dim = latent and update == "concat", self.embed.embedding_dim
        self.rows_per_token = 2 if concat else 1
        if latent:
            # in rounds without gradients the first z gets none: it keeps its random value
            trained = outer_steps == 1 or deep_supervision
            self.z_start = nn.Parameter(INIT_STD * torch.randn(dim), requires_grad=trained)
        if concat:
            self.z_segment = nn.Parameter(INIT_STD * torch.randn(dim))  # distinguishes z_i from y_i

    @classmethod
    def from_config(cls, config: DecoderConfig, dim_prefix: int, vocab_size: int):
        options = config.model_dump(include=RECURSION)
        return super().from_config(config, dim_prefix, vocab_size, **options)

    def recur(self, inputs: Tensor, run_stack: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Inputs (B, A, W) -> y (B, A, W) after each step."""
        y, states = torch.zeros_like(inputs), []
        z = self.z_start.expand_as(inputs) if self.latent else None
        for number in range(self.outer_steps):
            has_gradient = number == self.outer_steps - 1 or self.deep_supervision
            if number:
                y, z = y.detach(), z if z is None else z.detach()
            with torch.set_grad_enabled(has_gradient and torch.is_grad_enabled()):
                steps = list(self._round(y, z, inputs, run_stack))
            y, z = steps[-1]
            states += [y for y, _ in steps]
        return states

    def _round(self, y, z, inputs, run_stack) -> Iterator[tuple[Tensor, Tensor | None]]:
        """y and z after each step of a round."""
        for _ in range(self.inner_steps):
            if z is None:
                y = run_stack(y + inputs)
            elif self.update == "concat":
                rows = torch.cat([y + inputs, z + inputs + self.z_segment], dim=1)
                y, z = run_stack(rows).unflatten(1, (2, -1)).unbind(1)
            else:
                z = run_stack(z + y + inputs)
            yield y, z
        if z is not None and self.update == "additive":
            y = run_stack(y + z)
            yield y, z

    @property
    def round_passes(self) -> int:
        """Passes through the stack in a round."""
        return self.inner_steps + (self.latent and self.update == "additive")

    def supervised(self, states: list[Tensor]) -> list[Tensor]:
        """The last state, or with deep supervision the last of each round."""
        if not self.deep_supervision:
            return states[-1:]
        return states[self.round_passes - 1 :: self.round_passes]

    def layer_tokens(self, context: float, answer: float) -> float:
        passes = self.outer_steps * self.round_passes * self.num_layers
        return self.context_layers * context + passes * self.rows_per_token * answer

"""Tokens at a fraction of their bytes: squares of them averaged, 8 bits a value."""

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.config import ConfigError
from edge_lib.data.encoder_output import EncoderOutput


def average_squares(output: EncoderOutput, window: int) -> EncoderOutput:
    """Tokens of a grid averaged over squares of `window` x `window`; those before the grid (class
    and register tokens) are kept. ConfigError if the tokens form no grid that the window divides.
    """
    if output.grid is None or any(side % window for side in output.grid):
        shape = "no grid" if output.grid is None else "a grid of {} x {}".format(*output.grid)
        raise ConfigError(
            f"features.tokens.window={window} does not divide an image's tokens: they form {shape}"
        )
    rows, columns = output.grid
    first, squares = output.tokens.tensor_split([-rows * columns], dim=1)
    squares = squares.transpose(1, 2).unflatten(2, output.grid)
    tokens = torch.cat([first, F.avg_pool2d(squares, window).flatten(2).transpose(1, 2)], dim=1)
    mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    return EncoderOutput(tokens, mask, output.pooled, (rows // window, columns // window))


def quantize(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(..., D) -> int8 (..., D) and float16 scales (...), of which the product is within half a
    scale of the tokens.
    """
    scales = (tokens.abs().amax(-1) / 127).half()
    values = tokens / scales.float().clamp(min=2**-24)[..., None]  # the smallest float16
    return values.round().clamp(-127, 127).to(torch.int8), scales

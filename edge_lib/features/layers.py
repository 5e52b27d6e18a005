"""What is kept of a frozen encoder's output: which layers, which tokens, and the pooled vector."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.config import ConfigError, EncoderConfig
from edge_lib.data.encoder_output import EncoderOutput


def select_layers(
    states: Sequence[Tensor], output: EncoderOutput, config: EncoderConfig
) -> EncoderOutput:
    """The tokens of `config.layer`, averaged or concatenated, and their mean as pooled vector.

    states: the hidden states (B, T, D) or feature maps (B, C, H, W) of all layers; larger maps are
    averaged over the squares of the smallest one. output: the encoder's own. ConfigError for a
    layer that does not exist, and layers that cannot be merged.
    """
    layers = _layer_numbers(config, len(states))
    parts = _of_one_size([states[layer] for layer in layers], config)
    axis = 1 if parts[0].ndim == 4 else 2
    if config.merge_layers == "concat":
        return layer_output(torch.cat(parts, dim=axis), output)
    if len(widths := {part.shape[axis] for part in parts}) > 1:
        raise ConfigError(
            f"{config.encoder}: layer {layers}: widths {', '.join(map(str, sorted(widths)))} have "
            "no mean; set merge_layers=concat"
        )
    return layer_output(torch.stack(parts).mean(0), output)


def _layer_numbers(config: EncoderConfig, count: int) -> list[int]:
    """Those of `config.layer`, of `count` that there are."""
    if not count:
        raise ConfigError(f"{config.encoder}: layer: the model does not give its hidden states")
    layers = config.layer if isinstance(config.layer, list) else [config.layer]
    if wrong := [n for n in layers if not -count <= n < count]:
        raise ConfigError(
            f"{config.encoder}: layer {wrong[0]}: its layers are 0 (the embeddings), ..., "
            f"{count - 1}, or {-count}, ..., -1 from the end"
        )
    return layers


def _of_one_size(states: list[Tensor], config: EncoderConfig) -> list[Tensor]:
    """Feature maps averaged to the size of the smallest, and sequences, which must be as long."""
    if states[0].ndim == 4:
        height, width = (min(state.shape[axis] for state in states) for axis in (2, 3))
        return [F.adaptive_avg_pool2d(state, (height, width)) for state in states]
    if any(state.shape[1] != states[0].shape[1] for state in states):
        raise ConfigError(
            f"{config.encoder}: layer {config.layer}: sequences of different lengths cannot be "
            "merged; name one layer"
        )
    return states


def layer_output(state: Tensor, output: EncoderOutput) -> EncoderOutput:
    """A hidden state or feature map as tokens with their mean. output: the encoder's own."""
    mask, grid = output.mask, output.grid
    if state.ndim == 4:
        grid, state = tuple(state.shape[2:]), state.flatten(2).transpose(1, 2)
    if state.shape[1] != mask.shape[1]:  # of another stage
        mask = mask.new_ones(state.shape[:2])
        grid = grid if grid and grid[0] * grid[1] == state.shape[1] else None
    tokens = state.masked_fill(~mask[..., None], 0)
    output = EncoderOutput(tokens, mask, tokens, grid)
    output.pooled = pooled_vector(output, "mean")
    return output


def select_tokens(output: EncoderOutput, config: EncoderConfig) -> EncoderOutput:
    """The tokens and the pooled vector that a config names. ConfigError where there are none."""
    first = num_class_tokens(output)
    if not first and "cls" in f"{config.tokens} {config.pooled}":
        key = "tokens=cls" if config.tokens == "cls" else f"pooled={config.pooled}"
        raise ConfigError(f"{config.encoder}: {key}: it has no known class token")
    if output.grid is None and config.tokens == "patch":
        raise ConfigError(f"{config.encoder}: tokens=patch: its tokens form no known grid")
    if config.pooled:
        output.pooled = pooled_vector(output, config.pooled)
    if config.tokens == "patch":
        output.tokens, output.mask = output.tokens[:, first:], output.mask[:, first:]
    if config.tokens == "cls":
        output.tokens, output.mask, output.grid = output.tokens[:, :1], output.mask[:, :1], None
    return output


def num_class_tokens(output: EncoderOutput) -> int:
    """Class and register tokens, which come before those of the grid."""
    return output.tokens.shape[1] - output.grid[0] * output.grid[1] if output.grid else 0


def pooled_vector(output: EncoderOutput, kind: str) -> Tensor:
    """(B, P): the class token, the mean of the other valid tokens, or both beside one another, as
    in dino.txt (Jose et al. 2024, arXiv 2412.16334).
    """
    first = num_class_tokens(output)
    weights = output.mask[:, first:, None].float()
    mean = (output.tokens[:, first:].float() * weights).sum(1) / weights.sum(1).clamp(min=1)
    cls = output.tokens[:, 0].float()
    return {"mean": mean, "cls": cls, "cls_mean": torch.cat([cls, mean], dim=1)}[kind]

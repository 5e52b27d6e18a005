"""The base of all frozen encoders, and one forward pass of an encoder."""

import logging
from typing import Any

import torch
from torch import nn

from edge_lib.config import MODALITIES, EncoderConfig
from edge_lib.config.registry import load_registered
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.tokens import average_squares
from edge_lib.features.weights import resolve_model

# when transformers imports it, it warns on every CPU that an optional kernel is not installed
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder(nn.Module):
    """A frozen backbone. `prepare` runs on the CPU, `forward` on the device of the weights.

    A subclass sets `model` and calls `freeze`. It depends on no config but an `EncoderConfig`,
    because the fingerprint of stored features covers only that section.
    """

    has_grid = False  # whether tokens come from squares of an image
    fixed_length = True  # whether inputs of all items have one shape
    limit = "what the model reads"  # the longest item that `truncates` leaves whole

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.source = resolve_model(config.encoder, config.weights)
        self.revision = config.revision
        self.random = config.weights == "random"

    def prepare(self, items) -> dict[str, torch.Tensor]:
        """Decoded items -> the keyword arguments of `forward`."""
        raise NotImplementedError

    def truncates(self, item) -> bool:
        """Whether `prepare` drops the end of this item because it is too long."""
        return False

    def freeze(self) -> None:
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """Stay in evaluation mode: a frozen encoder has no dropout."""
        return super().train(False)


def load_encoder(modality: str, config: EncoderConfig) -> Encoder:
    """The encoder of a modality; importing it takes seconds, as transformers is imported."""
    return load_registered(MODALITIES[modality].encoder)(config)


def prepare_items(
    encoder: Encoder, items: dict[int, Any]
) -> tuple[dict[str, torch.Tensor], dict[int, Exception]]:
    """Inputs of the items that `encoder.prepare` takes, in order, and the errors of the others."""
    if not items:
        return {}, {}
    try:
        return encoder.prepare([*items.values()]), {}
    except Exception:  # some of them; processors raise nearly anything
        errors = {number: _preparation_error(encoder, item) for number, item in items.items()}
        errors = {number: error for number, error in errors.items() if error}
        if not errors:
            raise
        rest = {number: item for number, item in items.items() if number not in errors}
        return prepare_items(encoder, rest)[0], errors


def _preparation_error(encoder: Encoder, item: Any) -> Exception | None:
    try:
        encoder.prepare([item])
    except Exception as error:
        return error


def run_encoder(
    encoder: Encoder, inputs: dict[str, torch.Tensor], precision: str, window: int = 1
) -> EncoderOutput:
    """One forward pass on prepared inputs, in `precision`; the output is float32. window: of
    `average_squares`, where tokens come from an image.
    """
    device = next(encoder.parameters()).device
    inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
        output = encoder(**inputs)
    output = EncoderOutput(output.tokens.float(), output.mask, output.pooled.float(), output.grid)
    return average_squares(output, window) if window > 1 and encoder.has_grid else output

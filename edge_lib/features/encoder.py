"""The base of all frozen encoders, and one forward pass of an encoder."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from edge_lib.config import MODALITIES, ConfigError, EncoderConfig
from edge_lib.config.registry import load_registered
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.layers import layer_output, select_layers, select_tokens
from edge_lib.features.tokens import average_squares
from edge_lib.features.weights import resolve_model

# when transformers imports it, it warns on every CPU that an optional kernel is not installed
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UNIT = 32  # items of a forward pass on a CPU, whose activations then stay in its caches


class Encoder(nn.Module):
    """A frozen backbone. `prepare` runs on the CPU, `forward` on the device of the weights.

    A subclass sets `model`, calls `freeze`, and has `outputs`; or a `forward` of its own if its
    output cannot be chosen. It depends on no config but an `EncoderConfig`,
    because the fingerprint of stored features covers only that section.
    """

    has_grid = False  # whether tokens come from squares of an image
    fixed_length = True  # whether inputs of all items have one shape
    limit = "what the model reads"  # the longest item that `truncates` leaves whole

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.source = resolve_model(config.encoder, config.weights)
        self.revision = config.revision
        self.random = config.weights == "random"

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def batch_size(self, limit: int) -> int:
        """How many items a forward pass takes, of `limit` at most."""
        return min(UNIT, limit) if self.device.type == "cpu" else limit

    def prepare(self, items) -> dict[str, torch.Tensor]:
        """Decoded items -> the keyword arguments of `forward`."""
        raise NotImplementedError

    def outputs(
        self, hidden: bool, **inputs: torch.Tensor
    ) -> tuple[EncoderOutput, Sequence[torch.Tensor]]:
        """Its own output, and with `hidden` the states of all layers: (B, T, D) or (B, C, H, W)."""
        name = type(self).__name__
        raise ConfigError(f"{name} has one output: layer, tokens and pooled cannot be chosen")

    @torch.no_grad()
    def forward(self, **inputs: torch.Tensor) -> EncoderOutput:
        """Inputs (B, ...) -> tokens (B, T, D), their mask and pooled (B, P), as the config says."""
        output, states = self.outputs(self.config.layer is not None, **inputs)
        if self.config.layer is not None:
            output = select_layers(states or (), output, self.config)
        return select_tokens(output, self.config)

    @torch.no_grad()
    def layer_vectors(self, **inputs: torch.Tensor) -> list[torch.Tensor]:
        """The pooled vectors (B, P) of its own output and of each layer, as if it were
        `config.layer`.
        """
        output, states = self.outputs(True, **inputs)
        outputs = [output, *(layer_output(state, output) for state in states or ())]
        return [select_tokens(layer, self.config).pooled for layer in outputs]

    def truncates(self, item) -> bool:
        """Whether `prepare` drops the end of this item because it is too long."""
        return False

    def freeze(self) -> None:
        """Convolutions take channels last, the layout in which a CPU computes them fastest."""
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True):
        """Stay in evaluation mode: a frozen encoder has no dropout."""
        return super().train(False)


def load_encoder(modality: str, config: EncoderConfig) -> Encoder:
    """The encoder of a modality; importing it takes seconds, as transformers is imported.
    ConfigError for a model of another kind, and for layers or tokens that it does not have.
    """
    try:
        encoder = load_registered(MODALITIES[modality].encoder)(config)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # of transformers, in many lines
        reason = str(error).split(". ")[0].splitlines()[0]
        raise ConfigError(f"{config.encoder} cannot be loaded for {modality}: {reason}") from error
    if config.chooses_output:
        blank = load_registered(MODALITIES[modality].blank)()
        Encoder.forward(encoder, **encoder.prepare([blank]))
    return encoder


def hidden_states(hidden: bool) -> dict[str, bool]:
    """The argument by which a transformers model returns its hidden states."""
    return {"output_hidden_states": True} if hidden else {}


def check_output(modality: str, config: EncoderConfig) -> None:
    """ConfigError for layers or tokens that an encoder does not have, before anything starts."""
    if config.chooses_output:
        try:
            load_encoder(modality, config)
        except ConfigError as error:
            raise ConfigError(f"{modality}: {error}") from None


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
    output = _run(encoder, encoder, inputs, precision)
    output = EncoderOutput(output.tokens.float(), output.mask, output.pooled.float(), output.grid)
    return average_squares(output, window) if window > 1 and encoder.has_grid else output


def run_layers(
    encoder: Encoder, inputs: dict[str, torch.Tensor], precision: str
) -> list[torch.Tensor]:
    """`Encoder.layer_vectors` of prepared inputs, in `precision`; float32 on the CPU."""
    vectors = _run(encoder, encoder.layer_vectors, inputs, precision)
    return [vector.float().cpu() for vector in vectors]


def _run(encoder: Encoder, function: Callable, inputs: dict[str, torch.Tensor], precision: str):
    """A function of the encoder's inputs, on its device."""
    device = encoder.device
    inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
        return function(**inputs)

"""The base of all frozen encoders."""

import torch
from torch import nn
from transformers import AutoModel, logging

from edge_lib.config import ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.weights import locate

logging.disable_progress_bar()


class Encoder(nn.Module):
    """A frozen backbone. `prepare` runs on the CPU, `forward` where the weights are."""

    def __init__(self, config: ModalityConfig):
        super().__init__()
        self.source, self.revision = locate(config.encoder, config.weights), config.revision
        self.random = config.weights == "random"

    def truncates(self, item) -> bool:
        """Whether `prepare` leaves out a part of this item, because it is too long."""
        return False

    def freeze(self) -> None:
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """Stay in evaluation mode: a frozen encoder has no dropout, whatever it is part of."""
        return super().train(False)


def _random_model(architecture, kind=AutoModel) -> nn.Module:
    """The same random weights each time, so that their features may be kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(kind, "from_config", kind)(architecture)


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def encode(encoder: "Encoder", inputs: dict[str, torch.Tensor], precision: str) -> EncoderOutput:
    """Run a frozen encoder on prepared inputs; features come out in float32."""
    device = next(encoder.parameters()).device
    inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
        encoded = encoder(**inputs)
    return EncoderOutput(encoded.tokens.float(), encoded.mask, encoded.pooled.float())

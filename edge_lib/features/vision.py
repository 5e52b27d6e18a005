"""Vision encoders: any vision model that `AutoModel` can load, and EfficientNet-lite0."""

from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, logging

from edge_lib.config import EncoderConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.efficientnet import EfficientNetLite
from edge_lib.features.encoder import Encoder, hidden_states
from edge_lib.features.random_weights import random_model
from edge_lib.features.weights import EFFICIENTNET

logging.disable_progress_bar()


class VisionEncoder(Encoder):
    """CLIP, SigLIP, ConvNeXt, ResNet, DINOv2, ...

    Of a checkpoint with two towers (CLIP) only the vision tower is loaded. Feature maps
    (B, C, H, W) become tokens (B, H*W, C).
    """

    has_grid = True

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        # PIL everywhere: torchvision's resize differs slightly, and features are kept for long
        self.processor = AutoImageProcessor.from_pretrained(
            self.source, revision=self.revision, backend="pil"
        )
        self.model = self._load_model()
        self.freeze()

    def _load_model(self) -> torch.nn.Module:
        if self.source == EFFICIENTNET:
            return EfficientNetLite(self.random)
        architecture = AutoConfig.from_pretrained(self.source, revision=self.revision)
        architecture = getattr(architecture, "vision_config", architecture)
        if self.random:
            return random_model(architecture)
        return AutoModel.from_pretrained(
            self.source, revision=self.revision, config=architecture, dtype=torch.float32
        )

    def prepare(self, images: Sequence) -> dict[str, torch.Tensor]:
        """RGB images -> {pixel_values (B, 3, H, W)}."""
        return {"pixel_values": self.processor(list(images), return_tensors="pt").pixel_values}

    def outputs(self, hidden: bool, pixel_values: torch.Tensor):
        """(B, 3, H, W) -> tokens (B, T, D), pooled (B, P), and hidden states."""
        output = self.model(pixel_values=pixel_values, **hidden_states(hidden))
        tokens = output.last_hidden_state
        grid = self._grid(pixel_values, tokens)
        if tokens.ndim == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        pooled = getattr(output, "pooler_output", None)
        pooled = tokens.mean(1) if pooled is None else pooled.flatten(1)
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        return EncoderOutput(tokens, mask, pooled, grid), output.hidden_states

    def _grid(self, pixels: torch.Tensor, tokens: torch.Tensor) -> tuple[int, int] | None:
        """Rows and columns of the feature map or of the patches; None for other tokens."""
        if tokens.ndim == 4:
            return tuple(tokens.shape[2:])
        patch = getattr(self.model.config, "patch_size", None)
        if not isinstance(patch, int) or pixels.ndim != 4:
            return None
        rows, columns = (side // patch for side in pixels.shape[2:])
        return (rows, columns) if rows * columns <= tokens.shape[1] else None

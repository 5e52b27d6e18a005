"""Features that are encoded in every training step, and the choice between them and a store."""

import numpy as np
import torch

from edge_lib.config import MODALITIES, FeatureSpec
from edge_lib.config.registry import load_registered
from edge_lib.data.augment import random_crop
from edge_lib.data.encoder_output import EncoderOutput, Features
from edge_lib.data.skipped import Skipped
from edge_lib.data.table import Table
from edge_lib.features.encoder import Encoder, load_encoder, prepare_items, run_encoder
from edge_lib.features.items import Items
from edge_lib.features.reading import CANNOT_PREPARE
from edge_lib.features.shard_rows import NOT_FINITE
from edge_lib.features.store import open_stores
from edge_lib.training.device import local_device


class OnlineFeatures:
    """The interface of `FeatureStore`, but items are encoded when they are gathered."""

    def __init__(
        self,
        items: Items,
        encoder: Encoder,
        augment=None,
        precision: str = "fp32",
        window: int = 1,
    ):
        """augment: function of a decoded item. window: of `features.tokens`."""
        self.items, self.encoder, self.augment = items, encoder, augment
        self.precision, self.window = precision, window
        self.blank = load_registered(MODALITIES[items.modality].blank)()
        self.device = next(encoder.parameters()).device
        self.valid = np.ones(len(items), dtype=bool)  # until an item fails to decode

    def __len__(self) -> int:
        return len(self.items)

    def gather(self, items) -> EncoderOutput:
        """(B,) item numbers -> float32 output, that of a blank where an item is skipped."""
        items = np.asarray(items)
        inputs = self.items.get(items)
        self.valid[items] = [item is not None for item in inputs]
        augmented = (self.augment(x) if self.augment and x is not None else x for x in inputs)
        inputs = [self.blank if x is None else x for x in augmented]
        prepared = self._prepare(items, inputs)
        output = run_encoder(self.encoder, prepared, self.precision, self.window)
        return self._without_infinite(items, output)

    def _prepare(self, items: np.ndarray, inputs: list) -> dict[str, torch.Tensor]:
        """Inputs of the encoder, a blank for an item that cannot be prepared."""
        prepared, errors = prepare_items(self.encoder, dict(enumerate(inputs)))
        for number, error in errors.items():
            self.valid[items[number]], inputs[number] = False, self.blank
            self.items.skip(items[number], Skipped(CANNOT_PREPARE, str(error)))
        return self.encoder.prepare(inputs) if errors else prepared

    def _without_infinite(self, items: np.ndarray, output: EncoderOutput) -> EncoderOutput:
        finite = output.finite()
        for number in (~finite).nonzero()[:, 0].tolist():
            self.valid[items[number]] = False
            self.items.skip(items[number], NOT_FINITE)
            output.pooled[number] = output.tokens[number] = 0
        return output


def open_features(spec: FeatureSpec, table: Table) -> dict[str, Features]:
    """Features for training, by modality: stores, or encoders that run in every step."""
    device = local_device()
    if not spec.features.online:
        return open_stores(spec, table, device if spec.features.on_device else "cpu")
    return {
        name: OnlineFeatures(
            Items(table, name),
            load_encoder(name, modality.encoder_config).to(device),
            random_crop if modality.augment else None,
            spec.features.precision,
            spec.features.tokens.window,
        )
        for name, modality in spec.modalities.items()
    }

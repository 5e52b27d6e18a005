"""Features encoded in every step."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edge_lib.config import ExperimentConfig
from edge_lib.data.alignment_batches import Features
from edge_lib.data.audio import RATE
from edge_lib.data.augment import random_crop
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.features.encoder import encode
from edge_lib.features.items import Items
from edge_lib.features.store import open_stores
from edge_lib.training.device import local_device

if TYPE_CHECKING:
    from edge_lib.features.encoder import Encoder


BLANKS = {"vision": Image.new("RGB", (64, 64)), "audio": np.zeros(RATE, np.float32), "text": ""}


class OnlineFeatures:
    """The same interface as `FeatureStore`, encoding what is asked for when it is asked for."""

    def __init__(self, items: Items, encoder: "Encoder", augment=None, precision: str = "fp32"):
        self.items, self.encoder, self.augment = items, encoder, augment
        self.precision, self.blank = precision, BLANKS[items.modality]
        self.device = next(encoder.parameters()).device
        self.valid = np.ones(len(items), dtype=bool)  # until an item turns out not to decode

    def __len__(self) -> int:
        return len(self.items)

    def gather(self, items) -> EncoderOutput:
        """(B,) item numbers -> EncoderOutput in float32, of a blank where one does not decode."""
        items = np.asarray(items)
        inputs = self.items.get(items)
        self.valid[items] = [item is not None for item in inputs]
        augmented = (self.augment(x) if self.augment and x is not None else x for x in inputs)
        inputs = [self.blank if x is None else x for x in augmented]
        return encode(self.encoder, self.encoder.prepare(inputs), self.precision)


def open_features(config: ExperimentConfig, table: Table) -> dict[str, Features]:
    """Where training batches come from: the stores, or the encoders run in every step."""
    device = local_device()
    if not config.features.online:
        return open_stores(config, table, device if config.features.on_device else "cpu")
    from edge_lib.features.encoders import load_encoder  # seconds, for transformers

    return {
        name: OnlineFeatures(
            Items(table, name),
            load_encoder(name, modality).to(device),
            random_crop if modality.augment else None,
            config.features.precision,
        )
        for name, modality in config.modalities.items()
    }

"""Features that are encoded in every training step, and the choice between them and a store."""

from collections import ChainMap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

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
        self.device = encoder.device
        self.valid = np.ones(len(items), dtype=bool)  # until an item fails to decode

    def __len__(self) -> int:
        return len(self.items)

    def gather(self, items) -> EncoderOutput:
        """(B,) item numbers -> float32 output, that of a blank where an item is skipped."""
        items = np.asarray(items)
        prepared, skipped = self._prepared(items)
        output = run_encoder(self.encoder, prepared, self.precision, self.window)
        for number in (~output.finite()).nonzero()[:, 0].tolist():
            skipped[number] = NOT_FINITE
            output.pooled[number] = output.tokens[number] = 0
        self.valid[items] = [number not in skipped for number in range(len(items))]
        self.items.skip({items[number]: reason for number, reason in skipped.items()})
        return output

    def _prepared(self, items: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[int, Skipped]]:
        """Inputs of the encoder, and by place in the batch the items that a blank stands for."""
        loaded = chain.from_iterable(self._in_threads(self.items.load, items))
        inputs, skipped = dict(enumerate(loaded)), {}
        for number, item in inputs.items():
            if isinstance(item, Skipped):
                skipped[number], inputs[number] = item, self.blank
            elif self.augment:
                inputs[number] = self.augment(item)
        prepared, errors = self._prepare(inputs)
        for number, error in errors.items():
            skipped[number], inputs[number] = Skipped(CANNOT_PREPARE, str(error)), self.blank
        return self.encoder.prepare([*inputs.values()]) if errors else prepared, skipped

    def _prepare(self, inputs: dict) -> tuple[dict[str, torch.Tensor], dict[int, Exception]]:
        """`prepare_items`, by parts."""

        def prepare(numbers: np.ndarray) -> tuple[dict, dict]:
            return prepare_items(self.encoder, {n: inputs[n] for n in numbers.tolist()})

        parts, errors = zip(*self._in_threads(prepare, np.arange(len(inputs))), strict=True)
        filled = [part for part in parts if part]
        names = filled[0] if filled else ()
        joined = {name: torch.cat([part[name] for part in filled]) for name in names}
        return joined, dict(ChainMap(*errors))

    def _in_threads(self, function: Callable, items: np.ndarray) -> list:
        """Results of a function on equal parts of `items` (n,), in as many threads as torch uses:
        decoding and resizing run in parallel. One part where the parts' inputs cannot be joined.
        """
        count = min(torch.get_num_threads(), len(items)) if self.encoder.fixed_length else 1
        if count < 2:
            return [function(items)]
        with ThreadPoolExecutor(count) as pool:
            return [*pool.map(function, np.array_split(items, count))]


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

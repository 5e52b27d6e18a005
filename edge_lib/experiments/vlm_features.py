"""Notebook 06: features for the placeholders of conversations, by the table's rows."""

from pathlib import Path

import numpy as np

from edge_lib.config import ConfigError, ExperimentConfig, FeatureSpec
from edge_lib.data.encoder_output import EncoderOutput, Features, MultimodalOutput
from edge_lib.data.table import Table
from edge_lib.features.online import open_features
from edge_lib.features.store import open_stores
from edge_lib.features.weights import resolve_model
from edge_lib.models import Aligner
from edge_lib.models.prefix_sources import FUSED


class ImagesByRow:
    """Features of rows' images, which rows may share."""

    def __init__(self, vision: Features, image_index: np.ndarray):
        """image_index: (N,) the number of each row's image."""
        self.vision, self.image_index = vision, image_index
        self.valid = vision.valid[image_index]

    def gather(self, rows) -> EncoderOutput:
        return self.vision.gather(self.image_index[rows])


class FusedFeatures:
    """Features of rows' images together with clips."""

    def __init__(self, vision: Features, audio: Features, clips: np.ndarray):
        """vision: by row; clips: (N,) the row whose clip belongs to each row's image."""
        self.vision, self.audio, self.clips = vision, audio, clips
        self.valid = vision.valid & audio.valid[clips]

    def gather(self, rows) -> MultimodalOutput:
        audio = self.audio.gather(self.clips[rows])
        return MultimodalOutput({"vision": self.vision.gather(rows), "audio": audio})


def prefix_spec(config: ExperimentConfig, aligner_folder: Path) -> FeatureSpec:
    """All that is needed to encode the conversations' images and clips, by the aligner's encoders.

    Raises ConfigError if the aligner lacks a modality, or the language model's name is unknown.
    """
    language, sources = config.vlm.language, config.vlm.prefix_sources
    resolve_model(language.model, language.weights)  # fail now rather than after encoding
    aligner = Aligner.untrained(aligner_folder)
    modalities = aligner.modalities
    names = {"vision", "audio"} if FUSED in sources.values() else set(sources.values())
    if missing := sorted(names - set(modalities)):
        raise ConfigError(f"{aligner_folder}: the aligner lacks {missing} of vlm.prefix_sources")
    if sources.get("audio") and modalities["audio"].varies_in_length:
        pooler = modalities["audio"].pooler
        raise ConfigError(f"pooler {pooler!r} gives variable-length audio; use 'perceiver'")
    return aligner.feature_spec(config.features, config.data.cache_dir, names)


def open_prefix_features(
    sources: dict[str, str], spec: FeatureSpec, table: Table, training: bool = False
) -> dict[str, Features]:
    """Features for each placeholder, by the table's rows. spec: from `prefix_spec`.

    The clip that is fused with an image is the row's own or, if it has none, that of the row which
    holds the image.
    """
    features: dict[str, Features] = (open_features if training else open_stores)(spec, table)
    if "vision" in features:
        features["vision"] = ImagesByRow(features["vision"], table.image_index)
    if FUSED in sources.values():
        holders = table.image_rows[table.image_index]
        clips = np.where(table.has("audio"), np.arange(len(table)), holders)
        features[FUSED] = FusedFeatures(features["vision"], features["audio"], clips)
    return {name: features[source] for name, source in sources.items()}

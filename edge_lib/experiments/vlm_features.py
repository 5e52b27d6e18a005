"""Features for the placeholders of conversations, by the table's rows."""

import numpy as np

from edge_lib.config import ExperimentConfig
from edge_lib.data.alignment_batches import Features
from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.data.table import Table
from edge_lib.features.online import open_features
from edge_lib.features.store import open_stores
from edge_lib.models.prefix_sources import FUSED


class PicturesByRow:
    """Features of rows' pictures, which they may share."""

    def __init__(self, vision: Features, pictures: np.ndarray):
        """pictures: (N,) the number of each row's."""
        self.vision, self.pictures = vision, pictures
        self.valid = vision.valid[pictures]

    def gather(self, rows) -> EncoderOutput:
        return self.vision.gather(self.pictures[rows])


class FusedFeatures:
    """Features of rows' pictures and of clips, as one stream."""

    def __init__(self, vision: Features, audio: Features, clips: np.ndarray):
        """vision: by row; clips: (N,) the row whose clip goes with each row's picture."""
        self.vision, self.audio, self.clips = vision, audio, clips
        self.valid = vision.valid & audio.valid[clips]

    def gather(self, rows) -> MultimodalOutput:
        heard = self.audio.gather(self.clips[rows])
        return MultimodalOutput({"vision": self.vision.gather(rows), "audio": heard})


def open_streams(
    streams: dict[str, str], about: ExperimentConfig, table: Table, training: bool = False
) -> dict[str, Features]:
    """Features for each placeholder, by the table's rows; about: of `stream_config`.

    What is fused with a picture is a row's own clip or, where it has none, that of the row which
    holds the picture.
    """
    found: dict[str, Features] = (open_features if training else open_stores)(about, table)
    if "vision" in found:
        found["vision"] = PicturesByRow(found["vision"], table.pictures)
    if FUSED in streams.values():
        holders = table.image_rows[table.pictures]
        clips = np.where(table.has("audio"), np.arange(len(table)), holders)
        found[FUSED] = FusedFeatures(found["vision"], found["audio"], clips)
    return {name: found[stream] for name, stream in streams.items()}

"""Frozen encoders: any transformers vision model, any sentence-transformers text model, and for
audio the encoder of any Whisper, or an Audio Spectrogram Transformer.

Each gives `EncoderOutput(tokens, mask, pooled)`. `pretrained.py` says where the weights come from;
`weights: random` builds the named architecture with random ones and, for the models of
`assets/architectures`, without a hub.
"""

from edge_lib.config import ModalityConfig
from edge_lib.features.audio import AudioEncoder
from edge_lib.features.encoder import Encoder
from edge_lib.features.text import TextEncoder
from edge_lib.features.vision import VisionEncoder

ENCODERS = {"vision": VisionEncoder, "audio": AudioEncoder, "text": TextEncoder}


def load_encoder(modality: str, config: ModalityConfig) -> Encoder:
    return ENCODERS[modality](config)

"""An exported aligner through onnxruntime, with neither torch nor transformers."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from edge_lib.config import ConfigError
from edge_lib.data.audio import RATE
from edge_lib.data.unusable import UnusableItem
from edge_lib.features.onnx_session import make_session

IDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
WHISPER = "WhisperFeatureExtractor"
Feed = dict[str, np.ndarray]
T = TypeVar("T")


class OnnxEmbedder:
    """An `Embedder` of a folder that `edge-glass export` wrote of an aligner. Embeddings have unit
    length. ConfigError for another folder.
    """

    def __init__(self, folder: Path):
        config = _read(folder / "config.json", "architectures", "dims", "graphs")
        names = [
            name for name in ("vision", "audio", "text") if f"{name}_model" in config["graphs"]
        ]
        if not names:
            raise ConfigError(f"{folder}: an export of {config['architectures'][0]} embeds nothing")
        self.modalities, self.dims = tuple(names), sorted(config["dims"])
        self.model_sha256 = config.get("model_sha256")
        graphs = {name: folder / "onnx" / f"{name}_model.onnx" for name in names}
        self._sessions = {name: _load(make_session, path) for name, path in graphs.items()}
        if "text" in names:
            self._tokenizer = _load(Tokenizer.from_file, folder / "tokenizer.json")
        if names != ["text"]:
            self._config = _read(folder / "preprocessor_config.json")
        if "audio" in names and (kind := self._config.get("feature_extractor_type")) != WHISPER:
            reason = f"of exported audio, {WHISPER} is served, not {kind}"
            raise ConfigError(f"{folder}: {reason}; serve the run that was exported")

    def prepare(self, modality: str, item: Any) -> Any:
        """As `Embedder.prepare`; an input of one item."""
        if modality == "vision":
            return {"pixel_values": prepare_image(item, self._config, self._crop())}
        if modality == "audio":
            return prepare_clip(item, self._config)
        if self._tokenizer.encode(item).overflowing:
            limit = self._tokenizer.truncation["max_length"]
            raise UnusableItem(f"longer than the {limit} tokens that the model reads")
        return item

    def count_tokens(self, texts: list[str]) -> int:
        """As `Embedder.count_tokens`."""
        return int(self._tokenized(texts)["attention_mask"].sum())

    def embed(self, modality: str, inputs: list) -> np.ndarray:
        """As `Embedder.embed`."""
        session = self._sessions[modality]
        batch = self._tokenized(inputs) if modality == "text" else _stacked(inputs)
        names = {value.name for value in session.get_inputs()}
        return session.run(None, {name: x for name, x in batch.items() if name in names})[0]

    def _tokenized(self, texts: list[str]) -> Feed:
        rows = self._tokenizer.encode_batch(texts)
        return {name: np.array([getattr(row, key) for row in rows]) for name, key in IDS.items()}

    def _crop(self) -> tuple[int, int]:
        """Height and width of the graph's input."""
        return tuple(self._sessions["vision"].get_inputs()[0].shape[2:])


def prepare_image(image: Image.Image, config: dict, crop: tuple[int, int]) -> np.ndarray:
    """RGB -> (3, H, W) float32, as an image processor of transformers does with this config.

    crop: H and W, of the middle; a smaller image is padded with black.
    """
    image = image.resize(_size(image, config["size"]), config.get("resample", 2))
    high, wide = crop
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    pixels = np.asarray(image.crop((left, top, left + wide, top + high)), np.float64)
    if config.get("do_rescale", True):
        pixels = pixels * config["rescale_factor"]
    if config.get("do_normalize", True):
        pixels = (pixels - config["image_mean"]) / config["image_std"]
    return pixels.astype(np.float32).transpose(2, 0, 1)


def _size(image: Image.Image, size: dict[str, int]) -> tuple[int, int]:
    """Width and height to resize to."""
    edge = size.get("shortest_edge")
    if edge is None:
        return size["width"], size["height"]
    return tuple(int(edge * side / min(image.size)) for side in image.size)


def prepare_clip(clip: np.ndarray, config: dict) -> Feed:
    """(n,) at 16 kHz -> Whisper's features (bins, frames) of its whole window, and their mask."""
    length, hop = config["chunk_length"] * RATE, config["hop_length"]
    if len(clip) > length:
        seconds = config["chunk_length"]
        raise UnusableItem(f"longer than the {seconds:g} s that the model reads")
    padded = np.pad(clip, (0, length - len(clip)))
    features = log_mel(padded, config["n_fft"], hop, config["feature_size"])
    mask = np.arange(features.shape[1]) * hop < len(clip)
    return {"input_features": features, "attention_mask": mask.astype(np.int32)}


def _stacked(inputs: list[Feed]) -> Feed:
    return {name: np.stack([item[name] for item in inputs]) for name in inputs[0]}


def _read(path: Path, *keys: str) -> dict:
    """ConfigError for a file that is no JSON object with these keys."""
    try:
        content = json.loads(path.read_text())
        missing = {*keys} - content.keys()
    except (AttributeError, OSError, ValueError) as error:
        raise ConfigError(f"{path.parent} is no export: {path.name}: {error}") from None
    if missing:
        raise ConfigError(
            f"{path.parent} is no export: {path.name}: no {', '.join(sorted(missing))}"
        )
    return content


def _load(load: Callable[[str], T], path: Path) -> T:
    """ConfigError for a damaged file, for which both libraries raise plain exceptions."""
    try:
        return load(str(path))
    except Exception as error:
        raise ConfigError(f"{path} cannot be loaded: {error}") from None


def log_mel(clip: np.ndarray, n_fft: int, hop: int, bins: int) -> np.ndarray:
    """Whisper's log-mel spectrogram (Radford et al. 2022, arXiv 2212.04356, section 2.2) in NumPy.

    (n,) at 16 kHz -> (bins, n / hop) float32, of a range of 2 (8 powers of ten).
    """
    padded = np.pad(clip.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop][: len(clip) // hop]
    window = np.hanning(n_fft + 1)[:-1]
    powers = np.abs(np.fft.rfft(frames * window)) ** 2  # (frames, n_fft / 2 + 1)
    mel = np.log10(np.maximum(mel_filters(n_fft, bins) @ powers.T, 1e-10))
    return ((np.maximum(mel, mel.max() - 8) + 4) / 4).astype(np.float32)


@cache
def mel_filters(n_fft: int, bins: int) -> np.ndarray:
    """(bins, n_fft / 2 + 1) triangles of equal area on Slaney's mel scale, from 0 to 8 kHz."""
    # linear below 1 kHz, 15 mels; above it 27 mels are a factor of 6.4
    mels = np.linspace(0, 15 + 27 * np.log(RATE / 2000) / np.log(6.4), bins + 2)
    edges = np.where(mels < 15, mels * 1000 / 15, 1000 * 6.4 ** ((mels - 15) / 27))
    hertz = np.linspace(0, RATE / 2, n_fft // 2 + 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
    return np.minimum(rising, falling).clip(min=0) * 2 / (high - low)

"""The aligner: a trained head for each modality, over frozen encoders."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from edge_lib.config import MODALITIES, ConfigError, FeaturesConfig, FeatureSpec, ModalityConfig
from edge_lib.config.registry import load_registered
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.unusable import UnusableItem
from edge_lib.features.encoder import Encoder, load_encoder, run_encoder
from edge_lib.features.weights import check_weights, weights_digest
from edge_lib.models.card import Backbone, count_parameters
from edge_lib.models.saving import PretrainedModel, load_saved, read_weights
from edge_lib.nn.heads import build_head
from edge_lib.nn.maxsim import TokenVectors
from edge_lib.runs.files import absolute_path
from edge_lib.runs.tensors import save_tensors


class Aligner(PretrainedModel, nn.Module):
    """One trained head per modality, into a shared Matryoshka space.

    modalities: the encoder and head of each. dims: sizes of the embedding. widths: for each
    modality the widths of its encoder's tokens and pooled vector. precision: of the encoders.
    token_window: of `features.tokens`, over which an image's tokens are averaged.
    encoder_digests: `weights_digest` of each encoder that the heads were trained on, by default
    those of today.

    Example:
        >>> aligner = Aligner.from_pretrained("runs/01_align-tiny-1a2b3c4d/checkpoints/best")
        >>> images = aligner.embed("vision", [image, other])  # (2, 256), or [:, :d] for dim d
        >>> caption = aligner.embed("text", "a large red three")  # (1, 256)
    """

    FILE = "aligner.json"

    def __init__(
        self,
        modalities: dict[str, ModalityConfig],
        dims: Sequence[int],
        widths: dict[str, tuple[int, int]],
        precision: str = "fp32",
        token_window: int = 1,
        encoder_digests: dict[str, str] | None = None,
    ):
        super().__init__()
        self.modalities, self.dims, self.widths = modalities, list(dims), widths
        self.precision, self.token_window = precision, token_window
        self.encoder_digests = encoder_digests
        # a plain dict: frozen encoders are loaded by name and are no part of the state
        self._encoders: dict[str, Encoder] = {}
        heads = {name: build_head(m, self.dims, *widths[name]) for name, m in modalities.items()}
        self.heads = nn.ModuleDict(heads)

    @property
    def width(self) -> int:
        """Dims of the whole embedding."""
        return max(self.dims)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def late_interaction(self) -> bool:
        """Whether the heads were trained to keep a vector for each token (`head: maxsim`)."""
        return any(modality.head == "maxsim" for modality in self.modalities.values())

    def forward(self, features: dict[str, EncoderOutput]) -> dict[str, Tensor | TokenVectors]:
        """Encoder outputs of B items -> embeddings by modality: (B, D), not normalised; token
        vectors (B, L, D) of heads with late interaction.
        """
        return {name: self.embed_output(name, features[name]) for name in self.heads}

    def embed_output(self, modality: str, output: EncoderOutput) -> Tensor | TokenVectors:
        """The embeddings of an encoder's output, as `forward` gives them."""
        head = self.heads[modality]
        sequence, pooled = head(output)
        if not self.late_interaction:
            return pooled
        rank = list(MODALITIES).index(modality)
        return TokenVectors(sequence, head.sequence_mask(output), rank)

    @torch.no_grad()
    def embed(self, modality: str, items: Any) -> Tensor | TokenVectors:
        """Embeddings (B, D), not normalised; the first d columns, normalised, are those of size d.
        Token vectors of heads with late interaction.

        items: one or a list of PIL images ("vision"), clips (n,) at 16 kHz ("audio") or strings
        ("text"), which get the same normal form as a table's. Raises ValueError for a modality that
        the aligner does not have and for an empty text or a clip of NaN; TypeError for
        items of another type, such as paths.
        """
        items = self._as_list(modality, items)
        if not items:
            return self._no_embeddings()
        return self.embed_output(modality, self.encode(modality, items))

    @torch.no_grad()
    def encode(self, modality: str, items: Any) -> EncoderOutput:
        """The frozen encoder's output for items, which are as in `embed`; ValueError for none."""
        items = self._as_list(modality, items)
        if not items:
            raise ValueError(f"no items of {modality}")
        items = [_normalize(modality, *pair) for pair in enumerate(items)]
        encoder = self.encoder(modality)
        return run_encoder(encoder, encoder.prepare(items), self.precision, self.token_window)

    def prepare(self, modality: str, item: Any) -> dict[str, Tensor]:
        """An item in its normal form (not a text) -> its encoder's input, in any thread.
        UnusableItem if the encoder would leave out the end.
        """
        encoder = self.encoder(modality)
        if encoder.truncates(item):
            raise UnusableItem(f"longer than {encoder.limit}")
        return encoder.prepare([item])

    @torch.no_grad()
    def encode_prepared(self, modality: str, inputs: Sequence[dict[str, Tensor]]) -> EncoderOutput:
        """The frozen encoder's output for inputs of one or more items, all of one length."""
        batch = {name: torch.cat([own[name] for own in inputs]) for name in inputs[0]}
        return run_encoder(self.encoder(modality), batch, self.precision, self.token_window)

    def feature_spec(
        self, features: FeaturesConfig, cache_dir: Path, names: Collection[str] | None = None
    ) -> FeatureSpec:
        """How to store features of these modalities, by default all, for the heads: as in their
        training, but for onnxruntime in its fp32. ConfigError as in `check_encoder`.
        """
        kept = {name: m for name, m in self.modalities.items() if names is None or name in names}
        for name in kept:
            self.check_encoder(name)
        tokens = features.tokens.model_copy(update={"window": self.token_window})
        precision = "fp32" if features.backend == "onnx" else self.precision
        encoding = {"tokens": tokens, "precision": precision}
        return FeatureSpec(kept, features.model_copy(update=encoding), cache_dir)

    def _no_embeddings(self) -> Tensor | TokenVectors:
        if not self.late_interaction:
            return torch.empty(0, self.width, device=self.device)
        vectors = torch.empty(0, 1, self.width, device=self.device)
        return TokenVectors(vectors, torch.empty(0, 1, dtype=torch.bool, device=self.device))

    def _as_list(self, modality: str, items: Any) -> list:
        """One item or several, as a list. Raises as `embed` does."""
        if not isinstance(modality, str):
            raise ValueError(f"the modality comes first, then items; got {type(modality).__name__}")
        if modality not in self.modalities:
            raise ValueError(f"no modality {modality!r}, only {', '.join(self.modalities)}")
        blank = load_registered(MODALITIES[modality].blank)()
        single = isinstance(items, type(blank) | str | bytes) or not isinstance(items, Iterable)
        items = [items] if single else list(items)
        for number, item in enumerate(items):
            _check_item(f"item {number} of {modality}", item, blank, MODALITIES[modality].decode)
        return items

    def encoder(self, modality: str) -> Encoder:
        """The frozen encoder, which is loaded when it is first used."""
        if modality not in self._encoders:
            self.check_encoder(modality)
            config = self.modalities[modality].encoder_config
            self._encoders[modality] = load_encoder(modality, config)
        return self._encoders[modality].to(self.device)

    def check_encoder(self, modality: str) -> None:
        """ConfigError if an encoder has other weights now than when its head was trained."""
        if saved := (self.encoder_digests or {}).get(modality):
            check_weights(saved, *_backbone(self.modalities[modality]))

    def check_pooled(self, user: str) -> None:
        """ConfigError if the heads keep a vector for each token; user: what needs one an item."""
        if self.late_interaction:
            raise ConfigError(
                f"{user} needs one vector for each item, but this aligner keeps one for each token "
                "(head: maxsim); train it with head: pooled, or search with edge_lib.search."
                "MaxSimIndex"
            )

    @property
    def title(self) -> str:
        return f"An aligner of {' and '.join(self.modalities)}"

    @property
    def example(self) -> str:
        shape = f"N, L, {self.width}" if self.late_interaction else f"N, {self.width}"
        return f'model.embed("{next(iter(self.modalities))}", items)  # ({shape})'

    def backbones(self) -> dict[str, Backbone]:
        digests = self._digests()
        return {
            name: Backbone(modality.encoder, modality.revision, digests.get(name, ""))
            for name, modality in self.modalities.items()
        }

    def facts(self) -> dict[str, str]:
        kind = ", a vector for each token (MaxSim)" if self.late_interaction else ""
        heads = {f"{name} head": f"pooler {m.pooler}{kind}" for name, m in self.modalities.items()}
        dims = ", ".join(map(str, sorted(self.dims, reverse=True)))
        sizes = f"{dims}: the first columns, normalised, are an embedding of each size"
        return heads | {"dims": sizes, "trained parameters": count_parameters(self.heads)}

    def _digests(self) -> dict[str, str]:
        """The digests of the encoders that the heads were trained on."""
        if self.encoder_digests is not None:
            return self.encoder_digests
        return {name: weights_digest(*_backbone(m)) for name, m in self.modalities.items()}

    def _write(self, folder: Path) -> dict[str, Any]:
        save_tensors(self.state_dict(), folder / "model.safetensors")
        modalities = {
            name: modality.model_dump(mode="json", exclude={"augment"})  # only in training
            for name, modality in self.modalities.items()
        }
        return {
            "modalities": modalities,
            "dims": self.dims,
            "widths": self.widths,
            "precision": self.precision,
            "token_window": self.token_window,
            "encoder_digests": self._digests(),
        }

    @classmethod
    def _read(cls, folder: Path, metadata: dict[str, Any]) -> "Aligner":
        aligner = cls._build(metadata)
        aligner.load_state_dict(read_weights(folder / "model.safetensors"))
        return aligner

    @classmethod
    def untrained(cls, folder: str | Path) -> "Aligner":
        """A saved aligner without its weights: its modalities, dims and widths."""
        return load_saved(absolute_path(folder), cls.FILE, cls._build)

    @classmethod
    def _build(cls, metadata: dict[str, Any]) -> "Aligner":
        configs = metadata.pop("modalities")
        modalities = {name: ModalityConfig.model_validate(c) for name, c in configs.items()}
        widths = {name: tuple(pair) for name, pair in metadata.pop("widths").items()}
        # those that an older version saved are not known
        digests = metadata.pop("encoder_digests", {})
        return cls(modalities, widths=widths, encoder_digests=digests, **metadata)


def _backbone(config: ModalityConfig) -> tuple[str, str | None, str]:
    """The arguments of `weights_digest`."""
    return config.encoder, config.revision, config.weights


def _normalize(modality: str, number: int, item: Any) -> Any:
    """An item in the form that a table's items have; ValueError with its number."""
    if MODALITIES[modality].normalize is None:
        return item
    try:
        return load_registered(MODALITIES[modality].normalize)(item)
    except (ValueError, OSError) as error:  # OSError: of an image whose file turns out damaged
        raise ValueError(f"item {number} of {modality}: {error}") from error


def _content(item: Any) -> str:
    """How to write the bytes of a file in Python; empty for what is neither bytes nor a path."""
    if isinstance(item, bytes):
        return "content"
    is_url = isinstance(item, str) and ("://" in item or item.startswith("data:"))
    is_path = isinstance(item, str | Path) and str(item) and not is_url
    return f"Path({str(item)!r}).read_bytes()" if is_path else ""


def _check_item(name: str, item: Any, blank: Any, decode: str | None) -> None:
    """TypeError unless an item is of the type of `blank`; for arrays, float with as many axes."""
    if not isinstance(item, type(blank)):
        hint = ""
        if decode and (content := _content(item)):
            hint = f"; to decode it: {decode.replace(':', '.')}({content})"
        if isinstance(blank, Image) and isinstance(item, np.ndarray):
            hint = "; to convert an array: PIL.Image.fromarray(array)"
        expected, actual = type(blank).__name__, type(item).__name__
        raise TypeError(f"{name}: expected {expected}, got {actual}{hint}")
    if isinstance(item, str) and not item.strip():
        raise ValueError(f"{name} is empty")
    if isinstance(item, np.ndarray) and (item.ndim != blank.ndim or item.dtype.kind != "f"):
        raise TypeError(
            f"{name}: expected floats of a shape such as {blank.shape}, got {item.dtype} of shape "
            f"{item.shape}"
        )

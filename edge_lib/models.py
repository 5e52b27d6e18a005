"""Models: the parts put together, saved to a folder and loaded from it."""

import json
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_lib.config import ExperimentConfig, from_root
from edge_lib.data.batches import Batch
from edge_lib.encoded import Encoded
from edge_lib.features import encode
from edge_lib.fusion import FUSIONS
from edge_lib.heads import ModalityHead
from edge_lib.losses import LogitScale, matryoshka_info_nce, pairwise_loss

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
        embedded = {name: head(batch.encoded[name])[1] for name, head in self.heads.items()}
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
        return self.heads[modality](self._encode(modality, items))[1]

    def _encode(self, modality: str, items: Sequence) -> Encoded:
        encoder = self._encoders[modality].to(self.logit_scale.log_scale.device)
        return encode(encoder, encoder.prepare(items), self.config.features.precision)

    @cached_property
    def _encoders(self) -> dict:
        from edge_lib.encoders import load_encoder  # seconds, for transformers

        # a plain dict: frozen encoders are loaded by name and are no part of the state
        return {name: load_encoder(name, m) for name, m in self.config.modalities.items()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and aligner.json; the folder appears whole or not at all."""
        folder = from_root(folder)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        save_file(self.state_dict(), temporary / "model.safetensors")
        about = {"config": self.config.model_dump(mode="json"), "widths": self.widths}
        (temporary / "aligner.json").write_text(json.dumps(about, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Aligner":
        """Load what `save_pretrained` wrote, in evaluation mode."""
        folder = from_root(folder)
        about = json.loads((folder / "aligner.json").read_text())
        config = ExperimentConfig.model_validate(about["config"])
        aligner = cls(config, {name: tuple(pair) for name, pair in about["widths"].items()})
        aligner.load_state_dict(load_file(folder / "model.safetensors"))
        return aligner.eval()


class Fuser(nn.Module):
    """Fusions of an aligner's frozen heads: all the config's strategies, on the same batches."""

    def __init__(self, aligner: Aligner, config: ExperimentConfig):
        super().__init__()
        self.config, dim = config, max(aligner.config.loss.dims)
        self.aligner = aligner.requires_grad_(False).eval()
        made = {name: FUSIONS[name](config.fusion, dim) for name in config.fusion.strategies}
        self.fusions = nn.ModuleDict(made)
        scale = 1 / config.loss.temperature
        self.logit_scales = nn.ModuleDict({name: LogitScale(scale) for name in made})

    def train(self, mode: bool = True) -> "Fuser":
        """The aligner stays in evaluation mode: it is not what is trained."""
        super().train(mode)
        self.aligner.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, summed over strategies."""
        fusion, loss = self.config.fusion, self.config.loss
        with torch.no_grad():
            heads, encoded = self.aligner.heads, batch.encoded
            sequences = {name: heads[name](encoded[name])[0] for name in fusion.modalities}
            target = heads[fusion.target](encoded[fusion.target])[1]
        present = self._drop({name: batch.present[name] for name in fusion.modalities})
        usable = torch.stack([*present.values()]).any(0) & batch.present[fusion.target]
        losses = [
            matryoshka_info_nce(
                fuse(sequences, present).embedding,
                target,
                self.logit_scales[name](),
                dims=loss.dims,
                weights=loss.weights,
                chunk=loss.chunk,
                present=usable,
            )
            for name, fuse in self.fusions.items()
        ]
        return sum(losses)

    def _drop(self, present: dict[str, Tensor]) -> dict[str, Tensor]:
        """While training, leave some rows with one modality, so that any subset will do later."""
        first = next(iter(present.values()))
        alone = torch.rand(first.shape, device=first.device) < self.config.fusion.modality_dropout
        kept = torch.randint(len(present), first.shape, device=first.device)
        if not self.training:
            return present
        return {
            name: there & (~alone | (kept == number))
            for number, (name, there) in enumerate(present.items())
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the fusions alone; the aligner lies elsewhere."""
        folder = from_root(folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".fusions.{os.getpid()}"
        save_file(self._own_state(), temporary)
        temporary.replace(folder / "fusions.safetensors")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, aligner: Aligner, config: ExperimentConfig
    ) -> "Fuser":
        """Load what `save_pretrained` wrote, on top of the same aligner, in evaluation mode."""
        fuser = cls(aligner, config)
        state = load_file(from_root(folder) / "fusions.safetensors")
        fuser.load_state_dict(fuser.state_dict() | state)
        return fuser.eval()

    def _own_state(self) -> dict[str, Tensor]:
        state = self.state_dict().items()
        return {name: value for name, value in state if not name.startswith("aligner.")}

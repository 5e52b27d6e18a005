"""The fuser: fusions trained on an aligner's heads."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_lib.config import ExperimentConfig, from_root
from edge_lib.data.alignment_batches import Batch
from edge_lib.models.aligner import Aligner
from edge_lib.nn.fusion import FUSIONS
from edge_lib.nn.losses import LogitScale, matryoshka_info_nce
from edge_lib.runs.files import whole_file


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
            heads, encoded = self.aligner.heads, batch.features
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
        with whole_file(folder / "fusions.safetensors") as temporary:
            save_file(self._own_state(), temporary)

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

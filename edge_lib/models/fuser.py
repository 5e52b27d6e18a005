"""The fuser: fusions trained on an aligner's frozen heads."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_lib.config import FusionConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.models.aligner import Aligner
from edge_lib.models.saving import model_folder
from edge_lib.nn.fusion import Fused, build_fusion
from edge_lib.runs.files import absolute_path, read_saved

FILE = "fuser.json"
TRAINING = {"seeds", "modality_dropout", "train"}  # keys that a trained fuser does not need


class Fuser(nn.Module):
    """Several fusions of the same modalities, on one aligner."""

    def __init__(self, aligner: Aligner, config: FusionConfig):
        super().__init__()
        self.config = config
        self.aligner = aligner.requires_grad_(False).eval()
        self.fusions = nn.ModuleDict(
            {name: build_fusion(name, config, aligner.width) for name in config.strategies}
        )

    def train(self, mode: bool = True) -> "Fuser":
        """The aligner stays in evaluation mode, as it is frozen."""
        super().train(mode)
        self.aligner.eval()
        return self

    @torch.no_grad()
    def sequences(self, features: dict[str, EncoderOutput]) -> dict[str, Tensor]:
        """Encoder outputs of B items -> the heads' sequences (B, L_m, D), by modality."""
        return {name: self.aligner.heads[name](output)[0] for name, output in features.items()}

    def forward(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, Fused]:
        """Sequences (B, L_m, D) and presence (B,) of the modalities -> each fusion's output."""
        return {name: fusion(sequences, present) for name, fusion in self.fusions.items()}

    def select(self, strategy: str) -> "Fuser":
        """A fuser with one of the strategies, which shares its modules."""
        config = self.config.model_copy(update={"strategies": [strategy]})
        with torch.device("meta"):  # its own fusion is replaced, and draws no random numbers
            fuser = Fuser(self.aligner, config)
        fuser.fusions[strategy] = self.fusions[strategy]
        return fuser.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the fusions and the aligner; the folder appears whole or not at all."""
        metadata = self.config.model_dump(mode="json", exclude=TRAINING)
        with model_folder(folder, FILE, metadata) as temporary:
            self.aligner.save_pretrained(temporary / "aligner")
            save_file(self.fusions.state_dict(), temporary / "fusions.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Fuser":
        """Load what `save_pretrained` wrote, in evaluation mode."""
        folder, config = absolute_path(folder), FusionConfig(**read_saved(folder, FILE))
        fuser = cls(Aligner.from_pretrained(folder / "aligner"), config)
        fuser.fusions.load_state_dict(load_file(folder / "fusions.safetensors"))
        return fuser.eval()

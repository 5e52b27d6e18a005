"""The fuser: fusions trained on an aligner's frozen heads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_lib.config import FusionConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.models.aligner import Aligner
from edge_lib.models.card import Backbone, count_parameters
from edge_lib.models.saving import PretrainedModel, read_weights
from edge_lib.nn.fusion import Fused, build_fusion
from edge_lib.runs.tensors import save_tensors

TRAINING = {
    "seeds",
    "modality_dropout",
    "damage",
    "train",
}  # keys that a trained fuser does not need


class Fuser(PretrainedModel, nn.Module):
    """Several fusions of the same modalities, on one aligner."""

    FILE = "fuser.json"
    example = "model(model.sequences(features), present)  # by strategy"

    def __init__(self, aligner: Aligner, config: FusionConfig):
        super().__init__()
        aligner.check_pooled("fusion")
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

    @property
    def title(self) -> str:
        return f"Fusions of {' and '.join(self.config.modalities)}"

    def backbones(self) -> dict[str, Backbone]:
        return self.aligner.backbones()

    def facts(self) -> dict[str, str]:
        strategies = ", ".join(self.config.strategies)
        trained = count_parameters(self.fusions)
        return {"strategies": strategies, "trained parameters, without the aligner's": trained}

    def _write(self, folder: Path) -> dict[str, Any]:
        self.aligner.save_pretrained(folder / "aligner")
        save_tensors(self.fusions.state_dict(), folder / "fusions.safetensors")
        return self.config.model_dump(mode="json", exclude=TRAINING)

    @classmethod
    def _read(cls, folder: Path, metadata: dict[str, Any]) -> "Fuser":
        fuser = cls(Aligner.from_pretrained(folder / "aligner"), FusionConfig(**metadata))
        fuser.fusions.load_state_dict(read_weights(folder / "fusions.safetensors"))
        return fuser

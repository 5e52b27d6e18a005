"""The frozen inputs of a VLM: an aligner's vision and audio, or a fusion of both."""

from pathlib import Path

import torch
from torch import Tensor, nn

from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.models.aligner import Aligner
from edge_lib.models.fuser import Fuser

FUSED = "fused"


class PrefixSources(nn.Module):
    """The input of the projectors: vectors of images, of clips, or of both fused.

    model: an aligner, or a fuser of which the first strategy is used.
    """

    def __init__(self, model: Aligner | Fuser):
        super().__init__()
        self.model = model
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PrefixSources":
        """Stay in evaluation mode, as all of it is frozen."""
        return super().train(False)

    @property
    def aligner(self) -> Aligner:
        return self.model.aligner if isinstance(self.model, Fuser) else self.model

    @staticmethod
    def modalities(source: str) -> tuple[str, ...]:
        """The modalities of a source."""
        return ("vision", "audio") if source == FUSED else (source,)

    @torch.no_grad()
    def vectors(
        self, source: str, input_kind: str, features: EncoderOutput | MultimodalOutput
    ) -> tuple[Tensor, Tensor]:
        """Features of N items, on any device -> vectors (N, L, D) and their mask (N, L).

        source: vision, audio or fused. input_kind: of `config.vlm.INPUT_KINDS`.
        """
        weight = next(self.parameters())  # DeepSpeed converts them to bf16
        features = features.to(weight.device, weight.dtype)
        if source == FUSED:
            sequence, mask, embedding = self._fuse(features)
        else:
            head = self.aligner.heads[source]
            sequence, embedding = head(features)
            mask = head.sequence_mask(features)
        if input_kind == "sequence":
            return sequence, mask
        return embedding[:, None], torch.ones_like(embedding[:, :1], dtype=torch.bool)

    def _fuse(self, features: MultimodalOutput) -> tuple[Tensor, Tensor, Tensor]:
        sequences = self.model.sequences(features.parts)
        first = next(iter(sequences.values()))
        present = torch.ones(len(first), dtype=torch.bool, device=first.device)
        fusion = next(iter(self.model.fusions.values()))
        fused = fusion(sequences, dict.fromkeys(sequences, present))
        return fused.prefix, fused.mask, fused.embedding

    def encode(self, source: str, **items: list) -> EncoderOutput | MultimodalOutput:
        """Features of images (vision=) or clips (audio=); of as many of both for source fused."""
        names = self.modalities(source)
        outputs = {name: self.aligner.encode(name, items[name]) for name in names}
        return MultimodalOutput(outputs) if source == FUSED else outputs[source]

    def save(self, folder: Path) -> None:
        """Write the aligner or the fuser into a folder of its own."""
        name = "fuser" if isinstance(self.model, Fuser) else "aligner"
        self.model.save_pretrained(folder / name)

    @classmethod
    def load(cls, folder: Path) -> "PrefixSources":
        """Load what `save` wrote."""
        if (folder / "fuser").is_dir():
            return cls(Fuser.from_pretrained(folder / "fuser"))
        return cls(Aligner.from_pretrained(folder / "aligner"))

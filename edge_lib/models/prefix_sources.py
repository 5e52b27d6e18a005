"""What a VLM sees and hears: an aligner's vision and audio, perhaps fused; all of it frozen."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.models.aligner import Aligner
from edge_lib.nn.fusion import FUSIONS, Fusion

FUSED = "fused"


class PrefixSources(nn.Module):
    """Vectors for a projector: of images, of clips, or of both fused."""

    def __init__(self, aligner: Aligner, fusion: Fusion | None = None):
        super().__init__()
        self.aligner, self.fusion = aligner, fusion
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PrefixSources":
        """Stay in evaluation mode: it is not what is trained."""
        return super().train(False)

    @torch.no_grad()
    def vectors(self, stream: str, reads: str, features: EncoderOutput | MultimodalOutput) -> tuple:
        """Features of N items, wherever they lie -> what a projector `reads` of them
        (`projectors.INPUT_KINDS`): vectors (N, L, D) and their mask (N, L).
        """
        weight = next(self.parameters())  # DeepSpeed makes them bf16
        features = features.to(weight.device, weight.dtype)
        if stream == FUSED:
            sequence, mask, embedding = self._fused(features)
        else:
            head = self.aligner.heads[stream]
            sequence, embedding = head(features)
            mask = head.sequence_mask(features)
        if reads == "sequence":
            return sequence, mask
        return embedding[:, None], torch.ones_like(embedding[:, :1], dtype=torch.bool)

    def _fused(self, features: MultimodalOutput) -> tuple[Tensor, Tensor, Tensor]:
        heads, parts = self.aligner.heads, features.parts
        sequences = {name: heads[name](encoded)[0] for name, encoded in parts.items()}
        first = next(iter(sequences.values()))
        there = torch.ones(len(first), dtype=torch.bool, device=first.device)
        fused = self.fusion(sequences, dict.fromkeys(sequences, there))
        return fused.prefix, fused.mask, fused.embedding

    def encode(self, stream: str, **items: list) -> EncoderOutput | MultimodalOutput:
        """Features of PIL images (vision) or of clips (audio); of as many of both for a fusion."""
        wanted = ("vision", "audio") if stream == FUSED else (stream,)
        found = {name: self.aligner.encode(name, items[name]) for name in wanted}
        return MultimodalOutput(found) if stream == FUSED else found[stream]

    def save(self, folder: Path) -> None:
        """The aligner, and the fusion beside it."""
        self.aligner.save_pretrained(folder / "aligner")
        if self.fusion:
            save_file(self.fusion.state_dict(), folder / "fusion.safetensors")

    @classmethod
    def load(cls, folder: Path, fusion: str | None) -> "PrefixSources":
        """What `save` wrote. fusion: the strategy."""
        aligner = Aligner.from_pretrained(folder / "aligner")
        if fusion is None:
            return cls(aligner)
        config = aligner.config
        made = FUSIONS[fusion](config.fusion, max(config.loss.dims))
        made.load_state_dict(load_file(folder / "fusion.safetensors"))
        return cls(aligner, made)

"""The question answerer: an aligner's frozen vision as prefix, and a decoder on it."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_lib.config import DecoderConfig, ExperimentConfig, from_root
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.qa_batches import QABatch
from edge_lib.data.vocabulary import PAD, Vocabulary, pad
from edge_lib.models.aligner import Aligner
from edge_lib.nn.decoders import DECODERS
from edge_lib.runs.files import read_saved, whole_folder


class QAModel(nn.Module):
    """A decoder, and the vision of an aligner that stays as it is."""

    def __init__(
        self,
        aligner: Aligner,
        arm: str,
        decoder: DecoderConfig,
        vocabulary: Vocabulary,
        vision: bool = True,
    ):
        super().__init__()
        self.arm, self.vocabulary, self.vision = arm, vocabulary, vision
        self.aligner = aligner.requires_grad_(False).eval()
        width = max(aligner.config.loss.dims)
        self.decoder = DECODERS[arm](decoder, width, len(vocabulary))
        self.decoder.project.requires_grad_(vision)

    @classmethod
    def new(
        cls, aligner: Aligner, arm: str, config: ExperimentConfig, vocabulary: Vocabulary
    ) -> "QAModel":
        """One of the decoders of `config.qa`, untrained."""
        return cls(aligner, arm, config.qa.arms[arm], vocabulary, config.qa.vision)

    def train(self, mode: bool = True) -> "QAModel":
        """The aligner stays in evaluation mode: it is not what is trained."""
        super().train(mode)
        self.aligner.eval()
        return self

    @torch.no_grad()
    def prefix(self, images: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Features of N images -> prefix (N, P, D) and its mask (N, P); P = 0 without vision."""
        head = self.aligner.heads["vision"]
        sequence, mask = head(images)[0], head.sequence_mask(images)
        return (sequence, mask) if self.vision else (sequence[:, :0], mask[:, :0])

    def forward(self, batch: QABatch) -> Tensor:
        """Mean cross-entropy of the answers' tokens; the head is run on nothing else."""
        context = self.decoder.read_context(*self.prefix(batch.images), batch.question_ids)
        losses = []
        for rows in _by_length(batch.answer_ids):
            answers = batch.answer_ids[rows]
            answers = answers[:, (answers != PAD).any(0)]
            states = self.decoder.states_after(context.of(rows), answers)
            losses.append(self._loss(self.decoder.supervised(states), answers))
        return torch.stack(losses).sum() / batch.tokens

    def _loss(self, states: list[Tensor], answer_ids: Tensor) -> Tensor:
        """Summed over tokens, averaged over states."""
        asked = answer_ids != PAD
        logits = (self.decoder.head(state[asked]).float() for state in states)
        losses = [F.cross_entropy(x, answer_ids[asked], reduction="sum") for x in logits]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def answer(
        self,
        images: EncoderOutput | Image | Sequence[Image],
        questions: str | Sequence[str],
        max_tokens: int = 16,
    ) -> str | list[str]:
        """The answer to a question about an image (PIL), or those to k questions about each of N
        (PIL, or features), the questions about an image together.

        Raises ValueError for an empty question, and where they do not divide among the images.
        """
        asked = [questions] if isinstance(questions, str) else list(questions)
        if not asked:
            raise ValueError("no question")
        if empty := [number for number, text in enumerate(asked) if not text.strip()]:
            raise ValueError(f"question {empty[0]} is empty")
        if not isinstance(images, EncoderOutput):
            some = [images] if isinstance(images, Image) else images
            images = self.aligner.encode("vision", some)
        ids = pad(self.vocabulary.encode(asked)).to(self.decoder.head.weight.device)
        answers = self.decoder.generate(*self.prefix(images), ids, max_tokens)
        texts = self.vocabulary.decode(answers.cpu())
        return texts[0] if isinstance(questions, str) else texts

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the decoder, its words and the aligner; the folder appears whole or not at all."""
        decoder = self.decoder.config.model_dump(mode="json")
        about = {"arm": self.arm, "decoder": decoder, "vision": self.vision}
        with whole_folder(from_root(folder)) as temporary:
            self.aligner.save_pretrained(temporary / "aligner")
            save_file(self.decoder.state_dict(), temporary / "model.safetensors")
            self.vocabulary.save(temporary / "tokenizer.json")
            (temporary / "qa.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "QAModel":
        """Load what `save_pretrained` wrote, in evaluation mode."""
        folder = from_root(folder)
        about = read_saved(folder, "qa.json")
        aligner = Aligner.from_pretrained(folder / "aligner")
        decoder = DecoderConfig.model_validate(about["decoder"])
        vocabulary = Vocabulary.load(folder / "tokenizer.json")
        model = cls(aligner, about["arm"], decoder, vocabulary, about["vision"])
        model.decoder.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


def _by_length(answer_ids: Tensor) -> list[Tensor]:
    """The rows of short and of long answers: a few long ones would pad all others."""
    lengths = (answer_ids != PAD).sum(1)
    short = lengths <= lengths.median()
    return [rows for rows in (short.nonzero()[:, 0], (~short).nonzero()[:, 0]) if len(rows)]

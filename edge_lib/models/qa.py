"""The question answerer: an aligner's frozen vision head as prefix, and a decoder on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from edge_lib.config import DecoderConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.qa_batches import QABatch
from edge_lib.data.vocabulary import PAD, Vocabulary, pad
from edge_lib.models.aligner import Aligner
from edge_lib.models.card import Backbone, count_parameters
from edge_lib.models.saving import PretrainedModel, read_weights
from edge_lib.nn.decoders import build_decoder
from edge_lib.runs.tensors import save_tensors


class QAModel(PretrainedModel, nn.Module):
    """A trained decoder over the frozen vision of an aligner.

    decoder_name: plain or trm. vision: False for a control without a prefix.

    Example:
        >>> model = QAModel.from_pretrained("runs/.../trm/checkpoints/best")
        >>> model.answer(image, "where is the red three?")
        'top-left'
    """

    FILE, TASK = "qa.json", "visual-question-answering"
    example = "model.answer(image, question)  # str"

    def __init__(
        self,
        aligner: Aligner,
        decoder_name: str,
        config: DecoderConfig,
        vocabulary: Vocabulary,
        vision: bool = True,
    ):
        super().__init__()
        self.decoder_name, self.config = decoder_name, config
        self.vocabulary, self.vision = vocabulary, vision
        self.aligner = aligner.requires_grad_(False).eval()
        self.decoder = build_decoder(decoder_name, config, aligner.width, len(vocabulary))
        self.decoder.project.requires_grad_(vision)

    def train(self, mode: bool = True) -> "QAModel":
        """The aligner stays in evaluation mode, as it is frozen."""
        super().train(mode)
        self.aligner.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.decoder.head.weight.device

    @torch.no_grad()
    def prefix(self, images: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Features of N images -> prefix (N, P, D) and its mask (N, P); P = 0 without vision."""
        head = self.aligner.heads["vision"]
        sequence, mask = head(images)[0], head.sequence_mask(images)
        return (sequence, mask) if self.vision else (sequence[:, :0], mask[:, :0])

    def forward(self, batch: QABatch) -> Tensor:
        """Mean cross-entropy () of the answers' tokens; logits are computed for no others."""
        context = self.decoder.read_context(*self.prefix(batch.images), batch.question_ids)
        losses = []
        for rows in _split_by_length(batch.answer_ids):
            answers = batch.answer_ids[rows]
            answers = answers[:, (answers != PAD).any(0)]
            states = self.decoder.states_after(context.select(rows), answers)
            losses.append(self._loss(self.decoder.supervised(states), answers))
        return torch.stack(losses).sum() / batch.tokens

    def _loss(self, states: list[Tensor], answer_ids: Tensor) -> Tensor:
        """Summed over tokens, averaged over states."""
        valid = answer_ids != PAD
        logits = (self.decoder.head(state[valid]).float() for state in states)
        losses = [F.cross_entropy(x, answer_ids[valid], reduction="sum") for x in logits]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def answer(
        self,
        images: EncoderOutput | Image | Sequence[Image],
        questions: str | Sequence[str],
        max_tokens: int = 16,
    ) -> str | list[str]:
        """The greedy answer to a question, or to each of several.

        images: N PIL images, or their features; the questions divide among them equally, those of
        one image together. Raises ValueError for an empty question or unequal numbers.
        """
        texts = [questions] if isinstance(questions, str) else list(questions)
        if not texts:
            raise ValueError("no question")
        if empty := [number for number, text in enumerate(texts) if not text.strip()]:
            raise ValueError(f"question {empty[0]} is empty")
        if not isinstance(images, EncoderOutput):
            images = self.aligner.encode("vision", images)
        ids = pad(self.vocabulary.encode(texts)).to(self.device)
        answers = self.decoder.generate(*self.prefix(images), ids, max_tokens)
        answers = self.vocabulary.decode(answers.cpu())
        return answers[0] if isinstance(questions, str) else answers

    @property
    def title(self) -> str:
        return f"A {self.decoder_name} decoder that answers questions about images"

    def backbones(self) -> dict[str, Backbone]:
        return self.aligner.backbones()

    def facts(self) -> dict[str, str]:
        config = self.config.model_dump(exclude={"lr"})
        facts = {"decoder": self.decoder_name} | {name: str(x) for name, x in config.items()}
        trained = count_parameters(self.decoder)
        return facts | {
            "words in the vocabulary": f"{len(self.vocabulary):,}",
            "trained parameters, without the aligner's": trained,
        }

    def _write(self, folder: Path) -> dict[str, Any]:
        self.aligner.save_pretrained(folder / "aligner")
        save_tensors(self.decoder.state_dict(), folder / "model.safetensors")
        self.vocabulary.save(folder / "tokenizer.json")
        return {
            "decoder": self.decoder_name,
            "config": self.config.model_dump(mode="json", exclude={"lr"}),
            "vision": self.vision,
        }

    @classmethod
    def _read(cls, folder: Path, metadata: dict[str, Any]) -> "QAModel":
        aligner = Aligner.from_pretrained(folder / "aligner")
        config = DecoderConfig.model_validate(metadata["config"])
        vocabulary = Vocabulary.load(folder / "tokenizer.json")
        model = cls(aligner, metadata["decoder"], config, vocabulary, metadata["vision"])
        model.decoder.load_state_dict(read_weights(folder / "model.safetensors"))
        return model


def _split_by_length(answer_ids: Tensor) -> list[Tensor]:
    """The rows of short and of long answers, so that short ones are not padded to the longest."""
    lengths = (answer_ids != PAD).sum(1)
    short = lengths <= lengths.median()
    return [rows for rows in (short.nonzero()[:, 0], (~short).nonzero()[:, 0]) if len(rows)]

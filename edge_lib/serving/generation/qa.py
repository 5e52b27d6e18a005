"""Answers of a `QAModel`: to one question about one picture.

Its caches count the positions of answers for all rows alike, so that questions join an empty batch
only; answers are a few tokens long.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edge_lib.data.image import blank_image
from edge_lib.data.messages import ESCAPE, PLACEHOLDERS, ChatError
from edge_lib.data.unicode import is_unicode
from edge_lib.data.vocabulary import BOS, EOS, PAD, pad
from edge_lib.models.qa import QAModel
from edge_lib.nn.decoders import Decoder
from edge_lib.nn.decoders.base import Cache, Context
from edge_lib.serving.generation.engine import Engine, Messages, prompt_texts
from edge_lib.serving.generation.prefix_cache import SoftTokens
from edge_lib.serving.generation.rows import Prompt
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

MAX_TOKENS = 16  # of an answer, as in `QAModel.answer`
MAX_CHARACTERS = 4096  # of a question


class QABatch:
    """Questions that a small decoder answers together. logits (B, V): of their next tokens."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.clear()

    @property
    def open(self) -> bool:
        """Whether questions can join now."""
        return self.logits is None

    def clear(self) -> None:
        """Drop all questions."""
        self.logits: Tensor | None = None
        self._context: Context | None = None
        self._cache = Cache()

    def join(self, prompts: Sequence[Prompt]) -> None:
        """Process questions; there are no others."""
        self.clear()  # of what a call that failed has left
        images = [soft for prompt in prompts for soft in prompt.soft["image"]]
        prefix = pad_sequence([image.tokens for image in images], batch_first=True)
        mask = pad_sequence([image.mask for image in images], batch_first=True)
        ids = pad([prompt.ids for prompt in prompts]).to(prefix.device)
        self._context = self.decoder.read_context(prefix, mask, ids)
        self.advance([BOS] * len(prompts))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all questions but these, by number."""
        if not rows:
            return self.clear()
        index = torch.tensor(rows, device=self.logits.device)
        self.logits, self._context = self.logits[index], self._context.select(index)
        self._cache.passes = [[(k[index], v[index]) for k, v in p] for p in self._cache.passes]

    def advance(self, tokens: Sequence[int]) -> None:
        """Process the next token of each answer."""
        ids = torch.tensor(tokens, device=self._context.mask.device)[:, None]
        states = self.decoder.read_answer(ids, self._context, self._cache)
        self.logits = self.decoder.head(states[-1][:, -1])


class QAEngine(Engine):
    """A `Generator` of a QA model; it answers as `QAModel.answer` does."""

    accepts, multi_turn = frozenset({"image"}), False

    def __init__(self, model: QAModel, settings: ServeSettings, metrics: Metrics):
        self.model = model.eval()
        super().__init__(
            batch=QABatch(model.decoder),
            ends=frozenset({EOS, PAD}),
            max_tokens=MAX_TOKENS,
            max_positions=sys.maxsize,
            max_characters=MAX_CHARACTERS,
            settings=settings,
            metrics=metrics,
        )
        with torch.inference_mode():
            self.encode("image", [(self.prepare("image", blank_image()),)])  # loads the encoder

    def tokenize(self, messages: Messages, counts: dict[str, int]) -> list[int]:
        if counts.get("image") != 1:
            count = counts.get("image", 0)
            raise ChatError(f"the model answers a question about one image, not {count}")
        question = _question(prompt_texts(messages, ["image"]))
        [ids] = self.model.vocabulary.encode([question])
        return ids

    def prepare(self, kind: str, item: Image) -> Any:
        return self.model.aligner.prepare("vision", item)

    def encode(self, name: str, items: list[tuple]) -> list[SoftTokens]:
        inputs = [item for (item,) in items]
        features = self.model.aligner.encode_prepared("vision", inputs)
        pairs = zip(*self.model.prefix(features), strict=True)
        return [SoftTokens(tokens.clone(), mask.clone()) for tokens, mask in pairs]

    def decode(self, ids: list[int]) -> str:
        return self.model.vocabulary.tokenizer.decode(ids)


def _question(messages: Messages) -> str:
    """The question of messages; ChatError unless they are one turn of a user, with a text."""
    if not isinstance(messages, str):
        if [message["role"] for message in messages] != ["user"]:
            raise ChatError("the model takes one turn of a user: a question")
        messages = messages[0]["content"]
    question = messages.replace(PLACEHOLDERS["image"], "").replace(ESCAPE, "").strip()
    if not question:
        raise ChatError("the question is empty")
    if not is_unicode(question):
        raise ChatError(f"a text that is not Unicode: {question[:40]!r}")
    return question

"""The vocabulary of a small decoder: BPE, learned from the training questions and answers.

Each punctuation mark is a token, and so is each frequent word; if the vocabulary is large enough
for the corpus, every word is.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence

SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")
PAD, BOS, EOS, UNK = range(len(SPECIAL))


class Vocabulary:
    """Texts to token ids and back."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # [EOS] in a question or an answer is text

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> "Vocabulary":
        """A vocabulary of at most `size` tokens, or as many as the texts have characters."""
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        punctuation = pre_tokenizers.Split(Regex(r"[^\w\s'▁-]"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), punctuation])
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without PAD, BOS or EOS."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def decode(self, ids: torch.Tensor) -> list[str]:
        """Token ids (B, A) -> texts, each up to its EOS."""
        ends = ((ids == EOS) | (ids == PAD)).cummax(1).values
        return self.tokenizer.decode_batch(
            [row[~end].tolist() for row, end in zip(ids, ends, strict=True)]
        )

    def save(self, path: Path) -> None:
        self.tokenizer.save(str(path))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        return cls(Tokenizer.from_file(str(path)))


def pad(rows: Sequence[Sequence[int]], value: int = PAD, left: bool = False) -> torch.Tensor:
    """(B, longest) token ids, with `value` after the end of shorter rows, or before their start."""
    side = "left" if left else "right"
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)

"""Words for a small decoder: a BPE vocabulary learned from the questions and answers themselves.

Punctuation stands alone, and frequent words become one token; with a vocabulary large enough for a
small corpus, every word does.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")


PAD, BOS, EOS, UNK = range(len(SPECIAL))


class Vocabulary:
    """Text to token ids and back."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> "Vocabulary":
        """At most `size` tokens (more only if the texts have more characters)."""
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        apart = pre_tokenizers.Split(Regex(r"[^\w\s'▁-]"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), apart])
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without PAD, BOS or EOS."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts))]

    def decode(self, ids: torch.Tensor) -> list[str]:
        """(B, A) -> texts, each up to its EOS."""
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
    """(B, longest) token ids, PAD or another value after each row's end, or before its start."""
    ids = torch.full((len(rows), max(map(len, rows), default=0)), value)
    for row, tokens in enumerate(rows):
        start = ids.shape[1] - len(tokens) if left else 0
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
    return ids

"""Token ids of rendered conversations, with their offsets in the text.

Special tokens that somebody typed, such as `<|im_end|>`, are text and end no turn: before the chat
template renders a message each is replaced by a mark, and afterwards its characters are tokenised
in the place of the mark. (`apply_chat_template` has an option for the same, but gives no offsets.)
So are placeholders in a `messages.as_literal`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from tokenizers.decoders import ByteLevel

from edge_lib.data.messages import ESCAPE, PLACEHOLDERS, Messages, as_literal

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerFast

MARK = "\ufdd0"  # Unicode reserves it for such a use


@dataclass
class Tokens:
    """The tokens of a text."""

    ids: np.ndarray  # (S,) int32
    starts: np.ndarray  # (S,) the first character of each
    ends: np.ndarray  # (S,) the end of each

    def ranges(self, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """(len(spans), 2) first token and end of those that begin within spans of characters."""
        firsts, ends = np.array(spans, np.int64).reshape(-1, 2).T
        # some tokenizers give a space no width, so the end of the token before counts as well
        after = np.searchsorted(self.ends, firsts, "right")
        first = np.maximum(np.searchsorted(self.starts, firsts), after)
        return np.stack([first, np.searchsorted(self.starts, ends)], 1).astype(np.int32)


class TextTokenizer:
    """Tokenises texts by a fast tokenizer of transformers, which has no settings of its own."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self.tokenizer, self.backend = tokenizer, tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} - {*PLACEHOLDERS.values()}
        special |= {as_literal(mark) for mark in PLACEHOLDERS.values()}
        special = sorted(map(re.escape, special), key=len, reverse=True)
        self.special = re.compile("|".join(special))

    def mark(self, messages: Messages) -> tuple[Messages, list[str]]:
        """The messages with marks in place of special tokens, and these tokens in order."""
        literals = [t for message in messages for t in self.special.findall(message["content"])]
        literals = [token.replace(ESCAPE, "") for token in literals]
        if not literals:
            return messages, literals
        contents = (self.special.sub(MARK, message["content"]) for message in messages)
        pairs = zip(messages, contents, strict=True)
        return [{**message, "content": content} for message, content in pairs], literals

    def tokenize(self, texts: Sequence[str], literals: Sequence[list[str]]) -> list[Tokens]:
        """The tokens of texts, by all cores; literals: what the marks in each stand for."""
        # neither truncate nor pad; special tokens that the template wrote are special
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = False
        tokens = self._tokenize_ascii(texts)
        rest = [number for number, own in enumerate(tokens) if own is None]
        for number, own in zip(rest, self._with_offsets([texts[n] for n in rest]), strict=True):
            tokens[number] = own
        for number, own in enumerate(literals):
            if own:
                tokens[number] = self._with_literals(texts[number], own)
        return tokens

    def _tokenize_ascii(self, texts: Sequence[str]) -> list[Tokens | None]:
        """Tokens by their number of bytes, which is faster than by offsets. None where the bytes of
        the tokens are not those of the text, or some characters have several.
        """
        if not self._byte_lengths.size:
            return [None] * len(texts)
        encodings = self.backend.encode_batch_fast([*texts], add_special_tokens=False)
        tokens = []
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.array(encoding.ids, np.int32)
            lengths = self._byte_lengths[ids]
            ends = lengths.cumsum()
            fits = len(ids) and ends[-1] == len(text) and text.isascii()
            tokens.append(Tokens(ids, ends - lengths, ends) if fits else None)
        return tokens

    @cached_property
    def _byte_lengths(self) -> np.ndarray:
        """(V,) the number of bytes of each token; empty if tokens are no sequences of bytes, or if
        their offsets leave out spaces.
        """
        trims = "trim_offsets=True" in repr(self.backend.post_processor)
        if trims or not isinstance(self.backend.decoder, ByteLevel):
            return np.empty(0, np.int64)
        lengths = {id: len(token) for token, id in self.backend.get_vocab().items()}
        added = self.tokenizer.added_tokens_decoder.items()
        lengths |= {id: len(token.content.encode()) for id, token in added}
        table = np.zeros(max(lengths) + 1, np.int64)
        table[[*lengths]] = [*lengths.values()]
        return table

    def _with_offsets(self, texts: list[str]) -> list[Tokens]:
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        columns = (np.array(encoding.offsets, np.int64).reshape(-1, 2).T for encoding in encodings)
        ids = (np.array(encoding.ids, np.int32) for encoding in encodings)
        return [Tokens(own, *offsets) for own, offsets in zip(ids, columns, strict=True)]

    def _with_literals(self, text: str, literals: list[str]) -> Tokens:
        """All tokens of a literal lie at its mark."""
        parts, position = [], 0
        for piece, literal in zip_longest(text.split(MARK), literals, fillvalue=""):
            [part] = self._with_offsets([piece])
            self.backend.encode_special_tokens = True
            ids = self.backend.encode(literal, add_special_tokens=False).ids
            self.backend.encode_special_tokens = False
            own = np.array(ids, np.int32)
            parts.append((part.ids, part.starts + position, part.ends + position))
            position += len(piece) + 1
            places = np.full(len(own), position)
            parts.append((own, places - 1, places))
        return Tokens(*map(np.concatenate, zip(*parts, strict=True)))

"""Token ids of texts, in which special tokens that somebody typed, such as `<|im_end|>`, are text.

Before the chat template renders a message, each of them is replaced by a mark; afterwards its
characters are tokenised in the place of the mark. (`apply_chat_template` has an option for the
same, but gives no offsets.)
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import itemgetter
from typing import TYPE_CHECKING

from edge_lib.data.messages import PLACEHOLDERS, Messages

if TYPE_CHECKING:  # transformers takes seconds to import
    from tokenizers import Encoding
    from transformers import BatchEncoding, PreTrainedTokenizerFast

MARK = "\ufdd0"  # Unicode reserves it for such a use


@dataclass
class Tokens:
    """Token ids of a text, and the range of characters of each."""

    ids: list[int]
    offsets: list[tuple[int, int]]

    def first_after(self, position: int) -> int:
        """The number of the first token that begins at a character or later."""
        return bisect_left(self.offsets, position, key=itemgetter(0))

    def first_within(self, position: int) -> int:
        """The same, after tokens that end there: some tokenizers give a space no width."""
        after = bisect_right(self.offsets, position, key=itemgetter(1))
        return max(self.first_after(position), after)


@dataclass
class EncodedTokens:
    """The same for the tokenizer's own result: all offsets at once take as long as tokenising."""

    encoding: "Encoding"

    @property
    def ids(self) -> list[int]:
        return self.encoding.ids

    def first_after(self, position: int) -> int:
        token = self._token_at(position)
        return self._tokens.first_after(position) if token is None else token

    def first_within(self, position: int) -> int:
        token = self._token_at(position)
        return self._tokens.first_within(position) if token is None else token

    @property
    def _tokens(self) -> Tokens:
        return Tokens(self.encoding.ids, self.encoding.offsets)

    def _token_at(self, position: int) -> int | None:
        """The number of the token that begins at a character, if it alone does."""
        token, start_of = self.encoding.char_to_token(position), self.encoding.token_to_chars
        if token is None or start_of(token)[0] < position:
            return None
        return token if not token or start_of(token - 1)[0] < position else None


class SpecialText:
    """The special tokens of a tokenizer as text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} - {*PLACEHOLDERS.values()}
        special = sorted(map(re.escape, special), key=len, reverse=True)
        self.pattern = re.compile("|".join(special) or r"(?!)")

    def mark(self, messages: Messages) -> tuple[Messages, list[str]]:
        """The messages with marks in place of special tokens, and these tokens in order."""
        literals = [t for message in messages for t in self.pattern.findall(message["content"])]
        if not literals:
            return messages, literals
        contents = (self.pattern.sub(MARK, message["content"]) for message in messages)
        pairs = zip(messages, contents, strict=True)
        return [{**message, "content": content} for message, content in pairs], literals

    def tokenize(
        self, texts: Sequence[str], literals: Sequence[list[str]]
    ) -> list[Tokens | EncodedTokens]:
        """The tokens of texts, by all cores; literals: what the marks in each stand for."""
        encodings = self._encode([*texts]).encodings if texts else []
        return [
            self._with_literals(text, own) if own else EncodedTokens(encoding)
            for text, own, encoding in zip(texts, literals, encodings, strict=True)
        ]

    def _encode(self, text: str | list[str], **options) -> "BatchEncoding":
        """The texts hold all special tokens already."""
        options |= {"add_special_tokens": False, "return_attention_mask": False}
        return self.tokenizer(text, verbose=False, **options)

    def _with_literals(self, text: str, literals: list[str]) -> Tokens:
        """All tokens of a literal lie at its mark."""
        ids, offsets, position = [], [], 0
        for piece, literal in zip_longest(text.split(MARK), literals, fillvalue=""):
            [part] = self._encode([piece]).encodings
            own = self._encode(literal, split_special_tokens=True)["input_ids"]
            ids += part.ids + own
            offsets += [(a + position, b + position) for a, b in part.offsets]
            position += len(piece) + 1
            offsets += [(position - 1, position)] * len(own)
        return Tokens(ids, offsets)

"""A conversation as token ids for a causal language model, with labels on the assistant's turns.

1. The tokenizer's chat template renders the whole conversation; `chat_spans` tells where in it the
   assistant's turns lie: what a turn adds to its generation prompt has to be generated.
2. The whole text is tokenised once. A token that begins within an assistant turn is labelled; a
   token that spans the border between header and turn is not, as a prompt ends before it.
3. Each placeholder is replaced by as many tokens as there are soft tokens for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import TemplateError
from tokenizers import AddedToken

from edge_lib.data.chat_spans import Spans, TurnSpans, assistant_turns
from edge_lib.data.messages import PLACEHOLDERS, ChatError, Messages, TooLong
from edge_lib.data.text_tokens import MARK, TextTokenizer
from edge_lib.data.unicode import is_unicode

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerFast

Rendered = tuple[str, list[str], Spans]  # text, special tokens that its marks stand for, turns

IGNORE = -100  # a label that cross-entropy leaves out


@dataclass
class TokenizedChat:
    """Token ids, with one id for each placeholder, and the ranges of labelled tokens."""

    ids: np.ndarray  # (S,) int32
    spans: np.ndarray  # (assistant turns, 2) int32, first token and end of each


class Chat:
    """Messages to token ids.

    num_soft_tokens: for each placeholder, by name, the number of soft tokens that replace it:
        {"image": 9}. Placeholders become special tokens of the tokenizer; their embeddings are
        never used.
    system: a system prompt for conversations without one.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        num_soft_tokens: dict[str, int],
        max_length: int,
        system: str | None = None,
    ):
        self.tokenizer, self.num_soft_tokens = tokenizer, num_soft_tokens
        self.max_length, self.system = max_length, system
        marks = {name: PLACEHOLDERS[name] for name in num_soft_tokens}
        added = [AddedToken(mark, special=True) for mark in marks.values()]
        tokenizer.add_tokens(added, special_tokens=True)
        ids = map(tokenizer.convert_tokens_to_ids, marks.values())
        self.placeholders: dict[str, int] = dict(zip(marks, ids, strict=True))
        self.pad = tokenizer.pad_token_id or 0  # padding is masked, so any id serves
        self._texts, self._turn_spans = TextTokenizer(tokenizer), TurnSpans(self._render)

    def encode(self, messages: Messages) -> tuple[list[int], list[int]]:
        """Token ids and labels of a whole conversation; labels are IGNORE except on assistant turns
        and the tokens that end them.

        Raises ChatError for a conversation that cannot be trained on.
        """
        [tokenized] = self.tokenize([messages])
        if isinstance(tokenized, ChatError):
            raise tokenized
        ids, labels = self.expand(tokenized)
        return self._checked_length(ids), labels.tolist()

    def tokenize(self, conversations: Sequence[Messages]) -> list[TokenizedChat | ChatError]:
        """Each conversation, of any length and before its placeholders are expanded, or why it
        cannot be trained on. The tokenizer works on all of them together, with all cores.
        """
        return self.tokenize_rendered([self.render(messages) for messages in conversations])

    def tokenize_rendered(
        self, rendered: Sequence[Rendered | ChatError]
    ) -> list[TokenizedChat | ChatError]:
        """The second half of `tokenize`; other threads can run during it."""
        valid = [result for result in rendered if not isinstance(result, ChatError)]
        texts, literals, spans = zip(*valid, strict=True) if valid else ([], [], [])
        tokens = zip(self._texts.tokenize(texts, literals), spans, strict=True)
        tokenized = (TokenizedChat(own.ids, own.ranges(turns)) for own, turns in tokens)
        return [part if isinstance(part, ChatError) else next(tokenized) for part in rendered]

    def expand(self, tokenized: TokenizedChat) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and labels (S,), with as many of each placeholder as it has soft tokens."""
        ids, labels = tokenized.ids, np.full(len(tokenized.ids), IGNORE, np.int32)
        for first, end in tokenized.spans:
            labels[first:end] = ids[first:end]
        repeats = self._repeats(ids)
        return ids.repeat(repeats), labels.repeat(repeats)

    def prompt(self, messages: Messages) -> list[int]:
        """Token ids of a conversation that end with the header of the turn to generate."""
        text, literals, _ = self._text(self._checked(messages), add_generation_prompt=True)
        [tokens] = self._texts.tokenize([text], [literals])
        return self._checked_length(tokens.ids.repeat(self._repeats(tokens.ids)))

    def count(self, messages: Messages) -> dict[str, int]:
        """The number of placeholders of each name: as many images and clips are needed."""
        return {
            name: sum(message["content"].count(mark) for message in messages)
            for name, mark in PLACEHOLDERS.items()
        }

    def too_long(self, length: int) -> TooLong:
        return TooLong(f"{length:,} tokens, over the model's {self.max_length:,} (max_length)")

    def _checked_length(self, ids: np.ndarray) -> list[int]:
        if len(ids) > self.max_length:
            raise self.too_long(len(ids))
        return ids.tolist()

    def _checked(self, messages: Messages) -> list[dict[str, str]]:
        """The messages, with a system prompt in front if they have none. An empty one is none."""
        for message in messages:
            self._check_message(message["role"], message["content"])
        if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
            messages = messages[1:]
        if not messages:
            raise ChatError("a conversation without messages")
        has_system = self.system is None or messages[0]["role"] == "system"
        return [*([] if has_system else [{"role": "system", "content": self.system}]), *messages]

    def _check_message(self, role: str, text: str) -> None:
        if role == "user" and not text.strip():
            raise ChatError("a user turn without text")
        if not is_unicode(text):
            raise ChatError(f"a text that is not Unicode: {text[:40]!r}")
        for name, mark in PLACEHOLDERS.items():
            if mark in text and role == "assistant":
                raise ChatError(f"{mark} in an assistant turn: the model cannot generate it")
            if mark in text and name not in self.num_soft_tokens:
                raise ChatError(f"{mark}, for which the model has no soft tokens")

    def render(self, messages: Messages) -> Rendered | ChatError:
        """The first half of `tokenize`, for one conversation."""
        try:
            messages = self._checked(messages)
            if not assistant_turns(messages):
                raise ChatError("no assistant turn to train on")
            text, literals, messages = self._text(messages)
            return text, literals, self._turn_spans(messages, text)
        except ChatError as error:
            return error

    def _text(
        self, messages: Messages, add_generation_prompt: bool = False
    ) -> tuple[str, list[str], Messages]:
        """Rendered messages, with the special tokens that were replaced by marks."""
        messages, literals = self._texts.mark(messages)
        text = self._render(messages, add_generation_prompt)
        if literals and text.count(MARK) != len(literals):
            raise ChatError("the chat template leaves out or repeats text with special tokens")
        return text, literals, messages

    def _render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        try:
            return self.tokenizer.apply_chat_template(messages, **options)
        except TemplateError as error:  # such as roles that do not alternate
            raise ChatError(f"the chat template refuses the conversation: {error}") from None

    def _repeats(self, ids: np.ndarray) -> np.ndarray:
        """(S,) how often an id of each token is needed: a placeholder's for all soft tokens."""
        repeats = np.ones(len(ids), np.int64)
        for name, count in self.num_soft_tokens.items():
            repeats[ids == self.placeholders[name]] = count
        return repeats

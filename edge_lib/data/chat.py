"""A conversation as token ids for a causal language model, with labels on the assistant's turns.

1. The tokenizer's chat template renders the whole conversation, and the conversation up to each
   assistant turn: what the turn adds to its generation prompt is what the model has to generate.
2. The whole text is tokenised once. A token that begins within an assistant turn is labelled; a
   token that spans the border between header and turn is not, as a prompt ends before it.
3. Each placeholder is replaced by as many tokens as there are soft tokens for it.
"""

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from jinja2 import TemplateError
from tokenizers import AddedToken

from edge_lib.data.messages import PLACEHOLDERS, Messages

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerFast

IGNORE = -100  # a label that cross-entropy leaves out


class ChatError(ValueError):
    """A conversation that cannot be turned into an input of the model."""


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

    def encode(self, messages: Messages) -> tuple[list[int], list[int]]:
        """Token ids and labels of a whole conversation; labels are IGNORE except on assistant turns
        and the tokens that end them.

        Raises ChatError for a conversation that cannot be trained on.
        """
        messages = self._checked(messages)
        turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise ChatError("no assistant turn to train on")
        text = self._render(messages)
        ids, offsets = self._tokenize(text)
        starts, ends = zip(*offsets, strict=True)
        labels = [IGNORE] * len(ids)
        for start, end in (self._span(messages, turn, text) for turn in turns):
            # some tokenizers give a space no width, so the end of the token before counts as well
            first = max(bisect_left(starts, start), bisect_right(ends, start))
            last = bisect_left(starts, end)
            labels[first:last] = ids[first:last]
        return self._expand(ids, ids), self._expand(ids, labels)

    def prompt(self, messages: Messages) -> list[int]:
        """Token ids of a conversation that end with the header of the turn to generate."""
        text = self._render(self._checked(messages), add_generation_prompt=True)
        ids, _ = self._tokenize(text)
        return self._expand(ids, ids)

    def count(self, messages: Messages) -> dict[str, int]:
        """The number of placeholders of each name: as many images and clips are needed."""
        return {
            name: sum(message["content"].count(mark) for message in messages)
            for name, mark in PLACEHOLDERS.items()
        }

    def _checked(self, messages: Messages) -> list[dict[str, str]]:
        """The messages, with a system prompt in front if they have none."""
        if not messages:
            raise ChatError("a conversation without messages")
        for message in messages:
            role = message["role"]
            if role == "user" and not message["content"].strip():
                raise ChatError("a user turn without text")
            for name, mark in PLACEHOLDERS.items():
                if mark in message["content"] and role == "assistant":
                    raise ChatError(f"{mark} in an assistant turn: the model cannot generate it")
                if mark in message["content"] and name not in self.num_soft_tokens:
                    raise ChatError(f"{mark}, for which the model has no soft tokens")
        has_system = self.system is None or messages[0]["role"] == "system"
        system = [] if has_system else [{"role": "system", "content": self.system}]
        return [*system, *messages]

    def _render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        try:
            return self.tokenizer.apply_chat_template(messages, **options)
        except TemplateError as error:  # such as roles that do not alternate
            raise ChatError(f"the chat template refuses the conversation: {error}") from None

    def _span(self, messages: Messages, turn: int, text: str) -> tuple[int, int]:
        """Where an assistant turn lies in the whole text: after its header, with its end token."""
        header = self._render(messages[:turn], add_generation_prompt=True)
        up_to_turn = self._render(messages[: turn + 1])
        if not (up_to_turn.startswith(header) and text.startswith(up_to_turn)):
            raise ChatError("the chat template renders first turns differently if more follow")
        return len(header), len(up_to_turn.rstrip())  # templates add a line break after the end

    def _tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and their offsets in the text, which holds all special tokens already."""
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        encoding = self.tokenizer(text, **options)
        return encoding["input_ids"], encoding["offset_mapping"]

    def _expand(self, ids: list[int], values: list[int]) -> list[int]:
        """The values of ids; that of a placeholder as often as it has soft tokens."""
        repeats = {self.placeholders[name]: count for name, count in self.num_soft_tokens.items()}
        expanded = [v for i, v in zip(ids, values, strict=True) for _ in range(repeats.get(i, 1))]
        if len(expanded) > self.max_length:
            raise ChatError(f"{len(expanded)} tokens are more than max_length={self.max_length}")
        return expanded

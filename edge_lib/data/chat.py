"""A conversation as a causal language model reads it: token ids, and labels on what it should say.

1. The tokenizer's own chat template renders the conversation, turn by turn as well: what each
   assistant's turn adds to the generation prompt before it is what a model would have to say.
2. The whole text is tokenised once; a token that begins within such a span is labelled. A token
   that a merge laid across the border is the header's: a prompt ends before it could be said.
3. Each placeholder becomes as many tokens as there will be vectors in its place.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError
from tokenizers import AddedToken

from edge_lib.data.messages import PLACEHOLDERS

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerFast

IGNORE = -100  # the label that cross-entropy leaves out

Messages = Sequence[dict[str, str]]


class ChatError(ValueError):
    """A conversation that cannot be put before the model."""


class Chat:
    """Messages, {"role", "content"} as transformers takes them, to token ids.

    soft: how many soft tokens stand for <image> and for <audio>, by name: {"image": 9}. The
    tokenizer learns these as special tokens; nobody looks up their embeddings.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        soft: dict[str, int],
        max_length: int,
        system: str | None = None,
    ):
        self.tokenizer, self.soft = tokenizer, soft
        self.max_length, self.system = max_length, system
        marks = {name: PLACEHOLDERS[name] for name in soft}
        added = [AddedToken(mark, special=True) for mark in marks.values()]
        tokenizer.add_tokens(added, special_tokens=True)
        ids = map(tokenizer.convert_tokens_to_ids, marks.values())
        self.placeholders: dict[str, int] = dict(zip(marks, ids, strict=True))
        self.pad = tokenizer.pad_token_id or 0  # masked: any will do where there is none

    def encode(self, messages: Messages) -> tuple[list[int], list[int]]:
        """Ids and labels, equally many; IGNORE but on what assistants say and how they end it.

        ChatError says why a conversation cannot be learned from.
        """
        messages = self._checked(messages)
        said = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        if not said:
            raise ChatError("no assistant's turn: there is nothing to learn")
        whole = self._render(messages)
        ids, offsets = self._tokenize(whole)
        starts, ends = zip(*offsets, strict=True)
        labels = [IGNORE] * len(ids)
        for start, end in (self._span(messages, turn, whole) for turn in said):
            # some tokenizers give a space no width, so where the token before ends counts as well
            first = max(bisect_left(starts, start), bisect_right(ends, start))
            last = bisect_left(starts, end)
            labels[first:last] = ids[first:last]
        return self._expand(ids, ids), self._expand(ids, labels)

    def prompt(self, messages: Messages) -> list[int]:
        """Ids that end with the header of the turn that the model is to say."""
        ids, _ = self._tokenize(self._render(self._checked(messages), add_generation_prompt=True))
        return self._expand(ids, ids)

    def count(self, messages: Messages) -> dict[str, int]:
        """How many of each placeholder there are: as many images and clips are wanted."""
        return {
            name: sum(message["content"].count(mark) for message in messages)
            for name, mark in PLACEHOLDERS.items()
        }

    def _checked(self, messages: Messages) -> list[dict[str, str]]:
        """The messages, a system prompt before them where they have none."""
        if not messages:
            raise ChatError("a conversation without messages")
        for message in messages:
            role = message["role"]
            if role == "user" and not message["content"].strip():
                raise ChatError("a user's turn without text")
            for name, mark in PLACEHOLDERS.items():
                if mark in message["content"] and role == "assistant":
                    raise ChatError(f"{mark} in an assistant's turn: it cannot be said")
                if mark in message["content"] and name not in self.soft:
                    raise ChatError(f"{mark}, for which the model has no soft tokens")
        own = self.system is None or messages[0]["role"] == "system"
        return [*messages] if own else [{"role": "system", "content": self.system}, *messages]

    def _render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        how = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        try:
            return self.tokenizer.apply_chat_template(messages, **how)
        except TemplateError as error:  # e.g. roles that do not take turns
            raise ChatError(f"the chat template refuses the conversation: {error}") from None

    def _span(self, messages: Messages, turn: int, whole: str) -> tuple[int, int]:
        """An assistant's turn in the whole text: after its header, up to what closes it."""
        header = self._render(messages[:turn], add_generation_prompt=True)
        said = self._render(messages[: turn + 1])
        if not (said.startswith(header) and whole.startswith(said)):
            raise ChatError("the chat template renders the first turns otherwise if more follow")
        return len(header), len(said.rstrip())  # templates put a line break after what closes it

    def _tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and where each begins and ends; the template has put in what is special."""
        how = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        found = self.tokenizer(text, **how)
        return found["input_ids"], found["offset_mapping"]

    def _expand(self, ids: list[int], values: list[int]) -> list[int]:
        """The values, those at a placeholder as often as it has soft tokens."""
        times = {self.placeholders[name]: count for name, count in self.soft.items()}
        spread = [v for i, v in zip(ids, values, strict=True) for _ in range(times.get(i, 1))]
        if len(spread) > self.max_length:
            raise ChatError(f"{len(spread)} tokens are more than max_length={self.max_length}")
        return spread

"""Where the assistant's turns lie in a conversation that a chat template rendered.

By definition a turn begins where the rendering of the messages before it ends, with a generation
prompt, and ends where the rendering up to it ends. That takes two renderings a turn, and their
cost grows with the square of the turns. But templates copy contents: where one does, as comparing
the whole text shows, what it writes between them depends on the roles alone and is found once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge_lib.data.messages import ChatError, Messages

Spans = list[tuple[int, int]]  # first character and end of each assistant turn


@dataclass
class _Frame:
    """What a template writes around the contents of messages with certain roles."""

    parts: list[str]  # before the first content, between contents, after the last
    turns: list[tuple[int, int, int]]  # message number, and characters before and after its content

    @classmethod
    def around(cls, contents: list[str], text: str, spans: Spans, turns: list[int]) -> "_Frame":
        """The frame of a text; contents occur nowhere else in it."""
        starts = [text.index(content) for content in contents]
        ends = [start + len(content) for start, content in zip(starts, contents, strict=True)]
        parts = [text[a:b] for a, b in zip([0, *ends], [*starts, len(text)], strict=True)]
        pairs = zip(turns, spans, strict=True)
        return cls(parts, [(turn, starts[turn] - a, b - ends[turn]) for turn, (a, b) in pairs])

    def spans(self, contents: list[str], text: str) -> Spans | None:
        """The spans in a text, unless the text is not these contents in this frame."""
        pieces = [piece for pair in zip(self.parts, contents, strict=False) for piece in pair]
        if "".join([*pieces, self.parts[-1]]) != text:
            return None
        starts, position = [], 0
        for part, content in zip(self.parts, contents, strict=False):
            starts.append(position + len(part))
            position = starts[-1] + len(content)
        ends = ((turn, starts[turn] + len(contents[turn]) + n) for turn, _, n in self.turns)
        ends = [len(text[:end].rstrip()) for _, end in ends]
        return [(starts[turn] - n, end) for (turn, n, _), end in zip(self.turns, ends, strict=True)]


class TurnSpans:
    """The spans of the assistant's turns in rendered conversations.

    render: (messages, add_generation_prompt) -> text.
    """

    def __init__(self, render: Callable[[Messages, bool], str]):
        self.render = render
        self._frames: dict[tuple[str, ...], _Frame | None] = {}

    def __call__(self, messages: Messages, text: str) -> Spans:
        """Raises ChatError if the template renders first turns differently if more follow."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._frames:
            self._frames[roles] = self._frame(roles)
        frame, contents = self._frames[roles], [message["content"] for message in messages]
        spans = frame.spans(contents, text) if frame else None
        return self.rendered(messages, text) if spans is None else spans

    def rendered(self, messages: Messages, text: str) -> Spans:
        """The spans by their definition, for any template."""
        return [self._span(messages, turn, text) for turn in assistant_turns(messages)]

    def _span(self, messages: Messages, turn: int, text: str) -> tuple[int, int]:
        """Where an assistant turn lies in the whole text: after its header, with its end token."""
        header = self.render(messages[:turn], True)
        up_to_turn = self.render(messages[: turn + 1], False)
        if not (up_to_turn.startswith(header) and text.startswith(up_to_turn)):
            raise ChatError("the chat template renders first turns differently if more follow")
        return len(header), len(up_to_turn.rstrip())  # templates add a line break after the end

    def _frame(self, roles: tuple[str, ...]) -> _Frame | None:
        """The frame of messages with these roles; None if the template copies no contents."""
        contents = [f"content{number}." for number in range(len(roles))]
        pairs = zip(roles, contents, strict=True)
        messages = [{"role": role, "content": content} for role, content in pairs]
        try:
            text = self.render(messages, False)
            spans = self.rendered(messages, text)
        except ChatError:
            return None
        if any(text.count(content) != 1 for content in contents):
            return None
        if sorted(contents, key=text.index) != contents:
            return None
        return _Frame.around(contents, text, spans, assistant_turns(messages))


def assistant_turns(messages: Messages) -> list[int]:
    """The numbers of the assistant's messages that follow another; one that opens a conversation
    answers nothing.
    """
    roles = enumerate(message["role"] for message in messages)
    return [turn for turn, role in roles if turn and role == "assistant"]

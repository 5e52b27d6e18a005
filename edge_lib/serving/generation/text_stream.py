"""The text of an answer while its tokens come."""

from collections.abc import Callable, Sequence

INCOMPLETE = "\ufffd"  # what the first bytes of a character are decoded to


class TextStream:
    """Releases text once no later token can change it: whole characters, that begin no stop string.

    White space at both ends of the answer is left out. decode: token ids -> text.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()):
        self.stopped = False  # whether a stop string occurred
        self._decode, self._stop = decode, [s for s in stop if s]
        self._ids: list[int] = []
        self._first = self._next = 0  # ids from which text is decoded, and those not yet decoded
        self._held, self._released = "", False

    def push(self, token: int) -> str:
        """The text that the next token releases."""
        self._ids.append(token)
        return self._release(self._new_text())

    def finish(self) -> str:
        """The rest, after the last token."""
        text = "" if self.stopped else self._release(self._new_text(last=True))
        return text if self.stopped else text + self._strip(self._held.rstrip())

    def _new_text(self, last: bool = False) -> str:
        """What the ids that were not decoded add; those before them are decoded as well, because
        the text of a token depends on its neighbours.
        """
        known = self._decode(self._ids[self._first : self._next])
        text = self._decode(self._ids[self._first :])
        if len(text) <= len(known) or (text.endswith(INCOMPLETE) and not last):
            return ""
        self._first, self._next = self._next, len(self._ids)
        return text[len(known) :]

    def _release(self, text: str) -> str:
        self._held += text
        if ends := [at for stop in self._stop if (at := self._held.find(stop)) >= 0]:
            self.stopped = True
            return self._strip(self._held[: min(ends)].rstrip())
        # where the first stop string would begin that the next tokens may complete
        matches = (
            at
            for stop in self._stop
            for at in range(max(0, len(self._held) - len(stop) + 1), len(self._held))
            if stop.startswith(self._held[at:])
        )
        end = len(self._held[: min(matches, default=len(self._held))].rstrip())
        text, self._held = self._held[:end], self._held[end:]
        return self._strip(text)

    def _strip(self, text: str) -> str:
        """Without white space at the start of the answer."""
        text = text if self._released else text.lstrip()
        self._released = self._released or bool(text)
        return text

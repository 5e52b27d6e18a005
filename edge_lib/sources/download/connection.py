"""A connection over which HTTP/1.1 is spoken: h11, which httpx uses as well, over asyncio."""

import asyncio
from time import monotonic

import h11

MAX_HEAD = 100_000  # bytes of a response's headers
READ_BYTES = 65_536
KEEP_ALIVE = 5.0  # seconds that an unused connection stays open; servers close them soon after


class Connection:
    """Sends one request after another. timeout: seconds between two reads.

    Its methods raise OSError (TimeoutError among them) and h11.ProtocolError.
    """

    status: int  # of the latest response
    headers: list[tuple[bytes, bytes]]  # names in lower case

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float):
        self._reader, self._writer, self._timeout = reader, writer, timeout
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._expires = 0.0

    async def get(self, target: bytes, headers: list[tuple[str, str]]) -> None:
        """Send a request, and read the status and headers of the response."""
        request = h11.Request(method="GET", target=target, headers=headers)
        self._writer.write(self._http.send(request) + self._http.send(h11.EndOfMessage()))
        while not isinstance(event := await self._event(), h11.Response):
            pass  # 1xx
        self.status, self.headers = event.status_code, list(event.headers)

    async def read(self) -> bytes:
        """The next part of the response's body; b"" at its end."""
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def reset(self) -> bool:
        """Make ready for another request; False if it is not, because the response is not read to
        its end, more than it was sent, or the server closes.
        """
        done = self._http.our_state is self._http.their_state is h11.DONE
        if not done or self._http.trailing_data[0]:
            return False
        self._http.start_next_cycle()
        self._expires = monotonic() + KEEP_ALIVE
        return True

    def is_open(self) -> bool:
        """Whether another request has a chance."""
        return not self._reader.at_eof() and monotonic() < self._expires

    def close(self) -> None:
        self._writer.transport.abort()  # nothing is left to send

    async def _event(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._data()
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise ConnectionResetError("closed without a response")
            self._http.receive_data(data)
        return event

    async def _data(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._reader.read(READ_BYTES)
        except TimeoutError:
            raise TimeoutError(f"no byte for {self._timeout:g} s") from None

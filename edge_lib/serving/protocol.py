"""HTTP connections that wait for a request for a limited time."""

from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """uvicorn's, which has no limit for the first request of a connection, nor for one whose head
    comes in parts: closed if a head has not come whole `timeout` seconds after its connection, or
    its first bytes.
    """

    def __init__(self, *args, timeout: float, **kwargs):
        super().__init__(*args, **kwargs)
        self._timeout, self._deadline = timeout, None

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        self._limit_wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._limit_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end_limit()

    def _limit_wait(self) -> None:
        """Begin the time of a head, unless it has begun; end it once the head is there."""
        if self.cycle and not self.cycle.response_complete:
            self._end_limit()
        elif not self._deadline:
            self._deadline: TimerHandle = self.loop.call_later(self._timeout, self.transport.close)

    def _end_limit(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

"""Answers as server-sent events, in OpenAI's form of chunks."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.sse import format_sse_event

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Delta, Stream
from edge_lib.serving.routes.answers import usage_of


async def chat_events(
    head: dict[str, Any], streams: Sequence[Stream], include_usage: bool, request_id: str
) -> AsyncIterator[bytes]:
    """A chunk for each piece; then the reasons, the numbers of tokens if wanted, and [DONE].

    head: what all chunks hold. An error after the first chunk is an event of its own.
    """
    head = {**head, "object": "chat.completion.chunk"} | ({"usage": None} if include_usage else {})
    for index in range(len(streams)):
        yield _event(head, index, {"role": "assistant", "content": ""})
    tokens = 0
    try:
        async for index, delta in merge(streams):
            tokens += delta.tokens
            if delta.text:
                yield _event(head, index, {"content": delta.text})
            if delta.finish_reason:
                yield _event(head, index, {}, delta.finish_reason)
    except ApiError as error:
        yield _data(error.content(request_id))
        return
    if include_usage:
        usage = usage_of(streams[0].prompt_tokens, tokens).model_dump()
        yield _data(head | {"choices": [], "usage": usage})
    yield format_sse_event(data_str="[DONE]")


async def merge(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Delta]]:
    """The pieces of several answers as they come, with the number of the answer."""
    pieces: asyncio.Queue[tuple[int, Delta | ApiError]] = asyncio.Queue()

    async def read(index: int, stream: Stream) -> None:
        try:
            async for delta in stream:
                pieces.put_nowait((index, delta))
        except ApiError as error:
            pieces.put_nowait((index, error))

    tasks = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    try:
        running = len(streams)
        while running:
            index, piece = await pieces.get()
            if isinstance(piece, ApiError):
                raise piece
            running -= piece.finish_reason is not None
            yield index, piece
    finally:
        for task in tasks:
            task.cancel()


def _event(
    head: dict[str, Any], index: int, delta: dict[str, str], reason: str | None = None
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _data(head | {"choices": [choice]})


def _data(content: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content, ensure_ascii=False))

"""Prompts in, answers out: what /generate, /caption and /v1/chat/completions share."""

from collections.abc import Sequence
from uuid import uuid4

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Answer, GenerationRequest, Stream
from edge_lib.serving.schemas.generate import Usage
from edge_lib.serving.service import Service
from edge_lib.serving.tasks import gather


def check_count(service: Service, count: int, unit: str) -> None:
    """ApiError 400 for more than the queue holds, which would be refused for ever."""
    if count > (limit := service.settings.max_queue):
        raise ApiError(400, f"{count} {unit} in a request, over the {limit} that can wait")


async def submit(
    service: Service, requests: Sequence[GenerationRequest], streams: list[Stream]
) -> list[Stream]:
    """Begin an answer to each, in their order, and add it to `streams`, whose order is another.
    ApiError of the first that cannot be.
    """
    if service.generator is None:
        raise ApiError(404, f"{service.name} does not generate; see /v1/models", "no_such_task")

    async def begin(request: GenerationRequest) -> Stream:
        stream = await service.generator.submit(request)
        streams.append(stream)
        return stream

    return await gather(map(begin, requests))


async def collect(streams: Sequence[Stream]) -> list[Answer]:
    """The whole answers."""
    return await gather(stream.collect() for stream in streams)


def usage_of(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def total_usage(answers: Sequence[Answer]) -> Usage:
    """Of several answers to one prompt, which counts once."""
    return usage_of(answers[0].prompt_tokens, sum(a.completion_tokens for a in answers))


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex}"

"""Prompts in, answers out: what /generate, /caption and /v1/chat/completions share."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Answer, GenerationRequest, Stream
from edge_lib.serving.schemas.generate import Usage
from edge_lib.serving.service import Service


async def submit(
    service: Service, requests: Sequence[GenerationRequest], streams: list[Stream], at: str = ""
) -> list[Stream]:
    """Begin an answer to each; all of them end with `streams`. ApiError of the first that cannot.

    at: place of the requests' items, for errors.
    """
    if service.generator is None:
        raise ApiError(404, f"{service.name} does not generate; see /v1/models", "no_such_task")

    async def begin(request: GenerationRequest) -> Stream:
        stream = await service.generator.submit(request)
        streams.append(stream)
        return stream

    results = await asyncio.gather(*map(begin, requests), return_exceptions=True)
    for result in results:
        if isinstance(result, ApiError) and at and result.param:
            raise result.at(result.param if result.param.startswith(at) else at + result.param)
        if isinstance(result, BaseException):
            raise result
    return results


async def collect(streams: Sequence[Stream]) -> list[Answer]:
    """The whole answers."""
    return await asyncio.gather(*(stream.collect() for stream in streams))


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

"""/generate and /caption, for one item or a list."""

from collections.abc import Sequence

from fastapi import APIRouter, Request

from edge_lib.serving.bodies import read_items
from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Answer, GenerationRequest
from edge_lib.serving.inputs import KINDS, numbered, read_media
from edge_lib.serving.openapi import body
from edge_lib.serving.routes.answers import check_count, collect, new_id, submit, total_usage
from edge_lib.serving.routes.dependencies import ServiceOf, Streams, unless_gone
from edge_lib.serving.schemas.examples import CAPTION, GENERATE
from edge_lib.serving.schemas.generate import (
    CaptionRequest,
    GeneratedChoice,
    GenerateRequest,
    GenerateResponse,
)
from edge_lib.serving.service import Service
from edge_lib.serving.tasks import gather

router = APIRouter(tags=["generate"])
Responses = GenerateResponse | list[GenerateResponse]


@router.post(
    "/generate",
    summary="Answer a prompt with pictures and sounds",
    openapi_extra=body(GenerateRequest, GENERATE, many=True, form=True),
)
async def generate(request: Request, service: ServiceOf, streams: Streams) -> Responses:
    items, many = await read_items(request, GenerateRequest)
    return await unless_gone(request, _answer(request, service, streams, items, many))


@router.post(
    "/caption",
    summary="Describe a picture",
    openapi_extra=body(CaptionRequest, CAPTION, many=True, form=True),
)
async def caption(request: Request, service: ServiceOf, streams: Streams) -> Responses:
    items, many = await read_items(request, CaptionRequest)
    return await unless_gone(request, _answer(request, service, streams, items, many))


async def _answer(
    request: Request, service: Service, streams: Streams, items: Sequence, many: bool
) -> Responses:
    """The answers of a body's items, all generated together."""
    check_count(service, sum(item.n for item in items), "answers")

    async def answer(number: int, item: GenerateRequest | CaptionRequest) -> GenerateResponse:
        at = f"{number}." if many else ""
        requests = await _requests(request, item, at)
        try:
            return _response(service, await collect(await submit(service, requests, streams)))
        except ApiError as error:
            raise error.within(at) from None

    responses = await gather(answer(*pair) for pair in enumerate(items))
    return responses if many else responses[0]


async def _requests(
    request: Request, item: GenerateRequest | CaptionRequest, at: str
) -> list[GenerationRequest]:
    """One for each of an item's n answers."""
    if isinstance(item, CaptionRequest):
        messages, media = item.prompt, {"image": {f"{at}image": item.image}}
    else:
        messages, fields = item.prompt, {"images": item.images, "audio": item.audio}
        media = {KINDS[name]: numbered(at + name, refs) for name, refs in fields.items()}
        if item.messages:
            messages = [message.model_dump() for message in item.messages]
    media = {kind: await read_media(request, kind, refs) for kind, refs in media.items()}
    return [GenerationRequest(messages, media, sampling) for sampling in item.samplings()]


def _response(service: Service, answers: list[Answer]) -> GenerateResponse:
    choices = [GeneratedChoice(text=a.text, finish_reason=a.finish_reason) for a in answers]
    usage = total_usage(answers)
    return GenerateResponse(id=new_id("gen"), model=service.name, choices=choices, usage=usage)

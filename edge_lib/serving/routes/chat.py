"""/v1/chat/completions, whole or as server-sent events."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.sse import EventSourceResponse

from edge_lib.serving.bodies import read_one
from edge_lib.serving.generation.request import Answer, GenerationRequest, Stream
from edge_lib.serving.inputs import KINDS, read_part
from edge_lib.serving.openapi import body
from edge_lib.serving.routes.answers import check_count, collect, new_id, submit, total_usage
from edge_lib.serving.routes.chat_events import chat_events
from edge_lib.serving.routes.dependencies import ServiceOf, Streams, unless_gone
from edge_lib.serving.routes.models import check_name
from edge_lib.serving.schemas.chat import (
    AnswerMessage,
    AudioPart,
    ChatChoice,
    ChatRequest,
    ChatResponse,
    ImagePart,
    Message,
    TextPart,
)
from edge_lib.serving.schemas.examples import CHAT
from edge_lib.serving.service import Service
from edge_lib.serving.tasks import gather

router = APIRouter(tags=["OpenAI"])
STREAMED = {"description": "The answer; with stream, events", "content": {"text/event-stream": {}}}


@router.post(
    "/v1/chat/completions",
    summary="Continue a conversation",
    response_model=ChatResponse,
    responses={200: STREAMED},
    openapi_extra=body(ChatRequest, CHAT),
)
async def chat(request: Request, service: ServiceOf, streams: Streams) -> Any:
    chat_request = await read_one(request, ChatRequest)
    check_name(service, chat_request.model)
    check_count(service, chat_request.n, "answers")
    answering = await unless_gone(request, _submit(request, service, streams, chat_request))
    head = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": service.name}
    if chat_request.stream:
        include_usage = chat_request.stream_options.include_usage
        events = chat_events(head, answering, include_usage, request.state.request_id)
        return EventSourceResponse(events)
    answers = await unless_gone(request, collect(answering))
    return ChatResponse(**head, choices=_choices(answers), usage=total_usage(answers))


async def _submit(
    request: Request, service: Service, streams: Streams, chat_request: ChatRequest
) -> list[Stream]:
    parts = chat_request.items()
    items = await gather(read_part(request, part, param) for param, part in parts)
    media = {kind: [item for item in items if item.kind == kind] for kind in KINDS.values()}
    messages = [_message(message) for message in chat_request.messages]
    requests = [GenerationRequest(messages, media, s) for s in chat_request.samplings()]
    return await submit(service, requests, streams)


def _message(message: Message) -> dict[str, Any]:
    """As the engine takes it, with the items apart."""
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": [_part(part) for part in message.content]}


def _part(part: TextPart | ImagePart | AudioPart) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image" if isinstance(part, ImagePart) else "audio"}


def _choices(answers: Sequence[Answer]) -> list[ChatChoice]:
    return [
        ChatChoice(index=n, message=AnswerMessage(content=a.text), finish_reason=a.finish_reason)
        for n, a in enumerate(answers)
    ]

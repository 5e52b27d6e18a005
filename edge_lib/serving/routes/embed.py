"""/embed and /v1/embeddings."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from edge_lib.serving.bodies import read_one
from edge_lib.serving.errors import ApiError
from edge_lib.serving.inputs import KINDS, MODALITIES, numbered, read_media, read_part
from edge_lib.serving.openapi import body
from edge_lib.serving.routes.answers import check_count
from edge_lib.serving.routes.dependencies import ServiceOf, unless_gone
from edge_lib.serving.routes.models import check_name
from edge_lib.serving.schemas.chat import TextPart
from edge_lib.serving.schemas.embed import (
    EmbeddingItem,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbeddingsUsage,
    EmbedRequest,
    EmbedResponse,
)
from edge_lib.serving.schemas.examples import EMBED, EMBEDDINGS
from edge_lib.serving.service import Service
from edge_lib.serving.tasks import gather

router = APIRouter()


@router.post(
    "/embed",
    summary="Embed texts, pictures and sounds",
    tags=["embed"],
    openapi_extra=body(EmbedRequest, EMBED, form=True),
)
async def embed(request: Request, service: ServiceOf) -> EmbedResponse:
    items = await read_one(request, EmbedRequest)
    dim = check_dim(service.embedder.dims, items.dim, "dim")
    vectors = await unless_gone(request, embed_fields(request, service, items))
    if not vectors:
        raise ApiError(400, "give texts, images or audio")
    rows = {name: cut(array, dim, items.normalize).tolist() for name, array in vectors.items()}
    return EmbedResponse(model=service.name, dim=dim, **rows)


@router.post(
    "/v1/embeddings",
    summary="Embed texts, and pictures and sounds as parts of a message",
    tags=["OpenAI"],
    openapi_extra=body(EmbeddingsRequest, EMBEDDINGS),
)
async def embeddings(request: Request, service: ServiceOf) -> EmbeddingsResponse:
    items = await read_one(request, EmbeddingsRequest)
    check_name(service, items.model)
    dim = check_dim(service.embedder.dims, items.dimensions, "dimensions")
    check_count(service, len(items.input), "items")
    parts = ((part, f"input.{number}") for number, part in enumerate(items.input))
    work = gather(_embed_part(request, service, *pair) for pair in parts)
    rows = cut(np.stack(await unless_gone(request, work)), dim, normalize=True)
    texts = [part.text for part in items.input if isinstance(part, TextPart)]
    tokens = await service.embedder.count_tokens(texts) if texts else 0
    encode = _base64 if items.encoding_format == "base64" else np.ndarray.tolist
    data = [EmbeddingItem(index=n, embedding=encode(row)) for n, row in enumerate(rows)]
    usage = EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingsResponse(model=service.name, data=data, usage=usage)


async def embed_fields(request: Request, service: Service, items: Any) -> dict[str, np.ndarray]:
    """Embeddings (N, D) of the items of each field of a body that has some."""
    fields = {name: getattr(items, name) for name in MODALITIES if getattr(items, name)}
    limit, count = request.app.state.settings.max_items, sum(map(len, fields.values()))
    check_count(service, count, "items")
    if count > limit:
        raise ApiError(400, f"at most {limit} items are allowed in all")
    contents = {
        name: items
        if name == "texts"
        else await read_media(request, KINDS[name], numbered(name, items))
        for name, items in fields.items()
    }
    vectors = await gather(
        service.embedder.embed(MODALITIES[name], values, name) for name, values in contents.items()
    )
    return dict(zip(contents, vectors, strict=True))


async def _embed_part(request: Request, service: Service, part: Any, param: str) -> np.ndarray:
    """The embedding (D,) of a part of a message; the queue batches it with others."""
    if isinstance(part, TextPart):
        modality, item = "text", part.text
    else:
        item = await read_part(request, part, param)
        modality = "vision" if item.kind == "image" else "audio"
    try:
        return (await service.embedder.embed(modality, [item], param))[0]
    except ApiError as error:
        raise error.at(error.param and param) from None


def check_dim(dims: Sequence[int], dim: int | None, param: str) -> int:
    """One of `dims`, by default the largest; else ApiError."""
    if dim is None:
        return max(dims)
    if dim not in dims:
        allowed = ", ".join(map(str, sorted(dims)))
        raise ApiError(400, f"{param} is one of {allowed}, not {dim}", param=param)
    return dim


def cut(vectors: np.ndarray, dim: int, normalize: bool) -> np.ndarray:
    """The first columns (N, dim), of unit length if wanted."""
    vectors = np.asarray(vectors[:, :dim], np.float32)
    if not normalize:
        return vectors
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def _base64(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()

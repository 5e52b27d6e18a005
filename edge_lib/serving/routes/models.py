"""/v1/models: the model, and what it can do."""

import time

from fastapi import APIRouter

from edge_lib.serving.errors import ApiError
from edge_lib.serving.routes.dependencies import ServiceOf
from edge_lib.serving.schemas.models import Capabilities, ModelInfo, ModelList
from edge_lib.serving.service import Service

router = APIRouter(tags=["OpenAI"])
CREATED = int(time.time())


@router.get("/v1/models", summary="The models: one")
async def list_models(service: ServiceOf) -> ModelList:
    return ModelList(data=[_info(service)])


@router.get("/v1/models/{name:path}", summary="A model and what it can do")
async def get_model(name: str, service: ServiceOf) -> ModelInfo:
    check_name(service, name)
    return _info(service)


def check_name(service: Service, name: str | None) -> None:
    """ApiError for another model than that of the server."""
    if name not in (None, service.name):
        message = f"no model {name[:100]!r}; this server has {service.name!r}"
        raise ApiError(404, message, "model_not_found", "model")


def _info(service: Service) -> ModelInfo:
    generator, embedder = service.generator, service.embedder
    capabilities = Capabilities(
        generate=sorted(generator.accepts) if generator else None,
        caption=bool(generator and "image" in generator.accepts),
        multi_turn=bool(generator and generator.multi_turn),
        embed=list(embedder.modalities),
        dims=sorted(embedder.dims),
        search=service.index is not None,
        search_dims=sorted(service.index.dims) if service.index else [],
        search_modalities=list(service.index.modalities) if service.index else [],
    )
    return ModelInfo(id=service.name, created=CREATED, capabilities=capabilities)

"""Whether the process lives, whether the model is loaded, and what it counted."""

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from edge_lib.serving.routes.dependencies import ServiceOf, authorize
from edge_lib.serving.schemas.errors import ERRORS

router = APIRouter(tags=["status"])


@router.get("/health", summary="Whether the process lives", responses={403: ERRORS[403]})
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/ready",
    summary="Whether the model is loaded; 503 before",
    responses={403: ERRORS[403], 503: ERRORS[503]},
)
async def ready(service: ServiceOf) -> dict[str, str]:
    return {"status": "ready", "model": service.name}


@router.get(
    "/metrics",
    summary="Counts for Prometheus",
    dependencies=[Depends(authorize)],
    responses={401: ERRORS[401], 403: ERRORS[403]},
)
async def metrics(request: Request) -> Response:
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

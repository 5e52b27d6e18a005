"""/search: the rows of the index that are nearest to a text, a picture or a sound."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from edge_lib.serving.bodies import parse, read_one
from edge_lib.serving.errors import ApiError
from edge_lib.serving.inputs import MODALITIES
from edge_lib.serving.media import in_thread
from edge_lib.serving.openapi import body
from edge_lib.serving.routes.dependencies import ServiceOf, unless_gone
from edge_lib.serving.routes.embed import check_dim, embed_fields
from edge_lib.serving.schemas.examples import SEARCH
from edge_lib.serving.schemas.search import HitBody, ItemKind, SearchRequest, SearchResponse
from edge_lib.serving.service import Service

if TYPE_CHECKING:
    from edge_lib.serving.index import Hit, SearchIndex

router = APIRouter(prefix="/search", tags=["search"])


@router.get("", summary="Search by text")
async def search_text(
    request: Request,
    service: ServiceOf,
    q: Annotated[str, Query(description="a text")],
    k: Annotated[int | None, Query(description="hits")] = None,
    dim: Annotated[int | None, Query(description="size of the embeddings")] = None,
    modality: Annotated[ItemKind | None, Query(description="of the hits")] = None,
    center: Annotated[bool, Query(description="without the mean of each modality")] = False,
) -> SearchResponse:
    values = {"texts": [q], "k": k, "dim": dim, "modality": modality, "center": center}
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in {"q", "k", "dim", "modality", "center"}:
            raise ApiError(400, f"{name}: unknown parameter", param=name)
        if count > 1:
            raise ApiError(400, f"{name}: given more than once", param=name)
    query = parse(SearchRequest, values, request.app.state.settings, strict=True)
    try:
        return await unless_gone(request, _search(request, service, query))
    except ApiError as error:
        raise error.at("q" if error.param == "texts.0" else error.param) from None


@router.post(
    "",
    summary="Search by a picture, a sound or a text",
    openapi_extra=body(SearchRequest, SEARCH, form=True),
)
async def search_item(request: Request, service: ServiceOf) -> SearchResponse:
    query = await read_one(request, SearchRequest)
    return await unless_gone(request, _search(request, service, query))


@router.get("/pictures/{row}", summary="The thumbnail of a row", response_class=Response)
async def picture(row: int, service: ServiceOf) -> Response:
    index = _index(service)
    if not 0 <= row < len(index) or (content := await in_thread(index.picture, row)) is None:
        raise ApiError(404, f"row {row} has no picture")
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(content, media_type="image/jpeg", headers=headers)


async def _search(request: Request, service: Service, query: SearchRequest) -> SearchResponse:
    index = _index(service)
    dim = check_dim(index.dims, query.dim, "dim")
    if query.modality and query.modality not in index.modalities:
        allowed = ", ".join(index.modalities)
        raise ApiError(400, f"the index holds {allowed}", param="modality")
    vectors = await embed_fields(request, service, query)
    if len(vectors) != 1:
        raise ApiError(400, "give one text, picture or sound")
    [(field, [vector])] = vectors.items()
    center = MODALITIES[field] if query.center else None
    if center and center not in index.modalities:
        raise ApiError(400, f"the index has no {center} whose mean is known", param="center")
    hits = await in_thread(index.search, vector, query.k, dim, query.modality, center)
    return SearchResponse(hits=[_body(hit) for hit in hits])


def _index(service: Service) -> "SearchIndex":
    if service.index is None:
        raise ApiError(404, "the server has no index; start it with --index", "no_such_task")
    return service.index


def _body(hit: "Hit") -> HitBody:
    picture = f"/search/pictures/{hit.row}" if hit.has_picture else None
    return HitBody.model_validate({**vars(hit), "picture": picture})

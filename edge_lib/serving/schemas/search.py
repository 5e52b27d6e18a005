"""/search."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from edge_lib.serving.schemas.embed import Dim
from edge_lib.serving.schemas.fields import Body, MediaRef, at_most, list_of

ItemKind = Literal["vision", "audio", "text"]
Query = Annotated[list_of(MediaRef), Field(max_length=1)]


class SearchRequest(Body):
    """One picture, sound or text to search by."""

    images: Query = Field([], description="a data URI, or an uploaded file")
    audio: Query = Field([], description="a data URI, or an uploaded file")
    texts: Annotated[list_of(str), Field(max_length=1)] = Field([])
    k: Annotated[int, Field(ge=1), at_most("max_hits")] = Field(10, description="hits")
    dim: Dim | None = None
    modality: ItemKind | None = Field(None, description="of the hits; any by default")
    center: bool = Field(False, description="cosines without the mean of each modality")


class HitBody(BaseModel):
    """A row of the index. score: cosine. picture: path of its thumbnail."""

    row: int
    score: float
    id: str | None
    text: str | None
    modality: str
    picture: str | None


class SearchResponse(BaseModel):
    """The nearest rows, best first."""

    hits: list[HitBody]

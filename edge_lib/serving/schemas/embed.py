"""/embed and /v1/embeddings."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from edge_lib.serving.schemas.chat import Part
from edge_lib.serving.schemas.fields import Body, MediaRef, at_most, list_of

Dim = Annotated[int, Field(ge=1, le=2**31, description="size of the embeddings; see /v1/models")]
Vector = list[float]


class EmbedRequest(Body):
    """Texts, pictures and sounds to embed."""

    texts: Annotated[list_of(str), at_most("max_items")] = Field([])
    images: Annotated[list_of(MediaRef), at_most("max_items")] = Field(
        [], description="data URIs, or uploaded files"
    )
    audio: Annotated[list_of(MediaRef), at_most("max_items")] = Field(
        [], description="data URIs, or uploaded files"
    )
    dim: Dim | None = None
    normalize: bool = Field(True, description="to unit length")


class EmbedResponse(BaseModel):
    """Embeddings of each kind, in the order of the request."""

    model: str
    dim: int
    texts: list[Vector] = []
    images: list[Vector] = []
    audio: list[Vector] = []


def _as_parts(value: Any) -> Any:
    """Strings and content parts, as parts."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, int | list) for item in items):
        raise ValueError("send texts or content parts, not token ids")
    return [{"type": "text", "text": item} if isinstance(item, str) else item for item in items]


class EmbeddingsRequest(Body):
    """OpenAI's form: texts; here pictures and sounds as well, as parts of a chat message."""

    input: Annotated[
        list[Part],
        Field(fail_fast=True),
        BeforeValidator(_as_parts, json_schema_input_type=str | list[str | Part]),
        Field(min_length=1),
        at_most("max_items"),
    ]
    model: str | None = Field(None, description="as in /v1/models; may be left out")
    dimensions: Dim | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = Field(None, description="ignored")


class EmbeddingItem(BaseModel):
    """embedding: numbers, or float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: Vector | str


class EmbeddingsUsage(BaseModel):
    """Tokens of the texts. Pictures and sounds have none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Embeddings of unit length."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingsUsage

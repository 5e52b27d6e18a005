"""/v1/models."""

from typing import Literal

from pydantic import BaseModel


class Capabilities(BaseModel):
    """generate: kinds of items of a prompt, None if the model does not generate. multi_turn:
    whether it takes earlier turns. embed: kinds of items it embeds. dims: sizes of its embeddings.
    search: whether there is an index; search_dims, search_modalities: what
    is in it.
    """

    generate: list[str] | None
    caption: bool
    multi_turn: bool
    embed: list[str]
    dims: list[int]
    search: bool
    search_dims: list[int]
    search_modalities: list[str]


class ModelInfo(BaseModel):
    """A model of this server."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "edge-glass"
    capabilities: Capabilities


class ModelList(BaseModel):
    """The models of this server: one."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]

"""/generate and /caption."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from edge_lib.serving.schemas.fields import Body, MediaRef, SamplingBody, at_most, list_of

Items = Annotated[list_of(MediaRef), at_most("max_images")]


class PromptMessage(Body):
    """A turn; `<image>` and `<audio>` in it stand for the items, in their order."""

    role: Literal["system", "user", "assistant"]
    content: str


Turns = Annotated[list[PromptMessage], Field(min_length=1, max_length=1000, fail_fast=True)]


class GenerateRequest(SamplingBody):
    """A prompt, or messages, with pictures and sounds.

    `<image>` and `<audio>` in the prompt stand for the items, in their order; they are put in front
    of a prompt without them.
    """

    prompt: str | None = None
    messages: Turns | None = None
    images: Items = Field([], description="data URIs, or uploaded files")
    audio: Items = Field([], description="data URIs, or uploaded files")

    @model_validator(mode="after")
    def _prompt_or_messages(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class CaptionRequest(SamplingBody):
    """A picture to describe."""

    image: MediaRef = Field(description="a data URI, or an uploaded file")
    prompt: str = Field("Describe the image.", description="what to ask about it")


class GeneratedChoice(BaseModel):
    """finish_reason: length if max_tokens ended it."""

    text: str
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateResponse(BaseModel):
    """n answers to a prompt."""

    id: str
    model: str
    choices: list[GeneratedChoice]
    usage: Usage

"""/v1/chat/completions: messages in, an answer or its parts out."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from edge_lib.serving.errors import ApiError
from edge_lib.serving.schemas.fields import Body, OpenBody, SamplingBody, at_most
from edge_lib.serving.schemas.generate import Usage

HARMLESS = {  # parameters of OpenAI that change no answer
    "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "user",
}  # fmt: skip
# parameters that are not implemented, and the values that ask for nothing
NEUTRAL = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}


class Url(OpenBody):
    """A data URI, or a URL of a host that the server allows."""

    url: str


class Sound(OpenBody):
    """A file in base64."""

    data: str
    format: str = Field("wav", description="ignored: the content is examined")


class TextPart(Body):
    """Text. Marks such as <image> in it are plain text."""

    type: Literal["text"]
    text: str


class ImagePart(Body):
    """A picture."""

    type: Literal["image_url"]
    image_url: Url


class AudioPart(Body):
    """A sound."""

    type: Literal["input_audio"]
    input_audio: Sound


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(OpenBody):
    """A turn. Keys that answers have, such as refusal, are ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Part],
        Field(fail_fast=True),
        BeforeValidator(_as_parts, json_schema_input_type=str | list[Part]),
    ]


def _limit_items(messages: list[Message], info: ValidationInfo) -> list[Message]:
    kinds = Counter(part.type for message in messages for part in message.content)
    limit = info.context.max_images
    if max(kinds["image_url"], kinds["input_audio"]) > limit:
        raise ValueError(f"at most {limit} pictures and {limit} sounds are allowed")
    return messages


class StreamOptions(OpenBody):
    """include_usage: a last chunk has the numbers of tokens."""

    include_usage: bool = False


class ChatRequest(SamplingBody):
    """A conversation, whose next turn is generated."""

    messages: Annotated[
        list[Message],
        Field(min_length=1, max_length=1000, fail_fast=True),
        AfterValidator(_limit_items),
    ]
    model: str | None = Field(None, description="as in /v1/models; may be left out")
    stream: bool = Field(False, description="send the answer in parts, as server-sent events")
    stream_options: StreamOptions = StreamOptions()
    max_completion_tokens: Annotated[int, Field(ge=1), at_most("max_tokens")] | None = Field(
        None, description="another name of max_tokens"
    )

    @model_validator(mode="before")
    @classmethod
    def _check_parameters(cls, value: Any) -> Any:
        """Leave out parameters of OpenAI that ask for nothing. ApiError for those that do."""
        if not isinstance(value, dict):
            return value
        for name, neutral in NEUTRAL.items():
            if value.get(name) is not None and value[name] not in neutral:
                message = f"{name} is not supported"
                raise ApiError(400, message, "unsupported_parameter", name)
        return {k: item for k, item in value.items() if k not in HARMLESS and k not in NEUTRAL}

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self

    def items(self) -> Iterator[tuple[str, ImagePart | AudioPart]]:
        """Pictures and sounds in order, and where they are, such as messages.0.content.1."""
        for number, message in enumerate(self.messages):
            for place, part in enumerate(message.content):
                if not isinstance(part, TextPart):
                    yield f"messages.{number}.content.{place}", part


class AnswerMessage(BaseModel):
    """The generated turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """finish_reason: length if max_tokens ended it."""

    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatResponse(BaseModel):
    """The answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage

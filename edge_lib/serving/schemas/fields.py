"""What bodies have in common: limits from the settings, items of media, sampling parameters."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edge_lib.serving.generation.request import Sampling

# a data URI, an allowed URL, or the content of an uploaded file
MediaRef = Annotated[str | bytes, WithJsonSchema({"type": "string"})]
StopText = Annotated[str, Field(min_length=1, max_length=100)]


def at_most(setting: str) -> WrapValidator:
    """A number or a length that is limited by a setting, which is the context of validation. A list
    is measured before its items are validated.
    """

    def check(value: Any, validate: Callable, info: ValidationInfo) -> Any:
        limit = getattr(info.context, setting)
        result = value if isinstance(value, list) and len(value) > limit else validate(value)
        if (result if isinstance(result, int) else len(result)) > limit:
            raise ValueError(f"at most {limit} are allowed")
        return result

    return WrapValidator(check)


def list_of(item: Any) -> Any:
    """The type of a list that takes one item in place of a list of one."""
    return Annotated[
        list[item],
        Field(fail_fast=True),
        BeforeValidator(
            lambda value: value if isinstance(value, list) else [value],
            json_schema_input_type=item | list[item],
        ),
    ]


class Body(BaseModel):
    """A body whose null values are left out: clients send null for what they do not set. The first
    unknown parameter is an error; pydantic would list all of 100,000.
    """

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if unknown := next((name for name in value if name not in cls.model_fields), None):
            raise PydanticCustomError("unknown", "unknown parameter", {"name": unknown})
        return {name: item for name, item in value.items() if item is not None}


class OpenBody(Body):
    """A body whose unknown parameters are left out as well."""

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: value[name] for name in cls.model_fields if name in value}


class SamplingBody(Body):
    """How an answer is generated: greedily, unless a temperature is given."""

    max_tokens: Annotated[int, Field(ge=1), at_most("max_tokens")] | None = Field(
        None, description="of an answer; the model's own limit by default"
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 chooses the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="samples from this share of the probability")
    top_k: int = Field(0, ge=0, le=2**31, description="samples from so many tokens; 0 from all")
    stop: Annotated[list_of(StopText), at_most("max_stop")] = Field(
        [], description="texts that end an answer, which leaves them out"
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="of sampling")
    n: Annotated[int, Field(ge=1), at_most("max_n")] = Field(1, description="answers")

    def samplings(self) -> list[Sampling]:
        """One for each of the n answers, with seeds of their own."""
        values = self.model_dump(include=set(Sampling.__annotations__) - {"stop", "seed"})
        seeds = [None if self.seed is None else self.seed + i for i in range(self.n)]
        return [Sampling(**values, stop=tuple(self.stop), seed=seed) for seed in seeds]

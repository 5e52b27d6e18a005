"""What bodies have in common: limits from the settings, items of media, sampling parameters."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from edge_lib.serving.generation.request import Sampling

# a data URI, an allowed URL, or the content of an uploaded file
MediaRef = Annotated[str | bytes, WithJsonSchema({"type": "string", "contentMediaType": "image/*"})]
StopText = Annotated[str, Field(min_length=1, max_length=100)]


def at_most(setting: str) -> AfterValidator:
    """A number or a length that is limited by a setting, which is the context of validation."""

    def check(value: Any, info: ValidationInfo) -> Any:
        limit = getattr(info.context, setting)
        if (value if isinstance(value, int) else len(value)) > limit:
            raise ValueError(f"at most {limit} are allowed")
        return value

    return AfterValidator(check)


def list_of(item: Any) -> Any:
    """The type of a list that takes one item in place of a list of one."""
    return Annotated[
        list[item],
        BeforeValidator(
            lambda value: value if isinstance(value, list) else [value],
            json_schema_input_type=item | list[item],
        ),
    ]


class Body(BaseModel):
    """A body whose null values are left out: clients send null for what they do not set."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None}


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

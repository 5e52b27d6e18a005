"""The embedded scenes of handwritten digits."""

from typing import Annotated

from pydantic import Field

from edge_lib.config.base import Count, Positive, Section


class ScenesConfig(Section):
    """The embedded handwritten-digit scenes; sizes count rows, four twins to a group."""

    train_size: Positive = 8000
    val_size: Positive = 2000
    test_size: Positive = 2000
    swap_size: Positive = Field(500, description="pairs of the swap probe")
    max_objects: Annotated[int, Field(ge=1, le=9)] = 4
    captions: Annotated[int, Field(ge=1, le=3)] = Field(1, description="phrasings of each scene")
    speech: bool = Field(False, description="speak every caption")
    degraded_size: Count = Field(0, description="rows, at most, of each degraded split")
    seed: int = 0

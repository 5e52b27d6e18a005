"""The built-in data set: scenes of handwritten digits."""

from typing import Annotated

from pydantic import Field

from edge_lib.config.base import Count, Positive, Section


class ScenesConfig(Section):
    """Scenes of handwritten digits. Sizes count rows; four rows are a group of twins."""

    train_size: Positive = 8000
    val_size: Positive = 2000
    test_size: Positive = 2000
    swap_size: Positive = Field(500, description="pairs of the swap probe")
    max_objects: Annotated[int, Field(ge=1, le=9)] = 4
    captions: Annotated[int, Field(ge=1, le=3)] = Field(1, description="phrasings of each caption")
    swap_twins: bool = Field(
        False, description="training groups also hold a scene with two digits exchanged, if it can"
    )
    speech: bool = Field(False, description="also speak every caption")
    degraded_size: Count = Field(0, description="maximum rows of each degraded split; 0: no split")
    seed: int = 0

"""Sources of questions about images."""

from typing import Annotated

from pydantic import Field

from edge_lib.config.base import Count, Positive, RepoPath, Section, SourceSection
from edge_lib.config.registry import QUESTION_SOURCES, one_of
from edge_lib.config.sources import HeldOutConfig


class VQAv2Config(Section):
    """VQAv2's JSON files and the folder of images (with COCO's file names) for each split."""

    questions: dict[str, RepoPath]
    annotations: dict[str, RepoPath]
    images: dict[str, RepoPath]
    prefix: dict[str, str] = Field(
        {}, description="of image file names in each split, e.g. COCO_train2014_"
    )


class GQAConfig(Section):
    """GQA's question file for each split (train_balanced_questions.json, ...), and its images."""

    questions: dict[str, RepoPath]
    images: RepoPath


class QuestionsConfig(SourceSection):
    """Questions about images: generated from scenes or captions, or read from VQAv2 or GQA."""

    source: Annotated[str, one_of(QUESTION_SOURCES)] = "scenes"
    train_scenes: Positive = 8000
    val_scenes: Positive = 500
    test_scenes: Positive = 1000
    per_scene: Positive = Field(8, description="questions about each scene")
    max_objects: Annotated[int, Field(ge=2, le=9)] = 6
    train_hops: Annotated[int, Field(ge=0, le=4)] = Field(
        2, description="most steps of a chained question in train and val"
    )
    test_hops: Annotated[int, Field(ge=0, le=4)] = Field(4, description="the same in test")
    seed: Count = 0
    split: HeldOutConfig | None = Field(None, description="makes val and test of the train split")
    vqav2: VQAv2Config | None = None
    gqa: GQAConfig | None = None

"""Sources of questions about images."""

from typing import Annotated, ClassVar

from pydantic import Field

from edge_lib.config.base import Count, Positive, RepoPath, Section
from edge_lib.config.registry import QUESTION_SOURCES, one_of
from edge_lib.config.sources import (
    DividedSection,
    HubSplitsConfig,
    Names,
    SplitDictConfig,
    SplitPaths,
    TableFilesConfig,
)


class VQAv2Config(SplitDictConfig):
    """VQAv2's JSON files and the folder of images (with COCO's file names) for each split."""

    BY_SPLIT: ClassVar[str] = "questions"

    questions: SplitPaths
    annotations: dict[str, RepoPath]
    images: dict[str, RepoPath]
    prefix: dict[str, str] = Field(
        {}, description="of image file names in each split, e.g. COCO_train2014_"
    )


class GQAConfig(SplitDictConfig):
    """GQA's question file for each split (train_balanced_questions.json, ...), and its images."""

    BY_SPLIT: ClassVar[str] = "questions"

    questions: SplitPaths
    images: RepoPath


class QuestionColumnsConfig(Section):
    """Columns of users' files; a dotted name is a field of a struct. Null: there is none."""

    image_column: str = "image"
    question_column: str = "question"
    answer_column: Names = Field(
        ["answer"], description="one or several, of texts or lists of texts: the references"
    )
    kind_column: str | None = Field(None, description="scores are reported for each kind")
    id_column: str | None = None


class QuestionTableConfig(TableFilesConfig, QuestionColumnsConfig):
    """Tables of questions."""


class QuestionHubConfig(HubSplitsConfig, QuestionColumnsConfig):
    """A data set of questions."""


class QuestionsConfig(DividedSection):
    """Questions about images: generated from scenes or captions, or read from files."""

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
    vqav2: VQAv2Config | None = None
    gqa: GQAConfig | None = None
    table: QuestionTableConfig | None = None
    hub: QuestionHubConfig | None = None

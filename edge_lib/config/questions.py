"""Where questions about images come from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Count, Positive, RepoPath, Section


class VQAv2Config(Section):
    """VQAv2's json files by split, and the folder of a split's images (COCO's names)."""

    questions: dict[str, RepoPath]
    annotations: dict[str, RepoPath]
    images: dict[str, RepoPath]
    prefix: dict[str, str] = Field({}, description="of file names, e.g. COCO_train2014_")


class GQAConfig(Section):
    """GQA's question files by split (train_balanced_questions.json, ...), and its images."""

    questions: dict[str, RepoPath]
    images: RepoPath


class QuestionsConfig(Section):
    """Questions about images: made for scenes, read from VQAv2 or GQA, or made of captions."""

    source: Literal["scenes", "captions", "vqav2", "gqa"] = "scenes"
    train_scenes: Positive = 8000
    val_scenes: Positive = 500
    test_scenes: Positive = 1000
    per_scene: Positive = 8
    max_objects: Annotated[int, Field(ge=2, le=9)] = 6
    train_hops: Annotated[int, Field(ge=0, le=4)] = Field(2, description="of train and val chains")
    test_hops: Annotated[int, Field(ge=0, le=4)] = 4
    seed: Count = 0
    vqav2: VQAv2Config | None = None
    gqa: GQAConfig | None = None

    @model_validator(mode="after")
    def _source_is_described(self):
        if self.source in ("vqav2", "gqa") and getattr(self, self.source) is None:
            raise ValueError(f"source {self.source!r} needs a data.questions.{self.source} section")
        return self

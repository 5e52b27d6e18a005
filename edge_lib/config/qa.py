"""Decoders that answer questions, and what they are asked."""

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


class DecoderConfig(Section):
    """A decoder; those of the recursive one alone are its steps, latent, update, supervision."""

    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    norm: Literal["pre", "post"] = "pre"
    inner_steps: Positive = 4
    outer_steps: Positive = Field(1, description="rounds; only the last carries gradient")
    latent: bool = Field(True, description="rows z beside the answer's y")
    update: Literal["concat", "additive"] = "concat"
    deep_supervision: bool = Field(False, description="a loss, with gradient, in every round")
    lr: Annotated[float, Field(gt=0)] | None = Field(None, description="qa.train.lr, if not named")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x heads {self.heads}")
        return self


class CurriculumConfig(Section):
    """Kinds of question that are asked alone at first: what all others build on."""

    kinds: Annotated[list[str], Field(min_length=1)]
    steps: Positive

"""Where conversations come from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Count, Positive, RepoPath, Section


class LlavaConfig(Section):
    """LLaVA's json files by split ({"image", "conversations"}), and the images' folder."""

    files: dict[str, RepoPath]
    images: RepoPath


class InstructionsConfig(Section):
    """Open-Orca's columns (system_prompt, question, response) in Parquet or jsonl, by split."""

    files: dict[str, list[str]]


class ConversationsConfig(Section):
    """Conversations about images: made for scenes, or read; instructions without images beside."""

    source: Literal["scenes", "llava", "parquet"] = "scenes"
    train_scenes: Positive = 8000
    val_scenes: Positive = 250
    test_scenes: Positive = 500
    per_scene: Positive = Field(6, description="questions about a scene, in one conversation")
    max_objects: Annotated[int, Field(ge=2, le=9)] = 4
    speech: bool | Literal["asked"] = Field(
        False, description="speak every scene's caption; asked: and ask what is said, of <audio>"
    )
    seed: Count = 0
    llava: LlavaConfig | None = None
    parquet: dict[str, list[str]] | None = Field(
        None, description="files by split: columns turns (role, content), image, audio, ..."
    )
    instructions: InstructionsConfig | None = None

    @model_validator(mode="after")
    def _source_is_described(self):
        if self.source != "scenes" and getattr(self, self.source) is None:
            raise ValueError(f"source {self.source!r} needs data.conversations.{self.source}")
        return self

"""Sources of conversations."""

from typing import Annotated, Literal

from pydantic import Field

from edge_lib.config.base import Count, Positive, RepoPath, Section, SourceSection
from edge_lib.config.registry import CONVERSATION_SOURCES, one_of


class LlavaConfig(Section):
    """LLaVA's JSON files ({"image", "conversations"}) for each split, and the folder of images."""

    files: dict[str, RepoPath]
    images: RepoPath


class InstructionsConfig(Section):
    """Parquet or jsonl files for each split, with Open-Orca's columns (system_prompt, question,
    response).
    """

    files: dict[str, list[str]]


class ConversationsConfig(SourceSection):
    """Conversations about images: generated from scenes or read from files. Text-only instructions
    can be added to them.
    """

    source: Annotated[str, one_of(CONVERSATION_SOURCES)] = "scenes"
    train_scenes: Positive = 8000
    val_scenes: Positive = 250
    test_scenes: Positive = 500
    per_scene: Positive = Field(6, description="questions about each scene")
    max_objects: Annotated[int, Field(ge=2, le=9)] = 4
    speech: bool | Literal["question"] = Field(
        False,
        description="true: the description of a scene comes with its spoken caption; question: the "
        "spoken caption is an <audio> in a conversation of its own, which asks for the transcript",
    )
    seed: Count = 0
    llava: LlavaConfig | None = None
    parquet: dict[str, list[str]] | None = Field(
        None, description="files for each split; columns: turns (role, content), image, audio, ..."
    )
    instructions: InstructionsConfig | None = None

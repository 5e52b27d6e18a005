"""Sources of conversations."""

from typing import Annotated, Literal

from pydantic import Field

from edge_lib.config.base import Count, Positive, RepoPath
from edge_lib.config.registry import CONVERSATION_SOURCES, one_of
from edge_lib.config.sources import (
    DividedSection,
    HeldOutConfig,
    HubSplitsConfig,
    SplitDictConfig,
    SplitFiles,
    SplitPaths,
)


class LlavaConfig(SplitDictConfig):
    """LLaVA's JSON files ({"image", "conversations"}) for each split, and the folder of images."""

    files: SplitPaths
    images: RepoPath


class MessagesConfig(SplitDictConfig):
    """Files of messages (json, jsonl or Parquet) for each split."""

    files: SplitFiles
    images: RepoPath | None = Field(
        None, description="folder of relative image paths; by default that of each file"
    )
    column: str | None = Field(
        None, description="key of the turns; by default messages, conversations or turns"
    )


class ConversationHubConfig(HubSplitsConfig):
    """A data set of conversations."""

    column: str | None = Field(None, description="of the turns, as for messages")


class InstructionsConfig(SplitDictConfig):
    """Parquet, json or jsonl files for each split, one question and response a row; the names of
    columns are Open-Orca's by default.
    """

    files: SplitFiles
    system_column: str | None = "system_prompt"
    question_column: str = "question"
    response_column: str = "response"


class ConversationsConfig(DividedSection):
    """Conversations about images: generated from scenes or read from files. Text-only instructions
    can be added to them, or be all there is.
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
    messages: MessagesConfig | None = None
    parquet: SplitFiles | None = Field(
        None, description="files for each split; columns: messages or turns, image, audio, ..."
    )
    hub: ConversationHubConfig | None = None
    instructions: InstructionsConfig | None = None
    split: HeldOutConfig | None = Field(
        None, description="makes val and test of the train split, without `instructions`"
    )

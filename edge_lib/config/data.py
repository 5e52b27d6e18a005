"""The tables of an experiment."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from edge_lib.config.base import Fraction, RepoPath, Section, SourceSection
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.config.modalities import ModalityName
from edge_lib.config.questions import QuestionsConfig
from edge_lib.config.registry import SOURCES, one_of
from edge_lib.config.scenes import ScenesConfig


class ParquetConfig(Section):
    """Parquet files with images or audio (bytes, or {bytes, path}) and captions."""

    train: list[str]
    val: list[str]
    test: list[str]
    image_column: str | None = "image"
    audio_column: str | None = None
    caption_column: str = "caption"
    id_column: str | None = None

    @model_validator(mode="after")
    def _splits_differ(self):
        for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
            if shared := sorted(set(getattr(self, a)) & set(getattr(self, b))):
                raise ValueError(f"{a} and {b} name the same files: {', '.join(shared)}")
        return self


class CommonVoiceConfig(Section):
    """The folder of one language of Mozilla Common Voice: tsv files, and `clips/`."""

    folder: RepoPath
    train: str = "train.tsv"
    val: str = "dev.tsv"
    test: str = "test.tsv"


class DataConfig(SourceSection):
    """A source and its section, and what is done to its training rows."""

    source: Annotated[str, one_of(SOURCES)] = "scenes"
    scenes: ScenesConfig = ScenesConfig()
    parquet: ParquetConfig | None = None
    common_voice: CommonVoiceConfig | None = None
    questions: QuestionsConfig | None = None
    conversations: ConversationsConfig | None = None
    cache_dir: RepoPath = Path("runs/cache")
    hard_negatives: bool = Field(
        False, description="training batches hold whole groups of minimal edits"
    )
    missing: dict[ModalityName, Fraction] = Field(
        {}, description="share of training rows that lose a modality"
    )

"""The tables of an experiment."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from edge_lib.config.base import Count, Fraction, RepoPath, Section, SourceSection
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.config.modalities import ModalityName
from edge_lib.config.questions import QuestionsConfig
from edge_lib.config.registry import SOURCES, one_of
from edge_lib.config.scenes import ScenesConfig
from edge_lib.config.sources import (
    CocoConfig,
    CommonVoiceConfig,
    FolderConfig,
    HubConfig,
    SplitsConfig,
    TableConfig,
    WebDatasetConfig,
)


class SplitConfig(Section):
    """Held-out splits that are taken from the train split of a source. Rows of the same picture,
    clip or group stay together.
    """

    val: Fraction = Field(0.05, description="share of the rows; 0: the source has its own")
    test: Fraction = Field(0.05, description="share of the rows; 0: the source has its own")
    seed: Count = 0
    by: str | None = Field(None, description="column whose equal values stay together")

    @model_validator(mode="after")
    def _leaves_rows_to_train(self):
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} and test {self.test} leave no rows to train on")
        return self


class DataConfig(SourceSection):
    """A source and its section, and what is done to its training rows."""

    source: Annotated[str, one_of(SOURCES)] = "scenes"
    scenes: ScenesConfig = ScenesConfig()
    folder: FolderConfig | None = None
    table: TableConfig | None = None
    parquet: TableConfig | None = None
    webdataset: WebDatasetConfig | None = None
    coco: CocoConfig | None = None
    hub: HubConfig | None = None
    common_voice: CommonVoiceConfig | None = None
    split: SplitConfig | None = Field(None, description="makes val and test of the train split")
    questions: QuestionsConfig | None = None
    conversations: ConversationsConfig | None = None
    cache_dir: RepoPath = Path("runs/cache")
    hard_negatives: bool = Field(
        False, description="training batches hold whole groups of minimal edits"
    )
    missing: dict[ModalityName, Fraction] = Field(
        {}, description="share of training rows that lose a modality"
    )

    @model_validator(mode="after")
    def _no_split_is_named_twice(self):
        section = getattr(self, self.source, None)
        for split in ("val", "test") if self.split and isinstance(section, SplitsConfig) else ():
            if getattr(self.split, split) and section.named(split) is not None:
                raise ValueError(
                    f"{self.source}.{split} and split.{split} both name this split; leave out one "
                    f"(split.{split}: 0)"
                )
        return self

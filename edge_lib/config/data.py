"""The tables of an experiment, and the data set that it downloads if it is not there."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat

from edge_lib.config.base import Count, Fraction, Positive, RepoPath, Section
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.config.modalities import ModalityName
from edge_lib.config.questions import QuestionsConfig
from edge_lib.config.registry import DOWNLOADS, SOURCES, one_of
from edge_lib.config.scenes import ScenesConfig
from edge_lib.config.sources import (
    CocoConfig,
    CommonVoiceConfig,
    DividedSection,
    FolderConfig,
    HeldOutConfig,
    HubConfig,
    TableConfig,
    WebDatasetConfig,
)


class DownloadConfig(Section):
    """What `edge-glass download NAME --out OUT` would get, with its other flags as options."""

    name: Annotated[str, one_of(DOWNLOADS)]
    out: RepoPath = Field(description="folder that the source reads")
    rows: Positive | None = Field(None, description="a random part of this many; null: all")
    seed: Count = 0
    options: dict[str, Any] = {}


class SplitConfig(HeldOutConfig):
    """Val and test rows, with a column that keeps rows together."""

    by: str | None = Field(None, description="column whose equal values stay together")


class DataConfig(DividedSection):
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
    download: DownloadConfig | None = Field(None, description="made first, if it is not there")
    questions: QuestionsConfig | None = None
    conversations: ConversationsConfig | None = None
    cache_dir: RepoPath = Path("runs/cache")
    hard_negatives: bool = Field(
        False, description="training batches hold whole groups of minimal edits"
    )
    captions_per_row: Positive = Field(
        1, description="captions of a row that a batch holds at once, as answers to one another"
    )
    fusemix: NonNegativeFloat = Field(
        0.0,
        description="training rows are mixtures of two with a weight from Beta(fusemix, fusemix); "
        "0: none",
    )
    missing: dict[ModalityName, Fraction] = Field(
        {}, description="share of training rows that lose a modality"
    )

"""Where rows come from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Fraction, Modality, RepoPath, Section
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.config.questions import QuestionsConfig
from edge_lib.config.scenes import ScenesConfig


class ParquetConfig(Section):
    """Parquet files in PixMo's shape: images or audio (bytes or {bytes, path}) with a caption."""

    train: list[str]
    val: list[str]
    test: list[str]
    image_column: str | None = "image"
    audio_column: str | None = None
    caption_column: str = "caption"
    id_column: str | None = None


class CommonVoiceConfig(Section):
    """A language's folder of Mozilla Common Voice: the tsv files, and `clips/` beside them."""

    folder: RepoPath
    train: str = "train.tsv"
    val: str = "dev.tsv"
    test: str = "test.tsv"


class DataConfig(Section):
    source: Literal["scenes", "parquet", "common_voice"] = "scenes"
    scenes: ScenesConfig = ScenesConfig()
    parquet: ParquetConfig | None = None
    common_voice: CommonVoiceConfig | None = None
    questions: QuestionsConfig | None = None
    conversations: ConversationsConfig | None = None
    cache_dir: RepoPath = Path("runs/cache")
    hard_negatives: bool = Field(False, description="training batches hold whole twin groups")
    missing: dict[Modality, Fraction] = Field(
        {}, description="share of training rows that lose a modality, to study missing data"
    )

    @model_validator(mode="after")
    def _source_is_described(self):
        if getattr(self, self.source) is None:
            raise ValueError(f"source {self.source!r} needs a data.{self.source} section")
        return self

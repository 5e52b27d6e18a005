"""The data set that an experiment downloads if it is not there."""

from typing import Annotated, Any

from pydantic import Field

from edge_lib.config.base import Count, Positive, RepoPath, Section
from edge_lib.config.registry import DOWNLOADS, one_of


class DownloadConfig(Section):
    """What `edge-glass download NAME --out OUT` would get, with its other flags as options."""

    name: Annotated[str, one_of(DOWNLOADS)]
    out: RepoPath = Field(description="folder that the source reads")
    rows: Positive | None = Field(None, description="a random part of this many; null: all")
    seed: Count = 0
    options: dict[str, Any] = {}

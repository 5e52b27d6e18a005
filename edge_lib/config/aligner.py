"""An aligner that an earlier experiment trained."""

from pathlib import Path

from pydantic import Field, model_validator

from edge_lib.config.base import RepoPath, Section


class AlignerSource(Section):
    """An aligner that an earlier experiment trained: that experiment, or a folder."""

    notebook: RepoPath = Path("notebooks/01_align.ipynb")
    config: str | None = None
    overrides: str = ""
    folder: RepoPath | None = Field(None, description="of Aligner.save_pretrained")

    @model_validator(mode="after")
    def _one_of_two(self):
        if (self.config is None) == (self.folder is None):
            raise ValueError("give either the config of its experiment, or its folder")
        return self

"""An aligner that an earlier experiment trained."""

from pathlib import Path

from pydantic import Field, model_validator

from edge_lib.config.base import RepoPath, Section


class AlignerSource(Section):
    """An aligner that an earlier experiment trained: its config, or the folder of the model."""

    notebook: RepoPath = Path("notebooks/01_align.ipynb")
    config: str | None = None
    overrides: str = ""
    folder: RepoPath | None = Field(None, description="written by Aligner.save_pretrained")

    @model_validator(mode="after")
    def _one_of_two(self):
        if (self.config is None) == (self.folder is None):
            raise ValueError(
                "give either config (of its experiment) or folder (of the saved aligner)"
            )
        return self

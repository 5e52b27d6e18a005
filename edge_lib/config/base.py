"""The base of every config section, and the types of their values."""

import hashlib
import json
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

ROOT = Path(__file__).resolve().parents[2]


def from_root(path: str | Path) -> Path:
    """Resolve a config's path against the repository root: papermill and JupyterLab start in
    different working directories.
    """
    path = Path(os.path.expanduser(path))  # which leaves ~$photo.jpg as it is
    return path if path.is_absolute() else ROOT / path


def relative_to_root(path: Path) -> str:
    """A path below the root without the root, so that a digest is the same in every checkout."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """A hint such as "did you mean 'lr'? "; empty if no allowed name is near."""
    nearest = get_close_matches(name, allowed, n=1)
    return f"did you mean {nearest[0]!r}? " if nearest else ""


RepoPath = Annotated[Path, AfterValidator(from_root), PlainSerializer(relative_to_root)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonEmpty = Field(min_length=1)  # of a list or dict
DropoutRate = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["fp32", "bf16", "fp16"]


class Section(BaseModel):
    """A part of the config. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    def digest(self) -> str:
        """Eight hex digits of the values that differ from their defaults, so that a key which is
        added later, with its default, changes no digest.
        """
        values = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


class SourceSection(Section):
    """A section that names a source, whose options are a section of that name (some need none)."""

    @model_validator(mode="after")
    def _source_has_a_section(self):
        if getattr(self, self.source, self) is None:
            raise ValueError(f"source {self.source!r} needs a section {self.source!r} beside it")
        return self

"""What every download has in common: a section of options, and `run`."""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, PlainSerializer

from edge_lib.config.base import Count, Positive, Section
from edge_lib.config.flags import types_of
from edge_lib.runs.files import absolute_path

SUMMARY = "download.json"  # in `out`: what was downloaded, and counted
LOCK = ".lock", ".lock.holder"  # files in `out` of the process that writes it
COMMIT = ".commit"  # file in `out`: the commit of the Hub with which a download began

# relative to the working directory, as paths of the command line and of the Python API are
LocalPath = Annotated[Path, AfterValidator(absolute_path), PlainSerializer(str)]


class Download(Section):
    """A data set that can be downloaded. The fields are the flags of the command line: `max_side`
    is `--max-side`. A subclass is an entry of `config.registry.DOWNLOADS`.
    """

    # how a download is made, not what: these may differ when it is resumed
    PROCESS: ClassVar[frozenset[str]] = frozenset({"out"})
    # names in `out` that hold nothing of the data set
    TRACES: ClassVar[frozenset[str]] = frozenset({SUMMARY, COMMIT, *LOCK})

    out: LocalPath = Field(description="folder to write")
    rows: Positive | None = Field(None, description="a random part of this many rows (default all)")
    seed: Count = Field(0, description="of random choices")

    @property
    def repeats(self) -> bool:
        """Whether `run` has something to do on a complete download."""
        return False

    def content(self) -> dict[str, Any]:
        """The options that say what is downloaded, apart from defaults."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.PROCESS))

    @abstractmethod
    def run(self) -> dict[str, Any]:
        """Write the data set, or what an earlier call has left to write. Returns a summary for
        download.json: counts, licence, what was skipped and why.

        Raises ConfigError, before anything is written, for what the user has to change.
        """


def path_fields(download: type[Download]) -> set[str]:
    """The options that are paths."""
    fields = download.model_fields.items()
    return {name for name, field in fields if Path in types_of(field.annotation)}

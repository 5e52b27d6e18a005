"""Where the members of a tar file are."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_lib.config import ConfigError
from edge_lib.sources.arrow import SkippedNames

BLOCK = 512


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar file."""

    name: str
    path: str  # of the tar file
    offset: int
    size: int


def read_members(file: Path, skipped: SkippedNames) -> Iterator[Member]:
    """The files in a tar file that is not compressed; those of a truncated one that are whole.

    Raises ConfigError for another file.
    """
    size, end = file.stat().st_size, 0
    if not size:
        skipped["an empty tar file"].append(file.name)
        return
    try:
        with tarfile.open(file, "r:") as tar:
            for info in tar:
                tar.members.clear()  # else the whole index stays in memory
                end = info.offset_data + info.size
                if _is_sample_file(info) and end <= size:
                    yield Member(info.name.lstrip("./"), str(file), info.offset_data, info.size)
    except tarfile.ReadError as error:
        if not end:
            raise ConfigError(
                f"{file} is not a tar file, or is compressed ({error}); decompress it, as its "
                "members are read by their position"
            ) from None
    if not _has_end_marker(file, end):
        skipped["the end of a truncated tar file"].append(file.name)


def _is_sample_file(info: tarfile.TarInfo) -> bool:
    """A regular file with an extension that is not hidden, as those that macOS adds are."""
    *folders, name = [part for part in info.name.split("/") if part not in (".", "..")]
    hidden = any(part.startswith((".", "__MACOSX")) for part in (*folders, name))
    return info.isreg() and not info.issparse() and "." in name and not hidden


def _has_end_marker(file: Path, end: int) -> bool:
    """Whether a block of zeros follows the last member."""
    with file.open("rb") as content:
        content.seek(-(-end // BLOCK) * BLOCK)
        return content.read(BLOCK) == bytes(BLOCK)

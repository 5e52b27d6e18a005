"""Members of zip archives, extracted so that no name leads out of the folder."""

import shutil
import stat
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from edge_lib.config import ConfigError
from edge_lib.runs.progress import progress_bar
from edge_lib.sources.download.disk import require_space, write_whole

CORRUPT = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError)
Place = Callable[[str], str | None]  # a member's name -> its path below the folder, if wanted
Skips = dict[str, list[str]]  # reason -> names of members


def extract_zip(archive: Path, folder: Path, place: Place) -> tuple[int, Skips]:
    """Write the members that `place` gives a path. Those that are there with the right length are
    kept. Returns the number of files, and what was left out.

    Raises ConfigError for a file that is no zip archive, or too little space.
    """
    skipped: Skips = defaultdict(list)
    folder.mkdir(parents=True, exist_ok=True)
    with open_zip(archive) as content:
        wanted = wanted_members(content, folder, place, skipped)
        missing = {path: info for path, info in wanted.items() if not _is_there(path, info)}
        size = sum(info.file_size for info in missing.values())
        require_space(folder, size, f"the content of {archive.name}")
        with progress_bar(f"extract {archive.name}", size) as bar:
            for path, info in missing.items():
                try:
                    write_whole(path, partial(_copy_member, content, info))
                except CORRUPT:
                    skipped["a corrupt member"].append(info.filename)
                bar.update(info.file_size)
    return len(wanted) - len(skipped["a corrupt member"]), {k: v for k, v in skipped.items() if v}


def open_zip(file) -> zipfile.ZipFile:
    """ConfigError if it is no zip archive."""
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ConfigError(
            f"{file}: {error}; the server sent something else than an archive: remove it"
        ) from None


def wanted_members(
    content: zipfile.ZipFile, folder: Path, place: Place, skipped: Skips
) -> dict[Path, zipfile.ZipInfo]:
    """The regular files that are wanted, by their path."""
    wanted = {}
    for info in content.infolist():
        name = place(info.filename)
        if info.is_dir() or name is None:
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            skipped["a link"].append(info.filename)
        elif not is_inside(name):
            skipped["a name that leads out of the folder"].append(info.filename)
        else:
            wanted[folder / name] = info
    return wanted


def is_inside(name: str) -> bool:
    """Whether a relative path stays below its folder, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    relative = bool(path.parts) and not path.is_absolute() and ":" not in path.parts[0]
    return relative and ".." not in path.parts


def _copy_member(content: zipfile.ZipFile, info: zipfile.ZipInfo, file: BinaryIO) -> None:
    with content.open(info) as member:
        shutil.copyfileobj(member, file)


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size

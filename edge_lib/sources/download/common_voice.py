"""Mozilla Common Voice, out of the archive that the user has."""

import gzip
import random
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pydantic import Field

from edge_lib.config import ConfigError
from edge_lib.runs.progress import progress_bar
from edge_lib.sources.common_voice import CLIP
from edge_lib.sources.download.base import Download, LocalPath
from edge_lib.sources.download.disk import require_space, write_whole
from edge_lib.sources.download.zips import Skips, is_inside

SPLITS = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}
SITE = "https://datacollective.mozillafoundation.org"


class CommonVoiceDownload(Download):
    """Mozilla Common Voice: sentences that volunteers read aloud, in over 130 languages, for 02.
    `data.source: common_voice` reads it.

    Since October 2025 it is only at the Mozilla Data Collective, to those who log in: fetch a
    language there, and name the archive with --file. English is 90 GB, French 27 GB, Breton 1 GB.
    OUT/{train,dev,test,...}.tsv, OUT/clips; the archive stays.

    --rows: so many clips of each split; the archive is read whole all the same.

    Licence: CC0. From https://datacollective.mozillafoundation.org.
    """

    file: LocalPath | None = Field(None, description="the archive, a .tar.gz")

    def run(self) -> dict[str, Any]:
        if self.file is None:
            raise ConfigError(
                f"common-voice: missing option file. Common Voice has been at {SITE} alone since "
                "October 2025, to those who log in: fetch a language there, and name its archive: "
                "--file ARCHIVE.tar.gz"
            )
        if not self.file.is_file():
            raise ConfigError(f"common-voice: file: no such file {self.file}")
        with _archive_errors(self.file):
            skipped = self._extract_part() if self.rows else self._extract_all()
        return {
            "rows": {split: _count_records(self.out / name) for split, name in SPLITS.items()},
            "files": SPLITS,
            "licence": "CC0",
            "source": {"file": self.file.name, "bytes": self.file.stat().st_size},
            "skipped": {reason: len(names) for reason, names in skipped.items()},
        }

    def _extract_all(self) -> Skips:
        skipped: Skips = {}
        require_space(self.out, self.file.stat().st_size, "the content of the archive")
        for path, info, content in read_members(self.file, skipped):
            _write(self.out / path, info.size, content)
        if not (self.out / SPLITS["train"]).exists():
            raise _no_listing(self.file, SPLITS["train"])
        return skipped

    def _extract_part(self) -> Skips:
        """The listings are read first: most archives begin with them."""
        skipped: Skips = {}
        chosen = {f"clips/{clip}" for listing in self._sample_listings() for clip in listing}
        for path, info, content in read_members(self.file, skipped):
            if path in chosen:
                _write(self.out / path, info.size, content)
        if absent := sorted(path for path in chosen if not (self.out / path).exists()):
            skipped["no such clip in the archive"] = absent
        return skipped

    def _sample_listings(self) -> Iterator[list[str]]:
        """Write the listing of each split with `rows` of its clips; their names."""
        missing = set(SPLITS.values())
        for path, _, content in read_members(self.file, {}):
            if path in missing:
                missing.remove(path)
                listing, clips = sample_listing(content.read(), self.rows, self.seed)
                write_whole(self.out / path, lambda file, text=listing: file.write(text))
                yield clips
            if not missing:
                return
        raise _no_listing(self.file, ", ".join(sorted(missing)))


def read_members(archive: Path, skipped: Skips) -> Iterator[tuple[str, tarfile.TarInfo, BinaryIO]]:
    """The path below the language's folder, header and content of each listing and clip.

    Raises ConfigError for an archive of several languages.
    """
    languages: set[str] = set()
    with (
        archive.open("rb") as file,
        progress_bar(archive.name, archive.stat().st_size) as bar,
        _decompressed(file) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for info in tar:
            tar.members.clear()  # else millions of headers stay in memory
            bar.update(file.tell() - bar.n)
            language, path = _place(info, skipped)
            if path is None:
                continue
            languages.add(language)
            if len(languages) > 1:
                raise ConfigError(f"{archive} holds several languages: {sorted(languages)}")
            yield path, info, tar.extractfile(info)
        while stream.read(1 << 20):  # to the checksum at the end
            pass


@contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(
            f"{archive} is not a complete tar archive ({error}); fetch it again"
        ) from None


def sample_listing(content: bytes, rows: int, seed: int) -> tuple[bytes, list[str]]:
    """A tsv file with a random part of its clips, in their order, and the names of these."""
    header, *lines = content.splitlines(keepends=True)
    column = _path_column(header)
    records: list[list[bytes]] = []
    for line in lines:
        if _clip(line, column) or not records:
            records.append([])
        records[-1].append(line)  # a sentence may hold a line break
    numbers = sorted(random.Random(seed).sample(range(len(records)), min(rows, len(records))))
    clips = [_clip(records[number][0], column) for number in numbers]
    listing = [header, *(line for number in numbers for line in records[number])]
    return b"".join(listing), [clip for clip in clips if clip]


def _decompressed(file: BinaryIO) -> BinaryIO:
    """A file, whether it is compressed by gzip or not."""
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_gzip else file


def _place(info: tarfile.TarInfo, skipped: Skips) -> tuple[str | None, str | None]:
    """The language's folder of a member, and its path below it; null for what is of no use."""
    *folders, name = PurePosixPath(info.name).parts or [""]
    is_clip = folders[-1:] == ["clips"]
    if info.isdir() or name.startswith(".") or not (is_clip or name.endswith(".tsv")):
        return None, None
    if not info.isreg() or not is_inside(info.name):
        skipped.setdefault("a link, or a name that leads out of the folder", []).append(info.name)
        return None, None
    language = "/".join(folders[:-1] if is_clip else folders)
    return language, f"clips/{name}" if is_clip else name


def _write(path: Path, size: int, content: BinaryIO) -> None:
    """Unless it is there."""
    if not path.is_file() or path.stat().st_size != size:
        write_whole(path, lambda file: shutil.copyfileobj(content, file))


def _path_column(header: bytes) -> int:
    names = header.decode("utf-8-sig").rstrip("\r\n").split("\t")
    return names.index("path") if "path" in names else 0


def _clip(line: bytes, column: int) -> str | None:
    """The file of the clip that a line is about; null for the rest of the line before."""
    fields = line.decode(errors="replace").rstrip("\r\n").split("\t")
    name = fields[column] if column < len(fields) else ""
    if not CLIP.fullmatch(name):
        return None
    return name if PurePosixPath(name).suffix else f"{name}.mp3"


def _count_records(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        column = _path_column(next(file, b""))
        return sum(_clip(line, column) is not None for line in file)


def _no_listing(archive: Path, names: str) -> ConfigError:
    return ConfigError(f"{archive} has no {names}: it is no archive of Common Voice")

"""Debian's tuxpaint-stamps-default: pictures of things, and voices that describe them."""

import logging
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from edge_lib.config import ConfigError, from_root
from edge_lib.data.skipped import skip_line
from edge_lib.runs.files import sha256_of, write_json
from edge_lib.sources.download.base import Download, LocalPath
from edge_lib.sources.download.deb import apt_download, archive_files, deb_field, is_deb
from edge_lib.sources.download.stamp_files import Thing, read_things
from edge_lib.sources.download.stamp_tables import (
    count_rows,
    divide_things,
    drop_shared_clips,
    write_things,
    write_voices,
)

log = logging.getLogger(__name__)

PACKAGE = "tuxpaint-stamps-default"
MEGABYTES = 161
SHA256 = {"2022.06.04-1": "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"}
LICENCE = (
    "GPL-2 or later (the package's copyright file); upstream's CONTRIBUTORS.txt names others for "
    "some pictures: GFDL, CC BY, CC BY-SA, public domain"
)
WHERE = (
    f"get the .deb from Debian's page of the package {PACKAGE}, or the tarball "
    "tuxpaint-stamps-2022-06-04.tar.gz from tuxpaint.org/download, and name it with --file"
)


class StampsDownload(Download):
    """785 drawn and photographed things with descriptions in 77 languages, and 6,258 clips of human
    voices that read them in 14: Debian's tuxpaint-stamps-default (161 MB, GPL-2), by apt-get, or
    from a file. Writes things/*.parquet, a row a thing, and voices/*.parquet, a row a clip; val and
    test have a tenth of the things each. No picture and no clip is in two splits.
    """

    # the summary has the package's version and sum, however it was got
    PROCESS: ClassVar[frozenset[str]] = Download.PROCESS | {"file"}

    file: LocalPath | None = Field(
        None, description=f"{PACKAGE}_*.deb, or tuxpaint-stamps-*.tar.gz; by apt-get if not given"
    )

    def run(self) -> dict[str, Any]:
        path, facts = self._package()
        try:
            return facts | self._write(path)
        except KeyboardInterrupt:
            line = f"interrupted; {path} is kept, and the same command reads it from the start"
            raise KeyboardInterrupt(line) from None

    def _write(self, path: Path) -> dict[str, Any]:
        """The tables of a package; what was counted."""
        skipped = defaultdict(list)
        things = read_things(archive_files(path), skipped)
        if not things:
            raise ConfigError(f"{path} holds no stamps; {WHERE}")
        parts = divide_things(self._sample(things), self.seed)
        drop_shared_clips(parts, skipped)
        for split, part in parts.items():
            write_things(self.out / "things" / f"{split}-00000.parquet", part)
            write_voices(self.out / "voices" / f"{split}-00000.parquet", part)
        skipped = {reason: names for reason, names in skipped.items() if names}
        self._tell(skipped)
        return count_rows(parts) | {"skipped": {r: len(n) for r, n in skipped.items()}}

    def _sample(self, things: list[Thing]) -> list[Thing]:
        if self.rows is None or self.rows >= len(things):
            return things
        sample = random.Random(self.seed).sample(things, self.rows)
        return sorted(sample, key=lambda thing: thing.id)

    def _tell(self, skipped: dict[str, list[str]]) -> None:
        """What was left out: a line a reason, and all names in a file."""
        write_json(self.out / "skipped.json", skipped)
        for reason, names in skipped.items():
            log.warning("stamps: %s", skip_line(reason, names))

    def _package(self) -> tuple[Path, dict[str, str]]:
        """The package, and what is known of it. ConfigError if it is not there or damaged."""
        if self.file is None:
            return _from_apt()
        if not self.file.is_file():
            raise ConfigError(f"--file {self.file}: no such file; {WHERE}")
        facts = _describe(self.file)
        _check_sum(self.file, facts)
        return self.file, {"verified": "no: its sha256 is not known beforehand"} | facts


def _from_apt() -> tuple[Path, dict[str, str]]:
    if not shutil.which("apt-get"):
        raise ConfigError(f"stamps: no apt-get on this machine; {WHERE}")
    folder = from_root("runs/cache/downloads") / PACKAGE
    try:
        if not [*folder.glob("*.deb")]:
            print(f"apt-get fetches {PACKAGE} ({MEGABYTES} MB)", file=sys.stderr, flush=True)
        path = apt_download(PACKAGE, folder)
    except ConfigError as error:
        raise ConfigError(f"stamps: {error}; try apt-get update, or {WHERE}") from None
    # other distributions build the same version anew
    return path, {"verified": "by apt-get when it was fetched"} | _describe(path)


def _describe(path: Path) -> dict[str, str]:
    """Origin, version and sum of a package. ConfigError for a .deb of another."""
    digest = sha256_of(path)
    version = deb_field(path, "Version") if is_deb(path) else None
    if version and (package := deb_field(path, "Package")) != PACKAGE:
        raise ConfigError(f"{path} is the package {package}; {WHERE}")
    return {
        "source": path.name,
        "version": version or path.name.removesuffix(".gz").removesuffix(".tar"),
        "sha256": digest,
        "licence": LICENCE,
    } | ({"verified": "by its sha256"} if digest == SHA256.get(version) else {})


def _check_sum(path: Path, facts: dict[str, str]) -> None:
    """ConfigError for a known version with another sum."""
    expected = SHA256.get(facts["version"], facts["sha256"])
    if facts["sha256"] != expected:
        raise ConfigError(
            f"{path} is damaged, or not Debian's: the sha256 of version {facts['version']} is "
            f"{expected}, not {facts['sha256']}"
        )

"""Data sets that their publishers offer as zip archives: fetched, checked, extracted, recorded."""

import json
import random
import shutil
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import httpx
from pydantic import Field

from edge_lib.config import ConfigError
from edge_lib.sources.download.base import Download
from edge_lib.sources.download.disk import require_space, write_json
from edge_lib.sources.download.published import PUBLISHED
from edge_lib.sources.download.remote_zip import fetch_members
from edge_lib.sources.download.transfer import content_length, download_file, make_client
from edge_lib.sources.download.zips import Skips, extract_zip

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Archive:
    """A zip archive at a publisher.

    members: patterns of those that are wanted. folder: where they go, relative to that of the data
    set. flat: without the folders that they have in the archive.
    """

    url: str
    members: tuple[str, ...]
    folder: str = ""
    flat: bool = False

    @property
    def name(self) -> str:
        """Of the local file: the last two parts of the URL, as many archives are images.zip."""
        return "-".join(PurePosixPath(self.url).parts[-2:])

    def place(self, member: str) -> str | None:
        """The path of a member below the data set's folder; null if it is not wanted."""
        if not self._wants(member):
            return None
        return str(PurePosixPath(self.folder, PurePosixPath(member).name if self.flat else member))

    def member(self, path: str) -> str | None:
        """The member that belongs at a path; null if it is none of this archive's."""
        if not PurePosixPath(path).is_relative_to(self.folder):
            return None
        member = str(PurePosixPath(path).relative_to(self.folder))
        return member if self._wants(member) else None

    def _wants(self, member: str) -> bool:
        return any(fnmatchcase(member, pattern) for pattern in self.members)


class ArchiveDownload(Download):
    """Annotations and pictures in zip archives."""

    PROCESS: ClassVar[frozenset[str]] = Download.PROCESS | {"mirror", "keep_archives"}
    LICENCE: ClassVar[str]

    mirror: str | None = Field(
        None, description="URL of a copy of the publishers' files: URL/HOST/PATH, as of `wget -x`"
    )
    keep_archives: bool = Field(False, description="keep archives when they are extracted")

    @property
    @abstractmethod
    def files(self) -> dict[str, str]:
        """The file of each split, relative to `out`."""

    @abstractmethod
    def annotations(self) -> list[Archive]:
        """What names the pictures."""

    @abstractmethod
    def pictures(self) -> list[Archive]:
        """What `rows` takes single pictures of."""

    @abstractmethod
    def write_part(self, whole: Path) -> list[str]:
        """Write the annotations of `rows` pictures of each split, which are taken from those in
        `whole`. Returns the paths of the pictures, relative to `out`.
        """

    @abstractmethod
    def count_rows(self) -> dict[str, int]:
        """Rows of each split."""

    def fetch(self, pictures: Sequence[Archive], folder: Path) -> Records:
        """The annotations and these archives of pictures, extracted to a folder."""
        return self.fetch_archives([*self.annotations(), *pictures], folder)

    def run(self) -> dict[str, Any]:
        if self.rows is None:
            return self._summary(self.fetch(self.pictures(), self.out), Counter())
        whole = self.out / "whole"
        records = self.fetch([], whole)
        members, skipped = self._members(self.write_part(whole))
        fetch_members(members, skipped, self.out)
        records += [{"url": url, "skipped": {}} for url in members]
        summary = self._summary(records, Counter({k: len(v) for k, v in skipped.items()}))
        # at once, so that a killed process leaves a folder, or none, but no part of it
        removed = whole.with_name(f".{whole.name}")
        shutil.rmtree(removed, ignore_errors=True)
        whole.rename(removed)
        shutil.rmtree(removed)
        return summary

    def fetch_archives(self, archives: Sequence[Archive], folder: Path) -> Records:
        """Extract archives to a folder. Their lengths are asked for before the first is fetched.
        Returns what is known of each: url, bytes, sha256, files, what was skipped.

        Raises ConfigError if one is gone, or the disk is too small for all of them.
        """
        records = {archive: folder / "archives" / f"{archive.name}.json" for archive in archives}
        missing = [archive for archive, record in records.items() if not record.exists()]
        with make_client() as client:
            if missing:
                (folder / "archives").mkdir(parents=True, exist_ok=True)
                # an archive is there beside its content, which is about as large
                lengths = [self._length(client, archive, folder) for archive in missing]
                arrived = sum(path.stat().st_size for path in (folder / "archives").glob("*.zip*"))
                require_space(folder, sum(lengths) + max(lengths) - arrived, "the data set")
            for archive, record in records.items():
                if not record.exists():
                    write_json(record, self._fetch(client, archive, folder))
                if not self.keep_archives:
                    record.with_suffix("").unlink(missing_ok=True)
        return [json.loads(record.read_text()) for record in records.values()]

    def sample(self, names: Iterable[str]) -> set[str]:
        """`rows` of the names, whatever their order."""
        names = sorted(set(names))
        return set(random.Random(self.seed).sample(names, min(self.rows, len(names))))

    def _fetch(self, client: httpx.Client, archive: Archive, folder: Path) -> dict[str, Any]:
        path = folder / "archives" / archive.name
        size, sha256 = PUBLISHED.get(archive.url, (None, None))
        record = download_file(client, self._url(archive), path, size, sha256)
        files, skipped = extract_zip(path, folder, archive.place)
        if not files:
            raise ConfigError(f"{path}: it has no {' or '.join(archive.members)}")
        return record | {"checked": sha256 is not None, "files": files, "skipped": skipped}

    def _length(self, client: httpx.Client, archive: Archive, folder: Path) -> int:
        path = folder / "archives" / archive.name
        known = path.stat().st_size if path.exists() else None
        return known or content_length(client, self._url(archive)) or 0

    def _url(self, archive: Archive) -> str:
        if self.mirror is None:
            return archive.url
        return f"{self.mirror.rstrip('/')}/{archive.url.partition('://')[2]}"

    def _members(self, paths: Iterable[str]) -> tuple[dict[str, dict[str, str]], Skips]:
        """URL of an archive -> path -> member, for the pictures at the paths; and those that are in
        no archive.
        """
        wanted, skipped = {}, {}
        for path in paths:
            archive = next((a for a in self.pictures() if a.member(path)), None)
            if archive is None:
                skipped.setdefault("in no archive", []).append(path)
            else:
                wanted.setdefault(self._url(archive), {})[path] = archive.member(path)
        return wanted, skipped

    def _summary(self, records: Records, skipped: Counter) -> dict[str, Any]:
        for record in records:
            skipped.update({reason: len(names) for reason, names in record["skipped"].items()})
        return {
            "rows": self.count_rows(),
            "files": self.files,
            "licence": self.LICENCE,
            "source": records,
            "skipped": dict(skipped),
        }


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())

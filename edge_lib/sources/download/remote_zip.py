"""Single members of a zip archive on a server, without the rest of it."""

import io
import struct
import zipfile
import zlib
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

import httpx

from edge_lib.config import ConfigError
from edge_lib.runs.progress import progress_bar
from edge_lib.sources.download.disk import write_whole
from edge_lib.sources.download.transfer import content_length, make_client, read_range
from edge_lib.sources.download.zips import CORRUPT, Skips, is_inside, open_zip

THREADS = 8  # requests at a time
LOCAL_HEADER = struct.Struct("<4s5H3I2H")


class RemoteZip:
    """A zip archive at a URL. It costs a few requests for the list of its members, and one for
    each member that is read.
    """

    def __init__(self, client: httpx.Client, url: str):
        self.client, self.url = client, url

    @cached_property
    def content(self) -> zipfile.ZipFile:
        return open_zip(_RangeFile(self.client, self.url))

    @cached_property
    def _starts(self) -> list[int]:
        """Where members begin, and the last one ends."""
        starts = [info.header_offset for info in self.content.infolist()]
        return sorted([*starts, self.content.start_dir])

    def read(self, info: zipfile.ZipInfo) -> bytes:
        """The content of a member. BadZipFile if it is corrupt."""
        stop = self._starts[bisect_right(self._starts, info.header_offset)]
        record = read_range(self.client, self.url, info.header_offset, stop)
        *_, name_length, extra_length = LOCAL_HEADER.unpack_from(record)
        start = LOCAL_HEADER.size + name_length + extra_length
        content = record[start : start + info.compress_size]
        if info.compress_type == zipfile.ZIP_DEFLATED:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            content = inflate.decompress(content, info.file_size + 1)
        if zlib.crc32(content) != info.CRC:
            raise zipfile.BadZipFile(f"bad CRC-32 of {info.filename}")
        return content


class _RangeFile(io.RawIOBase):
    """What zipfile needs to read the list of members: a request for each read."""

    def __init__(self, client: httpx.Client, url: str):
        self.client, self.url = client, url
        self.size, self.position = content_length(client, url) or 0, 0

    def __repr__(self) -> str:
        return self.url

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        if self.position < 0:
            raise OSError("before the start of the file")
        return self.position

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else min(self.position + size, self.size)
        content = b""
        if self.position < stop:
            content = read_range(self.client, self.url, self.position, stop)
        self.position += len(content)
        return content


def fetch_members(wanted: dict[str, dict[str, str]], skipped: Skips, out: Path) -> Skips:
    """Write members of zip archives at URLs, of which those that are there are kept. wanted: URL ->
    path below `out` -> member. Returns `skipped`, with what could not be had.
    """
    with make_client() as client:
        for url, members in wanted.items():
            missing = {path: m for path, m in members.items() if not (out / path).exists()}
            if unsafe := [path for path in missing if not is_inside(path)]:
                raise ConfigError(f"{url}: {unsafe[0]} leads out of the folder")
            if missing:
                _fetch(RemoteZip(client, url), missing, out, skipped)
    return skipped


def _fetch(remote: RemoteZip, wanted: dict[str, str], out: Path, skipped: Skips) -> None:
    """Write members to their paths, in the order in which they lie in the archive."""
    listed = {info.filename: info for info in remote.content.infolist()}
    if unlisted := [member for member in wanted.values() if member not in listed]:
        skipped.setdefault("not in the archive", []).extend(unlisted)
    infos = {path: listed[member] for path, member in wanted.items() if member in listed}
    paths = sorted(infos, key=lambda path: infos[path].header_offset)
    bar = progress_bar(remote.url.rpartition("/")[2], len(paths), " files")
    with ThreadPoolExecutor(THREADS) as threads, bar:
        contents = threads.map(lambda path: _content(remote, infos[path]), paths)
        for path, content in zip(paths, contents, strict=True):
            bar.update()
            if content is None:
                skipped.setdefault("a corrupt member", []).append(wanted[path])
            else:
                write_whole(out / path, partial(_write, content))


def _content(remote: RemoteZip, info: zipfile.ZipInfo) -> bytes | None:
    try:
        return remote.read(info)
    except CORRUPT:
        return None


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)

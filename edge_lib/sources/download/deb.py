"""The files of a Debian package or a compressed tar archive, read in one pass without unpacking.

A .deb is an ar archive of debian-binary, control.tar.* and data.tar.* (deb(5)). Names of files are
those of the archive: they are never used as paths.
"""

import bz2
import gzip
import lzma
import re
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from edge_lib.config import ConfigError
from edge_lib.runs.files import whole_folder

AR_MAGIC = b"!<arch>\n"
# 60 bytes: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2
AR_HEADER = re.compile(rb"(.{16}).{32}(?=.{10}`\n)(\d+) *`\n", re.DOTALL)
# unlike tarfile's own, these readers raise an error where the compressed data end too early
OPENERS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\0": lzma.open,
    b"BZh": bz2.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
}
DAMAGED = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, pa.ArrowInvalid)
MAX_BYTES = 50_000_000  # of one file

Files = Iterator[tuple[str, bytes | None]]


def is_deb(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(AR_MAGIC)) == AR_MAGIC


def archive_files(path: Path) -> Files:
    """Name and content of each file of a .deb's data or of a compressed tar archive. The content is
    None for a link, and for a file over MAX_BYTES.

    Raises ConfigError if the file is neither, is damaged or ends too early.
    """
    with _named_errors(path):
        yield from _tar_files(_deb_member(path, "data") if is_deb(path) else path.open("rb"))


def deb_field(path: Path, name: str) -> str:
    """A field of a .deb's control file, such as Version. ConfigError as `archive_files`."""
    with _named_errors(path):
        files = dict(_tar_files(_deb_member(path, "control")))
        content = files.get("./control") or files.get("control") or b""
        lines = content.decode(errors="replace").splitlines()
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        if name not in fields:
            raise tarfile.ReadError(f"its control file has no {name}")
        return fields[name]


def apt_download(package: str, folder: Path) -> Path:
    """The .deb of a package, which apt-get fetches and verifies, kept in a folder of its own.

    Raises ConfigError with apt's own line if that fails.
    """
    if not [*folder.glob("*.deb")]:
        with whole_folder(folder) as temporary:
            command = ["apt-get", "download", package]
            result = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
            if result.returncode or not [*temporary.glob("*.deb")]:
                lines = [line for line in result.stderr.splitlines() if line.startswith("E:")]
                cause = lines[-1].removeprefix("E: ") if lines else f"exit {result.returncode}"
                raise ConfigError(f"apt-get download {package}: {cause}")
    return next(folder.glob("*.deb"))


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise ConfigError(f"{path} is damaged or of another kind: {error}") from None


def _tar_files(compressed: BinaryIO) -> Files:
    start = compressed.read(6)
    compressed.seek(0)
    opener = next((o for magic, o in OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        raise tarfile.ReadError("neither a Debian package nor a compressed tar archive")
    with compressed, opener(compressed) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                tar.members.clear()  # else the whole index stays in memory
                plain = info.isreg() and info.size <= MAX_BYTES
                if not info.isdir():
                    yield info.name, tar.extractfile(info).read() if plain else None
        while stream.read(1 << 20):  # to the end, where the compressed data's checksum is
            pass


def _deb_member(path: Path, name: str) -> BinaryIO:
    """data.tar.* or control.tar.*, mapped into memory."""
    with pa.memory_map(str(path)) as file:
        file.seek(len(AR_MAGIC))
        while line := file.read(60):
            if not (header := AR_HEADER.fullmatch(line)):
                raise tarfile.ReadError("a damaged header of an ar archive")
            content = file.read_buffer(size := int(header[2]))
            if len(content) < size:
                raise EOFError("the file ends too early")
            if header[1].startswith(f"{name}.tar".encode()):
                return pa.BufferReader(content)
            file.seek(size % 2, 1)
    raise tarfile.ReadError(f"no {name}.tar in it")

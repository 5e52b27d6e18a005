"""Helpers for tests of downloads: Debian packages, tarballs and Tux Paint's stamps, as bytes."""

import bz2
import gzip
import io
import lzma
import tarfile
from functools import cache

import pyarrow as pa
from audio_helpers import encode, sine
from image_helpers import to_file
from PIL import Image

COMPRESS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}
STAMPS = "./usr/share/tuxpaint/stamps/"


def make_tar(files, suffix="xz"):
    """A compressed tar archive. files: (name, its bytes, or a TarInfo for anything but a file)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = 0 if info is content else len(content)
            tar.addfile(info, None if info is content else io.BytesIO(content))
    return COMPRESS[suffix](buffer.getvalue())


def make_ar(members):
    parts = [b"!<arch>\n"]
    for name, content in members:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        parts += [header.encode(), content, b"\n" * (len(content) % 2)]
    return b"".join(parts)


def make_deb(files, suffix="xz", package="tuxpaint-stamps-default", version="9.9-1", extra=()):
    """A .deb of these files. extra: members of the ar archive before the others."""
    control = f"Package: {package}\nVersion: {version}\nDescription: x\n y: z\n".encode()
    control = make_tar([("./control", control), ("./md5sums", b"")], suffix)
    members = [("debian-binary", b"2.0\n"), *extra, (f"control.tar.{suffix}", control)]
    return make_ar([*members, (f"data.tar.{suffix}", make_tar(files, suffix))])


def make_png(color, size=(8, 6)):
    return to_file(Image.new("RGBA", size, color), "PNG")


@cache
def make_clip(hertz, seconds=0.5, format="OGG"):
    """The same bytes for the same values: an Ogg file has a random number in it."""
    return encode(sine(seconds, 8000, hertz), 8000, format)


def make_thing(name, color, caption, clips=(), lines=()):
    """The files of a stamp. clips: language -> pitch. lines: translations, `fr.utf8=...`."""
    text = "\n".join([caption, *lines, ""]).encode()
    sounds = [(f"{name}_desc_{code}.ogg", make_clip(hertz)) for code, hertz in dict(clips).items()]
    return [(f"{name}.png", make_png(color)), (f"{name}.txt", text), *sounds]

"""Pictures and clips that clients send, and their decoding within limits."""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from edge_lib.data.audio import decode_audio
from edge_lib.data.image import FORMATS, decode_image
from edge_lib.data.unusable import UnusableItem
from edge_lib.serving.errors import ApiError, unusable
from edge_lib.serving.settings import ServeSettings

Kind = Literal["image", "audio"]
T = TypeVar("T")

# a picture of the largest size takes up to 300 MB while it is decoded
DECODERS = ThreadPoolExecutor(2, thread_name_prefix="decode")
TURN: ContextVar[asyncio.Semaphore] = ContextVar("TURN")  # of the items of a request
IMAGE_FORMATS = [name for name in FORMATS if name != "ICO"]  # whose pictures have hidden sizes
AUDIO_FORMATS = "WAV, FLAC, MP3 and OGG"
EXAMPLES = {"image": "data:image/png;base64,...", "audio": "data:audio/wav;base64,..."}
URLSAFE, SPACE = bytes.maketrans(b"-_", b"+/"), b" \t\r\n"
PIECE = 1 << 20  # of base64; one call for all would keep the event loop waiting for 40 ms


@dataclass(frozen=True, eq=False)
class Media:
    """A picture or clip as the bytes of a file. param: its place in the request, for errors."""

    kind: Kind
    content: bytes = field(repr=False)
    settings: ServeSettings = field(default_factory=ServeSettings, repr=False)
    param: str | None = None

    @cached_property
    def key(self) -> str:
        """sha256 of the content; of 20 MB in 20 ms."""
        return hashlib.sha256(self.content).hexdigest()

    def decode(self) -> Image.Image | np.ndarray:
        """The normal form of `data.image` or `data.audio`; takes up to seconds. ApiError without
        the decoder's own words, which may hold addresses of this process.
        """
        try:
            if self.kind == "image":
                return decode_image(self.content, self.settings.max_pixels, IMAGE_FORMATS)
            return decode_audio(self.content, self.settings.max_clip_seconds)
        except UnusableItem as error:
            raise self._error(str(error)) from None
        except Exception:  # decoders raise nearly anything
            formats = AUDIO_FORMATS if self.kind == "audio" else ", ".join(IMAGE_FORMATS)
            raise self._error(f"damaged, or of another format than {formats}") from None

    def _error(self, reason: str) -> ApiError:
        return unusable(self.kind, reason, self.param)


def media_from_uri(
    kind: Kind, uri: str, settings: ServeSettings, param: str | None = None
) -> Media:
    """Of a data URI in base64. The media type does not matter, the content says what it is."""
    head, comma, text = uri.partition(",")
    name, *parameters = head[:200].strip().lower().split(";")
    if not (comma and name.startswith("data:") and "base64" in map(str.strip, parameters)):
        message = f"expected a data URI in base64, such as {EXAMPLES[kind]}"
        raise ApiError(400, message, f"invalid_{kind}", param)
    return media_from_base64(kind, text, settings, param)


def media_from_base64(
    kind: Kind, text: str, settings: ServeSettings, param: str | None = None
) -> Media:
    """Of base64, with or without padding, line breaks, and the alphabet of base64url."""
    try:
        content = _decode_base64(text.encode("ascii"))
    except (UnicodeEncodeError, binascii.Error):
        raise ApiError(400, f"the {kind} is not base64", f"invalid_{kind}", param) from None
    if not content:
        raise ApiError(400, f"the {kind} is empty", f"invalid_{kind}", param)
    return Media(kind, content, settings, param)


def _decode_base64(text: bytes) -> bytes:
    """Raises binascii.Error."""
    text, parts, rest = text.rstrip(SPACE + b"="), [], b""
    if b"=" in text:
        raise binascii.Error("padding inside")
    for start in range(0, len(text), PIECE):
        piece = rest + text[start : start + PIECE].translate(URLSAFE, SPACE)
        whole = len(piece) - len(piece) % 4
        parts.append(base64.b64decode(piece[:whole], validate=True))
        rest = piece[whole:]
    return b"".join([*parts, base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True)])


def is_url(uri: str) -> bool:
    """Whether it is a URL to fetch."""
    return uri[:8].lower().startswith(("http://", "https://"))


async def load_media(
    kind: Kind, uri: str, settings: ServeSettings, fetcher=None, param: str | None = None
) -> Media:
    """Of a data URI or, with a `remote.Fetcher`, of an allowed URL."""
    if is_url(uri):
        if fetcher is None:
            message = "URLs are not fetched by this server; send a data URI"
            raise ApiError(400, message, "urls_disabled", param)
        return Media(kind, await fetcher.fetch(uri, param), settings, param)
    return await in_thread(media_from_uri, kind, uri, settings, param)


def take_turns() -> None:
    """Let this request have one of the threads at a time, so that a thousand large pictures of one
    client leave the others to the rest.
    """
    TURN.set(asyncio.Semaphore(1))


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call what takes long without blocking the event loop."""
    async with TURN.get(nullcontext()):
        return await asyncio.get_running_loop().run_in_executor(DECODERS, function, *args)

"""Pictures and sounds of a request, wherever they come from, as `Media`."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from edge_lib.serving.media import Media, in_thread, load_media, media_from_base64
from edge_lib.serving.schemas.chat import AudioPart, ImagePart

KINDS = {"images": "image", "audio": "audio"}  # of media, by the field that holds them
MODALITIES = {"texts": "text", "images": "vision", "audio": "audio"}


async def read_media(
    request: Request, field: str, refs: Sequence[str | bytes], at=""
) -> list[Media]:
    """Items of a field: data URIs, allowed URLs, or contents of files. at: the field's place."""
    pairs = enumerate(refs)
    return await asyncio.gather(
        *(_read(request, KINDS[field], ref, f"{at}{field}.{n}") for n, ref in pairs)
    )


async def read_part(request: Request, part: ImagePart | AudioPart, param: str) -> Media:
    """The item of a part of a message."""
    settings = request.app.state.settings
    if isinstance(part, AudioPart):
        return await in_thread(media_from_base64, "audio", part.input_audio.data, settings, param)
    return await _read(request, "image", part.image_url.url, param)


async def _read(request: Request, kind: str, ref: str | bytes, param: str) -> Media:
    state = request.app.state
    if isinstance(ref, bytes):
        return Media(kind, ref, state.settings, param)
    return await load_media(kind, ref, state.settings, state.fetcher, param)

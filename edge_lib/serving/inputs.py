"""Pictures and sounds of a request, wherever they come from, as `Media`."""

from collections.abc import Sequence

from starlette.requests import Request

from edge_lib.serving.media import Kind, Media, in_thread, is_url, load_media, media_from_base64
from edge_lib.serving.schemas.chat import AudioPart, ImagePart
from edge_lib.serving.tasks import gather

KINDS = {"images": "image", "audio": "audio"}  # of media, by the field that holds them
MODALITIES = {"texts": "text", "images": "vision", "audio": "audio"}


def numbered(field: str, refs: Sequence[str | bytes]) -> dict[str, str | bytes]:
    """The items of a field that is a list, by place: "images.0"."""
    return {f"{field}.{number}": ref for number, ref in enumerate(refs)}


async def read_media(request: Request, kind: Kind, refs: dict[str, str | bytes]) -> list[Media]:
    """Items by place: data URIs, allowed URLs, or contents of files."""
    return await gather(_read(request, kind, ref, place) for place, ref in refs.items())


async def read_part(request: Request, part: ImagePart | AudioPart, param: str) -> Media:
    """The item of a part of a message."""
    settings = request.app.state.settings
    if isinstance(part, AudioPart):
        return await in_thread(media_from_base64, "audio", part.input_audio.data, settings, param)
    return await _read(request, "image", part.image_url.url, param)


async def _read(request: Request, kind: Kind, ref: str | bytes, param: str) -> Media:
    state = request.app.state
    if isinstance(ref, bytes):
        return Media(kind, ref, state.settings, param)
    media = await load_media(kind, ref, state.settings, state.fetcher, param)
    if is_url(ref):  # the rest is part of the body
        request.state.count_bytes(len(media.content))
    return media

"""Pictures and clips of clients: any base64, any file, within the limits, in our own words."""

import asyncio
import base64
import hashlib
import threading

import numpy as np
import pytest
from audio_helpers import encode, sine
from bombs import flac, ico, jpeg_scans, png, tiff_tile
from image_helpers import png16, tiff, to_file
from PIL import Image

from edge_lib.data.audio import decode_audio
from edge_lib.data.image import decode_image
from edge_lib.serving.errors import ApiError
from edge_lib.serving.media import Media, load_media, media_from_base64, media_from_uri
from edge_lib.serving.settings import ServeSettings

SETTINGS = ServeSettings()
RED = to_file(Image.new("RGB", (12, 8), "red"), "PNG")
CLIP = encode(sine(0.1, 16000), 16000)
# bytes whose base64 has both characters in which base64url differs
SIGNS = bytes(range(240, 256)) * 40


def b64(content):
    return base64.b64encode(content).decode()


def refusal(function, *args):
    with pytest.raises(ApiError) as info:
        function(*args)
    assert (info.value.status, info.value.param) == (400, "images.3")
    return info.value


def decoding_error(kind, content, settings=SETTINGS):
    error = refusal(Media(kind, content, settings, "images.3").decode)
    assert error.code == f"invalid_{kind}"
    return error.message


# --- data URIs and base64 --------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:;base64,",
        "data:application/octet-stream;base64,",
        "data:image/png;name=red.png;base64,",
        "data:image/png;charset=utf-8; base64 ,",
        " data:image/jpeg;base64,",
    ],
)
def test_media_from_data_uri(head):
    media = media_from_uri("image", head + b64(RED), SETTINGS)
    assert media.content == RED
    assert media.decode().getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        b64(SIGNS),
        b64(SIGNS).rstrip("="),
        base64.urlsafe_b64encode(SIGNS).decode(),
        base64.encodebytes(SIGNS).decode(),
        b64(SIGNS) + "\r\n",
        " " + b64(SIGNS),
    ],
    ids=["plain", "unpadded", "urlsafe", "lines", "newline", "space"],
)
@pytest.mark.parametrize("piece", [4, 64, 1 << 20])
def test_media_from_base64_of_any_form(monkeypatch, text, piece):
    monkeypatch.setattr("edge_lib.serving.media.PIECE", piece)
    assert media_from_base64("audio", text, SETTINGS).content == SIGNS


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "red.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.org/red.png",
        b64(RED),
        "data:image/png;base64",
        "data:image/svg+xml,<svg/>",
        "data:image/png," + b64(RED),
        "data:base64," + b64(RED),
        "javascript:alert(1),base64",
        "x" * 3_000_000,
    ],
    ids=range(12),
)
def test_media_from_another_uri_is_refused(uri):
    error = refusal(media_from_uri, "image", uri, SETTINGS, "images.3")
    assert error.message == "expected a data URI in base64, such as data:image/png;base64,..."


@pytest.mark.parametrize(
    "text",
    ["é", "\ud800", "QUI", "QQ==QQ==", "Q", "QUJD!", "{}", "%51%51", "QUI\0", "QUI=\nQ"],
    ids=range(10),
)
def test_media_from_what_is_not_base64(text):
    if text == "QUI":  # without its padding
        assert media_from_base64("image", text, SETTINGS).content == b"AB"
        return
    error = refusal(media_from_base64, "image", text, SETTINGS, "images.3")
    assert error.message == "the image is not base64"


@pytest.mark.parametrize("text", ["", "=", "====", " \n"], ids=range(4))
def test_media_without_content_is_refused(text):
    error = refusal(media_from_base64, "audio", text, SETTINGS, "images.3")
    assert error.message == "the audio is empty"


def test_media_key_is_the_sha256_of_the_content():
    assert Media("image", RED).key == hashlib.sha256(RED).hexdigest()
    assert Media("image", RED).key != Media("image", RED + b"\0").key


def test_media_shows_no_content_in_its_repr():
    assert "PNG" not in repr(Media("image", RED))


# --- decoding --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        to_file(Image.new("RGB", (20, 10), "blue"), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        to_file(Image.new("CMYK", (20, 10)), "JPEG"),
        to_file(Image.new("P", (20, 10)), "GIF"),
        to_file(Image.new("RGBA", (20, 10)), "WEBP"),
        to_file(Image.new("1", (20, 10)), "PPM"),
        to_file(Image.new("RGB", (20, 10), "blue"), "AVIF"),
        png16(np.full((10, 20, 1), 40000), 0),
        tiff(np.full((10, 20), 0.25, "<f4"), kind=3),
        tiff(np.full((10, 20), 2_000_000, "<i4"), kind=2),
    ],
    ids=["jpeg", "cmyk", "gif", "webp", "bitmap", "avif", "png16", "float", "int32"],
)
def test_media_decodes_images_as_tables_do(content):
    np.testing.assert_array_equal(Media("image", content).decode(), decode_image(content))


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_media_decodes_clips_as_tables_do(form):
    content = encode(sine(0.5, 44100), 44100, form)
    np.testing.assert_array_equal(Media("audio", content).decode(), decode_audio(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image file, or of an unknown format"),
        (b"hello", "not an image file, or of an unknown format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image file"),
        (CLIP, "not an image file, or of an unknown format"),
        (RED[:50], "damaged, or of another format than JPEG, PNG, WEBP"),
        (png(1, 101), "a ratio over 100:1"),
        (png(20001, 1000), "20001 x 1000 pixels, over 20,000,000"),
        (ico(png(300, 300)), "not an image file, or of an unknown format"),
        (tiff_tile(16000, b"\0"), "tiles of 256,000,000 pixels, over 20,000,000"),
        (jpeg_scans(101), "a JPEG of over 100 scans"),
        (tiff(np.full((4, 4), np.nan, "<f4"), kind=3), "no finite pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image file"),
    ],
    ids=range(12),
)
def test_media_refuses_pictures_in_our_words(content, message):
    assert message in decoding_error("image", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, or of another format than WAV, FLAC, MP3 and OGG"),
        (RED, "damaged"),
        (CLIP[:30], "damaged"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "damaged"),  # webm
        (encode(np.empty(0, np.float32), 16000), "no samples"),
        (encode(np.full(800, np.nan, "f"), 16000, subtype="FLOAT"), "not finite"),
        (encode(sine(0.1, 800_000), 800_000), "800000 Hz, allowed are 1000 to 768000 Hz"),
    ],
    ids=range(7),
)
def test_media_refuses_clips_in_our_words(content, message):
    assert message in decoding_error("audio", content)


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_media_error_shows_nothing_of_the_process(monkeypatch, kind):
    """Pillow's and libsndfile's messages hold addresses of memory (CVE-2026-22778)."""

    def fail(*args, **options):
        raise OSError("cannot identify <_io.BytesIO object at 0x7f3a52c0d2a0> in /srv/secret")

    for module in ("PIL.Image.open", "soundfile.SoundFile"):
        monkeypatch.setattr(module, fail)
    message = decoding_error(kind, RED)
    assert "0x7f" not in message
    assert "/" not in message


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 100), (100, 1)])
def test_media_takes_pictures_at_the_limits(width, height):
    assert Media("image", png(width, height)).decode().size == (width, height)


def test_media_limits_of_the_settings():
    small = ServeSettings(max_pixels=100, max_clip_seconds=0.1)
    assert Media("image", png(10, 10), small).decode().size == (10, 10)
    assert "11 x 10 pixels, over 100" in decoding_error("image", png(11, 10), small)
    assert len(Media("audio", CLIP, small).decode()) == 1600
    assert "longer than 0.1 s" in decoding_error("audio", encode(sine(0.11, 8000), 8000), small)


def test_media_takes_a_minute_of_sound():
    assert len(Media("audio", flac(60)).decode()) == 60 * 16000
    assert "longer than 60 s" in decoding_error("audio", flac(60.01))


# --- loading ---------------------------------------------------------------------------------


def test_load_media_leaves_the_event_loop_free():
    """Others have their turn while 15 MB are decoded."""

    async def run():
        task, turns = asyncio.create_task(load_media("image", uri, SETTINGS)), 0
        while not task.done():
            await asyncio.sleep(0.001)
            turns += 1
        return (await task).content, turns

    content = np.random.default_rng(0).bytes(15_000_000)
    uri = "data:;base64," + b64(content)
    decoded, turns = asyncio.run(run())
    assert decoded == content
    assert turns > 5


def test_load_media_refuses_urls_by_default():
    for url in ("http://example.org/a.png", "HTTPS://example.org/a.png", "http://127.0.0.1/"):
        with pytest.raises(ApiError, match="URLs are not fetched") as info:
            asyncio.run(load_media("image", url, SETTINGS, param="images.3"))
        assert (info.value.status, info.value.code) == (400, "urls_disabled")


def test_media_decodes_in_several_threads():
    contents = [to_file(Image.new("RGB", (64, 64), (n, 0, 0)), "PNG") for n in range(20)]
    pixels = {}

    def decode(number):
        pixels[number] = Media("image", contents[number]).decode().getpixel((0, 0))[0]

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pixels == {number: number for number in range(20)}

"""A browser for tests of the page: Debian's chromium, with a microphone that plays a file.

And what its user does on the page.
"""

import io
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from image_helpers import to_file
from PIL import Image
from serving.fakes import FakeIndex

RED = to_file(Image.new("RGB", (12, 8), "red"), "PNG")
BLUE = to_file(Image.new("RGB", (8, 8), (0, 0, 255)), "PNG")
HERTZ = 440  # of the microphone's sound
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@contextmanager
def open_browser(sound: Path):
    """sound: a WAV file that the microphone plays."""
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={sound}"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextmanager
def open_page(browser, url: str, **options):
    """The page at a URL; fails if it raised an error, broke its content policy, or fetched anything
    from another server. options: of the context, such as its viewport.
    """
    context = browser.new_context(**options)
    page, errors, fetched = context.new_page(), [], []
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(url)
    yield page
    context.close()
    expected = "Failed to load resource"  # the browser reports each error of the server so
    assert [error for error in errors if not error.startswith(expected)] == []
    assert [u for u in fetched if not u.startswith((url, f"blob:{url}", "data:"))] == []


class Index(FakeIndex):
    """Row 0 has a picture: blue. Scores fall with the size."""

    def search(self, vector, k, dim, modality=None, center=None):
        hits = super().search(vector, k, dim, modality)
        return [replace(hit, score=hit.score * dim / 4) for hit in hits]

    def picture(self, row):
        return to_file(Image.open(io.BytesIO(BLUE)), "JPEG") if row == 0 else None


def choose(page, content, name="scene.png", kind="image/png"):
    field = "#clip-file" if kind.startswith("audio") else "#picture-file"
    page.set_input_files(field, {"name": name, "mimeType": kind, "buffer": content})
    shown = "#clip:not([hidden])" if kind.startswith("audio") else "#picture:not([hidden])"
    page.wait_for_selector(f"{shown}, #inputs-error:not(:empty)")


def ask(page, question):
    page.fill("#question", question)
    page.press("#question", "Enter")


def wait_for_answers(page, count):
    page.locator(".answer[aria-busy=false]").nth(count - 1).wait_for(state="attached")


def search(page, text):
    page.click("nav >> text=Search")
    page.fill("#query", text)
    page.press("#query", "Enter")
    page.wait_for_selector(".hit")


def decoded(request, kind="image"):
    return request.media[kind][0].decode()

"""A browser for tests of the page: Debian's chromium, with a microphone that plays a file."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

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
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(url)
    yield page
    context.close()
    expected = "Failed to load resource"  # the browser reports each error of the server so
    assert [error for error in errors if not error.startswith(expected)] == []
    assert [u for u in fetched if not u.startswith((url, f"blob:{url}", "data:"))] == []

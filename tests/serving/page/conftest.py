"""The page in a real browser, against the real app with a model of fakes."""

import pytest
from audio_helpers import encode, sine
from serving.browser import HERTZ, open_browser, open_page
from serving.live import live_server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    sound = tmp_path_factory.mktemp("microphone") / "sine.wav"
    sound.write_bytes(encode(sine(3, 48000, HERTZ), 48000))
    with open_browser(sound) as opened:
        yield opened


@pytest.fixture
def visit(browser, request):
    """Opens the page of a service; options are those of the browser's context."""
    stack = []

    def _visit(service, **options):
        server = live_server(service)
        url = server.__enter__()
        opened = open_page(browser, url, **options)
        stack.extend([server, opened])
        page = opened.__enter__()
        page.wait_for_selector("main:not([hidden]), dialog[open]")
        return page

    yield _visit
    for manager in reversed(stack):
        manager.__exit__(None, None, None)

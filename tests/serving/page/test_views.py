"""The page as a whole: views, key, waiting, width, keyboard."""

import pytest
from image_helpers import to_file
from PIL import Image
from serving.browser import Index, ask, choose, search, wait_for_answers
from serving.fakes import FakeEmbedder, FakeGenerator, fake_service

from edge_lib.serving.settings import ServeSettings

NARROW, PHONE = {"width": 320, "height": 640}, {"width": 412, "height": 915}


@pytest.mark.parametrize(
    ("parts", "views"),
    [
        ({}, ["Ask", "Search", "Compare"]),
        ({"index": None}, ["Ask", "Compare"]),
        ({"generator": None}, ["Search", "Compare"]),
        ({"generator": None, "index": None}, []),
    ],
    ids=["all", "no index", "no generator", "embedder"],
)
def test_page_shows_what_the_model_can_do(visit, parts, views):
    page = visit(fake_service(**parts))
    links = [link.text_content() for link in page.locator("nav a").all() if link.is_visible()]
    assert links == views
    assert page.locator("section.view:visible").count() == 1


def test_page_offers_no_microphone_to_a_model_without_sound(visit):
    class Pictures(FakeEmbedder):
        modalities = ("text", "vision")

    generator = FakeGenerator()
    generator.accepts = frozenset({"image"})
    page = visit(fake_service(generator=generator, embedder=Pictures()))
    assert page.locator("#record, #by-clip:visible").count() == 0
    assert page.locator("#picture-file").count() == 1


def test_page_asks_for_the_key(visit):
    settings = ServeSettings(api_key="sésame")
    page = visit(fake_service(settings, index=Index()))
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    page.wait_for_selector("#key-error:has-text('refused')")
    page.fill("#key", "sésame")
    page.press("#key", "Enter")
    search(page, "red")
    page.wait_for_selector(".thumb img[src]")
    page.reload()
    page.wait_for_selector("main:not([hidden])")
    assert page.locator("dialog[open]").count() == 0


def test_page_waits_for_the_model(visit):
    page = visit(fake_service())
    page.route("**/ready", lambda route: route.fulfill(status=503))
    page.reload()
    page.wait_for_selector("#notice:has-text('The model is loading')")
    page.unroute("**/ready")
    page.wait_for_selector("main:not([hidden])")
    assert page.text_content("#notice") == ""


@pytest.mark.parametrize("viewport", [NARROW, PHONE], ids=["narrow", "phone"])
def test_page_fits_the_width_of_a_phone(visit, viewport):
    long = "x" * 300
    service = fake_service(generator=FakeGenerator(words=[long]), index=Index())
    page = visit(service, viewport=viewport)
    choose(page, to_file(Image.new("RGB", (900, 90), "red"), "PNG"))
    ask(page, long)
    wait_for_answers(page, 1)
    page.click(".parts-button")
    page.wait_for_selector(".parts-button", state="detached")
    turns, form = (page.locator(name).bounding_box() for name in ("#turns", "#question-form"))
    assert form["y"] >= turns["y"] + turns["height"]
    widths = [page.evaluate("document.documentElement.scrollWidth")]
    search(page, long)
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    page.click("nav >> text=Compare")
    page.fill("#lines", long)
    page.click("#compare-form button.main")
    page.wait_for_selector(".score, #compare-status.error")
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    assert widths == [viewport["width"]] * 3


def test_page_works_with_the_keyboard_alone(visit):
    page = visit(fake_service(index=Index()))
    order = ["Ask", "Search", "Compare", "API", "picture-file", "record", "clip-file", "question"]
    for expected in order:
        page.keyboard.press("Tab")
        focused = "document.activeElement.id || document.activeElement.textContent"
        assert page.evaluate(focused) == expected
    page.keyboard.type("what?")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait_for_answers(page, 1)

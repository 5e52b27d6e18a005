"""The page in a real browser, against the real app with a model of fakes."""

import asyncio
import io
import threading

import numpy as np
import pytest
from audio_helpers import encode, sine
from image_helpers import to_file
from PIL import Image
from serving.browser import open_browser, open_page
from serving.fakes import FakeEmbedder, FakeGenerator, FakeIndex, fake_service
from serving.live import live_server

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Delta
from edge_lib.serving.settings import ServeSettings

RED = to_file(Image.new("RGB", (12, 8), "red"), "PNG")
BLUE = to_file(Image.new("RGB", (8, 8), (0, 0, 255)), "PNG")
HERTZ, RATE = 440, 16000
BUSY = ApiError(429, "the queue is full", "queue_full", retry_after=2)
NARROW, PHONE = {"width": 320, "height": 640}, {"width": 412, "height": 915}


class Index(FakeIndex):
    """Rows 0 and 1 have a picture: blue."""

    def picture(self, row):
        return to_file(Image.open(io.BytesIO(BLUE)), "JPEG") if row == 0 else None


class Colours(FakeEmbedder):
    """Words for colours and pictures of them have the same embedding; dims 1 and 2 are their sum."""

    async def embed(self, modality, items):
        return np.stack([self._vector(modality, item) for item in items]).astype(np.float32)

    def _vector(self, modality, item):
        if modality == "text":
            red, blue = float("red" in item), float("blue" in item)
        else:
            red, _, blue = np.asarray(item, float).reshape(-1, 3).mean(0) / 255
        return np.array([red + blue, 0.5, red, blue])


class Left(FakeGenerator):
    """Answers whether the left third of the picture is dark."""

    async def submit(self, request):
        pixels = np.asarray(request.media["image"][0].decode(), float)
        self.words = ["dark" if pixels[:, : pixels.shape[1] // 3].mean() < 40 else "light"]
        return await super().submit(request)


class Halting(FakeGenerator):
    """Waits before the last word until `resume` is set."""

    def __init__(self, words):
        super().__init__(words)
        self.resume = threading.Event()

    async def _answer(self, stream, sampling):
        *words, last = self.words
        for word in words:
            stream.send(Delta(word, 1))
        await asyncio.to_thread(self.resume.wait)
        stream.send(Delta(last, 1))
        stream.send(Delta("", 0, "stop"))


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
        return opened.__enter__()

    yield _visit
    for manager in reversed(stack):
        manager.__exit__(None, None, None)


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


def peak_hertz(samples):
    spectrum = np.abs(np.fft.rfft(samples))
    return spectrum.argmax() * RATE / len(samples)


# --- asking ----------------------------------------------------------------------------------


def test_page_shows_an_answer_while_it_is_generated(visit):
    generator = Halting(["<b>a</b>", " röd", " 三\n", "&amp;"])
    page = visit(fake_service(generator=generator))
    choose(page, RED)
    ask(page, "what is it?")
    page.wait_for_selector(".answer:has-text('三')")
    assert page.text_content(".answer") == "<b>a</b> röd 三\n"
    assert page.text_content("#announcement") == "Picture added."
    assert page.is_visible("#stop")
    generator.resume.set()
    wait_for_answers(page, 1)
    assert page.text_content(".answer") == "<b>a</b> röd 三\n&amp;"
    assert page.text_content("#announcement") == page.text_content(".answer")
    assert page.text_content(".facts").startswith("4 tokens in ")
    (request,) = generator.requests
    assert request.media["image"][0].content == RED
    assert request.messages[0]["content"][1] == {"type": "text", "text": "what is it?"}


def test_page_continues_a_conversation_until_the_picture_changes(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    choose(page, RED)
    for count, question in enumerate(["one", "two"], 1):
        ask(page, question)
        wait_for_answers(page, count)
    choose(page, BLUE)
    page.wait_for_selector("#question-hint:has-text('the picture')")
    ask(page, "three")
    wait_for_answers(page, 3)
    roles = [[m["role"] for m in request.messages] for request in generator.requests]
    assert roles == [["user"], ["user", "assistant", "user"], ["user"]]
    assert [r.media["image"][0].content for r in generator.requests] == [RED, RED, BLUE]


def test_page_sends_no_earlier_turns_to_a_model_of_one_turn(visit):
    generator = FakeGenerator()
    generator.multi_turn = False
    page = visit(fake_service(generator=generator))
    choose(page, RED)
    for count, question in enumerate(["one", "two"], 1):
        ask(page, question)
        wait_for_answers(page, count)
    assert [len(request.messages) for request in generator.requests] == [1, 1]
    assert [len(request.media["image"]) for request in generator.requests] == [1, 1]


def test_page_stops_an_answer(visit):
    generator = FakeGenerator(words=["a"] * 1000, delay=0.05)
    page = visit(fake_service(generator=generator))
    ask(page, "count")
    page.wait_for_selector(".answer:has-text('aa')")
    page.click("#stop")
    page.wait_for_selector(".facts:has-text('Stopped.')")
    assert page.input_value("#question") == "count"
    for _ in range(100):
        if generator.streams[0].cancelled:
            break
        page.wait_for_timeout(50)
    assert generator.streams[0].cancelled


def test_page_shows_an_error_and_keeps_the_question(visit):
    page = visit(fake_service(generator=FakeGenerator(error=BUSY)))
    ask(page, "busy?")
    shown = page.wait_for_selector(".facts.error").text_content()
    assert shown.startswith("The queue is full. Try again in 2 s. (Request ")
    assert page.input_value("#question") == "busy?"


def test_page_reports_an_answer_that_breaks_off(visit):
    generator = FakeGenerator(words=["a"] * 1000, delay=0.05)
    page = visit(fake_service(generator=generator))
    ask(page, "count")
    page.wait_for_selector(".answer:has-text('aa')")
    generator.streams[0].send(ApiError(503, "the server is stopping", "stopping"))
    page.wait_for_selector(".facts.error:has-text('The server is stopping.')")
    assert page.text_content(".answer").startswith("aa")


def test_page_describes_a_picture(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    assert page.is_disabled("#describe")
    choose(page, RED)
    page.click("#describe")
    wait_for_answers(page, 1)
    assert page.text_content(".answer") == "a red three"
    assert "Describe the image." in str(generator.requests[0].messages)


def test_page_writes_lines_with_shift_and_enter(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    page.focus("#question")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    wait_for_answers(page, 1)
    assert generator.requests[0].messages[0]["content"][0]["text"] == "one\ntwo"


def test_page_shows_the_parts_that_an_answer_depends_on(visit):
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[:, :20] = 30  # dark on the left, bright on the right: the mean hides the left as bright
    picture[:, 40:] = 255
    page = visit(fake_service(generator=Left()))
    choose(page, to_file(Image.fromarray(picture), "PNG"))
    ask(page, "is it dark on the left?")
    wait_for_answers(page, 1)
    page.click(".parts-button")
    page.wait_for_selector(".parts")
    cells = page.locator(".parts span").all()
    assert [cell.get_attribute("class") for cell in cells] == ["matters", "", ""] * 3
    assert page.locator("ul.facts li").first.text_content() == "Without the top left: “light” "


# --- pictures and sound ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind", "size"),
    [
        (to_file(Image.new("RGB", (9, 7), "red"), "GIF"), "image/gif", (9, 7)),
        (to_file(Image.new("RGB", (9, 7), "red"), "BMP"), "image/bmp", (9, 7)),
        (to_file(Image.new("RGB", (9, 7), "red"), "PNG"), "", (9, 7)),
        (to_file(Image.new("RGB", (6000, 300), "red"), "JPEG"), "image/jpeg", (2048, 102)),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="7" '
         b'style="background:red"></svg>', "image/svg+xml", (9, 7)),
    ],
    ids=["gif", "bmp", "untyped", "wide", "svg"],
)
def test_page_converts_pictures_that_the_server_does_not_take(visit, content, kind, size):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    choose(page, content, kind=kind)
    ask(page, "what?")
    wait_for_answers(page, 1)
    assert generator.requests[0].media["image"][0].content[:3] == b"\xff\xd8\xff"  # JPEG
    image = decoded(generator.requests[0])
    assert image.size == size
    assert np.allclose(image.getpixel((3, 3)), (255, 0, 0), atol=8)


@pytest.mark.parametrize("content", [RED[:40], b"", b"GIF89a", b"no picture"], ids=range(4))
def test_page_refuses_a_file_that_is_no_picture(visit, content):
    page = visit(fake_service())
    choose(page, content)
    shown = page.text_content("#inputs-error")
    assert shown == "scene.png is not a picture that this browser can show."
    assert page.is_disabled("#describe")


def test_page_keeps_the_picture_when_the_next_file_is_none(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    choose(page, RED)
    page.set_input_files("#picture-file", {"name": "a", "mimeType": "", "buffer": b"x"})
    page.wait_for_selector("#inputs-error:not(:empty)")
    ask(page, "what?")
    wait_for_answers(page, 1)
    assert generator.requests[0].media["image"][0].content == RED


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_page_takes_dropped_and_pasted_pictures(visit, event):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    page.evaluate(
        """([event, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            const key = event === "drop" ? "dataTransfer" : "clipboardData";
            const kind = event === "drop" ? DragEvent : ClipboardEvent;
            document.body.dispatchEvent(new kind(event, { [key]: data, bubbles: true }));
        }""",
        [event, list(RED)],
    )
    page.wait_for_selector("#picture:not([hidden])")
    ask(page, "what?")
    wait_for_answers(page, 1)
    assert generator.requests[0].media["image"][0].content == RED


def test_page_records_a_sentence(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator), permissions=["microphone"])
    page.click("#record")
    page.wait_for_selector("#record-label:has-text('Stop, 1 s')")
    page.click("#record")
    page.wait_for_selector("#clip:not([hidden])")
    ask(page, "")
    wait_for_answers(page, 1)
    (request,) = generator.requests
    assert request.media["audio"][0].content[:4] == b"RIFF"
    assert request.messages[0]["content"] == [{"type": "audio"}]
    samples = decoded(request, "audio")
    assert 0.7 * RATE < len(samples) < 4 * RATE
    assert peak_hertz(samples) == pytest.approx(HERTZ, abs=5)


def test_page_says_when_the_microphone_is_refused(visit):
    page = visit(fake_service())
    page.evaluate(
        "navigator.mediaDevices.getUserMedia ="
        " () => Promise.reject(new DOMException('', 'NotAllowedError'))"
    )
    page.click("#record")
    page.wait_for_selector("#inputs-error:has-text('The browser refused the microphone.')")
    assert page.get_attribute("#record", "aria-pressed") == "false"


def test_page_converts_sound(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    tone = sine(0.5, 44100, HERTZ)
    stereo = np.stack([tone, np.zeros_like(tone)], 1)
    choose(page, encode(stereo, 44100), "tone.wav", "audio/wav")
    ask(page, "what is said?")
    wait_for_answers(page, 1)
    samples = decoded(generator.requests[0], "audio")
    assert len(samples) == pytest.approx(0.5 * RATE, abs=2)
    assert peak_hertz(samples) == pytest.approx(HERTZ, abs=2)
    assert np.abs(samples).max() == pytest.approx(np.abs(tone).max() / 2, rel=0.05)


# --- searching and comparing -----------------------------------------------------------------


def test_page_searches_by_text_and_uses_what_it_finds(visit):
    service = fake_service(index=Index())
    page = visit(service)
    search(page, "ä & b=c")
    assert page.locator(".hit").count() == 3
    assert page.locator(".hit .number").all_text_contents()[0] == "1.000 · vision"
    page.wait_for_selector(".thumb img[src]")
    assert page.evaluate("document.querySelector('.thumb img').naturalWidth") == 8
    assert service.index.queries[0][0][0] == len("ä & b=c")
    page.click(".thumb")
    page.wait_for_selector("#picture:not([hidden])")
    page.click("#by-picture")
    page.wait_for_selector("#search-status:has-text('nearest to the picture')")
    assert np.allclose(service.index.queries[-1][0][:3], [0, 0, 255], atol=8)


def test_page_searches_again_at_another_size(visit):
    service = fake_service(index=Index())
    page = visit(service)
    search(page, "red")
    page.select_option("#search-dim", "2")
    page.wait_for_selector("#search-status:has-text('2 dims')")
    assert [query[2] for query in service.index.queries] == [4, 2]


def test_page_searches_by_a_recording(visit):
    class Clips(Colours):
        def _vector(self, modality, item):
            return np.array([len(item), 0, 0, 0])

    service = fake_service(index=Index(), embedder=Clips())
    page = visit(service)
    choose(page, encode(sine(0.5, RATE, HERTZ), RATE), "tone.wav", "audio/wav")
    page.click("nav >> text=Search")
    page.click("#by-clip")
    page.wait_for_selector(".hit")
    assert service.index.queries[0][0][0] > 0


def test_page_compares_texts_at_every_size(visit):
    page = visit(fake_service(generator=None, index=None, embedder=Colours()))
    choose(page, RED)
    page.fill("#lines", "something blue\n\n  something red \nnothing")
    page.click("#compare-form button.main")
    page.wait_for_selector(".score")
    scores = page.locator(".score").all_text_contents()
    at = [1.25 / 2.25, 2.25 / 2.25, 0.25 / 0.5 / 1.5]  # of blue, red and nothing
    assert scores == [f"something red{at[1]:.3f}", f"something blue{at[0]:.3f}", f"nothing{at[2]:.3f}"]
    page.select_option("#compare-dim", "2")
    page.wait_for_selector("#compare-status:has-text('2 dims')")
    assert page.locator(".number").all_text_contents() == ["1.000", "1.000", "0.447"]


# --- the server ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "views"),
    [
        ({}, ["Ask", "Search", "Compare"]),
        ({"index": None}, ["Ask", "Compare"]),
        ({"generator": None}, ["Search", "Compare"]),
        ({"generator": None, "index": None}, []),
        ({"embedder": None, "index": None}, []),
    ],
    ids=["all", "no index", "no generator", "embedder", "generator"],
)
def test_page_shows_what_the_model_can_do(visit, parts, views):
    page = visit(fake_service(**parts))
    page.wait_for_selector("main:not([hidden])")
    links = [link.text_content() for link in page.locator("nav a").all() if link.is_visible()]
    assert links == views
    assert page.locator("section.view:visible").count() == 1


def test_page_offers_no_microphone_to_a_model_without_sound(visit):
    class Pictures(FakeEmbedder):
        modalities = ("text", "vision")

    generator = FakeGenerator()
    generator.accepts = frozenset({"image"})
    page = visit(fake_service(generator=generator, embedder=Pictures()))
    page.wait_for_selector("main:not([hidden])")
    assert page.locator("#record, #by-clip:visible").count() == 0
    assert page.locator("#picture-file").count() == 1


def test_page_asks_for_the_key(visit):
    settings = ServeSettings(api_key="sésame")
    page = visit(fake_service(settings, index=Index()))
    page.wait_for_selector("dialog[open]")
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
    page.wait_for_selector("main:not([hidden])")
    ready = threading.Event()
    page.route("**/ready", lambda route: route.continue_() if ready.is_set() else route.fulfill(status=503))
    page.reload()
    page.wait_for_selector("#notice:has-text('The model is loading')")
    ready.set()
    page.wait_for_selector("main:not([hidden])")
    assert page.text_content("#notice") == ""


@pytest.mark.parametrize("viewport", [NARROW, PHONE], ids=["narrow", "phone"])
def test_page_fits_the_width_of_a_phone(visit, viewport):
    long = "x" * 300
    page = visit(fake_service(generator=FakeGenerator(words=[long]), index=Index()), viewport=viewport)
    choose(page, to_file(Image.new("RGB", (900, 90), "red"), "PNG"))
    ask(page, long)
    wait_for_answers(page, 1)
    page.click(".parts-button")
    page.wait_for_selector(".parts-button", state="detached")
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
    page.wait_for_selector("main:not([hidden])")
    order = []
    for _ in range(14):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    expected = ["Ask", "Search", "Compare", "API", "picture-file", "record", "clip-file", "question", "send"]
    assert order[: len(expected)] == expected

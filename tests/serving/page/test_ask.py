"""Asking on the page: streams, conversations, errors."""

import asyncio
import threading

import numpy as np
from image_helpers import to_file
from PIL import Image
from serving.browser import BLUE, RED, ask, choose, decoded, wait_for_answers
from serving.fakes import FakeGenerator, fake_service

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Delta

BUSY = ApiError(429, "the queue is full", "queue_full", retry_after=2)


class Left(FakeGenerator):
    """Answers whether the left third of the picture is dark."""

    async def submit(self, request):
        pixels = np.asarray(decoded(request), float)
        word = "dark" if pixels[:, : pixels.shape[1] // 3].mean() < 40 else "light"
        return await FakeGenerator([word]).submit(request)


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


def test_page_asks_about_the_new_picture_when_one_comes_before_the_answer(visit):
    generator = Halting(["a", " b"])
    page = visit(fake_service(generator=generator))
    choose(page, RED)
    ask(page, "one")
    page.wait_for_selector(".answer:has-text('a')")
    page.evaluate("document.getElementById('announcement').textContent = ''")
    choose(page, BLUE)
    page.wait_for_selector("#announcement:has-text('Picture added.')", state="attached")
    generator.resume.set()
    wait_for_answers(page, 1)
    ask(page, "two")
    wait_for_answers(page, 2)
    request = generator.requests[1]
    assert (len(request.messages), request.media["image"][0].content) == (1, BLUE)


def test_page_names_the_way_out_of_a_conversation_that_is_too_long(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    ask(page, "one")
    wait_for_answers(page, 1)
    generator.error = ApiError(400, "too long", "context_length_exceeded")
    ask(page, "two")
    page.wait_for_selector(".facts.error:has-text('Too long.'):has-text('Start over to ask more.')")
    assert page.is_visible("#restart")


def test_page_says_that_the_server_is_down(visit):
    page = visit(fake_service())
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "there?")
    page.wait_for_selector(".facts.error:has-text('The server cannot be reached.')")
    assert page.input_value("#question") == "there?"


def test_page_keeps_the_focus_when_buttons_replace_one_another(visit):
    generator = Halting(["a", " b"])
    page = visit(fake_service(generator=generator))
    page.fill("#question", "one")
    page.focus("#send")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer:has-text('a')")
    assert page.evaluate("document.activeElement.id") == "stop"
    generator.resume.set()
    wait_for_answers(page, 1)
    assert page.evaluate("document.activeElement.id") == "send"


def test_page_sends_settings_of_the_answer(visit):
    service = fake_service()
    page = visit(service)
    choose(page, RED)
    ask(page, "what is it?")
    wait_for_answers(page, 1)
    page.click("#settings summary")
    page.fill("#temperature", "0.7")
    page.fill("#max-tokens", "2")
    ask(page, "and now?")
    wait_for_answers(page, 2)
    page.click("#describe")
    wait_for_answers(page, 3)
    samplings = [request.sampling for request in service.generator.requests]
    values = [(sampling.temperature, sampling.max_tokens) for sampling in samplings]
    assert values == [(0, None), (0.7, 2), (0.7, 2)]
    assert page.locator(".answer").all_text_contents() == ["a red three", "a red", "a red"]


def test_page_shows_a_setting_that_is_wrong(visit):
    service = fake_service()
    page = visit(service)
    page.click("#settings summary")
    page.fill("#temperature", "3")
    page.click("#settings summary")
    assert not page.is_visible("#temperature")
    ask(page, "what is it?")
    page.wait_for_selector("#temperature", state="visible")
    assert service.generator.requests == []

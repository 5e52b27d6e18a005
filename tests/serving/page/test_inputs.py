"""Pictures and sound on the page: chosen, dropped, pasted, recorded, converted."""

import numpy as np
import pytest
from audio_helpers import encode, sine
from image_helpers import to_file
from PIL import Image
from serving.browser import HERTZ, RED, ask, choose, decoded, wait_for_answers
from serving.fakes import FakeGenerator, fake_service

RATE = 16000
JPEG = b"\xff\xd8\xff"
SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" width="9" height="7" style="background:red"/>"""


def peak_hertz(samples):
    spectrum = np.abs(np.fft.rfft(samples))
    return spectrum.argmax() * RATE / len(samples)


def test_page_sends_a_tiff_as_it_is(visit):
    generator, tiff = FakeGenerator(), to_file(Image.new("RGB", (9, 7), "red"), "TIFF")
    page = visit(fake_service(generator=generator))
    choose(page, tiff, "scan.tif", "image/tiff")
    ask(page, "what?")
    wait_for_answers(page, 1)
    assert generator.requests[0].media["image"][0].content == tiff


def test_page_converts_pictures_that_the_server_does_not_take(visit):
    generator = FakeGenerator()
    page = visit(fake_service(generator=generator))
    files = [
        (to_file(Image.new("RGB", (9, 7), "red"), "GIF"), "image/gif"),
        (to_file(Image.new("RGB", (9, 7), "red"), "BMP"), "image/bmp"),
        (to_file(Image.new("RGB", (9, 7), "red"), "PNG"), ""),
        (to_file(Image.new("RGB", (6000, 300), "red"), "JPEG"), "image/jpeg"),
        (SVG, "image/svg+xml"),
    ]
    for count, (content, kind) in enumerate(files, 1):
        choose(page, content, "scene", kind)
        ask(page, "what?")
        wait_for_answers(page, count)
        page.click("#remove-picture")
    assert {request.media["image"][0].content[:3] for request in generator.requests} == {JPEG}
    images = [decoded(request) for request in generator.requests]
    assert [image.size for image in images] == [(9, 7), (9, 7), (9, 7), (2048, 102), (9, 7)]
    assert np.allclose([image.getpixel((3, 3)) for image in images], (255, 0, 0), atol=8)


def test_page_refuses_files_that_are_no_picture(visit):
    page = visit(fake_service())
    for number, content in enumerate([RED[:40], b"", b"GIF89a", b"no picture"]):
        file = {"name": f"{number}.png", "mimeType": "image/png", "buffer": content}
        page.set_input_files("#picture-file", file)
        error = f"{number}.png is not a picture that this browser can show."
        page.wait_for_selector(f"#inputs-error:has-text('{error}')")
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
    ask(page, "")  # there is nothing more to send
    samples = decoded(request, "audio")
    assert len(generator.requests) == page.locator(".turn").count() == 1
    assert 0.7 * RATE < len(samples) < 4 * RATE
    assert peak_hertz(samples) == pytest.approx(HERTZ, abs=5)


def test_page_says_when_the_microphone_is_refused(visit):
    page = visit(fake_service())
    refuse = "Promise.reject(new DOMException('', 'NotAllowedError'))"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = () => {refuse}; }}")
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

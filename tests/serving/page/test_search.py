"""Searching and comparing on the page."""

from dataclasses import replace

import numpy as np
from audio_helpers import encode, sine
from serving.browser import RED, Index, choose, search
from serving.fakes import FakeEmbedder, fake_service

from edge_lib.serving.errors import ApiError


class Colours(FakeEmbedder):
    """A word for a colour and a picture of it are the same; at two dims all colours are."""

    def _vector(self, modality, item):
        if modality == "text":
            red, blue = float("red" in item), float("blue" in item)
        else:
            red, _, blue = np.asarray(item, float).reshape(-1, 3).mean(0) / 255
        return np.array([red + blue, 0.5, red, blue])


def test_page_searches_by_text_and_uses_what_it_finds(visit):
    service = fake_service(index=Index())
    page = visit(service)
    search(page, "ä & b=c")
    assert page.locator(".hit").count() == 3
    assert page.locator(".hit .number").all_text_contents() == ["1.000", "0.900", "0.800"]
    page.wait_for_selector(".thumb img[src]")
    assert page.evaluate("document.querySelector('.thumb img').naturalWidth") == 8
    assert service.index.queries[0][0][0] == len("ä & b=c")
    page.click(".thumb")
    page.wait_for_selector("#picture:not([hidden])")
    page.click("#by-picture")
    page.wait_for_selector("#search-status:has-text('to the picture: 3')")
    assert np.allclose(service.index.queries[-1][0][:3], [0, 0, 255], atol=8)


def test_page_searches_again_at_another_size(visit):
    service = fake_service(index=Index())
    page = visit(service)
    search(page, "red")
    page.select_option("#search-dim", "2")
    page.wait_for_selector("#search-status:has-text('2 dims')")
    assert [query[2] for query in service.index.queries] == [4, 2]
    assert page.locator(".hit .number").all_text_contents() == ["0.500", "0.450", "0.400"]


def test_page_shows_more_results_below_those_that_it_shows(visit):
    class Many(Index):
        def search(self, vector, k, dim, modality=None, center=None):
            (hit,) = super().search(vector, 1, dim, modality)
            return [replace(hit, row=n, has_picture=False) for n in range(min(k, 30))]

    page = visit(fake_service(index=Many()))
    search(page, "red")
    first = page.query_selector(".hit")
    for count in (24, 30):
        page.click("#more")
        page.wait_for_selector(f"#search-status:has-text(': {count} (')")
        assert page.locator(".hit").count() == count
    assert first.is_visible()
    assert page.is_hidden("#more")


def test_page_offers_no_more_results_after_a_failed_search(visit):
    class Failing(Index):
        def search(self, vector, k, dim, modality=None, center=None):
            if k > 12:
                raise ApiError(400, "no more", "no_more")
            (hit,) = super().search(vector, 1, dim, modality)
            return [replace(hit, row=n, has_picture=False) for n in range(k)]

    page = visit(fake_service(index=Failing()))
    search(page, "red")
    page.click("#more")
    page.wait_for_selector("#search-status.error:has-text('No more.')")
    assert page.is_hidden("#more")


def test_page_searches_in_pictures_first(visit):
    index = Index()
    index.modalities = ("text", "vision")
    page = visit(fake_service(index=index))
    search(page, "red")
    page.select_option("#search-modality", label="texts")
    page.wait_for_selector("#search-status:has-text('Nearest texts')")
    page.select_option("#search-modality", label="all rows")
    page.wait_for_selector("#search-status:has-text('Nearest rows')")
    assert [query[3] for query in index.queries] == ["vision", "text", None]


def test_page_searches_by_a_recording(visit):
    class Clips(FakeEmbedder):
        def _vector(self, modality, item):
            return np.array([len(item), 0, 0, 0])

    service = fake_service(index=Index(), embedder=Clips())
    page = visit(service)
    choose(page, encode(sine(0.5, 16000), 16000), "tone.wav", "audio/wav")
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
    assert scores == ["something red1.000", "something blue0.556", "nothing0.333"]
    page.select_option("#compare-dim", "2")
    page.wait_for_selector("#compare-status:has-text('2 dims')")
    assert page.locator(".number").all_text_contents() == ["1.000", "1.000", "0.447"]

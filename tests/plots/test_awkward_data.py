"""Figures of whatever texts, clips and counts the data holds: none of them ends a run."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from edge_lib import plots
from edge_lib.plots.style import wrapped

IMAGE = Image.new("RGB", (8, 8))
TEXTS = {
    "two dollars": "costs $5 or $10_x^2",
    "broken formula": r"$\frac{a}{$ \unknown",
    "emoji": "a dog \U0001f436",
    "CJK": "一只红色的狗" * 30,
    "line breaks": "a\n\nb\r\nc\x0bd",
    "many words": "word " * 20_000,
    "one long word": "x" * 100_000,
    "control characters": "a\x00b\x07c\x1b[31md",
    "leading underscore": "_a^b_",
    "empty": "",
    "spaces": " \t ",
    "braces": "{x} %s <b>",
}


def figures_of(text):
    """Every figure that shows texts of the data."""
    scores = {"kind": [text], "variant": ["a"], "value": [0.5], "low": [0.4], "high": [0.6]}
    yield plots.samples([IMAGE, None], [text, text])[0]
    yield plots.similarity_heatmap(np.eye(2), [text] * 2, [text] * 2)[0]
    yield plots.retrieval_strip([text], np.eye(2)[:1], [0], [IMAGE, text].__getitem__)[0]
    yield plots.audio_retrieval([np.ones(900)], [IMAGE], [IMAGE], [text], [text], [2])[0]
    yield plots.attention_steps(np.ones((2, 1, 3)), [text])[0]
    yield plots.kind_scores(pd.DataFrame(scores), "EM")[0]


def drawn_size(figure):
    data = io.BytesIO()
    figure.savefig(data, dpi=100, bbox_inches="tight")
    return Image.open(data).size


@pytest.mark.parametrize("name", TEXTS)
def test_figures_draw_any_text(name):
    for figure in figures_of(TEXTS[name]):
        assert max(drawn_size(figure)) < 2000
        assert len(figure.alt) < 1000


def test_samples_show_dollars_as_they_are():
    figure, table = plots.samples([IMAGE], [TEXTS["two dollars"]])
    label = figure.axes[0].xaxis.label
    assert label.get_text() == TEXTS["two dollars"] == table.caption[0]
    assert not label.get_parse_math()


def test_logarithmic_axes_have_plain_numbers():
    curve = pd.DataFrame({"step": [1, 2], "loss": [2.0, 0.01], "val": [0.1, 0.2]})
    speed = pd.DataFrame({"name": ["a", "b"], "samples_per_second": [12.5, 2500]})
    table = pd.DataFrame({"variant": "a", "x": [1, 8], "y": [0.01, 10], "seed": 0})
    loss, bars = plots.training_curves({"a": curve}, "val", "EM")[0], plots.speed_bars(speed)[0]
    lines = plots.variant_lines(table, "x", "y", yscale="log")[0]
    for figure, axis, expected in (
        (loss, loss.axes[0].yaxis, {"0.01", "0.1", "1"}),
        (bars, bars.axes[0].xaxis, {"10", "100", "1000"}),
        (lines, lines.axes[0].yaxis, {"0.01", "0.1", "1", "10"}),
    ):
        figure.draw_without_rendering()
        labels = {label.get_text() for label in axis.get_ticklabels()}
        assert labels >= expected
        assert not any("$" in label for label in labels)


def test_wrapped_text_is_bounded_and_keeps_its_lines():
    assert wrapped("a\x00b\nred three here", 9) == "a b\nred three\nhere"
    lines = wrapped("word " * 100, 10, lines=3).split("\n")
    assert lines == ["word word", "word word", "word …"]
    assert wrapped("a\n" * 9, 10, lines=3) == "a\na\na"
    assert wrapped("", 10) == ""


@pytest.mark.parametrize("samples", [0, 1, 100, 16_000], ids=lambda n: f"{n} samples")
def test_audio_retrieval_draws_short_and_silent_clips(samples):
    clip = np.zeros(samples, np.float32)
    figure, table = plots.audio_retrieval([clip], [IMAGE], [IMAGE], ["a"], ["b"], [1])
    assert min(drawn_size(figure)) > 100
    assert table.seconds.tolist() == [samples / 16_000]


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_figures_draw_few_rows(rows):
    embeddings = {name: np.random.default_rng(0).random((rows, 8)) for name in ("audio", "text")}
    figure, table = plots.tsne(embeddings)
    assert len(table) == 2 * rows
    texts, images = ["a"] * rows, [IMAGE] * rows
    strip = plots.retrieval_strip(texts, np.eye(rows), range(rows), lambda i: IMAGE)[0]
    clips = plots.audio_retrieval([np.ones(600)] * rows, images, images, texts, texts, [1] * rows)
    for shown in (figure, strip, clips[0], plots.samples(images, texts)[0]):
        assert min(drawn_size(shown)) > 20
    if not rows:
        assert figure.alt == "No row has an item of audio and text."


def test_tsne_draws_collapsed_embeddings():
    """PCA of equal vectors is NaN, on which scikit-learn ends the process without an error."""
    for rows in (1, 2, 40):
        _, table = plots.tsne({name: np.ones((rows, 8)) for name in ("vision", "text")})
        assert np.isfinite(table[["x", "y"]].to_numpy(float)).all()


def test_samples_without_images_show_captions():
    figure, table = plots.samples([None, None], ["a spoken sentence", "another"])
    assert figure.alt == "Captions: a spoken sentence; another"
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == table.caption.tolist()
    assert not any(axes.images for axes in figure.axes)


def test_retrieval_strip_shows_texts_in_place_of_images():
    names = ["clip-0\nhello", "clip-1\nbye"]
    figure, _ = plots.retrieval_strip(["hello"], np.eye(2)[:1], [0], names.__getitem__, top=2)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["hello", *names]
    assert figure.alt == "The top 2 items for each caption; the right one has rank 1 for “hello”."
    assert figure.get_supxlabel() == "cosine below each item; framed: the right one"


def test_kind_scores_draw_the_first_of_very_many_kinds():
    kinds = pd.DataFrame({"kind": [f"kind {i}" for i in range(5000)], "variant": "a"})
    figure, table = plots.kind_scores(kinds.assign(value=0.5, low=0.4, high=0.6), "EM")
    assert len(table) == 5000
    assert len(figure.axes[0].get_yticks()) == 60
    assert max(drawn_size(figure)) < 3000


def test_audio_retrieval_shows_texts_in_place_of_images():
    clips, texts = [np.ones(600)] * 2, ["hello", "bye"]
    figure, _ = plots.audio_retrieval(clips, texts, texts[::-1], texts, texts[::-1], [1, 2])
    assert [t.get_text() for axes in figure.axes for t in axes.texts] == ["hello", "bye", "hello"]

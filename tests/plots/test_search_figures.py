"""Figures of a searched collection, and the map without a browser."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
import soundfile
from audio_helpers import encode, sine
from matplotlib.colors import to_hex
from PIL import Image

from edge_lib import plots
from edge_lib.plots.map import EmbeddingMap

PICTURE = Image.new("RGB", (8, 8), "red")
RESULTS = pd.DataFrame(
    {
        "query": ["a $red$ three", "a $red$ three", "cat.png"],
        "rank": [1, 2, 1],
        "item": [4, 2, 7],
        "cosine": [0.9, 0.5, 0.7],
        "note": ["yes", "", ""],
    }
)


def test_result_strips_draw_each_item_in_the_row_of_its_query():
    views = {4: PICTURE, 2: "a text in place of a picture", 7: PICTURE}
    figure, table = plots.result_strips(RESULTS, views.get, {"cat.png": PICTURE})
    assert table is RESULTS
    assert figure.alt == (
        "Strips of up to 2 items; the first has cosine 0.90 for a $red$ three and 0.70 for cat.png."
    )
    first, second = np.reshape(figure.axes, (2, 3))
    assert [len(axes.images) for axes in (*first, *second)] == [0, 1, 0, 1, 1, 0]
    assert [axes.get_xlabel() for axes in first] == ["", "0.90\nyes", "0.50"]
    assert [axes.get_xlabel() for axes in second] == ["cat.png", "0.70", ""]
    assert first[2].texts[0].get_text().startswith("a text in")


def test_result_strips_without_results_say_so():
    assert plots.result_strips(RESULTS[:0], None)[0].alt == "No results."


def test_label_confusion_counts_pairs():
    figure, table = plots.label_confusion([0, 0, 1, 1], [0, 1, 1, 1], ["cat", "dog"])
    assert figure.alt == "Counts of given labels by known label: 3 of 4 agree."
    assert table.to_numpy().tolist() == [
        ["cat", "cat", 1],
        ["cat", "dog", 1],
        ["dog", "cat", 0],
        ["dog", "dog", 2],
    ]


def test_layout_keeps_clusters_apart_and_repeats():
    rng = np.random.default_rng(0)
    centres = np.eye(3)[np.arange(90) % 3]
    embeddings = (centres + 0.05 * rng.normal(size=(90, 3))) * rng.uniform(1, 9, (90, 1))
    points = plots.layout(embeddings)
    means = np.stack([points[i::3].mean(0) for i in range(3)])
    nearest = np.linalg.norm(points[:, None] - means, axis=2).argmin(1)
    assert nearest.tolist() == [0, 1, 2] * 30
    np.testing.assert_array_equal(points, plots.layout(embeddings))


@pytest.mark.parametrize("rows", [2, 3, 5])
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
def test_layout_of_few_rows_is_finite(rows, equal):
    embeddings = np.ones((rows, 4)) if equal else np.random.default_rng(0).normal(size=(rows, 4))
    points = plots.layout(embeddings)
    assert points.shape == (rows, 2)
    assert np.isfinite(points).all()


def test_embedding_map_colours_modalities_and_frequent_labels():
    points = pd.DataFrame({"x": range(40), "y": range(40), "modality": ["vision", "text"] * 20})
    figure, _ = plots.embedding_map(points)
    assert figure.alt == "t-SNE map of 40 items of vision and text, coloured by modality."
    figure, table = plots.embedding_map(points.assign(label=[f"l{i % 13}" for i in range(40)]))
    names = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert len(names) == 11
    assert "other" in names
    assert table.columns.tolist() == ["modality", "label", "x", "y"]
    assert len(table) == 40


def test_embedding_map_mixes_modalities_and_keeps_their_colours():
    modalities = ["vision"] * 20 + ["text"] * 20
    points = pd.DataFrame({"x": range(40), "y": 0, "modality": modalities})
    (axes,) = plots.embedding_map(points)[0].axes
    (drawn,) = axes.collections
    places = drawn.get_offsets()[:, 0].astype(int)
    colours = dict(zip(places, map(to_hex, drawn.get_facecolors()), strict=True))
    assert [colours[place] for place in range(40)] == ["#0072b2"] * 20 + ["#d55e00"] * 20
    assert 5 < (places[:20] < 20).sum() < 15
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["vision", "text"]


# --- the map in a notebook -----------------------------------------------------------------------


@pytest.fixture
def embedding_map(make_table, encode_image, tmp_path):
    """A map of a picture, its caption, a clip, and a broken picture."""
    table = make_table(
        [
            {"id": "a", "image": encode_image(), "texts": ["a <b>red</b> three"]},
            {"id": "b", "audio": encode(sine(40, 8000), 8000)},
            {"id": "c", "image": b"no image"},
        ]
    )
    columns = {"row": [0, 0, 1, 2], "modality": ["vision", "text", "audio", "vision"]}
    points = pd.DataFrame(columns | {"x": 1.0, "y": [0, 1, 2, 3], "group": [0, 0, 1, 2]})
    captions = ["a <b>red</b> three", "a <b>red</b> three", "", ""]
    points = points.assign(id=[*"aabc"], caption=captions, label="l")
    return EmbeddingMap(points, table, tmp_path / "selection.csv")


def decoded(uri):
    return io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))


def test_map_gives_the_hovered_picture_to_the_tooltip(embedding_map):
    widget = embedding_map.scatter.widget
    assert widget.tooltip_preview == "picture"
    for number in (0, 1, 3):
        widget.hovering = number
    pictures = widget.data["picture"]
    sizes = [Image.open(decoded(uri)).size for uri in pictures]
    assert pictures[0] == pictures[1]
    assert sizes[0] == embedding_map.table.images([0])[0].size
    assert sizes[2:] == [(1, 1), (1, 1)]  # of a row without, and of a broken one
    widget.hovering = None


def test_map_plays_the_start_of_the_hovered_clip(embedding_map):
    embedding_map.scatter.widget.hovering = 2
    uri = embedding_map.player.value.split("'")[1]
    samples, rate = soundfile.read(decoded(uri))
    assert (len(samples), rate) == (30 * 16000, 16000)
    embedding_map.scatter.widget.hovering = 0
    assert embedding_map.player.value == ""


def test_map_writes_and_shows_the_selected_points(embedding_map, tmp_path):
    embedding_map.scatter.selection([0, 2])
    assert pd.read_csv(tmp_path / "selection.csv")["id"].tolist() == ["a", "b"]
    strip = embedding_map.strip.value
    assert "Selected: 2 points" in strip
    assert "a &lt;b&gt;red&lt;/b&gt; three" in strip
    assert strip.count("<img") == 2


def test_map_colours_by_each_choice(embedding_map):
    assert embedding_map.hue.options == ("modality", "label", "group")
    for name in ("group", "label", "modality"):
        embedding_map.hue.value = name
        assert embedding_map.scatter.widget.color_by == "valueA"
        assert embedding_map.scatter.color()["by"] == name


def test_map_legend_has_the_colours_of_the_points(embedding_map):
    colours = {"vision": "#0072b2", "text": "#d55e00", "audio": "#cc79a7"}
    widget = embedding_map.scatter.widget
    legend = {name: to_hex(colour) for name, colour, _ in widget.legend_encoding["color"]["values"]}
    drawn = [to_hex(widget.color[int(number)]) for number in widget.points[:, 2]]
    assert legend == colours
    assert drawn == [colours[name] for name in ("vision", "text", "audio", "vision")]


def test_map_is_shown_in_jupyterlab_alone(embedding_map, monkeypatch):
    arguments = embedding_map.points, embedding_map.table, embedding_map.csv
    for name in ("JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)
    assert plots.explore_map(*arguments) is None
    monkeypatch.setenv("JPY_SESSION_NAME", "08_search.ipynb")
    assert len(plots.explore_map(*arguments).children) == 4

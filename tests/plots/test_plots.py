"""Figures show the numbers of their tables, have alt text, display once, and keep no state."""

import base64
import io

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image

from edge_lib import plots
from edge_lib.config import ROOT

DIMS = [16, 64, 384]


def make_recall(directions=(("vision", "text"), ("text", "vision"))) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        [(*pair, dim, k) for pair in directions for k in (1, 5, 10) for dim in DIMS],
        columns=["query", "gallery", "dim", "k"],
    )
    values = rng.uniform(0.3, 0.8, len(table))
    table = table.assign(recall=values, low=values - 0.1, high=values + 0.05)
    return table.assign(rows=200, rule="one right answer", chance=table["k"] * 0.004)


def lines_of(axes) -> list[list[tuple]]:
    """The (x, y) points of each line that has data."""
    return [
        list(zip(*line.get_data(), strict=True)) for line in axes.lines if len(line.get_xdata())
    ]


def pairs_of(part: pd.DataFrame, x: str, y: str) -> list[tuple]:
    return list(zip(part[x], part[y], strict=True))


def test_loss_curve_draws_its_table_and_each_direction():
    steps = np.arange(1, 61)
    history = pd.DataFrame({"step": steps, "loss": np.cos(steps), "lr": 1e-3})
    # validation metrics are logged as separate rows, at steps that also have a loss
    validation = pd.DataFrame({"step": [30, 60], "val.vision_to_text.r1": [0.25, 0.5]})
    figure, table = plots.loss_curve(pd.concat([history, validation], ignore_index=True))
    top, bottom = figure.axes
    series = {name: pairs_of(part, "step", "value") for name, part in table.groupby("series")}
    assert lines_of(top) == [series["loss"], series["smoothed loss"]]
    assert series["loss"] == list(zip(steps, np.cos(steps), strict=True))
    assert lines_of(bottom) == [series["val.vision_to_text.r1"]] == [[(30, 0.25), (60, 0.5)]]
    assert np.std(top.lines[1].get_ydata()) < np.std(top.lines[0].get_ydata())
    assert [text.get_text() for text in bottom.get_legend().get_texts()] == ["vision → text"]
    assert len(plots.loss_curve(history)[0].axes) == 1


def test_loss_curve_rejects_empty_history():
    with pytest.raises(ValueError, match="no training loss"):
        plots.loss_curve(pd.DataFrame({"step": []}))


def test_recall_by_dim_draws_lines_ticks_interval_and_chance():
    shuffled = make_recall().sample(frac=1, random_state=0)
    figure, table = plots.recall_by_dim(shuffled)
    [axes] = figure.axes
    lines = lines_of(axes)
    for _, part in table.groupby(["query", "gallery", "k"]):
        assert pairs_of(part, "dim", "recall") in lines
    assert [label.get_text() for label in axes.get_xticklabels()] == ["16", "64", "384"]
    assert len(axes.get_xticks(minor=True)) == 0
    assert "200" in axes.get_title()
    assert "one right answer" in axes.get_title()
    chance = [line for line in axes.lines if str(line.get_label()).startswith("chance")]
    assert [set(line.get_ydata()) for line in chance] == [{0.004}]
    first = table[(table["k"] == 1) & (table["query"] == "text")]
    band = next(c for c in axes.collections if to_hex(c.get_facecolor()[0]) == "#d55e00")
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == first["low"].min()
    assert heights.max() == first["high"].max()


def test_directions_have_the_same_style_in_all_figures():
    directions = [("vision", "text"), ("audio", "text"), ("text", "audio")]
    figure, _ = plots.recall_by_dim(make_recall(directions))
    assert len(figure.axes) == 2  # vision with text, audio with text
    history = pd.DataFrame({"step": [1, 2], "loss": 1.0, "val.audio_to_text.r1": [0.1, 0.2]})
    curve = plots.loss_curve(history)[0].axes[1].lines[0]
    lines = [line for line in figure.axes[1].lines if line.get_label() == "audio → text"]
    styles = {(x.get_color(), x.get_marker(), x.get_linestyle()) for x in [curve, *lines]}
    assert len(lines) == len(styles) == 1
    [legend] = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == len(set(names))
    assert set(names) > {" → ".join(direction) for direction in directions}


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(0)
    vision = rng.standard_normal((60, 8)).astype(np.float32)
    vision[7] = np.nan  # this row has no image
    text = 3 * vision
    text[7] = 1
    return {"vision": vision, "text": text}


def test_tsne_is_reproducible_and_changes_no_global_state(embeddings):
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    settings = dict(mpl.rcParams)
    first = plots.tsne(embeddings, rows=30, seed=1)[1]
    assert np.random.random() == expected  # noqa: NPY002
    assert dict(mpl.rcParams) == settings
    assert pyplot.get_fignums() == []
    pd.testing.assert_frame_equal(first, plots.tsne(embeddings, rows=30, seed=1)[1])
    assert not first.equals(plots.tsne(embeddings, rows=30, seed=2)[1])


def test_tsne_joins_rows_and_leaves_out_incomplete_ones(embeddings):
    labels = np.arange(60) % 3
    figure, table = plots.tsne(embeddings, labels=labels, label_name="digits")
    rows = {name: list(part["row"]) for name, part in table.groupby("modality")}
    assert rows["vision"] == rows["text"] == [row for row in range(60) if row != 7]
    assert (table["digits"] == labels[table["row"]]).all()
    [points] = figure.axes[0].collections
    sides = [table.loc[table["modality"] == name, ["x", "y"]].to_numpy() for name in embeddings]
    segments = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata())]
    np.testing.assert_allclose(segments, np.stack(sides, 1), rtol=1e-6)
    np.testing.assert_allclose(points.get_offsets(), table[["x", "y"]], rtol=1e-6)
    # text is a multiple of vision: once normalised, they coincide
    assert figure.get_supxlabel().endswith("100%")


def test_tsne_note_counts_neighbours_in_the_other_modality_only():
    rng = np.random.default_rng(0)
    unrelated = {name: rng.standard_normal((50, 8)) for name in ("vision", "text")}
    note = plots.tsne(unrelated)[0].get_supxlabel()
    assert int(note.split()[-1].rstrip("%")) < 20


def test_similarity_heatmap_has_a_fixed_scale_and_outlines_the_diagonal():
    low, high = 0.1 * np.eye(4), np.linspace(-0.5, 0.9, 16).reshape(4, 4)
    captions = ["a small red three at the top left of the picture", "b", "c", "d"]
    figures = [plots.similarity_heatmap(m, captions, captions, [0, 0, 1, 1]) for m in (low, high)]
    limits = {figure.axes[0].collections[0].get_clim() for figure, _ in figures}
    assert limits == {(-1.0, 1.0)}
    figure, table = figures[1]
    axes, bar = figure.axes
    assert (table["cosine"] == high.ravel()).all()
    assert (axes.collections[0].get_array().ravel() == high.ravel()).all()
    assert table["row_label"][0] == captions[0]
    assert axes.get_yticklabels()[0].get_text() == "a small red … the picture"
    assert [patch.get_xy() for patch in axes.patches] == [(i, i) for i in range(4)]
    assert [list(line.get_ydata()) for line in axes.lines] == [[2, 2], [0, 1]]
    assert bar.get_ylabel() == "cosine similarity"


def test_retrieval_strip_frames_hits_and_gives_the_rank_of_misses():
    similarity = np.array([[0.1, 0.9, 0.5, 0.3], [0.4, 0.3, 0.2, 0.1]])
    images = [Image.new("RGB", (4, 4), (60 * i, 0, 0)) for i in range(4)]
    figure, table = plots.retrieval_strip(["x", "y"], similarity, [2, 3], images.__getitem__, top=2)
    shown = [axes for axes in figure.axes if axes.images]
    reds = [int(axes.images[0].get_array()[0, 0, 0]) // 60 for axes in shown]
    assert reds == list(table["item"]) == [1, 2, 0, 1, 3]
    assert list(table["cosine"]) == [0.9, 0.5, 0.4, 0.3, 0.1]
    framed = [axes for axes in figure.axes if axes.get_frame_on()]
    assert framed == [shown[1]]
    assert {to_hex(s.get_edgecolor()) for s in framed[0].spines.values()} == {
        plots.HIT_COLOUR.lower()
    }
    texts = [axes.get_xlabel() for axes in shown]
    assert texts == ["0.90", "0.50", "0.40", "0.30", "0.10\nright: rank 4"]


def test_winoground_scores_draw_bars_intervals_and_chance():
    rows = [
        (dim, score, value, value - 0.02, value + 0.04, chance)
        for dim, value in ((16, 0.3), (64, 0.4))
        for score, chance in (("text", 0.25), ("image", 0.25), ("group", 1 / 6))
    ]
    scores = pd.DataFrame(rows, columns=["dim", "score", "value", "low", "high", "chance"])
    figure, table = plots.winoground_scores(scores)
    [axes] = figure.axes
    for bars, (name, part) in zip(axes.containers[1::2], table.groupby("score", sort=False)):  # noqa: B905
        assert bars.get_label() == f"{name} score"
        assert [bar.get_height() for bar in bars] == list(part["value"])
        ends = [segment[:, 1] for segment in bars.errorbar.lines[2][0].get_segments()]
        np.testing.assert_allclose(ends, part[["low", "high"]])
    chances = [
        s[0, 1] for c in axes.collections if "chance" in c.get_label() for s in c.get_segments()
    ]
    assert sorted(chances) == sorted(table["chance"])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["16", "64"]


@pytest.mark.parametrize(("fast", "scale"), [(150, "linear"), (2500, "log")])
def test_speed_bars_are_logarithmic_only_over_a_wide_range(fast, scale):
    table = pd.DataFrame(
        {"name": ["a", "b"], "samples_per_second": [12.5, fast], "note": ["", "x"]}
    )
    figure, _ = plots.speed_bars(table)
    [axes] = figure.axes
    assert axes.get_xscale() == scale
    assert [bar.get_width() for bar in axes.patches] == [12.5, fast]
    assert [text.get_text() for text in axes.texts] == ["12.5", f"{fast:,.0f}"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b\nx"]


def test_figure_text_is_at_least_eight_points_whatever_the_user_settings():
    with mpl.rc_context({"font.size": 3, "xtick.labelsize": 3}):
        figure, _ = plots.recall_by_dim(make_recall())
        figure.canvas.draw()
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert len(texts) > 10
    assert min(text.get_fontsize() for text in texts) >= 8


@pytest.mark.parametrize("setup", ["", "%matplotlib inline"])
def test_figure_displays_once_in_a_notebook_with_alt_text(setup, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [
        setup,
        "import pandas as pd\nfrom edge_lib import plots\n"
        "table = pd.DataFrame({'name': ['a'], 'samples_per_second': [1.0]})\n"
        "figure, table = plots.speed_bars(table)",
        "figure",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    (image,) = [output for output in outputs if "image/png" in output.get("data", {})]
    assert image is notebook.cells[-1].outputs[0]
    alt, width = (image.metadata["image/png"][key] for key in ("alt", "width"))
    assert image["data"]["text/plain"] == alt == "Samples per second: a 1."
    png = Image.open(io.BytesIO(base64.b64decode(image["data"]["image/png"])))
    assert png.mode == "P"
    assert png.width == 2 * width == 2 * 3.5 * 128
    html, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert f'alt="{alt}"' in html


def make_seeds() -> pd.DataFrame:
    """Two variants at two dims over three seeds, with values 0.1, 0.2, ... by row."""
    index = pd.MultiIndex.from_product([["ours", "theirs"], [8, 64], [0, 1, 2]])
    table = index.to_frame(index=False, name=["variant", "dim", "seed"])
    return table.assign(value=0.1 * np.arange(1, 13))


def test_variant_lines_draw_means_and_spread_over_seeds():
    figure, table = plots.variant_lines(make_seeds(), "dim", "value", ylabel="R@1")
    assert table.set_index(["variant", "dim"])["mean"].round(6).to_dict() == {
        ("ours", 8): 0.2,
        ("ours", 64): 0.5,
        ("theirs", 8): 0.8,
        ("theirs", 64): 1.1,
    }
    assert set(table["seeds"]) == {3}
    np.testing.assert_allclose(table["highest"] - table["lowest"], 0.2)
    (axes,) = figure.axes
    lines = [c.lines[0] for c in axes.containers]
    for line, (_, part) in zip(lines, table.groupby("variant"), strict=True):
        assert pairs_of(part, "dim", "mean") == list(zip(*line.get_data(), strict=True))
    assert len({line.get_color() for line in lines}) == len({x.get_marker() for x in lines}) == 2
    assert axes.get_ylabel() == "R@1"


def test_variant_lines_give_each_panel_its_own_rows():
    table = pd.concat([make_seeds().assign(what="a"), make_seeds().assign(what="b", value=7.0)])
    figure, summary = plots.variant_lines(table, "dim", "value", "what", free_y=True, yscale="log")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert set(summary.query("what == 'b'")["mean"]) == {7.0}
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}


def test_variant_dots_draw_seeds_and_their_means():
    table = make_seeds().rename(columns={"dim": "pair"})
    figure, summary = plots.variant_dots(table, "variant", "value", "pair")
    (axes,) = figure.axes
    drawn = sorted(x for points in lines_of(axes) for x, _ in points)
    np.testing.assert_allclose(drawn, table["value"])
    bars = sorted(x for c in axes.collections for (x, _), _ in c.get_segments())
    np.testing.assert_allclose(bars, sorted(summary["mean"]))


def test_pareto_draws_means_of_settings_and_the_front():
    table = pd.DataFrame(
        {
            "decoder": ["plain", "plain", "plain", "recursive", "recursive"],
            "setting": [0, 0, 1, 2, 2],
            "cost": [10, 10, 40, 20, 20],
            "time": [3, 5, 1, 2, 2],
            "em": [0.5, 0.7, 0.8, 0.4, 0.5],
        }
    )
    figure, summary = plots.pareto(table, {"cost": "parameters", "time": "s"}, "em", "EM")
    assert summary["mean"].round(6).tolist() == [0.6, 0.8, 0.45]
    assert summary[["lowest", "highest", "seeds"]].loc[0].tolist() == [0.5, 0.7, 2]
    assert summary.time.tolist() == [4, 1, 2]
    by_cost, by_time = figure.axes
    # the recursive decoder costs more than the first plain one and scores lower: not on the front
    assert list(zip(*by_cost.lines[0].get_data(), strict=True)) == [(10, 0.6), (40, 0.8)]
    assert list(zip(*by_time.lines[0].get_data(), strict=True)) == [(1, 0.8)]
    assert (by_cost.get_xlabel(), by_time.get_xlabel(), by_cost.get_ylabel()) == (
        "parameters",
        "s",
        "EM",
    )


def test_stacked_bars_stack_mean_shares():
    table = pd.DataFrame(
        {"dim": [8, 8, 8, 8, 64, 64], "kind": list("ababab"), "share": [0.2, 0.1, 0.4, 0.3, 0.1, 0]}
    )
    figure, summary = plots.stacked_bars(table, "dim", "kind", "share")
    assert summary.set_index("dim").round(6).to_dict() == {
        "a": {8: 0.3, 64: 0.1},
        "b": {8: 0.2, 64: 0},
    }
    a, b = figure.axes[0].containers
    np.testing.assert_allclose([bar.get_width() for bar in b], [0.2, 0])
    np.testing.assert_allclose([bar.get_x() for bar in b], [bar.get_width() for bar in a])

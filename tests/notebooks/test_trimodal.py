"""02_trimodal, executed by papermill as a user would, on a smaller config."""

import pytest
from notebook_runs import card_values, printed_text, read_metrics, run_notebook
from PIL import Image

from edge_lib.config import load_config
from edge_lib.features.extract import write_features

SMALL = (  # as many damaged rows as whole ones: their captions are encoded once
    "data.scenes.train_size=600 data.scenes.val_size=40 data.scenes.test_size=200 "
    "data.scenes.degraded_size=600 train.epochs=16 train.batch_size=128 train.eval_every=40 "
    "evaluate.tsne_rows=60 fusion.seeds=[0,1] fusion.width=128 fusion.train.epochs=12 "
    "fusion.train.batch_size=64 features.num_processes=1"
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run folder, executed notebook and metrics of a run from outside the repository."""
    folder = tmp_path_factory.mktemp("elsewhere")
    overrides = f"{SMALL} data.cache_dir={folder / 'cache'}"
    config = load_config("params/tiny/trimodal.yaml", overrides)
    write_features(config.data, config.feature_spec)  # the notebook launches no process for it
    notebook = run_notebook("02_trimodal", folder, overrides, ["edge_lib.experiments.trimodal"])
    return folder / "run", notebook, read_metrics(folder / "run")


def test_every_modality_retrieves_every_other(executed):
    metrics = executed[2]
    for a, b in (("vision", "text"), ("audio", "text"), ("vision", "audio")):
        assert metrics[f"test.{a}_to_{b}.r1"] > 0.1  # chance 0.005
        assert metrics[f"test.{b}_to_{a}.r1"] > 0.1
        assert metrics[f"test.{b}_to_{a}.r10"] > 0.5


def test_images_and_speech_become_aligned_through_text(executed):
    assert executed[2]["emergent.test.vision_to_audio.r1"] > 0.05  # chance 0.005
    assert "emergent.test.audio_to_vision.r1.dim256" in executed[2]


def test_fusion_beats_the_better_single_modality(executed):
    gains = [executed[2][f"fusion.{s}.gain"] for s in ("concat", "cross_attention", "gated")]
    assert sorted(gains)[-2] > 0  # two of three
    assert executed[2]["fusion.concat.r1_sd"] >= 0


def test_gates_turn_to_the_modality_that_is_intact(executed):
    metrics = executed[2]
    falls = [metrics[f"gates.{name}_features.fall"] for name in ("vision", "audio")]
    assert sum(falls) > 0.02
    assert metrics["gates.vision_features.gain"] > 0.03
    assert metrics["gates.all_inputs.gain"] > 0.03
    assert metrics["gates.whole.gain"] > -0.1
    assert {"gates.vision_input.fall", "gates.audio_input.gain_sd"} <= metrics.keys()


def test_cards_have_the_metrics_of_heads_and_fusions(executed):
    run, _, metrics = executed
    heads = card_values(run / "checkpoints/best")
    gallery = "gallery of 200, one right answer"
    name = f"R@1, audio to text, {gallery}"
    assert heads[next(n for n in heads if n.startswith(name))] == metrics["test.audio_to_text.r1"]
    cards = [card_values(run / f"fusion-{seed}/checkpoints/best") for seed in (0, 1)]
    (name,) = [n for n in cards[0] if n.startswith("R@1, gated of vision + audio")]
    mean = sum(card[name] for card in cards) / 2
    assert mean == pytest.approx(metrics["fusion.gated.r1"])


def test_figures_and_their_tables_are_written(executed):
    figures = executed[0] / "figures"
    pairs = ("vision_audio", "vision_text", "audio_text")
    names = {"samples", "loss_curve", "recall_by_dim", "tsne", "audio_retrieval", "fusion"}
    names |= {"gate_weights", *(f"similarity_{pair}" for pair in pairs)}
    assert {path.stem for path in figures.glob("*.png")} == names
    for name in names:
        assert min(Image.open(figures / f"{name}.png").size) > 150
        assert len((figures / f"{name}.csv").read_text().splitlines()) > 1


def test_notebook_shows_every_figure_once_without_warnings(executed):
    outputs = [o for cell in executed[1].cells for o in cell.get("outputs", [])]
    assert "Warning" not in printed_text(executed[1])
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 10

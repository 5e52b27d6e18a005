"""06_vlm, executed by papermill on a smaller config, with an aligner from a folder."""

import json
import re

import pandas as pd
import pytest
from notebook_outputs import figure_alts, outputs
from notebook_runs import card_values, run_notebook
from untrained_aligner import save_untrained_aligner

from edge_lib.config import load_config
from edge_lib.experiments.vlm import CHAT_SPLITS

SMALL = (
    "data.conversations.train_scenes=64 data.conversations.val_scenes=12 "
    "data.conversations.test_scenes=12 data.conversations.per_scene=4 evaluate.bootstrap=50 "
    "vlm.stages.projector.max_steps=12 vlm.stages.lora.max_steps=12 vlm.max_new_tokens=24 "
    "aligner.config=null "
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    overrides = f"{SMALL} data.cache_dir={folder / 'cache'} aligner.folder={folder / 'aligner'}"
    aligner = load_config("params/tiny/align_qa.yaml", "text=null")
    config = load_config("params/tiny/vlm.yaml", overrides)
    save_untrained_aligner(aligner, config, CHAT_SPLITS, folder / "aligner")
    notebook = run_notebook("06_vlm", folder, overrides, ["edge_lib.experiments.vlm"])
    run = folder / "run"
    return run, json.loads((run / "metrics.json").read_text()), notebook


def test_stages_train_projector_then_adapters(executed):
    run, metrics, _ = executed
    assert 0 < metrics["parameters.trained.projector"] < metrics["parameters.trained.lora"]
    assert metrics["parameters.trained.lora"] < metrics["parameters.lora"]
    curves = pd.read_csv(run / "figures" / "training.csv").query("series == 'val.loss'")
    last = curves.groupby("variant").value.last()
    assert last["lora"] < last["projector"]


def test_scores_come_with_their_counts_and_controls(executed):
    _, metrics, _ = executed
    for end in ("", ".another", ".none"):
        assert metrics[f"vlm.caption_em.n{end}"] == metrics[f"vlm.n{end}"] == 12
        assert 12 < metrics[f"vlm.qa_em.n{end}"] <= 24
        assert 0 <= metrics[f"vlm.qa_em{end}"] <= metrics[f"vlm.qa_f1{end}"] <= 1
        assert metrics[f"vlm.things{end}"] > 12
    assert metrics["vlm.perplexity"] > 1
    assert metrics["vlm.perplexity.n"] > 100


def test_card_has_the_scores_with_the_own_image(executed):
    run, metrics, _ = executed
    values = card_values(run / "lora/checkpoints/best")
    (value,) = [value for name, value in values.items() if name.startswith("em, qa, image: own")]
    assert value == metrics["vlm.qa_em"]
    assert not any("another" in name for name in values)


def test_quantised_models_take_less_memory_and_train(executed):
    run, metrics, _ = executed
    bits = pd.read_csv(run / "figures" / "bits.csv", index_col=0)
    assert list(bits.index) == ["fp32", "8bit", "4bit"]
    assert bits["weights MB"].is_monotonic_decreasing
    assert metrics["vlm.validation_loss.4bit"] < 10
    for name in ("8bit", "4bit"):
        assert (run / name / "checkpoints" / "best" / "adapters.safetensors").exists()
    for name in ("training", "exact_match", "captions"):
        assert (run / f"figures/{name}.png").stat().st_size > 5000
    alts = figure_alts(executed[2])
    assert len(alts) == 4
    assert all(len(alt) > 40 for alt in alts)


def test_demo_says_which_answers_are_right_and_how_many(executed):
    shown = [output.get("data", {}) for output in outputs(executed[2])]
    (demo,) = [data["text/html"] for data in shown if "verdict" in data.get("text/html", "")]
    verdicts = re.findall("<td>(right|wrong)</td>", demo)
    share = verdicts.count("right") / len(verdicts)
    assert len(verdicts) > 2
    rates = [data["text/markdown"] for data in shown if "text/markdown" in data]
    assert f"**{share:.0%} of these {len(verdicts)} answers are right**" in rates[0]

"""06_vlm, executed by papermill on a smaller config; its aligner is made first."""

import json

import pandas as pd
import pytest
from notebook_runs import run_notebook
from test_trm_qa import ALIGNER

SMALL = (
    "data.conversations.train_scenes=64 data.conversations.val_scenes=12 "
    "data.conversations.test_scenes=12 data.conversations.per_scene=4 evaluate.bootstrap=50 "
    "vlm.stages.projector.max_steps=12 vlm.stages.lora.max_steps=12 vlm.max_new_tokens=24 "
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    cache = f"data.cache_dir={folder / 'cache'}"
    aligner = f"'aligner.overrides={ALIGNER} {cache}'"
    run_notebook("06_vlm", folder, f"{SMALL} {cache} {aligner}")
    run = folder / "run"
    return run, json.loads((run / "metrics.json").read_text())


def test_both_stages_train_what_they_should(executed):
    run, metrics = executed
    assert 0 < metrics["parameters.trained.projector"] < metrics["parameters.trained.lora"]
    assert metrics["parameters.trained.lora"] < metrics["parameters.lora"]
    curves = pd.read_csv(run / "figures" / "training.csv").query("series == 'val.loss'")
    last = curves.groupby("arm").value.last()
    assert last["lora"] < last["projector"]


def test_scores_come_with_their_number_and_their_controls(executed):
    _, metrics = executed
    for end in ("", ".another", ".none"):
        assert metrics[f"vlm.caption_em.n{end}"] == metrics[f"vlm.n{end}"] == 12
        assert 12 < metrics[f"vlm.qa_em.n{end}"] <= 24
        assert 0 <= metrics[f"vlm.qa_em{end}"] <= metrics[f"vlm.qa_f1{end}"] <= 1
        assert metrics[f"vlm.things{end}"] > 12
    assert metrics["vlm.perplexity"] > 1
    assert metrics["vlm.perplexity.n"] > 100


def test_fewer_bits_take_less_memory_and_train(executed):
    run, metrics = executed
    bits = pd.read_csv(run / "figures" / "bits.csv", index_col=0)
    assert list(bits.index) == ["fp32", "8bit", "4bit"]
    assert bits["weights MB"].is_monotonic_decreasing
    assert metrics["vlm.validation_loss.4bit"] < 10
    for name in ("8bit", "4bit"):
        assert (run / name / "checkpoints" / "best" / "adapters.safetensors").exists()
    for name in ("training", "exact_match", "captions"):
        assert (run / f"figures/{name}.png").stat().st_size > 5000

"""Model cards: facts of the run, metrics as the Hub reads them, nothing of the user's machine."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from edge_lib.config import ModalityConfig, load_config
from edge_lib.export.card import data_licence, eval_results, write_card
from edge_lib.metrics.recall import COLUMNS
from edge_lib.models import Aligner
from edge_lib.models.saving import model_digest
from edge_lib.runs import Run

WIDTHS = {"vision": (128, 128), "text": (384, 384)}
RECALL = pd.DataFrame(
    [
        (
            "text",
            "vision",
            dim,
            k,
            recall,
            recall - 0.1,
            recall + 0.1,
            2000,
            "one right answer",
            k / 2000,
        )
        for dim, k, recall in [(8, 1, 0.25), (16, 1, 0.5), (16, 5, np.float64(0.75))]
    ],
    columns=COLUMNS,
)
SCORES = pd.DataFrame(
    [("basic", "em", 0.5, 0.4, math.nan, 1000, "trm"), ("empty", "f1", math.nan, 0, 0, 0, "trm")],
    columns=["kind", "measure", "value", "low", "high", "questions", "variant"],
)


@pytest.fixture
def config(tiny_vision):
    return load_config("params/tiny/align.yaml", f"vision.encoder={tiny_vision} train.lr=0.007")


@pytest.fixture
def run(config, tmp_path):
    """A run with a saved aligner and two figures."""
    run = Run.create(config, "01_align", tmp_path / "run")
    torch.manual_seed(0)
    modalities = {
        "vision": ModalityConfig(encoder=config.vision.encoder, width=16),
        "text": ModalityConfig(encoder="all-MiniLM-L6-v2", width=16),
    }
    Aligner(modalities, [16, 8], WIDTHS).save_pretrained(run.checkpoints / "best")
    for name in ("recall_by_dim", "retrieval"):
        (run.folder / "figures" / f"{name}.png").write_bytes(name.encode())
    return run


def write(run, config, scores=RECALL, **keys):
    write_card(run, config, run.checkpoints / "best", scores, ["- R@1 **0.5**"], **keys)
    return ModelCard.load(run.checkpoints / "best/README.md")


def test_card_holds_the_metrics_as_a_model_index(run, config):
    card = write(run, config)
    metadata = yaml.safe_load(str(card).split("---\n")[1])
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"name": "scenes", "type": "scenes", "split": "test"}
    assert [metric["value"] for metric in result["metrics"]] == [0.5, 0.75]
    assert result["metrics"][0]["name"] == "R@1, text to vision, gallery of 2,000, one right answer"
    expected = {
        "dim": 16,
        "k": 1,
        "rows": 2000,
        "rule": "one right answer",
        "chance": 0.0005,
        "low": 0.4,
        "high": 0.6,
    }
    assert result["metrics"][0]["args"] == expected
    index = eval_results_to_model_index(card.data.model_name, card.data.eval_results)
    assert index == metadata["model-index"]


@pytest.mark.parametrize("scores", [RECALL, SCORES], ids=["recall", "answers"])
def test_card_is_valid_for_the_hub(fake_hub, run, config, scores):
    """The fake Hub checks what the real one is known to: names, types and values of metadata."""
    write(run, config, scores).validate()
    assert fake_hub.requests == {"POST /api/validate-yaml": 1}


def test_score_without_a_value_is_left_out(run, config):
    (result,) = write(run, config, SCORES).data.eval_results
    assert (result.metric_type, result.metric_value) == ("exact_match", 0.5)
    expected = {"kind": "basic", "variant": "trm", "questions": 1000, "low": 0.4}
    assert result.metric_args == expected


def test_card_tells_how_the_model_was_trained(run, config):
    environment = json.loads((run.folder / "env.json").read_text())
    environment |= {"git_commit": "abc-dirty", "device": "NVIDIA H100"}
    (run.folder / "env.json").write_text(json.dumps(environment))
    text = write(run, config, limits=["- cannot bind"]).text
    assert "\n- R@1 **0.5**\n" in text
    assert "\n- cannot bind\n" in text
    assert "| commit | abc-dirty |" in text
    assert "| device | NVIDIA H100 |" in text
    (values,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    values = yaml.safe_load(values)
    assert values["train"]["lr"] == 0.007
    assert values["vision"]["encoder"] == "vision"  # a folder, without its path


def test_card_names_the_encoders_and_weights(run, config):
    aligner = Aligner.from_pretrained(run.checkpoints / "best")
    card = write(run, config)
    assert card.data.base_model == ["sentence-transformers/all-MiniLM-L6-v2"]
    for name in ("vision", "text"):
        assert f"`{aligner.encoder_digests[name]}`" in card.text
    assert f"`{model_digest(run.checkpoints / 'best')}`" in card.text
    count = sum(p.numel() for p in aligner.heads.parameters())
    assert f"| trained parameters | {count:,} |" in card.text


def test_card_has_no_path_of_the_machine(run, config, tiny_vision, tmp_path):
    text = str(write(run, config))
    assert not re.search(r"(?<![\w.])/(root|home|tmp|work|usr|var|private)/", text)
    assert str(tiny_vision.parent) not in text
    assert "vision (a local folder)" in text


def test_card_shows_the_named_figures_alone(run, config):
    text = write(run, config, figures=["recall_by_dim", "missing"]).text
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["figures/recall_by_dim.png"]
    (copy,) = (run.checkpoints / "best/figures").iterdir()
    assert copy.read_bytes() == b"recall_by_dim"
    write(run, config)  # figures of an earlier card are removed
    assert not (run.checkpoints / "best/figures").exists()


def test_model_without_a_card_is_reported(run, config):
    (run.checkpoints / "best/README.md").unlink()
    with pytest.warns(UserWarning, match=r"best has no model card"):
        write_card(run, config, run.checkpoints / "best", RECALL, [])


def test_card_is_the_same_when_written_again(run, config):
    first = str(write(run, config, figures=["recall_by_dim"]))
    assert str(write(run, config, figures=["recall_by_dim"])) == first


def test_pushed_model_keeps_the_card_of_its_run(fake_hub, run, config):
    write(run, config, figures=["recall_by_dim"])
    aligner = Aligner.from_pretrained(run.checkpoints / "best")
    aligner.modalities["vision"].encoder = "tiny-resnet"  # loadable by others
    commit = aligner.push_to_hub("org/name").oid
    files = fake_hub.repositories["org/name"].commits[commit]
    assert files["figures/recall_by_dim.png"] == b"recall_by_dim"
    card = ModelCard.load("org/name")
    assert [r.metric_value for r in card.data.eval_results] == [0.5, 0.75]


def test_card_names_the_data_set_of_the_hub(run, config, tmp_path):
    data = load_config("params/tiny/align.yaml", "data.source=hub data.hub.name=org/pictures").data
    (first, _) = eval_results(data, RECALL)
    assert (first.dataset_type, first.dataset_name) == ("org/pictures", "org/pictures")
    card = write(run, config.model_copy(update={"data": data}))
    assert card.data.datasets == ["org/pictures"]
    folder = load_config("params/tiny/align.yaml", f"data.source=hub data.hub.name={tmp_path}").data
    assert eval_results(folder, RECALL)[0].dataset_type == "hub"


def test_licence_is_that_of_the_download(config, tmp_path):
    assert "CC BY 4.0" in data_licence(config.data)
    overrides = f"data.source=folder data.folder.path={tmp_path} data.download.name=stamps "
    data = load_config("params/tiny/align.yaml", overrides + f"data.download.out={tmp_path}").data
    assert data_licence(data) == "not recorded"
    (tmp_path / "download.json").write_text(json.dumps({"licence": "GPL-2"}))
    assert data_licence(data) == "GPL-2"

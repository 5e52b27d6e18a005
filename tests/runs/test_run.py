"""The run folder: what is kept, merged, refused and forgotten."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from PIL import Image

from edge_lib.config import ExperimentConfig
from edge_lib.runs import Run


@pytest.fixture
def config():
    return ExperimentConfig(name="small", seed=5)


@pytest.fixture
def run(config, tmp_path):
    return Run.create(config, "nb", tmp_path / "run")


def test_same_config_opens_the_same_folder(config, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_lib.runs.run.ROOT", tmp_path)
    first = Run.create(config, "01_align")
    first.save_metrics(a=1.0)
    again = Run.create(config.model_copy(), "01_align")
    assert again.folder == first.folder
    assert again.folder == tmp_path / "runs" / f"01_align-small-{config.digest()}"
    assert again.metrics() == {"a": 1.0}
    assert Run.create(config.model_copy(update={"seed": 6}), "01_align").folder != first.folder


def test_another_config_in_the_same_folder_is_refused(config, run):
    kept = (run.folder / "config.yaml").read_text()
    with pytest.raises(FileExistsError, match="another config"):
        Run.create(config.model_copy(update={"seed": 6}), "nb", run.folder)
    assert (run.folder / "config.yaml").read_text() == kept


def test_folder_tells_what_was_run_and_on_what(config, run):
    assert {p.name for p in run.folder.iterdir() if p.is_dir()} == {
        "figures",
        "checkpoints",
        "logs",
    }
    saved = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert ExperimentConfig.model_validate(saved) == config
    env = json.loads((run.folder / "env.json").read_text())
    assert env["seed"] == 5
    assert {"torch", "transformers", "python", "device", "git_commit", "command"} <= set(env)
    assert env["torch"].split(".")[0].isdigit()


def test_history_reads_what_was_logged(run):
    assert run.history().empty
    run.log(1, **{"train.loss": 2.5})
    run.log(2, **{"train.loss": 1.5, "lr": 1e-7})
    history = run.history()
    assert history["step"].tolist() == [1, 2]
    assert history["train.loss"].tolist() == [2.5, 1.5]
    assert history["lr"].iloc[1] == pytest.approx(1e-7, rel=1e-12)
    assert pd.isna(history["lr"].iloc[0])


def test_a_loss_that_is_nan_is_still_readable(run):
    run.log(1, loss=float("nan"))
    run.log(2, loss=1.0)
    assert pd.isna(run.history()["loss"]).tolist() == [True, False]


@pytest.mark.parametrize("tail", ["", '{"step": 4, "lo', '{"step": 2, "loss": 0.', "\x00\x00"])
def test_rewind_drops_later_steps_and_half_a_line(run, tail):
    for step in (1, 2, 3):
        run.log(step, loss=float(step))
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(tail)
    run.rewind(2)
    run.log(3, loss=30.0)
    history = run.history()
    assert history["step"].tolist() == [1, 2, 3]
    assert history["loss"].tolist() == [1.0, 2.0, 30.0]


def test_rewind_to_the_start_and_without_a_log(run):
    run.rewind(0)
    run.log(1, loss=1.0)
    run.rewind(0)
    assert (run.folder / "metrics.jsonl").read_text() == ""
    assert len(run.history()) == 0


def test_metrics_merge(run):
    assert run.metrics() == {}
    run.save_metrics(**{"test.r1": 0.5, "seconds.total": 1.0})
    merged = run.save_metrics(**{"test.r1": 0.75, "qa.em": 0.25})
    expected = {"test.r1": 0.75, "seconds.total": 1.0, "qa.em": 0.25}
    assert merged == expected
    assert json.loads((run.folder / "metrics.json").read_text()) == expected


def test_an_interrupted_write_leaves_the_old_file(run, monkeypatch):
    run.save_metrics(a=1)

    def stop(self, text):
        self.open("w").write(text[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(run.folder), "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        run.save_metrics(a=2)
    assert run.metrics() == {"a": 1}
    assert [p.name for p in run.folder.glob(".*")] == []


def test_figures_come_with_their_numbers(run):
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([1, 2])
    table = pd.DataFrame({"x": [1, 2], "y": [0.25, 0.5]})
    path = run.save_figure("recall", figure, table)
    plt.close(figure)
    assert path == run.folder / "figures" / "recall.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 200
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "figures" / "recall.csv"), table)


def test_a_run_whose_data_changed_is_refused(run):
    run.remember("features", ["a", "b"])
    run.remember("features", ["a", "b"])
    with pytest.raises(ValueError, match="its features are no longer"):
        run.remember("features", ["a", "c"])

"""The run folder: config, metrics, log and figures."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from PIL import Image

from edge_lib.config import ConfigError, ExperimentConfig
from edge_lib.config.launch import LaunchConfig
from edge_lib.runs import Run


@pytest.fixture
def config():
    return ExperimentConfig(name="small", seed=5)


@pytest.fixture
def run(config, tmp_path):
    return Run.create(config, "nb", tmp_path / "run")


def test_create_opens_same_folder_for_same_config(config, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_lib.runs.run.ROOT", tmp_path)
    first = Run.create(config, "01_align")
    first.save_metrics(a=1.0)
    again = Run.create(config.model_copy(), "01_align")
    assert again.folder == first.folder
    assert again.folder == tmp_path / "runs" / f"01_align-small-{config.digest()}"
    assert again.metrics() == {"a": 1.0}
    assert Run.create(config.model_copy(update={"seed": 6}), "01_align").folder != first.folder


def test_create_rejects_folder_of_another_config(config, run):
    saved = (run.folder / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="another config"):
        Run.create(config.model_copy(update={"seed": 6}), "nb", run.folder)
    assert (run.folder / "config.yaml").read_text() == saved


def test_create_rejects_folder_with_other_files(config, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"is not a run folder: it holds thesis\.tex; choose"):
        Run.create(config, "nb", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_create_accepts_folder_with_notebook_and_hidden_files(config, tmp_path):
    (tmp_path / "out.ipynb").touch()
    (tmp_path / ".lock").touch()
    assert Run.create(config, "nb", tmp_path).metrics() == {}


IMPOSSIBLE = {
    "no cluster": ({"num_nodes": 2}, "launch.num_nodes=2 needs launch.cluster=slurm, an srun "),
    "rank too high": ({"node_rank": 1}, "launch.node_rank=1 needs a larger launch.num_nodes"),
}


@pytest.mark.parametrize(("launch", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_create_refuses_nodes_that_cannot_find_each_other(config, tmp_path, launch, message):
    config = config.model_copy(update={"launch": LaunchConfig(**launch)})
    with pytest.raises(ConfigError, match=f"^{message}"):
        Run.create(config, "nb", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["cluster", "rdzv_endpoint"])
def test_create_accepts_nodes_of_slurm_and_of_an_endpoint(config, tmp_path, key):
    value = {"cluster": "slurm", "rdzv_endpoint": "node0:29500"}[key]
    launch = LaunchConfig(num_nodes=2, **{key: value})
    Run.create(config.model_copy(update={"launch": launch}), "nb", tmp_path / "run")


def test_create_refuses_another_number_of_nodes_than_srun_started(config, tmp_path, monkeypatch):
    step = {"JOB_ID": "7", "STEP_ID": "0", "STEP_NUM_TASKS": "2", "PROCID": "0"}
    for name, value in (step | {"STEP_NODELIST": "n[1-2]"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    config = config.model_copy(update={"launch": LaunchConfig(num_nodes=3)})
    with pytest.raises(ConfigError, match=r"^launch\.num_nodes=3, but srun started 2 tasks"):
        Run.create(config, "nb", tmp_path / "run")


def test_create_reports_unusable_folder_in_one_line(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        Run.create(config, "nb", tmp_path / "file" / "run")
    expected = f"{tmp_path}/file/run: cannot create the run folder: Not a directory"
    assert str(caught.value) == expected


def test_create_reports_missing_permission(config, tmp_path, monkeypatch):
    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "mkdir", deny)
    with pytest.raises(ConfigError, match="run: cannot create the run folder: Permission denied"):
        Run.create(config, "nb", tmp_path / "run")


def test_run_dir_is_relative_to_repository(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edge_lib.config.base.ROOT", tmp_path / "repository")
    assert Run.create(config, "nb", "runs/x").folder == tmp_path / "repository" / "runs" / "x"


def test_run_folder_is_relative_to_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Run("x").folder == tmp_path / "x"


def test_create_saves_config_and_environment(config, run):
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


def test_history_returns_logged_steps(run):
    assert run.history().empty
    run.log(1, **{"train.loss": 2.5})
    run.log(2, **{"train.loss": 1.5, "lr": 1e-7})
    history = run.history()
    assert history["step"].tolist() == [1, 2]
    assert history["train.loss"].tolist() == [2.5, 1.5]
    assert history["lr"].iloc[1] == pytest.approx(1e-7, rel=1e-12)
    assert pd.isna(history["lr"].iloc[0])


def test_history_keeps_nan(run):
    run.log(1, loss=float("nan"))
    run.log(2, loss=1.0)
    assert pd.isna(run.history()["loss"]).tolist() == [True, False]


@pytest.mark.parametrize(
    "tail", ["", '{"step": 4, "lo', '{"step": 2, "loss": 0.', "\x00\x00"], ids=range(4)
)
def test_rewind_drops_later_steps_and_partial_line(run, tail):
    for step in (1, 2, 3):
        run.log(step, loss=float(step))
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(tail)
    run.rewind(2)
    run.log(3, loss=30.0)
    history = run.history()
    assert history["step"].tolist() == [1, 2, 3]
    assert history["loss"].tolist() == [1.0, 2.0, 30.0]


@pytest.mark.parametrize(
    "line",
    [b'{"step": 2, "loss": 0.5', b'{"stdp": 2}', b"[2]", b'{"step": 2, "\xff": 0}', b"{} {}"],
    ids=["cut", "no step", "list", "no text", "two"],
)
def test_damaged_line_of_the_log_is_named(run, line):
    run.log(1, loss=1.0)
    path = run.folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    run.log(3, loss=3.0)
    for read in (run.history, lambda: run.rewind(3)):
        with pytest.raises(ConfigError, match=r"metrics\.jsonl: line 2 is damaged: "):
            read()


def test_history_of_a_killed_run_lacks_the_line_that_it_was_writing(run):
    run.log(1, loss=0.1 + 0.2)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.history().to_dict("records") == [{"step": 1, "loss": 0.1 + 0.2}]


def test_damaged_metrics_are_named(run):
    run.save_metrics(a=1)
    (run.folder / "metrics.json").write_text('{"a": ')
    with pytest.raises(ConfigError, match=r"metrics\.json is damaged: "):
        run.save_metrics(b=2)


def test_rewind_to_start_or_without_log(run):
    run.rewind(0)
    run.log(1, loss=1.0)
    run.rewind(0)
    assert (run.folder / "metrics.jsonl").read_text() == ""
    assert len(run.history()) == 0


def test_save_metrics_merges(run):
    assert run.metrics() == {}
    run.save_metrics(**{"test.r1": 0.5, "seconds.total": 1.0})
    run.save_metrics(**{"test.r1": 0.75, "qa.em": 0.25})
    expected = {"test.r1": 0.75, "seconds.total": 1.0, "qa.em": 0.25}
    assert run.metrics() == expected
    assert json.loads((run.folder / "metrics.json").read_text()) == expected


def test_save_metrics_keeps_old_file_when_interrupted(run, monkeypatch):
    run.save_metrics(a=1)

    def stop(self, text):
        self.open("w").write(text[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(run.folder), "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        run.save_metrics(a=2)
    assert run.metrics() == {"a": 1}
    assert [p.name for p in run.folder.glob(".*")] == []


def test_save_figure_writes_image_and_table(run):
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([1, 2])
    table = pd.DataFrame({"x": [1, 2], "y": [0.25, 0.5]})
    assert run.save_figure("recall", figure, table) is figure
    plt.close(figure)
    with Image.open(run.folder / "figures" / "recall.png") as image:
        assert image.format == "PNG"
        assert image.width > 200
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "figures" / "recall.csv"), table)


def test_ensure_unchanged_rejects_other_value(run):
    run.ensure_unchanged("features", ["a", "b"])
    run.ensure_unchanged("features", ["a", "b"])
    with pytest.raises(ValueError, match="features changed since this run started"):
        run.ensure_unchanged("features", ["a", "c"])

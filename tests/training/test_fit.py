"""The training loop: resuming, several processes, non-finite losses, schedule."""

import shutil

import pytest
import torch
from align_targets import train_and_die
from line_targets import Line, Points, fit_line, train_config
from safetensors.torch import load_file, save_file
from torch import nn

from edge_lib.experiments.align import AlignmentTask, train_aligner
from edge_lib.features.extract import write_features
from edge_lib.models import Aligner
from edge_lib.runs import Run
from edge_lib.training.accelerator import sharding_plugin
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.fit import NonFiniteLossError
from edge_lib.training.launch import WorkerError, launch
from edge_lib.training.optimizer import make_optimizer, rate_factor

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def run(tmp_path):
    for part in ("checkpoints", "logs"):
        (tmp_path / part).mkdir()
    return Run(tmp_path)


def test_fit_learns_a_line(run):
    assert fit_line(run, epochs=30).item() == pytest.approx(3, abs=0.01)


def test_accumulation_averages_its_batches(run):
    """One update on three batches equals plain AdamW on their mean gradient."""
    weight = fit_line(run, accumulation=3, max_steps=1)
    model, points = Line(), Points()
    optimizer = make_optimizer(model, train_config())
    torch.stack([model(points[i]) for i in range(3)]).mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    torch.testing.assert_close(weight, model.w.detach())


def test_fit_has_a_bar_of_steps_with_the_loss(run, relayed_states):
    fit_line(run, epochs=2, checkpoint_every=5)
    state = relayed_states()[-1]
    assert state["options"] == {"name": "train", "total": 12, "unit": " steps"}
    assert (state["n"], state["closed"]) == (12, True)
    loss = float(state["postfix"].removeprefix("loss="))
    assert loss == pytest.approx(run.history()["loss"].iloc[-1], rel=0.01)

    shutil.rmtree(run.checkpoints / "step-00000012")
    fit_line(run, epochs=2)
    assert [state["n"] for state in relayed_states()[-2:]] == [10, 12]


def test_headless_fit_shows_lines_and_no_bar(run, monkeypatch, capsys):
    monkeypatch.setattr("edge_lib.runs.progress.DELAY", 1e-9)
    monkeypatch.setattr("edge_lib.runs.progress.SECONDS", 0)
    fit_line(run, epochs=1, log_every=3)
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines() if "loss" in line] == ["3/6", "6/6"]
    assert err == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nan_error_names_the_step_and_the_rows(run, precision):
    with pytest.raises(NonFiniteLossError, match=r"step 5: loss nan.*point-4-0, point-4-1"):
        fit_line(run, Points(broken=[4]), checkpoint_every=2, precision=precision)
    assert (run.logs / "nonfinite-step-5.txt").read_text().split()[-1] == "point-4-7"
    weights = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")
    assert torch.isfinite(weights["w"]).all()


def test_fit_saves_the_best_state_not_the_last(run):
    seen, scores = [], iter([1.0, 5.0, 2.0])

    def evaluate(model):
        seen.append(model.w.item())
        return {"score": next(scores)}

    fit_line(run, evaluate=evaluate, eval_every=10)
    assert torch.load(run.checkpoints / "best" / "w.pt").item() == seen[1] != seen[2]


def test_sharding_plugin_follows_the_config(monkeypatch):
    assert sharding_plugin(train_config(), 8) == {}
    with pytest.raises(RuntimeError, match=r"train\.sharding=fsdp2 needs GPUs"):
        sharding_plugin(train_config(sharding="fsdp2"), 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fsdp = sharding_plugin(train_config(sharding="fsdp2"), 8)["fsdp_plugin"]
    assert fsdp.fsdp_version == 2
    assert fsdp.reshard_after_forward is True
    assert fsdp.ignored_modules == "prefix_sources"
    with pytest.raises(RuntimeError, match="zero2 needs DeepSpeed: pip install deepspeed"):
        sharding_plugin(train_config(sharding="zero2"), 8)
    monkeypatch.setattr("edge_lib.training.accelerator.is_deepspeed_available", lambda: True)
    monkeypatch.setattr("edge_lib.training.accelerator.DeepSpeedPlugin", dict)
    sharded = train_config(
        sharding="zero2", batch_size=32, accumulation=4, precision="bf16", clip=0.5
    )
    assert sharding_plugin(sharded, 8)["deepspeed_plugin"]["hf_ds_config"] == {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
    }


def test_checkpoints_keep_the_newest_and_ignore_incomplete_ones(run):
    (run.checkpoints / ".step-00000099").mkdir()
    fit_line(run, checkpoint_every=5, keep_checkpoints=2)
    names = sorted(path.name for path in run.checkpoints.glob("step-*"))
    assert names == ["step-00000025", "step-00000030"]
    assert newest_checkpoint(run.checkpoints).name == "step-00000030"


def test_checkpoints_have_the_permissions_of_new_files(run):
    fit_line(run, max_steps=1)
    (new := run.checkpoints / "new").touch()
    files = [*newest_checkpoint(run.checkpoints).iterdir()]
    assert "model.safetensors" in {file.name for file in files}
    assert {file.stat().st_mode for file in files} == {new.stat().st_mode}


def test_schedule_rises_and_falls():
    cosine, cooldown = rate_factor(0.1, None, 100), rate_factor(0.1, 0.2, 100)
    for factor in (cosine, cooldown):
        assert [factor(s) for s in (0, 9, 10)] == pytest.approx([0.1, 1, 1])
        assert factor(100) == pytest.approx(0)
    assert cosine(55) == pytest.approx(0.5)
    assert [cooldown(s) for s in (80, 90)] == pytest.approx([1, 0.5])


def test_optimizer_decays_only_matrices(small_align):
    config = small_align()
    widths = {"vision": (16, 16), "text": (0, 384)}
    aligner = Aligner(config.modalities, config.loss.dims, widths)
    task = AlignmentTask(aligner, config.loss, config.pairs, config.seed)
    decayed, plain = make_optimizer(task, train_config(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0)
    assert any(p is task.loss.logit_scale.log_scale for p in plain["params"])
    assert all(p.ndim >= 2 for p in decayed["params"])


# every option that draws random numbers or counts batches
RANDOM = (
    "vision.dropout=0.2 train.text_dropout=0.2 loss.sample_single_dim=true train.accumulation=2 "
)


def encode(config):
    write_features(config.data, config.feature_spec)


@pytest.fixture(scope="module")
def encoded(small_align):
    encode(small_align())


def final_state(folder):
    newest = newest_checkpoint(Run(folder).checkpoints)
    return load_file(newest / "model.safetensors"), torch.load(newest / "optimizer.bin")


def trained(config, folder, processes=1):
    run = Run.create(config, "test", folder)
    launch(train_aligner, config, run.folder, num_processes=processes, log_dir=run.logs)
    return final_state(folder)


@pytest.mark.usefixtures("encoded")
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(small_align, tmp_path):
    config = small_align(RANDOM + "train.epochs=3 train.log_every=1")
    expected, expected_optimizer = trained(config, tmp_path / "whole")
    run = Run.create(config, "test", tmp_path / "killed")
    # step 5 is inside an epoch and after the checkpoint of step 4
    with pytest.raises(WorkerError, match="SIGKILL"):
        launch(train_and_die, config, run.folder, 5)
    assert newest_checkpoint(run.checkpoints).name == "step-00000004"
    weights, optimizer = trained(config, run.folder)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for number, state in expected_optimizer["state"].items():
        assert all(torch.equal(optimizer["state"][number][k], v) for k, v in state.items())
    steps = run.history().dropna(subset="loss")["step"].tolist()
    assert steps == list(range(1, 10))
    whole = Run(tmp_path / "whole").history()
    assert run.history()["loss"].equals(whole["loss"])


@pytest.mark.usefixtures("encoded")
@pytest.mark.parametrize(
    "extra", ["", "data.hard_negatives=true train.accumulation=2"], ids=["plain", "hard negatives"]
)
def test_two_processes_train_like_one(small_align, tmp_path, extra):
    config = small_align(f"train.text_dropout=0.2 loss.sample_single_dim=true {extra}")
    one, _ = trained(config, tmp_path / "one")
    two, _ = trained(config, tmp_path / "two", processes=2)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-5, rtol=1e-3)
    losses = [Run(tmp_path / name).history()["loss"].dropna() for name in ("one", "two")]
    assert losses[0].to_numpy() == pytest.approx(losses[1].to_numpy(), rel=1e-3)


@pytest.mark.usefixtures("encoded")
def test_finished_run_does_not_change_when_started_again(small_align, tmp_path):
    config = small_align()
    before, _ = trained(config, tmp_path)
    history = Run(tmp_path).history()
    after, _ = trained(config, tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert Run(tmp_path).history().equals(history)


@pytest.mark.usefixtures("encoded")
def test_changed_encoder_refuses_to_resume_old_heads(small_align, tiny_vision, tmp_path):
    copy = tmp_path / "encoder"
    shutil.copytree(tiny_vision, copy)
    config = small_align(f"vision.encoder={copy}")
    encode(config)
    trained(config, tmp_path / "run")
    weights = load_file(copy / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, copy / "model.safetensors")
    encode(config)
    with pytest.raises(WorkerError, match="features changed since this run started"):
        trained(config, tmp_path / "run")

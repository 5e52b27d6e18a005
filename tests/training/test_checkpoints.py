"""Checkpoints: damage is noticed, and training goes on from the newest one without any."""

import shutil
from types import SimpleNamespace

import pytest
from line_targets import fit_line
from safetensors.torch import load_file

from edge_lib.config import ConfigError
from edge_lib.runs import Run
from edge_lib.runs.files import has_digest, read_json
from edge_lib.training.checkpoints import DIGESTS, newest_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

STEPS = {"checkpoint_every": 10, "keep_checkpoints": 2, "log_every": 5}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path).part("run")


@pytest.fixture
def stopped(run):
    """(run, its weight) of a run whose last checkpoints are those of steps 20 and 30 of 30."""
    return run, fit_line(run, **STEPS)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def test_checkpoint_has_the_digests_of_its_files(stopped):
    folder = newest_checkpoint(stopped[0].checkpoints)
    digests = read_json(folder / DIGESTS)
    assert {*digests, DIGESTS} == {path.name for path in folder.iterdir()}
    assert all(has_digest(folder / name, digest) for name, digest in digests.items())


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", flip_bit),
        ("optimizer.bin", flip_bit),
        ("custom_checkpoint_1.pkl", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("random_states_0.pkl", lambda path: path.unlink()),
        ("custom_checkpoint_0.pkl", lambda path: path.write_bytes(b"")),
        (DIGESTS, lambda path: path.write_text("{")),
        (DIGESTS, flip_bit),
    ],
    ids=["weights", "moments", "cut", "missing", "empty", "digests cut", "digests changed"],
)
def test_damaged_checkpoint_is_removed_and_the_one_before_is_used(stopped, capsys, file, damage):
    run, weight = stopped
    history = run.history()["loss"]
    damage(newest_checkpoint(run.checkpoints) / file)
    assert fit_line(run, **STEPS).equal(weight)
    printed = capsys.readouterr().out
    assert " is damaged: step-00000030 is removed\nresumed from step-00000020\n" in printed
    assert run.history()["loss"].equals(history)


def test_training_starts_again_without_an_intact_checkpoint(stopped, capsys):
    run, weight = stopped
    for path in run.checkpoints.glob("step-*"):
        flip_bit(path / "optimizer.bin")
    assert fit_line(run, **STEPS).equal(weight)
    printed = capsys.readouterr().out
    assert printed.count("optimizer.bin is damaged") == 2
    assert "resumed" not in printed


def test_checkpoint_of_an_earlier_version_is_used(stopped, capsys):
    run, weight = stopped
    shutil.rmtree(run.checkpoints / "step-00000030")
    (run.checkpoints / "step-00000020" / DIGESTS).unlink()
    assert fit_line(run, **STEPS).equal(weight)
    assert "resumed from step-00000020" in capsys.readouterr().out


def test_training_removes_what_a_killed_process_left(stopped):
    run, _ = stopped
    for name in (".step-00000029", ".best.0a1b2c3d"):
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "model.safetensors").write_bytes(b"half")
    fit_line(run, **STEPS)
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["best", "step-00000020", "step-00000030"]


def test_full_disk_of_a_checkpoint_is_named(run, monkeypatch):
    """torch's error tells neither the file nor the cause."""

    def save_state(*_, **__):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    accelerator = SimpleNamespace(
        is_main_process=True, wait_for_everyone=lambda: None, save_state=save_state
    )
    with pytest.raises(RuntimeError, match="file write failed"):
        save_checkpoint(accelerator, run.checkpoints, 7, keep=2)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    message = r"checkpoints/\.step-00000007: No space left on device; make room"
    with pytest.raises(ConfigError, match=message):
        save_checkpoint(accelerator, run.checkpoints, 7, keep=2)


def test_resumed_weights_are_those_of_the_checkpoint(stopped):
    run, weight = stopped
    saved = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")["w"]
    assert saved.equal(weight)

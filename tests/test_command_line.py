"""`edge-glass` and `python -m edge_lib`: help, dispatch and errors."""

import os
import shutil
import subprocess
import sys
import tomllib
from pkgutil import resolve_name

import pytest

from edge_lib import __main__ as command_line
from edge_lib.config import ROOT, ConfigError

CONFIG = "params/tiny/align.yaml"


def run_module(*arguments):
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_help_lists_commands_without_heavy_imports():
    result = run_module("edge_lib", "--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("download", "extract", "sweep", "bench"))
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "pandas", "submitit", "papermill"}


def test_script_is_installed_from_main():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert resolve_name(scripts["edge-glass"]) is command_line.main


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_command_help_names_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main([name, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert {
        "bench": "--json",
        "download": "NAME",
        "export": "--int8",
        "runs": "--csv",
        "serve": "RUN",
    }.get(name, "--overrides") in printed


def test_make_stamps_runs_the_notebook_on_real_pictures():
    command = ["make", "--dry-run", "--assume-old", ".venv/ready", "stamps"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "papermill notebooks/01_align.ipynb runs/stamps_01_align.ipynb" in printed
    assert "-p config params/stamps/align.yaml" in printed


@pytest.mark.parametrize(
    ("on_path", "installs"),
    [
        (["uv"], "uv pip install --python .venv/bin/python"),
        ([], ".venv/bin/python -m pip install"),
    ],
    ids=["uv", "pip"],
)
def test_environment_is_built_with_what_is_on_the_path(on_path, installs, tmp_path):
    for name in on_path:
        (tmp_path / name).write_text("#!/bin/sh")
        (tmp_path / name).chmod(0o755)
    flags = "--dry-run", "--always-make", "--no-print-directory"
    command = [shutil.which("make"), *flags, ".venv/ready"]
    environment = os.environ | {"PATH": str(tmp_path), "MAKEFLAGS": ""}  # not of a make outside
    options = {"cwd": ROOT, "env": environment, "text": True, "check": True}
    lines = subprocess.run(command, capture_output=True, **options).stdout.splitlines()
    assert lines[0].startswith("uv venv") is bool(on_path)
    assert lines[1].startswith(installs)
    assert lines[1].endswith('-c constraints.txt -e ".[dev]"')


def test_unknown_command_lists_commands(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["sweeep"])
    names = ", ".join(map(repr, command_line.COMMANDS))
    assert f"choose from {names}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", CONFIG], f"{CONFIG}: this needs sweep, which the config lacks\n"),
        (
            ["extract", CONFIG, "--overrides", "vision=null text=null"],
            f"{CONFIG}: this needs vision or audio or text, which the config lacks\n",
        ),
        (
            ["extract", CONFIG, "--overrides", "train.lr"],
            "overrides: 'train.lr' is not of the form",
        ),
        (
            ["extract", CONFIG, "--overrides", "launch.num_nodes=2"],
            "launch.num_nodes=2 needs launch.cluster=slurm, an srun with a task on each node, or "
            "launch.rdzv_endpoint=host:port of node 0\n",
        ),
        (["extract", CONFIG, "--tasks", "0"], "--tasks: expected at least 1, got 0\n"),
    ],
    ids=["sweep", "no-modality", "extract", "nodes", "tasks"],
)
def test_config_error_is_one_line(arguments, message, capsys):
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert len(printed.splitlines()) == 1


def test_note_of_a_config_error_is_printed(monkeypatch, capsys):
    def fail(arguments):
        """Fail."""
        error = ConfigError("manifest.json cannot be read")
        error.add_note("jobs go on")
        raise error

    monkeypatch.setitem(command_line.COMMANDS, "fail", fail)
    assert command_line.main(["fail"]) == 2
    assert capsys.readouterr().err == "manifest.json cannot be read\njobs go on\n"


@pytest.mark.parametrize(
    ("interrupt", "line"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (KeyboardInterrupt("stopped at step 3"), "stopped at step 3"),
    ],
    ids=["without-message", "with-message"],
)
def test_interrupt_is_one_line(interrupt, line, monkeypatch, capsys):
    def stop(arguments):
        """Stop."""
        raise interrupt

    monkeypatch.setitem(command_line.COMMANDS, "sweep", stop)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(KeyboardInterrupt) as caught:
        command_line.main(["sweep", CONFIG])
    sys.excepthook(caught.type, caught.value, caught.tb)
    assert capsys.readouterr().err == f"{line}\n"


def test_sweep_module_runs_sweep_command():
    result = run_module("edge_lib.sweep", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: edge-glass sweep")


def test_extract_prints_counts_of_each_store(tiny_vision, tmp_path, capsys):
    overrides = (
        f"vision.encoder={tiny_vision} text=null data.cache_dir={tmp_path} "
        "data.scenes.train_size=8 data.scenes.val_size=8 data.scenes.test_size=8 "
        "data.scenes.swap_size=4"
    )
    assert command_line.main(["extract", CONFIG, "--overrides", overrides]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train/vision: 8 items, 0 skipped, 0 truncated" in lines
    assert "test/vision: 8 items, 0 skipped, 0 truncated" in lines


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        (["--tasks", "3"], (3, "local")),
        (["--cluster", "slurm"], (1, "slurm")),
        (["--cluster", "slurm", "--tasks", "64"], (64, "slurm")),
    ],
    ids=["local", "slurm", "array"],
)
def test_extract_by_tasks_prints_missing_shards(options, tasks, monkeypatch, capsys):
    calls = []

    def run_tasks(data, spec, count, cluster, log_dir):
        calls.append((count, cluster))
        counts = {"items": 8, "skipped": 1, "truncated": 0}
        return {"val/vision": counts}, ["train vision: 1 of 2 shards missing: 1"]

    monkeypatch.setattr("edge_lib.features.extract_tasks.run_tasks", run_tasks)
    assert command_line.main(["extract", CONFIG, *options]) == 1
    assert calls == [tasks]
    printed = capsys.readouterr()
    assert printed.out == "val/vision: 8 items, 1 skipped, 0 truncated\n"
    assert printed.err == "train vision: 1 of 2 shards missing: 1\n"

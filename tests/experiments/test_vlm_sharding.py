"""Sharded training of a VLM: two processes on the CPU, over gloo, against one."""

import shutil

import numpy as np
import pytest
import torch
from accelerate.utils import is_deepspeed_available
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from vlm_targets import train_sharded_vlm

from edge_lib.experiments.vlm import train_vlm
from edge_lib.runs import Run
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import launch

STAGE = "vlm.stages.lora.accumulation=2 vlm.stages.lora.batch_size=4 vlm.stages.lora.ema=null "
SHARDING = STAGE + "vlm.stages.lora.sharding="
no_deepspeed = pytest.mark.skipif(not is_deepspeed_available(), reason="needs deepspeed")


@pytest.fixture(scope="module")
def plain(make_vlm_config, aligner_folder, tmp_path_factory):
    """The same training in one process, unsharded."""
    run = Run.create(make_vlm_config(STAGE), "vlm", tmp_path_factory.mktemp("plain"))
    launch(train_vlm, make_vlm_config(STAGE), "lora", aligner_folder, run.folder)
    return run


def assert_equal_runs(run, plain):
    """The same losses and gradient norms at each logged step, the same projectors and adapters."""
    histories = (r.history()[["step", "loss", "grad_norm", "val.loss"]] for r in (run, plain))
    np.testing.assert_allclose(*histories, rtol=1e-5)
    for part in ("projectors", "adapters"):
        ours, expected = (
            load_file(r.checkpoints / f"best/{part}.safetensors") for r in (run, plain)
        )
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def checkpoint_names(folder):
    """The names of the parameters in a checkpoint of the model."""
    if (folder / "pytorch_model_fsdp_0").is_dir():
        metadata = FileSystemReader(folder / "pytorch_model_fsdp_0").read_metadata()
        return {name.removeprefix("model.") for name in metadata.state_dict_metadata}
    if (folder / "model.safetensors").is_file():
        return set(load_file(folder / "model.safetensors"))
    state = torch.load(folder / "pytorch_model/mp_rank_00_model_states.pt", weights_only=False)
    return set(state["module"]) | set(state["frozen_param_fragments"] or ())


@pytest.mark.parametrize("sharding", ["fsdp2", pytest.param("zero2", marks=no_deepspeed)])
def test_sharded_training_equals_one_process(
    sharding, plain, make_vlm_config, aligner_folder, tmp_path
):
    """Uninterrupted and resumed; checkpoints hold, and processes share, what is trained alone."""
    config = make_vlm_config(SHARDING + sharding)
    run = Run.create(config, "vlm", tmp_path)
    arguments = train_sharded_vlm, config, "lora", aligner_folder, run.folder
    results = launch(*arguments, num_processes=2).values()
    assert_equal_runs(run, plain)
    newest = newest_checkpoint(run.checkpoints)
    assert checkpoint_names(newest) == checkpoint_names(newest_checkpoint(plain.checkpoints))
    trained = next(iter(results))[0]["parameters.trained"]
    shares = [share for _, share in results]
    assert sum(shares) == pytest.approx(trained, rel=0.01)  # ZeRO pads its partitions
    assert max(shares) < 0.6 * trained

    shutil.rmtree(newest)  # as if the run had been killed after the checkpoint before
    shutil.rmtree(run.checkpoints / "best")
    launch(*arguments, num_processes=2)
    assert_equal_runs(run, plain)

"""Functions that tests of the VLM run in new processes, which import them by name."""

import os
from importlib import import_module
from unittest import mock

from accelerate import PartialState
from accelerate.utils import DistributedType, is_deepspeed_available

from edge_lib.experiments.vlm import train_vlm
from edge_lib.training import fit


def train_sharded_vlm(*arguments):
    """`train_vlm` with a sharding, on a CPU, which Accelerate takes for a GPU.

    Returns its metrics and the size of this process's share of AdamW's first moments.
    """
    _prepare_deepspeed()
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    make, accelerators = fit.make_accelerator, []

    def make_accelerator(*options):
        with mock.patch("torch.cuda.is_available", return_value=True):
            accelerators.append(make(*options))
        return accelerators[0]

    with mock.patch.object(fit, "make_accelerator", make_accelerator):
        metrics = train_vlm(*arguments)
    states = accelerators[0]._optimizers[0].optimizer.state.values()
    moments = [state["exp_avg"] for state in states]
    return metrics, sum(getattr(x, "_local_tensor", x).numel() for x in moments)


def _prepare_deepspeed():
    os.environ["DS_ACCELERATOR"] = "cpu"
    if is_deepspeed_available():
        # it would compile for minutes; as an attribute, deepspeed.comm.torch is PyTorch
        import_module("deepspeed.comm.torch").build_shm_op = lambda: None

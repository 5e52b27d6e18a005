"""Functions that tests on a GPU run in new processes, which import them by name."""

import os

import torch.distributed as dist

from edge_lib.experiments.align import train_aligner
from edge_lib.training.device import local_device


def train_over_nccl(config, run_folder):
    """`train_aligner` within a process group of NCCL; its metrics, backend and device."""
    dist.init_process_group("nccl", device_id=local_device())
    dist.barrier()
    backend = dist.get_backend()  # the end of training closes the group
    return train_aligner(config, run_folder), backend, str(local_device())


def train_on_cpu(config, run_folder):
    """`train_aligner` as on a machine without a GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return train_aligner(config, run_folder)

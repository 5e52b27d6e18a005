"""Functions that tests of the VLM run in new processes, which import them by name."""

import os
from pathlib import Path
from types import SimpleNamespace

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from edge_lib.models.vlm import VLM
from edge_lib.training.checkpoints import save_model
from edge_lib.training.fit import evaluate_model


def save_sharded_vlm(folder, start, batch):
    """Shard a VLM over two ranks as Accelerate's FSDP2 does, evaluate and save it.

    Returns its loss and the number of trained weights on this rank.
    """
    dist.init_process_group("gloo")
    vlm = VLM.from_pretrained(start)
    vlm.train_adapters(True)
    mesh = init_device_mesh("cpu", (2,))
    for layer in vlm.language.base_model.layers:
        fully_shard(layer, mesh=mesh)
    # sharded together: they may be the same weight
    fully_shard([vlm.get_input_embeddings(), vlm.get_output_embeddings()], mesh=mesh)
    fully_shard(vlm, mesh=mesh, ignored_params=set(vlm.prefix_sources.parameters()))
    accelerator = SimpleNamespace(is_main_process=os.environ["RANK"] == "0")
    loss = evaluate_model(vlm, lambda model: {"loss": model(batch).item()})["loss"]
    save_model(accelerator, vlm, Path(folder) / "checkpoints/best")
    vlm(batch).backward()
    trained = [p for p in vlm.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    dist.destroy_process_group()
    return loss, sum(p.to_local().numel() for p in trained)

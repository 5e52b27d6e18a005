"""What the tests of the VLM run in new processes, which import it by name."""

import os
from pathlib import Path
from types import SimpleNamespace

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from edge_lib.models.vlm import VLM
from edge_lib.runs import Run
from edge_lib.training.fit import keep_best
from edge_lib.training.progress import Progress


def keep_the_best_of_shards(folder, start, batch):
    """Share a VLM out over two ranks as Accelerate's FSDP2 does, and keep it: its loss, and how
    many of its trained weights this rank has.
    """
    dist.init_process_group("gloo")
    vlm, found = VLM.from_pretrained(start), {}
    vlm.train_adapters(True)
    mesh = init_device_mesh("cpu", (2,))
    for layer in vlm.language.base_model.layers:
        fully_shard(layer, mesh=mesh)
    # one unit, as they may be the same weight
    fully_shard([vlm.get_input_embeddings(), vlm.get_output_embeddings()], mesh=mesh)
    fully_shard(vlm, mesh=mesh, ignored_params=set(vlm.streams.parameters()))
    rank = int(os.environ["RANK"])
    accelerator = SimpleNamespace(unwrap_model=lambda m: m, is_main_process=rank == 0)
    report = SimpleNamespace(write=lambda **metrics: None)

    def evaluate(model):
        found["loss"] = model(batch).item()
        return {"score": 0.0}

    keep_best(accelerator, vlm, evaluate, Run(Path(folder)), Progress(), report)
    vlm(batch).backward()
    trained = [p for p in vlm.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    dist.destroy_process_group()
    return found["loss"], sum(p.to_local().numel() for p in trained)

"""Exported graphs through onnxruntime, in float32 and in 8 bits, against torch: cosines, recall,
size and speed of an aligner of images, clips and captions of scenes.

The aligner is that of notebook 02, trained on fewer scenes.
"""

import shutil
import tempfile
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.bench.tools import compare
from edge_lib.config import DataConfig, ExperimentConfig, FeatureSpec, load_config
from edge_lib.experiments.align import measure_aligner
from edge_lib.export.folder import export_model
from edge_lib.features.encoder import load_encoder
from edge_lib.features.extract import write_stores
from edge_lib.features.onnx import open_session
from edge_lib.features.store_writer import StoreWriter
from edge_lib.metrics.recall import retrieval_ranks
from edge_lib.models import Aligner
from edge_lib.runs import Run
from edge_lib.sources import load_table

SCENES = "data.scenes.train_size={train} data.scenes.val_size=200 data.scenes.test_size={test} "
SCENES += "data.scenes.swap_size=2 data.scenes.degraded_size=4 "
SCENES += "fusion=null data.cache_dir={folder}/cache"
BATCH = 32
SUFFIXES = {"onnx": "", "int8": "_quantized"}
Batches = list[dict[str, np.ndarray]]


def export(train: int = 3000, test: int = 1000, rounds: int = 5) -> dict[str, float]:
    """Of an aligner trained on so many scenes: cosines to torch, R@1 of `test` twins, size and
    items per second of each modality; and seconds to extract the features of the twins.
    """
    with tempfile.TemporaryDirectory() as folder:
        scenes = SCENES.format(train=train, test=test, folder=folder)
        config = load_config("params/tiny/trimodal.yaml", scenes)
        aligner = train_aligner(config, Path(folder) / "run")
        texts = load_table(config.data, "val").captions.take(range(128))
        export_model(aligner, Path(folder) / "exported", int8=True, texts=texts)
        onnx, batches = Path(folder) / "exported/onnx", scene_batches(aligner, config.data)
        embeddings = {"torch": {name: embed(aligner, name, batches[name]) for name in batches}}
        for kind, suffix in SUFFIXES.items():
            embeddings[kind] = {
                name: run(onnx / f"{name}_model{suffix}.onnx", batches[name]) for name in batches
            }
        result = parity(embeddings)
        for name, own in batches.items():
            result |= sizes(onnx, name) | speed(aligner, onnx, name, own[:4], rounds)
        return result | extraction(config, rounds)


def train_aligner(config: ExperimentConfig, folder: Path) -> Aligner:
    measure_aligner(config, Run.create(config, "align", folder).folder)
    return Aligner.from_pretrained(folder / "checkpoints/best")


def scene_batches(aligner: Aligner, data: DataConfig) -> dict[str, Batches]:
    """Inputs of the encoders for the images, clips and captions of scenes."""
    table, batches = load_table(data, "test"), {}
    rows = np.arange(len(table))
    for name, modality in aligner.modalities.items():
        encoder = load_encoder(name, modality.encoder_config)
        items = table.captions.take(rows) if name == "text" else table.try_decode(name, rows)
        parts = (items[i : i + BATCH] for i in range(0, len(items), BATCH))
        prepared = map(encoder.prepare, parts)
        batches[name] = [{key: x.numpy() for key, x in inputs.items()} for inputs in prepared]
    return batches


def embed(aligner: Aligner, name: str, batches: Batches) -> Tensor:
    """Embeddings (N, D) of torch, of unit length."""
    encoder, head = aligner.encoder(name), aligner.heads[name]
    outputs = []
    with torch.no_grad():
        for batch in batches:
            inputs = {key: torch.from_numpy(x) for key, x in batch.items()}
            outputs.append(F.normalize(head(encoder(**inputs))[1], dim=1))
    return torch.cat(outputs)


def run(path: Path, batches: Batches) -> Tensor:
    """Embeddings (N, D) of a graph."""
    session = open_session(path)
    return torch.from_numpy(np.concatenate([session.run(None, batch)[0] for batch in batches]))


def parity(embeddings: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    result = {}
    for kind, own in embeddings.items():
        for query, gallery in permutations(own, 2):
            ranks = retrieval_ranks(own[query], own[gallery])
            result[f"r1.{query}_to_{gallery}.{kind}"] = float((ranks == 0).mean())
        for name, x in own.items():
            cosines = (x * embeddings["torch"][name]).sum(1)
            result[f"cosine.{name}.{kind}.min"] = cosines.min().item()
            result[f"cosine.{name}.{kind}.mean"] = cosines.mean().item()
    return result


def sizes(onnx: Path, name: str) -> dict[str, float]:
    """MB of both graphs, and int8 / float32."""
    size = {k: (onnx / f"{name}_model{s}.onnx").stat().st_size / 1e6 for k, s in SUFFIXES.items()}
    return {f"mb.{name}.{kind}": mb for kind, mb in size.items()} | {
        f"mb.{name}.int8_of_fp32": size["int8"] / size["onnx"]
    }


def speed(
    aligner: Aligner, onnx: Path, name: str, batches: Batches, rounds: int
) -> dict[str, float]:
    """Seconds of the int8 graph (`ours`), the float32 graph and torch, and items per second."""
    functions = {
        "ours": partial(run, onnx / f"{name}_model_quantized.onnx", batches),
        "ours_fp32": partial(run, onnx / f"{name}_model.onnx", batches),
        "torch": partial(embed, aligner, name, batches),
    }
    result = compare(f"seconds.{name}", functions, rounds)
    items = sum(len(next(iter(batch.values()))) for batch in batches)
    for kind in functions:
        result[f"items_per_second.{name}.{kind}"] = items / result[f"seconds.{name}.{kind}"]
    return result


def extraction(config: ExperimentConfig, rounds: int) -> dict[str, float]:
    """Seconds to write the features of the test split, encoders loaded each time: with backend
    torch (`ours`) and with onnx.
    """
    spec, table, result = config.feature_spec, load_table(config.data, "test"), {}

    def write(name: str, backend: str) -> None:
        features = spec.features.model_copy(update={"backend": backend})
        own = FeatureSpec(spec.modalities, features, spec.cache_dir / "extraction")
        shutil.rmtree(own.cache_dir / "features", ignore_errors=True)
        write_stores([StoreWriter(own, name, table)], own)

    for name in spec.modalities:
        backends = {
            "ours": partial(write, name, "torch"),
            "ours_onnx": partial(write, name, "onnx"),
        }
        result |= compare(f"seconds.extract.{name}", backends, rounds)
    return result

"""The folder of an exported model, laid out as transformers.js reads it.

onnx/<graph>.onnx, onnx/<graph>_quantized.onnx
config.json                 the kind of model, dims, its encoders, versions
preprocessor_config.json    of images and of sound, in one file
tokenizer.json, ...         of texts
search.py                   searches pictures by text without torch
"""

import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from edge_lib.config import ConfigError
from edge_lib.config.packages import need_packages
from edge_lib.export.graphs import Graph, model_graphs
from edge_lib.features.encoder import Encoder
from edge_lib.features.onnx import OPSET, write_graph
from edge_lib.features.text import TextEncoder
from edge_lib.models import Aligner, QAModel
from edge_lib.models.saving import model_digest
from edge_lib.runs.files import whole_folder, write_json
from edge_lib.training.timing import seconds

SCRIPT = Path(__file__).with_name("search.py")  # it reads the folder that it is copied to


def export_model(
    model: nn.Module, folder: str | Path, int8: bool = False, texts: Sequence[str] = ()
) -> None:
    """Write an aligner, QA model or VLM as ONNX graphs in float32, and also with matrices in 8 bits
    if `int8`; the folder appears whole or not at all. ConfigError for a model that has no export.

    texts: such as those that will be embedded, on which 8 bits are calibrated; by default words.

    Example:
        >>> export_model(Aligner.from_pretrained("runs/.../checkpoints/best"), "exported")
    """
    need_packages("export", "export", ("onnxruntime", "onnxscript"))
    graphs = model_graphs(model)
    with whole_folder(folder) as temporary:
        (temporary / "onnx").mkdir()
        for name, graph in graphs.items():
            path = temporary / "onnx" / f"{name}.onnx"
            _write(graph, path, type(model).__name__)
            if int8:
                _write_int8(path, _feeds(graph, texts))
        modules = (module for graph in graphs.values() for module in graph.module.modules())
        _save_preprocessing((x for x in modules if isinstance(x, Encoder)), temporary)
        write_json(temporary / "config.json", _config(model, graphs))
        if isinstance(model, QAModel):
            model.vocabulary.save(temporary / "tokenizer.json")
        if isinstance(model, Aligner) and {"text", "vision"} <= model.modalities.keys():
            shutil.copyfile(SCRIPT, temporary / "search.py")


def _write(graph: Graph, path: Path, model: str) -> None:
    """One graph, with a line for its time and size."""
    print(f"{path.name}: ", end="", flush=True)
    arguments = graph.module, graph.inputs, graph.axes, graph.outputs, path, graph.defaults
    spent = seconds(partial(write_graph, *arguments, model=model))
    print(f"{path.stat().st_size / 1e6:.1f} MB in {spent:.0f} s", flush=True)


def _write_int8(path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    from edge_lib.export.quantize import quantize_graph

    quantized = path.with_stem(f"{path.stem}_quantized")
    quantize_graph(path, quantized, feeds)
    print(f"{quantized.name}: {quantized.stat().st_size / 1e6:.1f} MB", flush=True)


def _feeds(graph: Graph, texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Typical inputs of a graph of texts; none of others."""
    encoder = getattr(graph.module, "encoder", None)
    if not isinstance(encoder, TextEncoder):
        return []
    texts = texts or _random_texts(encoder)
    batches = (texts[i : i + 32] for i in range(0, len(texts), 32))
    return [{k: x.numpy() for k, x in encoder.prepare(batch).items()} for batch in batches]


def _random_texts(encoder: TextEncoder) -> list[str]:
    """128 texts of 4 to 40 words of the tokenizer."""
    vocabulary = encoder.model.tokenizer.get_vocab()
    words, random = sorted(filter(str.isalpha, vocabulary)), np.random.default_rng(0)
    return [" ".join(random.choice(words, count)) for count in random.integers(4, 41, 128)]


def _save_preprocessing(encoders: Iterable[Encoder], folder: Path) -> None:
    config = {}
    for encoder in encoders:
        if isinstance(encoder, TextEncoder):
            _save_tokenizer(encoder, folder)
        else:
            _merge(config, _plain_resize(encoder.processor.to_dict()))
    if config:
        write_json(folder / "preprocessor_config.json", config)


def _plain_resize(config: dict) -> dict:
    """ConvNeXt's processor, which derives resizing and cropping from `crop_pct`, as CLIP's."""
    if "crop_pct" not in config:
        return config
    edge, square = config["size"]["shortest_edge"], ("height", "width")
    size = dict.fromkeys(square, edge)
    crop = {"do_center_crop": edge < 384, "crop_size": size}
    if edge < 384:
        size = {"shortest_edge": int(edge / config["crop_pct"])}
    rest = {key: value for key, value in config.items() if key != "crop_pct"}
    return rest | crop | {"size": size, "image_processor_type": "CLIPImageProcessor"}


def _merge(config: dict, other: dict) -> None:
    """One file describes images and sound, of which the keys differ."""
    if clashes := [key for key in config.keys() & other.keys() if config[key] != other[key]]:
        raise ConfigError(f"images and sound need other values of {', '.join(sorted(clashes))}")
    config.update(other)


def _save_tokenizer(encoder: TextEncoder, folder: Path) -> None:
    """The tokenizer's files, of which `tokenizer.json` pads and truncates as the encoder does."""
    tokenizer = encoder.model.tokenizer
    tokenizer.save_pretrained(folder)
    path = str(folder / "tokenizer.json")
    fast = Tokenizer.from_file(path)
    fast.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    fast.enable_truncation(encoder.model.max_seq_length)
    fast.save(path)


def _config(model: nn.Module, graphs: dict[str, Graph]) -> dict:
    """`model_type` custom: transformers.js takes any graph of it as it is."""
    aligner = model if isinstance(model, Aligner) else getattr(model, "aligner", None)
    aligner = aligner or model.prefix_sources.aligner
    return {
        "model_type": "custom",
        "architectures": [type(model).__name__],
        "dims": aligner.dims,
        "model_sha256": model_digest(aligner.source) if aligner.source else None,
        "encoders": {name: m.encoder for name, m in aligner.modalities.items()},
        "graphs": {
            name: {"inputs": [*graph.inputs], "outputs": [*graph.outputs]}
            for name, graph in graphs.items()
        },
        "opset": OPSET,
        "torch": torch.__version__,
    }

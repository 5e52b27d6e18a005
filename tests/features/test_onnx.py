"""Frozen encoders through onnxruntime, against torch."""

import pickle

import pytest
import torch

from edge_lib.config import ConfigError, ModalityConfig
from edge_lib.features.encoder import load_encoder, run_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.onnx import OnnxEncoder
from edge_lib.features.store import open_store, store_folder
from edge_lib.sources import load_table


def test_features_through_onnxruntime_equal_those_of_torch(small_align, tiny_text, tmp_path):
    config = small_align(
        f"text.encoder={tiny_text} text.pooler=mean features.dtype=float32 features.batch_size=7 "
        f"data.cache_dir={tmp_path}"
    )
    table, specs = load_table(config.data, "val"), {}
    for backend in ("torch", "onnx"):
        config.features.backend = backend
        specs[backend] = config.model_copy(deep=True).feature_spec
        write_features(config.data, specs[backend], ["val"])
    for modality in ("vision", "text"):
        folders = [store_folder(spec, modality, table) for spec in specs.values()]
        assert folders[0] != folders[1]
        plain, onnx = (
            open_store(spec, modality, table).gather(range(16)) for spec in specs.values()
        )
        assert torch.equal(plain.mask, onnx.mask)
        torch.testing.assert_close(onnx.tokens, plain.tokens, rtol=0, atol=1e-5)
        torch.testing.assert_close(onnx.pooled, plain.pooled, rtol=0, atol=1e-5)


def test_graph_of_an_encoder_is_written_once(tiny_vision, tmp_path):
    config = ModalityConfig(encoder=str(tiny_vision)).encoder_config
    encoder = load_encoder("vision", config)
    first = OnnxEncoder("vision", encoder, config, tmp_path)
    written = first.path.stat().st_mtime_ns
    again = pickle.loads(pickle.dumps(OnnxEncoder("vision", encoder, config, tmp_path)))
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, written)
    inputs = {"pixel_values": torch.rand(2, 3, 32, 32)}
    expected, output = encoder(**inputs), run_encoder(again, inputs, "fp32", window=2)
    assert again.batch_size(128) == 32, "it runs on the CPU also of a machine with GPUs"
    assert output.grid == (1, 1), "squares of 2 x 2 tokens were averaged"
    torch.testing.assert_close(output.pooled, expected.pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("other", ["features.online=true", "features.precision=bf16"])
def test_backend_onnx_refuses_what_it_cannot_run(small_align, other):
    with pytest.raises(ConfigError, match="backend onnx needs precision fp32 and online false"):
        small_align(f"features.backend=onnx {other}")

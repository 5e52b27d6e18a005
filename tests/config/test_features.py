"""The precision in which encoders run where a config leaves it to the machine."""

import pickle

import pytest
import torch

from edge_lib.config import FeaturesConfig, load_config
from edge_lib.config.features import native_precision
from edge_lib.features.store import store_folder
from edge_lib.sources import load_table


@pytest.fixture
def processor(monkeypatch):
    """processor(bf16) makes this a machine without GPUs, whose CPU multiplies in bf16 or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def replace(bf16):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})

    return replace


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"architecture": "aarch64"}, "fp32"),
    ],
    ids=["avx512_bf16", "amx_bf16", "avx512", "arm"],
)
def test_native_precision_is_bf16_where_the_cpu_multiplies_in_it(
    monkeypatch, processor, flags, precision
):
    processor(True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert native_precision() == precision


@pytest.mark.parametrize("native", [True, False], ids=["ampere", "turing"])
def test_native_precision_is_bf16_on_gpus_that_do_not_emulate_it(monkeypatch, native):
    supported = lambda including_emulation=True: including_emulation or native  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert native_precision() == ("bf16" if native else "fp32")


@pytest.mark.parametrize(
    ("keys", "precision"),
    [
        ({"precision": "auto"}, "bf16"),
        ({"precision": "auto", "backend": "onnx"}, "fp32"),
        ({"precision": "fp16"}, "fp16"),
        ({}, "fp32"),
    ],
    ids=["auto", "onnx", "named", "default"],
)
def test_features_hold_the_resolved_precision(processor, keys, precision):
    if "backend" in keys:
        pytest.importorskip("onnxruntime")
    processor(True)
    assert FeaturesConfig(**keys).precision == precision


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
def test_auto_is_resolved_where_the_config_is_loaded(small_align, processor, write, bf16):
    processor(bf16)
    config = small_align("features.precision=auto")
    named = small_align(f"features.precision={'bf16' if bf16 else 'fp32'}")
    assert config == named
    assert config.digest() == named.digest()
    folder = store_folder(config.feature_spec, "text", load_table(config.data, "val"))
    saved, sent = write("config.yaml", config.to_yaml()), pickle.dumps(config.feature_spec)
    processor(not bf16)
    assert small_align("features.precision=auto").digest() != config.digest()
    assert load_config(saved).digest() == config.digest()
    table = load_table(config.data, "val")
    for spec in (load_config(saved).feature_spec, pickle.loads(sent)):
        assert store_folder(spec, "text", table) == folder

"""The precision in which encoders run where a config leaves it to the machine."""

import pytest
import torch

from edge_lib.features.encoder import resolve_precision
from edge_lib.features.store import store_folder
from edge_lib.sources import load_table


@pytest.mark.parametrize(
    ("device", "flags", "precision"),
    [
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ("cpu", {"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ("cpu", {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ("cpu", {"architecture": "aarch64"}, "fp32"),
        ("onnx", {"avx512_bf16": True}, "fp32"),
    ],
    ids=["avx512_bf16", "amx_bf16", "avx512", "arm", "onnx"],
)
def test_auto_is_bf16_where_the_processor_multiplies_in_it(monkeypatch, device, flags, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert resolve_precision("auto", device) == precision
    assert resolve_precision("fp16", device) == "fp16"


@pytest.mark.parametrize("native", [True, False], ids=["ampere", "turing"])
def test_auto_is_bf16_on_gpus_that_do_not_emulate_it(monkeypatch, native):
    supported = lambda including_emulation=True: including_emulation or native  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", "cuda") == ("bf16" if native else "fp32")


@pytest.mark.parametrize("native", [True, False], ids=["bf16", "fp32"])
def test_store_is_named_by_the_precision_in_which_this_machine_encodes(
    small_align, monkeypatch, native
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    specs = {p: small_align(f"features.precision={p}") for p in ("auto", "bf16", "fp32")}
    folders = {
        precision: store_folder(config.feature_spec, "text", load_table(config.data, "val"))
        for precision, config in specs.items()
    }
    assert folders["auto"] == folders["bf16" if native else "fp32"]
    assert folders["bf16"] != folders["fp32"]

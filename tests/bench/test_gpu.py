"""The GPU benchmark: failing parts, and parts at small sizes on a CPU."""

import json
from importlib import import_module

import pytest
import torch

from edge_lib.bench import gpu, matryoshka, retrieval, tools, trm, vlm


@pytest.fixture(autouse=True)
def _parts_run_in_this_process(monkeypatch):
    monkeypatch.setattr(tools, "in_new_process", lambda function, *args, timeout: function(*args))


def test_gpu_without_a_device_is_one_line(capsys):
    with pytest.raises(SystemExit, match="bench gpu needs a CUDA device"):
        gpu.gpu()


def test_gpu_part_that_fails_leaves_its_error_and_the_others_whole(monkeypatch, capsys):
    def out_of_memory(name, *_):
        if name == "matryoshka":
            raise torch.OutOfMemoryError("tried to allocate 26 GiB")
        return {"value": 7.0}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tools, "_run", out_of_memory)
    result = gpu.gpu()
    assert result["loss.error"] == "OutOfMemoryError: tried to allocate 26 GiB"
    assert {n for n in gpu.PARTS if result.get(f"{n}.value") == 7} == gpu.PARTS.keys() - {"loss"}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {name: value for line in lines for name, value in line.items()} == result


def test_gpu_parts_are_functions_of_benchmarks():
    for module, function, *_ in gpu.PARTS.values():
        assert callable(getattr(import_module(f"edge_lib.bench.{module}"), function))


def test_decoder_part_has_generation_and_training(monkeypatch):
    monkeypatch.setattr(trm, "NEW", 4)
    numbers = tools.measure_apart("trm", "at_widths", (64, 128), 2, timeout=600)
    for width in ("w64", "w128"):
        assert numbers[f"{width}.same_tokens"] == 1
        speed = 2 / numbers[f"{width}.seconds.step"]
        assert numbers[f"{width}.answers_per_second"] == pytest.approx(speed)
    assert numbers["seconds.total"] > numbers["w64.seconds.step"]


def test_loss_that_runs_out_of_memory_has_its_error(monkeypatch):
    step = matryoshka._step

    def step_or_error(name, batch, *rest):
        if name == "open_clip" and batch == 64:
            raise torch.OutOfMemoryError("26 GiB")
        return step(name, batch, *rest)

    monkeypatch.setattr(matryoshka, "DIMS", [16, 8])
    monkeypatch.setattr(matryoshka, "_step", step_or_error)
    monkeypatch.setattr(matryoshka, "memory_growth", lambda step: 2.0 if step() else 0.0)
    result = matryoshka.large_batches((32, 64), chunk=16)
    assert result["memory_mb.b32.bf16.open_clip.ratio"] == 1
    assert {key for key in result if key.startswith("seconds.b64.bf16")} == {
        f"seconds.b64.bf16.{name}"
        for name in (
            "ours",
            "ours_whole",
            "ours_whole.ratio",
            "ours_whole.ratio_min",
            "open_clip.error",
        )
    }
    assert result["seconds.b64.bf16.open_clip.error"] == "OutOfMemoryError: 26 GiB"


def test_search_part_finds_what_brute_force_finds(monkeypatch):
    monkeypatch.setattr(retrieval, "WIDTH", 128)
    result = retrieval.against_brute_force(5000, (1, 8))
    assert result["recall10.exact"] == 1
    assert result["recall10.coarse_to_fine"] > 0.9
    assert {f"seconds.q{n}.brute_force.ratio" for n in (1, 8)} < result.keys()


@pytest.mark.parametrize("quantize", [None, "4bit"], ids=["bf16", "nf4"])
def test_language_part_has_an_answer_and_a_training_step(monkeypatch, quantize):
    monkeypatch.setattr(vlm, "PATCHES", 5)
    monkeypatch.setattr(vlm, "ANSWER", 3)
    result = vlm.large_model(quantize, "tiny-qwen2", batch=2)
    assert result["answer64.seconds"] * result["answer64.tokens_per_second"] == pytest.approx(3)
    prompt = len(vlm.build("tiny-qwen2").chat.prompt(vlm.CONVERSATIONS[0]))
    tokens = result["train.seconds"] * result["train.tokens_per_second"]
    assert tokens == pytest.approx(2 * (prompt + 3))


def test_step_that_runs_out_of_memory_leaves_the_answer(monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("80 GiB")

    monkeypatch.setattr(vlm, "PATCHES", 5)
    monkeypatch.setattr(vlm, "ANSWER", 3)
    monkeypatch.setattr(vlm, "training_speed", out_of_memory)
    result = vlm.large_model(None, "tiny-qwen2", batch=2)
    assert result["train.error"] == "OutOfMemoryError: 80 GiB"
    assert result["answer64.seconds"] > 0


def test_loss_of_ours_that_fails_leaves_its_error_alone(monkeypatch):
    def step_or_error(name, *_):
        raise RuntimeError(f"{name}: too many blocks")

    monkeypatch.setattr(matryoshka, "_step", step_or_error)
    assert matryoshka.large_batches((32,), chunk=16) == {
        f"seconds.b32.{dtype}.{loss}.error": f"RuntimeError: {name}: too many blocks"
        for dtype in matryoshka.DTYPES
        for loss, name in matryoshka.ON_GPU.items()
    }

"""What only a GPU can show: `pytest -m gpu`. Skipped without CUDA."""

import numpy as np
import pytest
import torch
from align_targets import train_and_die
from gpu_targets import train_on_cpu, train_over_nccl
from safetensors.torch import load_file

from edge_lib.bench import matryoshka, vlm
from edge_lib.bench.trm import trm
from edge_lib.experiments.align import train_aligner
from edge_lib.features.extract import write_features
from edge_lib.features.store import open_store
from edge_lib.runs import Run
from edge_lib.search import MatryoshkaIndex
from edge_lib.sources import load_table
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import WorkerError, launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def _processes_are_spawned(monkeypatch):
    """As users' are: the fork server of the other tests may have used CUDA already."""
    monkeypatch.setattr("edge_lib.training.node.START_METHOD", "spawn")


@pytest.fixture(scope="module")
def gpu_align(small_align, tiny_text):
    """small_align with a text encoder that is made for the tests, and its features."""

    def make(overrides=""):
        config = small_align(f"text.encoder={tiny_text} train.log_every=1 {overrides}")
        write_features(config.data, config.feature_spec)
        return config

    return make


def losses(folder):
    return Run(folder).history()["loss"].dropna().to_numpy()


def final_weights(folder):
    return load_file(newest_checkpoint(Run(folder).checkpoints) / "model.safetensors")


def test_bf16_training_over_nccl_follows_fp32_training_on_a_cpu(gpu_align, tmp_path):
    config = gpu_align("train.precision=bf16")
    run = Run.create(config, "test", tmp_path / "gpu")
    results = launch(train_over_nccl, config, run.folder, log_dir=run.logs)
    metrics, backend, device = results[0]
    assert (backend, device) == ("nccl", "cuda:0")
    assert metrics["memory.peak_mb"] < 2000
    reference = gpu_align()
    launch(train_on_cpu, reference, Run.create(reference, "test", tmp_path / "cpu").folder)
    assert losses(run.folder) == pytest.approx(losses(tmp_path / "cpu"), rel=0.02)


def test_resumed_run_on_a_gpu_equals_uninterrupted_run(gpu_align, tmp_path):
    config = gpu_align("train.precision=bf16 train.epochs=3")
    whole, killed = (Run.create(config, "test", tmp_path / name) for name in ("whole", "killed"))
    launch(train_aligner, config, whole.folder)
    with pytest.raises(WorkerError, match="SIGKILL"):
        launch(train_and_die, config, killed.folder, 5)
    assert newest_checkpoint(killed.checkpoints).name == "step-00000004"
    launch(train_aligner, config, killed.folder)
    assert losses(killed.folder) == pytest.approx(losses(whole.folder), rel=1e-4)
    expected = final_weights(whole.folder)
    for name, weight in final_weights(killed.folder).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4)


def test_store_on_the_device_gives_what_the_mapped_store_gives(gpu_align):
    config = gpu_align()
    table, items = load_table(config.data, "train"), np.array([5, 0, 95, 5])
    for modality in ("vision", "text"):
        mapped = open_store(config.feature_spec, modality, table).gather(items)
        own = open_store(config.feature_spec, modality, table, "cuda").gather(items)
        assert own.pooled.is_cuda
        assert torch.equal(own.pooled.cpu(), mapped.pooled)
        if modality == "vision":
            assert torch.equal(own.tokens.cpu(), mapped.tokens)
            assert torch.equal(own.mask.cpu(), mapped.mask)


def test_features_of_a_gpu_in_bf16_point_where_those_of_a_cpu_point(gpu_align, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("edge_lib.features.extract.local_device", lambda: torch.device("cpu"))
        exact = gpu_align("features.dtype=float32")
    coarse = gpu_align("features.precision=bf16 features.dtype=float32")
    table = load_table(exact.data, "train")
    for modality in ("vision", "text"):
        one, two = (
            open_store(config.feature_spec, modality, table).gather(np.arange(96)).pooled
            for config in (exact, coarse)
        )
        assert not torch.equal(one, two)
        assert torch.cosine_similarity(one, two).min() > 0.999


@pytest.mark.parametrize("batch", [256, 4096])
def test_one_pass_loss_on_a_gpu_equals_float64(batch):
    errors = matryoshka.matryoshka_errors(batch)
    assert max(errors.values()) < 1e-5


@pytest.mark.parametrize("chunk", [None, 100], ids=["whole", "tiles"])
def test_one_pass_loss_of_bf16_inputs_equals_float64_of_the_same_inputs(chunk):
    a, b, scale = matryoshka._inputs(256, torch.bfloat16)
    loss = matryoshka.matryoshka_info_nce(a, b, scale, matryoshka.DIMS, chunk=chunk)
    exact_inputs = [x.detach().double().requires_grad_() for x in (a, b, scale)]
    exact = matryoshka.open_clip_loss(*exact_inputs, matryoshka.DIMS)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)
    gradients = zip(
        torch.autograd.grad(loss, (a, b)), torch.autograd.grad(exact, exact_inputs[:2]), strict=True
    )
    for own, expected in gradients:
        assert (own.double() - expected).norm() < 1e-2 * expected.norm()


def test_index_on_a_gpu_finds_what_it_finds_on_a_cpu():
    x = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    index = MatryoshkaIndex(x, [16, 64])
    own, queries = index.to("cuda"), x[:33] + 0.1
    for search in (
        lambda i: i.search(queries, 7),
        lambda i: i.search_coarse_to_fine(queries, 7, [16, 64], 50),
    ):
        hits, expected = search(own), search(index)
        assert hits.rows.is_cuda
        assert torch.equal(hits.rows.cpu(), expected.rows)
        torch.testing.assert_close(hits.scores.cpu(), expected.scores, rtol=1e-4, atol=1e-5)


def test_recursive_decoder_generates_the_same_with_and_without_cache():
    result = trm(batch=4, width=128)
    assert result["same_tokens"] == 1
    assert result["tokens"] == 64


@pytest.mark.parametrize("quantize", [None, "4bit"], ids=["bf16", "nf4"])
def test_language_model_learns_with_adapters_and_answers(quantize):
    model = vlm.build("tiny-qwen2", precision="bf16", quantize=quantize)
    frozen = {n: p.clone() for n, p in model.language.named_parameters() if ".lora_" not in n}
    step = vlm.training_step(model, vlm.training_batch(model, 4))
    first, *_, last = (step() for _ in range(20))
    assert last < first - 0.3
    assert all(torch.equal(model.language.get_parameter(n), p) for n, p in frozen.items())
    result = vlm.first_token(model.eval())
    assert result["same_token"] == 1

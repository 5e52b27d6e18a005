"""Losses against other implementations, and against brute force where none exists."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from loss_helpers import assert_same, grads, open_clip_loss
from torch import nn

from edge_lib.bench.matryoshka import matryoshka_losses
from edge_lib.config import LossConfig
from edge_lib.data.alignment_batches import Batch
from edge_lib.experiments.align import AlignmentTask
from edge_lib.nn.losses import LogitScale, build_loss, info_nce, matryoshka_info_nce
from edge_lib.nn.one_pass import BackpropType

DIMS = [32, 8, 16]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def features(batch=24, width=32, dtype=torch.float32):
    """A pair of aligned but noisy batches, far from unit norm."""
    shared, *own = torch.randn(3, batch, width, dtype=torch.float64)
    a, b = ((shared / 2 + x) * torch.rand(batch, 1).mul(5).exp() for x in own)
    return [x.to(dtype).requires_grad_() for x in (a, b)]


def loop(a, b, scale, dims, weights=None):
    """One size at a time, written plainly."""
    labels = torch.arange(len(a))
    loss = 0
    for d, w in zip(dims, weights or [1] * len(dims), strict=True):
        logits = scale * F.normalize(a[:, :d], dim=1) @ F.normalize(b[:, :d], dim=1).T
        loss += w * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    return loss


def leaf_scale(value=1 / 0.07, dtype=torch.float32):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def float64(*tensors):
    return [x.detach().double().requires_grad_() for x in tensors]


# --- against other libraries --------------------------------------------------------------------


class Stub(nn.Module):
    """A sentence encoder whose "texts" are their own embeddings."""

    def forward(self, inputs):
        return {"sentence_embedding": inputs["x"]}

    def get_embedding_dimension(self):
        return 32


@pytest.mark.parametrize("weights", [None, [1.0, 0.25, 2.0]], ids=str)
def test_matryoshka_loss_equals_sentence_transformers(weights):
    st = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    a, b = features()
    scale, stub = leaf_scale(), Stub()
    single = st.MultipleNegativesRankingLoss(
        stub, scale, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    theirs = st.MatryoshkaLoss(stub, single, DIMS, weights)([{"x": a}, {"x": b}], None)
    ours = matryoshka_info_nce(a, b, scale, DIMS, weights)
    assert_same(grads(ours, a, b, scale), grads(theirs, a, b, scale))


def test_matryoshka_loss_equals_open_clip():
    clip_loss = open_clip_loss().ClipLoss()
    a, b = features()
    scale = leaf_scale()

    def per_dim(dims):
        return sum(clip_loss(*(F.normalize(x[:, :d], dim=1) for x in (a, b)), scale) for d in dims)

    ours = matryoshka_info_nce(a, b, scale, DIMS)
    assert_same(grads(ours, a, b, scale), grads(per_dim(DIMS), a, b, scale))
    ours = info_nce(a, b, scale)
    assert_same(grads(ours, a, b, scale), grads(per_dim([32]), a, b, scale))


def test_bench_rivals_compute_the_same_loss():
    pytest.importorskip("sentence_transformers")

    a, b = features()
    scale = leaf_scale()
    expected = grads(loop(a, b, scale, DIMS), a, b, scale)
    for rival in matryoshka_losses(a, b, scale, DIMS, chunk=7).values():
        assert_same(grads(rival(), a, b, scale), expected)


# --- against a plain loop ---------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[32, 8, 16], [5], [31, 9, 4], [8, 32, 16]], ids=str)
@pytest.mark.parametrize("chunk", [None, 1, 7, 24, 100])
@pytest.mark.parametrize(
    "scale", [1 / 0.07, 60.0, 90.0], ids=str
)  # a shared exp, its limit, and beyond
def test_matryoshka_loss_equals_float64_loop(dims, chunk, scale):
    a, b = features()
    scale = leaf_scale(scale)
    a64, b64, s64 = float64(a, b, scale)
    weights = [0.5 + i for i in range(len(dims))]
    ours = matryoshka_info_nce(a, b, scale, dims, weights, chunk)
    theirs = loop(a64, b64, s64, dims, weights)
    assert ours.dtype is torch.float32
    assert_same(grads(ours, a, b, scale), grads(theirs, a64, b64, s64))


@pytest.mark.parametrize("chunk", [None, 2])
def test_matryoshka_loss_passes_gradcheck(chunk):
    a, b = features(batch=5, width=6, dtype=torch.float64)
    present = torch.tensor([True, True, False, True, True])
    for mask in (None, present):
        torch.autograd.gradcheck(
            lambda a, b, s, mask=mask: (
                3 * matryoshka_info_nce(a, b, s, [2, 5, 1], None, chunk, mask)
            ),
            (a, b, leaf_scale(4.0, torch.float64)),
        )


def test_sample_single_dim_uses_one_dim_unscaled():
    a, b = (x.detach() for x in features())
    scale = torch.tensor(14.0)
    weights = [1.0, 2.0, 3.0]
    singles = {round(float(w * info_nce(a[:, :d], b[:, :d], scale)), 3): d
               for d, w in zip(DIMS, weights, strict=True)}  # fmt: skip
    draws = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        args = {"sample_single_dim": True, "generator": generator}
        draws.append(
            singles[round(float(matryoshka_info_nce(a, b, scale, DIMS, weights, **args)), 3)]
        )
    assert set(draws) == set(DIMS)


def test_loss_without_gradients_skips_their_computation(monkeypatch):
    from edge_lib.nn import one_pass

    a, b = features()
    expected = info_nce(a, b, leaf_scale()).detach()
    monkeypatch.delattr(one_pass.Strip, "gradients")
    with torch.no_grad():
        assert torch.equal(info_nce(a, b, leaf_scale()), expected)


def test_loss_can_be_differentiated_twice():
    a, b = features()
    loss = info_nce(a, b, leaf_scale())
    (once,) = torch.autograd.grad(loss, a, retain_graph=True)
    (again,) = torch.autograd.grad(2 * loss, a)
    assert torch.equal(2 * once, again)


@pytest.mark.parametrize(
    "wrong",
    [{"dims": [0, 8]}, {"dims": [33]}, {"dims": [8, 8]}, {"dims": []}, {"weights": [1.0]},
     {"chunk": 0}, {"present": torch.ones(24)}, {"present": torch.ones(23, dtype=torch.bool)}],
    ids=["dim 0", "dim 33", "dim twice", "no dims", "weights", "chunk", "float mask", "short mask"],
)  # fmt: skip
def test_loss_rejects_invalid_arguments(wrong):
    a, b = features()
    with pytest.raises(ValueError, match=next(iter(wrong))):
        matryoshka_info_nce(a, b, leaf_scale(), **{"dims": DIMS, **wrong})
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        info_nce(a, b[:3], leaf_scale())


# --- missing items ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("scale", [14.0, 100.0], ids=str)
def test_missing_items_change_neither_loss_nor_gradients(chunk, scale):
    a, b = features()
    present = torch.rand(24) < 0.6
    scale = leaf_scale(scale)
    a64, b64, s64 = float64(a, b, scale)
    theirs = grads(loop(a64[present], b64[present], s64, DIMS), a64, b64, s64)
    with torch.no_grad():
        a[~present] = torch.nan
        b[~present] = torch.inf
    ours = grads(matryoshka_info_nce(a, b, scale, DIMS, None, chunk, present), a, b, scale)
    assert_same(ours, theirs)
    assert not ours[1][~present].any()
    assert not ours[2][~present].any()


def test_loss_without_present_pairs_is_zero():
    a, b = features()
    scale = leaf_scale()
    with torch.no_grad():
        a.fill_(torch.nan)
    for x in grads(info_nce(a, b, scale, torch.zeros(24, dtype=torch.bool)), a, b, scale):
        assert torch.equal(x, torch.zeros_like(x))


# --- equal items ------------------------------------------------------------------------------


def shared_target_loop(a, b, scale, dims, labels):
    """Cross-entropy against the uniform distribution over the rows with an equal item."""
    right = sum(x[:, None] == x for x in labels).bool().to(a.dtype)
    target, loss = right / right.sum(1, keepdim=True), 0
    for d in dims:
        logits = scale * F.normalize(a[:, :d], dim=1) @ F.normalize(b[:, :d], dim=1).T
        loss += (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss


def random_labels(rows):
    """Items of a and of b that repeat in different rows: being right is not transitive."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(rows, (rows,), generator=generator) * 10**12 - 7 for _ in range(2)]


LABELS = {
    "different": [torch.arange(24), torch.arange(24).flip(0)],
    "five clips a sentence": [torch.arange(24), torch.arange(24) // 5],
    "images in two rows": [torch.arange(24) % 12, torch.arange(24)],
    "both": random_labels(24),
    "all equal": [torch.arange(24), torch.zeros(24, dtype=torch.long)],
}


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("scale", [14.0, 90.0], ids=str)
@pytest.mark.parametrize("name", LABELS)
def test_loss_of_equal_items_equals_float64_loop_with_shared_targets(name, scale, chunk):
    (a, b), labels = features(), LABELS[name]
    present = torch.rand(24) < 0.7
    scale = leaf_scale(scale)
    a64, b64, s64 = float64(a, b, scale)
    for mask in (None, present):
        kept = slice(None) if mask is None else mask
        seen = [x[kept] for x in labels]
        theirs = shared_target_loop(a64[kept], b64[kept], s64, DIMS, seen)
        theirs = grads(theirs, a64, b64, s64)
        ours = matryoshka_info_nce(a, b, scale, DIMS, None, chunk, mask, labels)
        assert_same(grads(ours, a, b, scale), theirs)


@pytest.mark.parametrize("chunk", [None, 5])
def test_loss_with_different_labels_is_the_loss_without_bit_for_bit(chunk):
    a, b = features()
    scale, present = leaf_scale(), torch.rand(24) < 0.7
    options = a, b, scale, DIMS, None, chunk, present
    plain = grads(matryoshka_info_nce(*options), a, b, scale)
    ours = grads(matryoshka_info_nce(*options, LABELS["different"]), a, b, scale)
    assert all(map(torch.equal, ours, plain))


def test_loss_of_equal_items_samples_a_single_dim():
    (a, b), scale, labels = features(), leaf_scale(), random_labels(24)
    singles = [matryoshka_info_nce(a, b, scale, [d], labels=labels).item() for d in DIMS]
    generator = torch.Generator().manual_seed(0)
    options = {"sample_single_dim": True, "generator": generator, "labels": labels}
    drawn = [matryoshka_info_nce(a, b, scale, DIMS, **options).item() for _ in range(20)]
    assert set(drawn) == set(singles)


def test_loss_of_equal_captions_does_not_push_their_clips_apart():
    """Two clips of each sentence, perfectly aligned, with equal captions: a minimum."""
    sentences = torch.eye(4).repeat_interleave(2, 0)
    labels = torch.arange(8), torch.arange(8) // 2
    a, b = (sentences.clone().requires_grad_() for _ in range(2))
    loss = info_nce(a, b, torch.tensor(100.0), labels=labels)
    assert loss.item() == pytest.approx(np.log(2), abs=1e-5)
    assert all(gradient.norm() < 1e-6 for gradient in torch.autograd.grad(loss, (a, b)))


@pytest.mark.parametrize(
    "labels",
    [[torch.arange(24)], [torch.arange(24), torch.arange(23)], [torch.rand(24)] * 2],
    ids=["one", "short", "float"],
)
def test_loss_rejects_invalid_labels(labels):
    a, b = features()
    with pytest.raises(ValueError, match=r"labels must be two int64 tensors of shape \(24,\)"):
        info_nce(a, b, leaf_scale(), labels=labels)


# --- extreme numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("present", [None, torch.tensor([True] * 22 + [False] * 2)], ids=str)
def test_loss_is_exact_at_scale_100_with_opposed_vectors(present):
    """Row 0 is opposed to all others: exp(S - scale) would be 0 along it in fp32."""
    a, b = features()
    with torch.no_grad():
        b[:] = a[1] + 0.1 * torch.randn_like(b)
        a[0] = -a[1]
        a[2:] = torch.randn_like(a[2:])
    scale = leaf_scale(100.0)
    a64, b64, s64 = float64(a, b, scale)
    kept = slice(None) if present is None else present
    theirs = grads(loop(a64[kept], b64[kept], s64, DIMS), a64, b64, s64)
    ours = grads(matryoshka_info_nce(a, b, scale, DIMS, present=present), a, b, scale)
    assert_same(ours, theirs, rtol=1e-4)  # at scale 100 rounding of the cosines alone gives 1e-5
    assert ours[1][0].norm() > 0


def test_loss_of_zero_vectors_is_finite():
    a, b = features()
    with torch.no_grad():
        a[3] = 0
        b[5, :8] = 0  # no direction at the smallest size only
    scale = leaf_scale()
    value, da, db, dscale = grads(matryoshka_info_nce(a, b, scale, DIMS), a, b, scale)
    assert torch.isclose(value, loop(a, b, scale, DIMS))
    assert not da[3].any()
    assert db[5].any()
    assert db.abs().max() < 1e3
    assert dscale.isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_loss_of_half_precision_sums_in_fp32(dtype):
    a, b = features(dtype=dtype)
    scale = leaf_scale()
    a64, b64, s64 = float64(a, b, scale)
    ours = grads(matryoshka_info_nce(a, b, scale, DIMS), a, b, scale)
    assert [x.dtype for x in ours] == [torch.float32, dtype, dtype, torch.float32]
    theirs = grads(loop(a64, b64, s64, DIMS), a64, b64, s64)
    assert_same(ours[::3], theirs[::3])  # fp32 sums: value and scale are as good as in fp32
    assert_same(ours, theirs, rtol=1e-2)


def test_loss_under_autocast_is_fp32():
    a, b = features()
    scale = leaf_scale()
    plain = grads(matryoshka_info_nce(a, b, scale, DIMS), a, b, scale)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = matryoshka_info_nce(a, b, scale, DIMS)
    assert mixed.dtype is torch.float32
    assert_same(grads(mixed, a, b, scale), plain)
    with torch.autocast("cpu", torch.bfloat16):
        head = nn.Linear(32, 32)
        mixed = matryoshka_info_nce(head(a), head(b), scale, DIMS)
    assert torch.isclose(mixed, matryoshka_info_nce(head(a), head(b), scale, DIMS), rtol=2e-2)


def test_logit_scale_is_clamped_but_keeps_its_gradient():
    scale = LogitScale()
    assert torch.isclose(scale(), torch.tensor(1 / 0.07))
    with torch.no_grad():
        scale.log_scale.fill_(9.0)
    assert torch.isclose(scale(), torch.tensor(100.0))
    scale().backward()
    torch.optim.SGD(scale.parameters(), lr=0.01).step()
    assert scale() < 50


# --- several modalities ------------------------------------------------------------------------

MODALITIES = ("vision", "audio", "text")
PAIRS = [("vision", "audio"), ("vision", "text"), ("audio", "text")]


def random_modalities(rows=24):
    torch.manual_seed(0)
    embeddings = {name: torch.randn(rows, 32, requires_grad=True) for name in MODALITIES}
    return embeddings, {name: torch.rand(rows) < 0.6 for name in MODALITIES}


def alignment_task(pairs, weights, dims):
    """The task of an aligner that returns its inputs as embeddings."""
    loss = LossConfig(pairs=pairs, pair_weights=weights, dims=dims, temperature=1 / 9)
    aligner = nn.Identity()
    aligner.late_interaction = False
    return AlignmentTask(aligner, loss, pairs, seed=0)


def brute_force(embeddings, present, pairs, weights, scale, dims):
    """Each pair on its own, on the rows that have both, without any mask."""
    total = 0
    for (a, b), weight in zip(pairs, weights, strict=True):
        kept = present[a] & present[b]
        if kept.any():
            total = total + weight * loop(embeddings[a][kept], embeddings[b][kept], scale, dims)
    return total / sum(weights)


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[1:], PAIRS[:1]], ids=["three", "two", "one"])
def test_alignment_loss_equals_brute_force_on_present_rows(pairs):
    embeddings, present = random_modalities()
    weights = [0.5 + i for i in range(len(pairs))]
    task = alignment_task(pairs, weights, [32, 8])
    ours = task(Batch(0, np.arange(24), embeddings, present))
    names = sorted({name for pair in pairs for name in pair})
    exact = dict(zip(MODALITIES, float64(*embeddings.values()), strict=True))
    log_scale = task.loss.logit_scale.log_scale
    (exact_scale,) = float64(log_scale)
    theirs = brute_force(exact, present, pairs, weights, exact_scale.exp(), [32, 8])
    assert_same(
        grads(ours, log_scale, *(embeddings[name] for name in names)),
        grads(theirs, exact_scale, *(exact[name] for name in names)),
    )


def test_alignment_loss_shares_the_target_of_equal_items():
    embeddings, present = random_modalities()
    labels = {"vision": torch.arange(24), "audio": torch.arange(24), "text": torch.arange(24) // 5}
    task = alignment_task(PAIRS, [1, 2, 3], [32, 8])
    ours = task(Batch(0, np.arange(24), embeddings, present, labels))
    exact = dict(zip(MODALITIES, float64(*embeddings.values()), strict=True))
    scale, theirs = task.loss.logit_scale().detach().double(), 0
    for (a, b), weight in zip(PAIRS, (1, 2, 3), strict=True):
        kept = present[a] & present[b]
        items = exact[a][kept], exact[b][kept]
        theirs += weight * shared_target_loop(
            *items, scale, [32, 8], (labels[a][kept], labels[b][kept])
        )
    assert_same(grads(ours, *embeddings.values()), grads(theirs / 6, *exact.values()))


def test_alignment_loss_of_a_missing_modality_is_zero():
    embeddings, present = random_modalities()
    present["audio"] = torch.zeros_like(present["audio"])
    embeddings["audio"] = torch.full_like(embeddings["audio"], torch.nan).requires_grad_()
    task = alignment_task(PAIRS, None, [32])
    loss = task(Batch(0, np.arange(24), embeddings, present))
    kept = present["vision"] & present["text"]
    scale = task.loss.logit_scale().detach()
    alone = info_nce(embeddings["vision"][kept], embeddings["text"][kept], scale)
    torch.testing.assert_close(loss, alone / 3)
    loss.backward()
    assert embeddings["audio"].grad.eq(0).all()


def test_build_loss_gives_every_key_to_the_loss():
    a, b = (x.detach() for x in features())
    present = torch.rand(24) < 0.7
    config = LossConfig(dims=DIMS, weights=[1, 2, 3], chunk=5, temperature=0.1)
    expected = matryoshka_info_nce(
        a, b, torch.tensor(10.0), config.dims, config.weights, present=present
    )
    loss = build_loss(config)
    assert loss.chunk == 5
    torch.testing.assert_close(loss(a, b, present), expected)
    single = build_loss(config.model_copy(update={"sample_single_dim": True}))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    options = {"sample_single_dim": True, "generator": generators[0]}
    expected = matryoshka_info_nce(a, b, torch.tensor(10.0), config.dims, config.weights, **options)
    torch.testing.assert_close(single(a, b, generator=generators[1]), expected)


# --- several processes ------------------------------------------------------------------------

WORLD, LOCAL = 2, 6


def model_and_batch():
    torch.manual_seed(1)
    model = nn.ModuleDict({"a": nn.Linear(5, 8), "b": nn.Linear(7, 8), "scale": LogitScale()})
    x, y = (torch.randn(WORLD * LOCAL, width).double() for width in (5, 7))
    return model.double(), x, y


PRESENT = {
    "all": None,
    "some": torch.arange(WORLD * LOCAL) % 3 != 1,
    "one rank empty": torch.arange(WORLD * LOCAL) < LOCAL,
    "nothing": torch.zeros(WORLD * LOCAL, dtype=torch.bool),
}


def step(model, x, y, **kwargs):
    """Loss and the gradients of the parameters."""
    loss = matryoshka_info_nce(model["a"](x), model["b"](y), model["scale"](), [8, 3], **kwargs)
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))


def alignment_step(own):
    """Loss and gradients of this rank's rows; only the first rank has audio."""
    embeddings, present = random_modalities(rows=WORLD * LOCAL)
    present["audio"] = torch.arange(WORLD * LOCAL) < LOCAL
    share = {name: x.detach().double()[own].requires_grad_() for name, x in embeddings.items()}
    masks = {name: x[own] for name, x in present.items()}
    batch = Batch(0, np.arange(WORLD * LOCAL)[own], share, masks)
    loss = alignment_task(PAIRS, [1, 2, 3], [32, 8])(batch)
    return loss.detach(), *torch.autograd.grad(loss, list(share.values()))


def one_rank(rank, folder):
    """Run every case on this rank's half of the batch; save losses and rank-averaged gradients."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    model, x, y = model_and_batch()
    own = slice(rank * LOCAL, (rank + 1) * LOCAL)
    results = {}
    for name, present in PRESENT.items():
        for chunk in (None, 4):
            mask = None if present is None else present[own]
            loss, gradients = step(model, x[own], y[own], present=mask, chunk=chunk)
            for g in gradients:
                dist.all_reduce(g)
                g /= WORLD  # what DistributedDataParallel does
            results[name, chunk] = [loss, *gradients]
    labels = [x[own] for x in random_labels(WORLD * LOCAL)]
    for chunk in (None, 4):
        mask = PRESENT["some"][own]
        loss, gradients = step(model, x[own], y[own], present=mask, chunk=chunk, labels=labels)
        for g in gradients:
            dist.all_reduce(g)
        results["labels", chunk] = [loss, *(g / WORLD for g in gradients)]
    results["alignment"] = alignment_step(own)
    a, b = model["a"](x[own]).detach(), model["b"](y[own]).detach()
    for kind in BackpropType:
        leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
        results[kind] = torch.autograd.grad(
            info_nce(*leaves, torch.tensor(9.0), backprop=kind), leaves
        )
    seeded = {"sample_single_dim": True, "generator": torch.Generator().manual_seed(3)}
    results["single"] = step(model, x[own], y[own], **seeded)[0]
    with pytest.raises(ValueError, match="generator"):
        step(model, x[own], y[own], sample_single_dim=True)
    with pytest.raises(RuntimeError, match="batch sizes differ"):
        step(model, x[: LOCAL - rank], y[: LOCAL - rank])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(one_rank, (str(folder),), WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", PRESENT)
def test_loss_on_two_processes_equals_one(ranks, name, chunk):
    model, x, y = model_and_batch()
    loss, gradients = step(model, x, y, present=PRESENT[name])
    for results in ranks:
        assert_same(results[name, chunk], [loss, *gradients], rtol=1e-9)


@pytest.mark.parametrize("chunk", [None, 4])
def test_loss_of_equal_items_on_two_processes_equals_one(ranks, chunk):
    model, x, y = model_and_batch()
    labels = random_labels(WORLD * LOCAL)
    loss, gradients = step(model, x, y, present=PRESENT["some"], labels=labels)
    plain, _ = step(model, x, y, present=PRESENT["some"])
    assert not torch.isclose(loss, plain)
    for results in ranks:
        assert_same(results["labels", chunk], [loss, *gradients], rtol=1e-9)


def test_alignment_loss_on_two_processes_equals_one(ranks):
    loss, *gradients = alignment_step(slice(None))
    for rank, results in enumerate(ranks):
        own = slice(rank * LOCAL, (rank + 1) * LOCAL)
        expected = [loss, *(WORLD * gradient[own] for gradient in gradients)]
        assert_same(results["alignment"], expected, rtol=1e-9)


def test_sample_single_dim_draws_the_same_on_all_processes(ranks):
    model, x, y = model_and_batch()
    seeded = {"sample_single_dim": True, "generator": torch.Generator().manual_seed(3)}
    expected = step(model, x, y, **seeded)[0]
    assert all(torch.isclose(results["single"], expected) for results in ranks)


def test_backprop_local_keeps_gradients_within_the_rank(ranks):
    model, x, y = model_and_batch()
    a, b = (f.detach().requires_grad_() for f in (model["a"](x), model["b"](y)))
    (full,) = torch.autograd.grad(loop(a, b, 9.0, [8]), a)
    for rank, results in enumerate(ranks):
        own = slice(rank * LOCAL, (rank + 1) * LOCAL)
        rows, far = torch.zeros(WORLD * LOCAL, 1, dtype=torch.bool), b.detach()
        rows[own] = True
        # b's gradient from this rank's rows alone: the rows of other ranks are constants
        normal = [F.normalize(x, dim=1) for x in (a.detach(), torch.where(rows, b, far))]
        logits = 9.0 * normal[0] @ normal[1].T
        logits = torch.where(rows, logits, logits.detach())
        labels = torch.arange(len(a))
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        (near,) = torch.autograd.grad(loss, b)
        local, everywhere = results[BackpropType.LOCAL], results[BackpropType.GLOBAL]
        assert_same(local, [WORLD * full[own], WORLD * near[own]], rtol=1e-9)
        assert_same(everywhere[:1], local[:1], rtol=1e-9)
        assert not torch.allclose(everywhere[1], local[1])

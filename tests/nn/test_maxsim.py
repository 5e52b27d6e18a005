"""MaxSim scores and their loss against plain loops in float64, and on two processes."""

from functools import partial

import loss_helpers
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from loss_helpers import grads
from torch import nn

from edge_lib.config import LossConfig
from edge_lib.nn import maxsim
from edge_lib.nn.losses import LogitScale, matryoshka_info_nce
from edge_lib.nn.maxsim import (
    MaxSimInfoNCE,
    TokenVectors,
    concatenate,
    maxsim_info_nce,
    maxsim_scores,
)

WIDTH = 16
assert_same = partial(loss_helpers.assert_same, rtol=1e-9)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def token_vectors(lengths, longest=None, rank=0, dtype=torch.float64, padding=torch.nan):
    """Random tokens of items of these lengths; padding holds NaN."""
    mask = torch.arange(longest or max(lengths)) < torch.tensor(lengths)[:, None]
    scale = torch.rand(*mask.shape, 1).mul(4).exp()
    vectors = (torch.randn(*mask.shape, WIDTH) * scale).to(dtype)
    return TokenVectors(vectors.masked_fill(~mask[..., None], padding).requires_grad_(), mask, rank)


def plain_scores(queries, documents, dim=WIDTH):
    """Pair by pair, over valid tokens only."""
    rows = [
        [F.normalize(x.vectors[i, x.mask[i], :dim], dim=-1) for i in range(len(x))]
        for x in (queries, documents)
    ]
    return torch.stack([torch.stack([(q @ d.T).amax(1).mean() for d in rows[1]]) for q in rows[0]])


def plain_loss(queries, documents, scale, sizes, right=None):
    """InfoNCE with a uniform target over the right answers (B, B), the diagonal by default."""
    right = torch.eye(len(queries), dtype=torch.bool) if right is None else right
    target = right.double() / right.sum(1, keepdim=True)
    total = 0
    for dim, weight in sizes:
        logits = scale * plain_scores(queries, documents, dim)
        both = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        total = total + weight * both / 2
    return total


def pair(dtype=torch.float64):
    return token_vectors([3, 1, 5, 2, 5, 4], dtype=dtype), token_vectors(
        [4, 4, 2, 3, 1, 4], longest=6, dtype=dtype
    )


def doubled(x):
    return TokenVectors(x.vectors.detach().double().requires_grad_(), x.mask, x.rank)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 5, WIDTH])
@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
def test_maxsim_equals_plain_loop(dim, chunk):
    queries, documents = pair()
    weights = torch.randn(6, 6, dtype=torch.float64)
    scores = [
        maxsim_scores(queries, documents, dim, chunk),
        plain_scores(queries, documents, dim),
    ]
    leaves = queries.vectors, documents.vectors
    ours, theirs = (grads((s * weights).sum(), *leaves) for s in scores)
    torch.testing.assert_close(*scores)
    assert_same(ours, [theirs[0], *(g.nan_to_num() for g in theirs[1:])])


def test_maxsim_of_float32_is_within_1e_5_of_float64():
    queries, documents = pair(torch.float32)
    exact = doubled(queries), doubled(documents)
    ours = grads(maxsim_scores(queries, documents).square().sum(), queries.vectors)
    theirs = grads(plain_scores(*exact).square().sum(), exact[0].vectors)
    assert_same(ours, [theirs[0], theirs[1].nan_to_num()], rtol=1e-5)


def test_maxsim_passes_gradcheck():
    queries, documents = (token_vectors(n, padding=0.5) for n in ([2, 3], [3, 1, 2]))

    def scores(q, d):
        return maxsim_scores(
            TokenVectors(q, queries.mask), TokenVectors(d, documents.mask), chunk=2
        )

    assert torch.autograd.gradcheck(scores, (queries.vectors, documents.vectors))


def test_maxsim_of_items_without_tokens_is_finite():
    queries, documents = token_vectors([2, 0], longest=3), token_vectors([0, 4], longest=4)
    scores = maxsim_scores(queries, documents)
    assert scores[0, 0] == maxsim.FLOOR
    assert scores[1].tolist() == [0, 0]
    gradients = torch.autograd.grad(scores.sum(), [queries.vectors, documents.vectors])
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0][1].eq(0).all()
    assert gradients[1][0].eq(0).all()


def test_maxsim_of_no_items_is_empty():
    none = TokenVectors(torch.empty(0, 1, WIDTH), torch.empty(0, 1, dtype=torch.bool))
    some = token_vectors([2, 3], dtype=torch.float32)
    assert maxsim_scores(none, some).shape == (0, 2)
    assert maxsim_scores(some, none).shape == (2, 0)


def test_maxsim_of_negative_cosines_ignores_padding():
    """Padded document tokens, zeros, would be nearer than tokens that point away."""
    query = TokenVectors(torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))
    document = TokenVectors(-torch.ones(1, 2, 2), torch.tensor([[True, False]]))
    assert maxsim_scores(query, document).item() == pytest.approx(-1)


def test_maxsim_is_float32_under_autocast():
    queries, documents = pair(torch.float32)
    expected = maxsim_scores(queries, documents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(maxsim_scores(queries, documents), expected)
    half = TokenVectors(queries.vectors.bfloat16(), queries.mask)
    assert maxsim_scores(half, documents).dtype is torch.float32


def test_maxsim_holds_few_cosines_at_once(monkeypatch):
    """No call of the matrix product gives more than MAX_COSINES values."""
    sizes, addmm = [], torch.addmm
    monkeypatch.setattr(maxsim, "MAX_COSINES", 50)
    monkeypatch.setattr(
        torch, "addmm", lambda *args, out: sizes.append(out.numel()) or addmm(*args, out=out)
    )
    queries, documents = pair()
    torch.testing.assert_close(maxsim_scores(queries, documents), plain_scores(queries, documents))
    assert max(sizes) <= 50


# --- token vectors --------------------------------------------------------------------------------


def test_token_vectors_score_in_one_direction():
    """Words look for their match in images, whichever of the two are the queries."""
    images, texts = token_vectors([4, 2, 3]), token_vectors([2, 5], rank=2)
    expected = plain_scores(texts, images)
    torch.testing.assert_close(next(texts.scores(images, [WIDTH])), expected)
    torch.testing.assert_close(next(images.scores(texts, [WIDTH])), expected.T)
    by_dim = list(images.scores(texts, [2, 8]))
    for dim, scores in zip((2, 8), by_dim, strict=True):
        torch.testing.assert_close(scores, plain_scores(texts, images, dim).T)


def test_token_vectors_of_batches_are_padded_to_the_longest():
    parts = [token_vectors([2, 1], rank=2), token_vectors([4], rank=2)]
    whole = concatenate(parts)
    assert (len(whole), whole.mask.shape, whole.rank) == (3, (3, 4), 2)
    assert whole.mask.sum(1).tolist() == [2, 1, 4]
    documents = token_vectors([3, 3])
    expected = torch.cat([maxsim_scores(part, documents) for part in parts])
    torch.testing.assert_close(maxsim_scores(whole, documents), expected)
    torch.testing.assert_close(whole[[2, 0]].vectors[1, :2], parts[0].vectors[0])


def test_token_vectors_mean_is_that_of_unit_vectors():
    tokens = token_vectors([3, 0, 1], longest=4)
    expected = F.normalize(tokens.vectors[0, :3], dim=1).mean(0)
    torch.testing.assert_close(tokens.mean()[0], expected)
    assert tokens.mean()[1].eq(0).all()


# --- the loss -------------------------------------------------------------------------------------

SIZES = [(WIDTH, 1.0), (4, 0.5)]


@pytest.mark.parametrize("chunk", [None, 2])
def test_maxsim_loss_equals_plain_loop(chunk):
    queries, documents = pair()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    leaves = queries.vectors, documents.vectors, scale
    ours = grads(maxsim_info_nce(queries, documents, scale, SIZES, chunk), *leaves)
    theirs = grads(plain_loss(queries, documents, scale, SIZES), *leaves)
    assert_same(ours, [g.nan_to_num() for g in theirs])


def test_maxsim_loss_leaves_missing_rows_out():
    queries, documents = pair()
    present = torch.tensor([True, False, True, True, False, True])
    queries.vectors.data[1], documents.vectors.data[4] = torch.nan, torch.nan
    scale = torch.tensor(9.0, dtype=torch.float64)
    leaves = queries.vectors, documents.vectors
    ours = grads(maxsim_info_nce(queries, documents, scale, SIZES, present=present), *leaves)
    theirs = grads(plain_loss(queries[present], documents[present], scale, SIZES), *leaves)
    assert_same(ours, [g.nan_to_num() for g in theirs])
    nothing = torch.zeros_like(present)
    assert maxsim_info_nce(queries, documents, scale, SIZES, present=nothing) == 0


def test_maxsim_loss_shares_the_target_of_equal_items():
    queries, documents = pair()
    scale = torch.tensor(9.0, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2, 3, 4]), torch.tensor([0, 1, 2, 2, 3, 4])
    right = torch.eye(6, dtype=torch.bool)
    for i, j in ((0, 2), (2, 3)):
        right[i, j] = right[j, i] = True
    leaves = queries.vectors, documents.vectors
    ours = grads(maxsim_info_nce(queries, documents, scale, SIZES, labels=labels), *leaves)
    theirs = grads(plain_loss(queries, documents, scale, SIZES, right), *leaves)
    assert_same(ours, [g.nan_to_num() for g in theirs])


def test_maxsim_loss_of_one_token_is_info_nce():
    queries, documents = token_vectors([1] * 8, rank=2), token_vectors([1] * 8)
    present, labels = torch.rand(8) < 0.8, (torch.arange(8) // 2, torch.arange(8))
    loss = MaxSimInfoNCE(LossConfig(dims=[WIDTH, 4], weights=[1, 0.5], chunk=3)).double()
    ours = loss(documents, queries, present, labels=labels)
    a, b = documents.vectors[:, 0], queries.vectors[:, 0]
    options = {"present": present, "labels": (labels[1], labels[0])}
    expected = matryoshka_info_nce(b, a, loss.logit_scale(), [WIDTH, 4], [1, 0.5], **options)
    leaves = queries.vectors, documents.vectors, loss.logit_scale.log_scale
    assert_same(grads(ours, *leaves), grads(expected, *leaves))


def test_maxsim_loss_takes_words_as_queries():
    images, texts = token_vectors([4, 2, 3]), token_vectors([2, 5, 1], rank=2)
    loss = MaxSimInfoNCE(LossConfig(dims=[WIDTH])).double()
    expected = plain_loss(texts, images, loss.logit_scale(), [(WIDTH, 1)])
    torch.testing.assert_close(loss(images, texts), expected)
    torch.testing.assert_close(loss(texts, images), expected)


def test_maxsim_loss_of_one_size_at_random():
    images, texts = token_vectors([4, 2, 3]), token_vectors([2, 5, 1], rank=2)
    loss = MaxSimInfoNCE(LossConfig(dims=[WIDTH, 4], sample_single_dim=True)).double()
    single = [plain_loss(texts, images, loss.logit_scale(), [(d, 1)]).item() for d in (WIDTH, 4)]
    seeds = [torch.Generator().manual_seed(seed) for seed in range(8)]
    drawn = {round(loss(images, texts, generator=seed).item(), 9) for seed in seeds}
    assert drawn == {round(value, 9) for value in single}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"present": torch.ones(2, dtype=torch.bool)}, r"present must be bool of shape \(3,\)"),
        ({"labels": (torch.arange(3), torch.arange(2))}, "labels must be two int64"),
    ],
    ids=["present", "labels"],
)
def test_maxsim_loss_refuses_wrong_arguments(change, message):
    images, texts = token_vectors([4, 2, 3]), token_vectors([2, 5, 1], rank=2)
    with pytest.raises(ValueError, match=message):
        MaxSimInfoNCE(LossConfig(dims=[4]))(images, texts, **change)
    with pytest.raises(ValueError, match="between 1 and 16"):
        MaxSimInfoNCE(LossConfig(dims=[32]))(images, texts)


# --- two processes --------------------------------------------------------------------------------

WORLD, LOCAL = 2, 3
LABELS = torch.tensor([0, 1, 2, 0, 3, 1]), torch.arange(6)
PRESENT = torch.tensor([True, True, False, True, True, True])


def model_and_tokens():
    torch.manual_seed(1)
    model = nn.ModuleDict(
        {"q": nn.Linear(WIDTH, 8), "d": nn.Linear(WIDTH, 8), "scale": LogitScale()}
    )
    lengths = [5, 1, 2, 3, 3, 2], [4, 2, 4, 1, 6, 3]
    tokens = (token_vectors(counts, padding=0.0) for counts in lengths)
    return model.double(), *(TokenVectors(x.vectors.detach(), x.mask) for x in tokens)


def step(model, queries, documents, **options):
    """Loss and the gradients of the parameters."""
    q, d = (
        TokenVectors(model[name](x.vectors), x.mask)
        for name, x in (("q", queries), ("d", documents))
    )
    loss = maxsim_info_nce(q, d, model["scale"](), [(8, 1.0), (3, 1.0)], **options)
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))


def cases(own):
    labels = tuple(x[own] for x in LABELS)
    return {
        "plain": {},
        "chunk": {"chunk": 2},
        "some": {"present": PRESENT[own], "labels": labels},
        "one rank empty": {"present": (torch.arange(6) < LOCAL)[own]},
    }


def one_rank(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    model, queries, documents = model_and_tokens()
    own = slice(rank * LOCAL, (rank + 1) * LOCAL)
    short = queries[own]  # of its own length on each rank
    longest = int(short.mask.sum(1).max())
    short = TokenVectors(short.vectors[:, :longest], short.mask[:, :longest])
    results = {}
    for name, options in cases(own).items():
        loss, gradients = step(model, short, documents[own], **options)
        for g in gradients:
            dist.all_reduce(g)
        results[name] = [loss, *(g / WORLD for g in gradients)]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maxsim")
    mp.start_processes(one_rank, (str(folder),), WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("name", cases(slice(None)))
def test_maxsim_loss_on_two_processes_equals_one(ranks, name):
    model, queries, documents = model_and_tokens()
    loss, gradients = step(model, queries, documents, **cases(slice(None))[name])
    for results in ranks:
        assert_same(results[name], [loss, *gradients])


def test_maxsim_numbers_fit_16_bits_of_tokens():
    """The number of the best token is kept in 16 bits."""
    document = torch.zeros(1, 30_000, 2)
    document[0, -1] = 1
    documents = TokenVectors(document.requires_grad_(), torch.ones(1, 30_000, dtype=torch.bool))
    query = TokenVectors(torch.tensor([[[1.0, 0]]]), torch.ones(1, 1, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(maxsim_scores(query, documents).sum(), document)
    assert np.flatnonzero(gradient[0].abs().sum(1)).tolist() == [29_999]

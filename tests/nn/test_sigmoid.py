"""The sigmoid loss against open_clip's, and against a float64 loop where there is none."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from loss_helpers import assert_same, grads, open_clip_loss

from edge_lib.config import LossConfig
from edge_lib.nn.losses import build_loss
from edge_lib.nn.sigmoid import matryoshka_sigmoid

DIMS, ROWS = [32, 8, 16], 24


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs(dtype=torch.float32, scale=10.0, bias=-10.0):
    """a, b far from unit norm, scale and bias: leaves."""
    shared, *own = torch.randn(3, ROWS, 32, dtype=torch.float64)
    a, b = ((shared / 2 + x) * torch.rand(ROWS, 1).mul(5).exp() for x in own)
    scalars = torch.tensor(scale), torch.tensor(bias)
    return [x.detach().to(dtype).requires_grad_() for x in (a, b, *scalars)]


def float64(leaves):
    return [x.detach().double().requires_grad_() for x in leaves]


def loop(a, b, scale, bias, dims, weights=None, right=None):
    """Binary cross-entropy of each pair, one size at a time. right: (B, B) bool."""
    right = torch.eye(len(a), dtype=torch.bool) if right is None else right
    total = 0
    for d, weight in zip(dims, weights or [1] * len(dims), strict=True):
        logits = scale * F.normalize(a[:, :d], dim=1) @ F.normalize(b[:, :d], dim=1).T + bias
        entropy = F.binary_cross_entropy_with_logits(logits, right.to(logits), reduction="sum")
        total = total + weight * entropy / len(a)
    return total


def test_sigmoid_loss_equals_open_clip():
    single, leaves = open_clip_loss().SigLipLoss(), inputs()
    a, b, scale, bias = leaves
    theirs = sum(single(*(F.normalize(x[:, :d], dim=1) for x in (a, b)), scale, bias) for d in DIMS)
    ours = matryoshka_sigmoid(*leaves, DIMS)
    assert_same(grads(ours, *leaves), grads(theirs, *leaves))


@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
@pytest.mark.parametrize("start", [(10.0, -10.0), (90.0, 3.0)], ids=["siglip", "steep"])
@pytest.mark.parametrize("dims", [DIMS, [5]], ids=str)
def test_sigmoid_loss_equals_float64_loop(dims, start, chunk):
    leaves, weights = inputs(torch.float32, *start), [0.5 + i for i in range(len(dims))]
    exact = float64(leaves)
    ours = matryoshka_sigmoid(*leaves, dims, weights, chunk)
    assert ours.dtype is torch.float32
    assert_same(grads(ours, *leaves), grads(loop(*exact, dims, weights), *exact))


@pytest.mark.parametrize("chunk", [None, 2])
def test_sigmoid_loss_passes_gradcheck(chunk):
    leaves = [torch.randn(5, 6).double(), torch.randn(5, 6).double(), torch.tensor(4.0).double()]
    leaves = [x.requires_grad_() for x in (*leaves, torch.tensor(-1.0).double())]
    options = [2, 5, 1], None, chunk, torch.tensor([True, True, False, True, True])
    torch.autograd.gradcheck(lambda *x: 3 * matryoshka_sigmoid(*x, *options), leaves)


@pytest.mark.parametrize("chunk", [None, 5])
def test_sigmoid_loss_ignores_missing_items(chunk):
    leaves, present = inputs(), torch.rand(ROWS) < 0.6
    exact = float64(leaves)
    kept = exact[0][present], exact[1][present], *exact[2:]
    theirs = grads(loop(*kept, DIMS), *exact)
    with torch.no_grad():
        leaves[0][~present], leaves[1][~present] = torch.nan, torch.inf
    ours = grads(matryoshka_sigmoid(*leaves, DIMS, None, chunk, present), *leaves)
    assert_same(ours, theirs)
    nothing = torch.zeros(ROWS, dtype=torch.bool)
    for x in grads(matryoshka_sigmoid(*leaves, DIMS, None, chunk, nothing), *leaves):
        assert not x.any()


def equal_items():
    """Items of a and of b that repeat in different rows, and which pairs they make right."""
    labels = [torch.randint(ROWS, (ROWS,)) * 10**12 - 7 for _ in range(2)]
    return labels, (labels[0][:, None] == labels[0]) | (labels[1][:, None] == labels[1])


@pytest.mark.parametrize("chunk", [None, 7])
def test_sigmoid_loss_of_equal_items_makes_their_pairs_right(chunk):
    leaves, (labels, right) = inputs(), equal_items()
    assert right.sum() > ROWS
    exact = float64(leaves)
    ours = matryoshka_sigmoid(*leaves, DIMS, None, chunk, labels=labels)
    assert_same(grads(ours, *leaves), grads(loop(*exact, DIMS, right=right), *exact))


def test_sigmoid_loss_of_zero_vectors_is_finite():
    leaves = inputs()
    with torch.no_grad():
        leaves[0][3], leaves[1][5, :8] = 0, 0
    value, da, *others = grads(matryoshka_sigmoid(*leaves, DIMS), *leaves)
    assert torch.isclose(value, loop(*leaves, DIMS))
    assert not da[3].any()
    assert all(x.isfinite().all() for x in others)


def test_sigmoid_loss_of_certain_pairs_keeps_a_small_loss_exact():
    """Right pairs at logit 10, wrong ones at -80."""
    unit = torch.eye(4)
    loss = matryoshka_sigmoid(unit, unit, torch.tensor(90.0), torch.tensor(-80.0), [4])
    assert loss.item() == pytest.approx(4.5398e-5, rel=1e-3)  # log(1 + exp(-10)) for each row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sigmoid_loss_of_half_precision_sums_in_fp32(dtype):
    leaves = inputs()
    a, b, scale, bias = leaves
    halves = [a.detach().to(dtype).requires_grad_(), b.detach().to(dtype).requires_grad_()]
    ours = grads(matryoshka_sigmoid(*halves, scale, bias, DIMS), *halves, scale, bias)
    assert [x.dtype for x in ours[:3]] == [torch.float32, dtype, dtype]
    exact = float64([*halves, scale, bias])
    theirs = grads(loop(*exact, DIMS), *exact)
    assert_same([ours[0], *ours[3:]], [theirs[0], *theirs[3:]])
    assert_same(ours, theirs, rtol=1e-2)


def test_sigmoid_loss_rejects_invalid_arguments():
    a, b, *scalars = inputs()
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        matryoshka_sigmoid(a, b[:3], *scalars, DIMS)
    with pytest.raises(ValueError, match="dims must be distinct"):
        matryoshka_sigmoid(a, b, *scalars, [64])
    with pytest.raises(ValueError, match="labels must be two int64"):
        matryoshka_sigmoid(a, b, *scalars, DIMS, labels=[torch.arange(ROWS)])


def test_build_loss_of_sigmoid_starts_as_siglip_and_learns_scale_and_bias():
    a, b, scale, bias = (x.detach() for x in inputs())
    config = LossConfig(kind="sigmoid", dims=DIMS, weights=[1, 2, 3], chunk=5)
    loss, present = build_loss(config), torch.rand(ROWS) < 0.7
    expected = matryoshka_sigmoid(a, b, scale, bias, DIMS, [1, 2, 3], present=present)
    value = loss(a, b, present)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert {name for name, p in loss.named_parameters() if p.grad} == {
        "logit_scale.log_scale",
        "logit_bias",
    }


def test_sigmoid_config_keeps_a_temperature_that_is_given():
    assert LossConfig(kind="sigmoid").temperature == 0.1
    assert LossConfig(kind="sigmoid", temperature=0.07).temperature == 0.07
    assert LossConfig(kind="sigmoid", temperature=0.1) == LossConfig(kind="sigmoid")
    assert LossConfig().temperature == 0.07


def test_build_loss_of_sigmoid_samples_a_single_dim():
    a, b, scale, bias = (x.detach() for x in inputs())
    loss = build_loss(LossConfig(kind="sigmoid", dims=DIMS, sample_single_dim=True))
    generator = torch.Generator().manual_seed(0)
    drawn = {round(loss(a, b, generator=generator).item(), 4) for _ in range(20)}
    assert drawn == {round(loop(a, b, scale, bias, [d]).item(), 4) for d in DIMS}


# --- two processes ----------------------------------------------------------------------------

CASES = {
    "all": {},
    "chunks": {"chunk": 5},
    "some": {"present": torch.arange(ROWS) % 3 != 1},
    "one rank empty": {"present": torch.arange(ROWS) < ROWS // 2},
    "equal items": {"labels": (torch.arange(ROWS) // 5, torch.arange(ROWS) % 9), "chunk": 5},
}


def step(name, own):
    """Loss and gradients of some rows of the batch."""
    torch.manual_seed(0)
    leaves = inputs(torch.float64)
    share = [x.detach()[own].requires_grad_() for x in leaves[:2]] + leaves[2:]
    options = dict(CASES[name])
    for key in options.keys() & {"present", "labels"}:
        value = options[key]
        options[key] = value[own] if key == "present" else tuple(x[own] for x in value)
    return grads(matryoshka_sigmoid(*share, DIMS, **options), *share)


def one_rank(rank, folder):
    """Save every case's loss, gradients of this rank's half and rank-averaged scalar gradients."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    half = ROWS // 2
    results = {name: step(name, slice(rank * half, (rank + 1) * half)) for name in CASES}
    for result in results.values():
        for gradient in result[3:]:
            dist.all_reduce(gradient)
            gradient /= 2
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(one_rank, (str(folder),), 2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_sigmoid_loss_on_two_processes_equals_one(ranks, name):
    loss, da, db, *scalars = step(name, slice(None))
    for rank, result in enumerate(ranks):
        own = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
        assert_same(result[name], [loss, 2 * da[own], 2 * db[own], *scalars], rtol=1e-9)

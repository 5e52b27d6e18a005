"""Poolers and heads: shapes, padding, gradients; the Perceiver against a plain implementation."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from edge_lib.config import ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.heads import MatryoshkaHead, build_head
from edge_lib.nn.poolers import build_pooler
from edge_lib.nn.positions import add_positions

TOKEN_WIDTH, POOLED_WIDTH, WIDTH = 12, 6, 16
MASKED = ["mean", "attention", "perceiver", "transformer"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def head_config(pooler, **changes):
    shape = {"width": WIDTH, "num_heads": 4, "num_latents": 5, "num_layers": 2}
    return ModalityConfig(encoder="x", pooler=pooler, **{**shape, **changes})


def make_pooler(name, **changes):
    return build_pooler(head_config(name, **changes), TOKEN_WIDTH, POOLED_WIDTH)


def encoder_output(lengths=(7, 3, 1), padded=7, dtype=torch.float32):
    mask = torch.arange(padded) < torch.tensor(lengths)[:, None]
    tokens = torch.randn(len(lengths), padded, TOKEN_WIDTH, dtype=dtype) * mask[..., None]
    return EncoderOutput(tokens, mask, torch.randn(len(lengths), POOLED_WIDTH, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "length", "width"),
    [
        ("pooled", 1, POOLED_WIDTH),
        ("mean", 1, TOKEN_WIDTH),
        ("cls", 1, TOKEN_WIDTH),
        ("attention", 1, WIDTH),
        ("perceiver", 5, WIDTH),
        ("transformer", 7, WIDTH),
    ],
)
def test_poolers_and_heads_have_their_shapes(name, length, width):
    pooler = make_pooler(name)
    assert pooler.dim == width
    assert pooler(encoder_output()).shape == (3, length, width)
    head = build_head(head_config(name), [8, 4], TOKEN_WIDTH, POOLED_WIDTH)
    sequence, pooled = head(encoder_output())
    assert (sequence.shape, pooled.shape) == ((3, length, 8), (3, 8))


def test_token_pooler_averages_squares_of_a_grid():
    batch = encoder_output(lengths=(36,), padded=36)
    pooler = make_pooler("tokens", window=2)
    rows = torch.tensor([[0, 1, 6, 7], [2, 3, 8, 9]])  # of the first two squares of a 6 x 6 grid
    expected = torch.nn.functional.layer_norm(batch.tokens[0, rows], [TOKEN_WIDTH]).mean(1)
    positions = add_positions(torch.zeros(1, 9, TOKEN_WIDTH))
    torch.testing.assert_close((pooler(batch) - positions)[0, :2], expected)
    assert pooler.mask(batch).shape == (1, 9)
    assert pooler.mask(batch).all()
    with pytest.raises(ValueError, match="36 tokens do not form a square grid of 4 x 4"):
        make_pooler("tokens", window=4)(batch)


def test_simple_poolers_equal_their_formulas():
    batch = encoder_output()
    torch.testing.assert_close(make_pooler("pooled")(batch)[:, 0], batch.pooled)
    torch.testing.assert_close(make_pooler("cls")(batch)[:, 0], batch.tokens[:, 0])
    expected = [batch.tokens[i, :n].mean(0) for i, n in enumerate((7, 3, 1))]
    torch.testing.assert_close(make_pooler("mean")(batch)[:, 0], torch.stack(expected))


@pytest.mark.parametrize("name", ["pooled", "mean", "cls", "attention", "perceiver", "transformer"])
def test_poolers_keep_rows_independent(name):
    pooler, batch = make_pooler(name).eval(), encoder_output()
    alone = [
        pooler(
            EncoderOutput(batch.tokens[i : i + 1], batch.mask[i : i + 1], batch.pooled[i : i + 1])
        )
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(alone), pooler(batch), atol=1e-6, rtol=0)


# --- padding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKED)
def test_poolers_ignore_values_on_padding(name):
    pooler, batch = make_pooler(name).eval(), encoder_output()
    garbage = torch.where(batch.mask[..., None], batch.tokens, 100 * torch.randn_like(batch.tokens))
    wider = F.pad(garbage, (0, 0, 0, 4), value=50.0), F.pad(batch.mask, (0, 4), value=False)
    expected = pooler(batch)
    for tokens, mask in ((garbage, batch.mask), wider):
        actual = pooler(EncoderOutput(tokens, mask, batch.pooled))
        torch.testing.assert_close(actual[:, : expected.shape[1]], expected, atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(
        pooler(EncoderOutput(garbage.requires_grad_(), batch.mask, batch.pooled)).square().sum(),
        garbage,
    )
    assert gradient[~batch.mask].abs().max() == 0
    assert (gradient[batch.mask].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", MASKED)
def test_poolers_depend_on_valid_tokens(name):
    pooler, batch = make_pooler(name).eval(), encoder_output()
    before = pooler(batch)
    changed = batch.tokens.clone()
    changed[1, 2] += torch.randn(TOKEN_WIDTH)
    after = pooler(EncoderOutput(changed, batch.mask, batch.pooled))
    differs = (after - before).abs().amax((1, 2)) > 1e-6
    assert differs.tolist() == [False, True, False]


@pytest.mark.parametrize("name", MASKED)
def test_poolers_of_a_row_without_tokens_are_finite(name):
    pooler, batch = make_pooler(name), encoder_output((7, 0, 2))
    output = pooler(batch)
    assert output.isfinite().all()
    others = EncoderOutput(batch.tokens[[0, 2]], batch.mask[[0, 2]], batch.pooled[[0, 2]])
    torch.testing.assert_close(output[[0, 2]], pooler(others), atol=1e-6, rtol=0)
    parameters = list(pooler.parameters())
    if parameters:
        output.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in parameters)


# --- gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pooled", "mean", "cls", "attention", "perceiver", "transformer"])
def test_head_gradients_reach_every_parameter(name):
    head = build_head(head_config(name), [8, 4], TOKEN_WIDTH, POOLED_WIDTH)
    target = torch.randn(3, 8)
    (head(encoder_output())[1] - target).square().sum().backward()
    unused = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert unused == []


@pytest.mark.parametrize("num_layers", [1, 3])
def test_perceiver_gradients_reach_every_latent(num_layers):
    pooler = make_pooler("perceiver", num_layers=num_layers)
    output = pooler(encoder_output())
    # the final norm makes a plain sum of outputs constant
    (output * torch.randn_like(output)).sum().backward()
    assert (pooler.latents.grad.abs().sum(-1) > 0).all()
    for name, parameter in pooler.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_perceiver_latents_give_different_outputs():
    output = make_pooler("perceiver")(encoder_output())[0]
    assert torch.cdist(output, output).add(torch.eye(5) * 9).min() > 1e-3


# --- the Perceiver without batches ----------------------------------------------------------


def plain_perceiver(w, tokens, mask, num_layers, num_heads):
    """Row by row and head by head, over the valid tokens; float64."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return torch.einsum("ni,oi->no", x, w[f"{name}.weight"]) + w.get(f"{name}.bias", 0)

    rows = []
    for row_tokens, row_mask in zip(tokens, mask, strict=True):
        valid = linear(norm(row_tokens[row_mask], "embed.0"), "embed.1")
        for place, channel in itertools.product(range(len(valid)), range(valid.shape[1])):
            angle = place / 10000 ** ((channel - channel % 2) / valid.shape[1])
            valid[place, channel] += math.cos(angle) if channel % 2 else math.sin(angle)
        latents = w["latents"]
        for n in range(num_layers):
            layer = f"layers.{n}"
            queries = norm(latents, f"{layer}.norm_latents")
            context = torch.cat([norm(valid, f"{layer}.norm_tokens"), queries])
            q = linear(queries, f"{layer}.to_q")
            kv = linear(context, f"{layer}.to_kv")
            size = q.shape[-1]
            k, v = kv[:, :size], kv[:, size:]
            heads = []
            for part in torch.arange(size).chunk(num_heads):
                scores = torch.einsum("qd,kd->qk", q[:, part], k[:, part]) / math.sqrt(len(part))
                weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
                heads.append(torch.einsum("qk,kd->qd", weights, v[:, part]))
            latents = latents + linear(torch.cat(heads, -1), f"{layer}.to_out")
            hidden = linear(norm(latents, f"{layer}.mlp.0"), f"{layer}.mlp.1")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            latents = latents + linear(hidden, f"{layer}.mlp.3")
        rows.append(norm(latents, "norm"))
    return torch.stack(rows)


@pytest.mark.parametrize(("num_layers", "num_heads"), [(1, 1), (2, 4), (3, 2)])
def test_perceiver_equals_plain_implementation(num_layers, num_heads):
    pooler = make_pooler("perceiver", num_layers=num_layers, num_heads=num_heads).double()
    with torch.no_grad():
        for parameter in pooler.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = encoder_output((7, 3, 0), dtype=torch.float64)
    expected = plain_perceiver(pooler.state_dict(), batch.tokens, batch.mask, num_layers, num_heads)
    torch.testing.assert_close(pooler(batch), expected, atol=1e-10, rtol=1e-10)


# --- Matryoshka ------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[8, 4, 2], [2, 4, 8], [4, 8, 2]], ids=str)
def test_matryoshka_head_is_as_wide_as_its_largest_dim(dims):
    head = MatryoshkaHead(WIDTH, dims)
    sequence, pooled = head(torch.randn(3, 5, WIDTH))
    assert head.dims == [8, 4, 2]
    assert (sequence.shape, pooled.shape) == ((3, 5, 8), (3, 8))
    torch.testing.assert_close(pooled, sequence.mean(1))


def test_matryoshka_head_ignores_the_order_of_dims():
    x = torch.randn(2, 3, WIDTH)
    outputs = []
    for dims in ([8, 4], [4, 8]):
        torch.manual_seed(1)
        outputs.append(MatryoshkaHead(WIDTH, dims)(x)[1])
    torch.testing.assert_close(*outputs, atol=0, rtol=0)


def test_head_of_one_vector_gives_it_as_sequence():
    head = build_head(head_config("mean"), [8], TOKEN_WIDTH, POOLED_WIDTH)
    sequence, pooled = head(encoder_output())
    torch.testing.assert_close(sequence[:, 0], pooled)


def test_linear_head_projects_normalised_vectors():
    """Without the MLP a head is one matrix."""
    head = build_head(head_config("pooled", adapter="linear"), [8, 4], TOKEN_WIDTH, POOLED_WIDTH)
    assert sum(p.numel() for p in head.parameters()) == POOLED_WIDTH * 8 + 2 * POOLED_WIDTH
    batch = encoder_output()
    centred = batch.pooled - batch.pooled.mean(1, keepdim=True)
    unit = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(head(batch)[1], unit @ head.matryoshka.project.weight.T)


@pytest.mark.parametrize("name", ["attention", "perceiver"])
def test_pooler_width_must_divide_among_heads(name):
    with pytest.raises((ValueError, AssertionError), match="num_heads"):
        make_pooler(name, width=10, num_heads=4)


@pytest.mark.parametrize("adapter", ["mlp", "linear"])
def test_head_dropout_acts_in_training_only(adapter):
    config = head_config("mean", dropout=0.5, adapter=adapter)
    head = build_head(config, [8], TOKEN_WIDTH, POOLED_WIDTH)
    batch = encoder_output()
    assert not torch.equal(head(batch)[1], head(batch)[1])
    head.eval()
    assert torch.equal(head(batch)[1], head(batch)[1])


@pytest.mark.parametrize("name", ["attention", "perceiver", "transformer"])
def test_poolers_depend_on_token_positions(name):
    pooler, batch = make_pooler(name), encoder_output((7, 7))
    turned = EncoderOutput(batch.tokens.flip(1), batch.mask, batch.pooled)
    assert not torch.allclose(pooler(batch), pooler(turned), atol=1e-3)


def test_token_pooler_head_ignores_padding():
    head = build_head(head_config("tokens"), [8], TOKEN_WIDTH, POOLED_WIDTH).double()
    batch = encoder_output((7, 3), dtype=torch.float64)
    sequence, pooled = head(batch)
    assert torch.equal(head.sequence_mask(batch), batch.mask)
    torch.testing.assert_close(pooled[1], sequence[1, :3].mean(0))
    batch.tokens[1, 3:] = 9
    torch.testing.assert_close(head(batch)[1], pooled)
    # positions count: the same tokens in another order give another vector
    batch.tokens[0] = batch.tokens[0].flip(0)
    assert not torch.allclose(head(batch)[1][0], pooled[0])

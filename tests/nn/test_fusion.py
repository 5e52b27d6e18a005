"""Fusions: the present modalities alone decide the output, for any non-empty subset of them."""

from itertools import chain, combinations

import pytest
import torch

from edge_lib.config import FusionConfig
from edge_lib.config.registry import FUSIONS
from edge_lib.nn.fusion import build_fusion

B, D = 6, 16
LENGTHS = {"vision": 3, "audio": 1, "text": 2}
SUBSETS = list(chain.from_iterable(combinations(LENGTHS, n) for n in (1, 2, 3)))
CONFIG = FusionConfig(
    modalities=["vision", "audio"], width=8, num_latents=4, num_heads=2, num_layers=2
)


@pytest.fixture(params=FUSIONS)
def fusion(request):
    torch.manual_seed(0)
    # all three, of which a config has one as its target
    config = CONFIG.model_copy(update={"modalities": list(LENGTHS)})
    fusion = build_fusion(request.param, config, D)
    for parameter in fusion.parameters():  # some are initialised to zeros
        torch.nn.init.normal_(parameter, std=0.3)
    return fusion


def sequences(seed=1):
    torch.manual_seed(seed)
    return {name: torch.randn(B, length, D) for name, length in LENGTHS.items()}


def presence(names):
    return {name: torch.full((B,), name in names) for name in LENGTHS}


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_fusion_ignores_values_of_absent_modalities(fusion, names):
    inputs, present = sequences(), presence(names)
    whole = fusion(inputs, present)
    garbage = {
        name: part if name in names else torch.full_like(part, torch.nan)
        for name, part in inputs.items()
    }
    other = fusion(garbage, present)
    torch.testing.assert_close(other.embedding, whole.embedding)
    torch.testing.assert_close(other.prefix[other.mask], whole.prefix[whole.mask])
    assert torch.equal(other.mask, whole.mask)
    assert other.prefix.isfinite().all()
    assert whole.embedding.shape == (B, D)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_fusion_depends_on_every_present_modality(fusion, names):
    whole = fusion(sequences(), presence(names))
    for name in names:
        changed = sequences() | {name: sequences(seed=2)[name]}
        other = fusion(changed, presence(names))
        assert (other.embedding - whole.embedding).abs().amax(1).min() > 1e-3
        assert (other.prefix - whole.prefix)[whole.mask].abs().max() > 1e-3


def test_fusion_keeps_rows_independent(fusion):
    inputs = sequences()
    torch.manual_seed(3)
    present = {name: torch.rand(B) < 0.6 for name in LENGTHS}
    whole = fusion(inputs, present)
    for row in range(B):
        one = fusion(
            {name: part[row : row + 1] for name, part in inputs.items()},
            {name: mask[row : row + 1] for name, mask in present.items()},
        )
        torch.testing.assert_close(one.embedding[0], whole.embedding[row], atol=1e-5, rtol=1e-4)


def test_fusion_of_no_modality_is_finite_with_finite_gradients(fusion):
    inputs = {name: part.requires_grad_() for name, part in sequences().items()}
    fused = fusion(inputs, presence(()))
    assert fused.embedding.isfinite().all()
    (fused.embedding.sum() + fused.prefix.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())
    assert all(part.grad is None or part.grad.eq(0).all() for part in inputs.values())


def test_fusion_gradients_reach_every_parameter_and_present_input(fusion):
    inputs = {name: part.requires_grad_() for name, part in sequences().items()}
    present = presence(LENGTHS)
    present["audio"][0] = False  # so that the learned vector of an absent one is used
    present["vision"][1] = False
    present["text"][2] = False
    fused = fusion(inputs, present)
    target = torch.randn_like(fused.embedding)
    ((fused.embedding * target).sum() + fused.prefix.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fusion.parameters())
    assert inputs["audio"].grad[0].eq(0).all()
    assert inputs["audio"].grad[1].abs().sum() > 0


def test_fusion_prefix_is_the_sequences_or_the_latents():
    inputs, present = sequences(), presence(("vision",))
    config = CONFIG.model_copy(update={"modalities": list(LENGTHS)})
    for name, length in (("concat", 6), ("gated", 6), ("cross_attention", 4)):
        fused = build_fusion(name, config, D)(inputs, present)
        assert fused.prefix.shape == (B, length, D)
        kept = length if name == "cross_attention" else LENGTHS["vision"]
        assert fused.mask.sum(1).tolist() == [kept] * B


def test_gated_weights_of_present_modalities_sum_to_one():
    torch.manual_seed(0)
    fusion = build_fusion("gated", CONFIG, D)
    inputs = sequences()
    both = fusion(inputs, presence(("vision", "audio"))).weights
    torch.testing.assert_close(both.sum(1), torch.ones(B))
    assert (both > 0).all()
    alone = fusion(inputs, presence(("audio",))).weights
    torch.testing.assert_close(alone, torch.tensor([[0.0, 1.0]]).expand(B, 2))


def test_gated_fusion_equals_its_formula():
    """The sum over modalities of softmax(shared score + score of the column) * mix(mean)."""
    torch.manual_seed(0)
    fusion = build_fusion("gated", CONFIG, D)
    inputs, present = sequences(), presence(("vision", "audio"))
    means = torch.stack(
        [fusion.norms[name](inputs[name]).mean(1) for name in CONFIG.modalities], dim=1
    )
    scores = fusion.gate(means.flatten(1)).view(B, 2, 1 + D)
    gates = (scores[..., :1] + scores[..., 1:]).softmax(1)
    mixed = torch.stack(
        [fusion.mix[name](fusion.norms[name](inputs[name])).mean(1) for name in CONFIG.modalities],
        dim=1,
    )
    expected = (gates * mixed).sum(1)
    torch.testing.assert_close(fusion(inputs, present).embedding, expected)

"""Both decoders: no leaks, no effect of padding, the same answers with and without a cache."""

import pytest
import torch

from edge_lib.config import DecoderConfig
from edge_lib.data.vocabulary import BOS, EOS, PAD
from edge_lib.nn.decoders.base import Cache, PlainDecoder
from edge_lib.nn.decoders.trm import RecursiveDecoder

WIDTH, VOCABULARY = 24, 30  # of the prefix; tokens
VARIANTS = {
    "plain": (PlainDecoder, {}),
    "plain, post-norm": (PlainDecoder, {"norm": "post"}),
    "trm": (RecursiveDecoder, {}),
    "trm, post-norm": (RecursiveDecoder, {"norm": "post"}),
    "trm, no latent": (RecursiveDecoder, {"latent": False}),
    "trm, additive": (RecursiveDecoder, {"update": "additive"}),
    "trm, two rounds": (RecursiveDecoder, {"outer_steps": 2}),
    "trm, deep": (RecursiveDecoder, {"outer_steps": 2, "deep_supervision": True}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make(variant: str, **changes):
    torch.manual_seed(0)
    kind, own = VARIANTS[variant]
    config = DecoderConfig(
        **{"width": 32, "layers": 2, "heads": 2, "inner_steps": 3} | own | changes
    )
    return kind.from_config(config, WIDTH, VOCABULARY).eval()


def inputs(dtype=torch.float32):
    """Two images, three questions each, of unequal lengths; answers of six tokens."""
    torch.manual_seed(1)
    prefix = torch.randn(2, 5, WIDTH, dtype=dtype)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    questions = torch.randint(4, VOCABULARY, (6, 7))
    questions[1, 5:] = questions[4, 2:] = PAD
    return prefix, mask, questions, torch.randint(4, VOCABULARY, (6, 6))


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_depend_on_earlier_answer_tokens_only(variant, dtype):
    decoder = make(variant).to(dtype)
    *context, answer = inputs(dtype)
    logits = decoder(*context, answer)
    for place in range(answer.shape[1]):
        changed = answer.clone()
        changed[:, place] = (changed[:, place] + 1) % 26 + 4
        moved = (decoder(*context, changed) - logits).abs().amax((0, 2))
        assert moved[: place + 1].max() <= 1e-6
        if place + 1 < answer.shape[1]:
            assert moved[place + 1] > 1e-3  # but the next one does


@pytest.mark.parametrize("variant", ["trm", "trm, post-norm", "trm, additive"])
def test_recursive_decoder_depends_on_its_initial_latent(variant):
    decoder = make(variant)
    [gradient] = torch.autograd.grad(decoder(*inputs()).square().sum(), decoder.z_start)
    assert gradient.norm() > 1e-2


@pytest.mark.parametrize("variant", ["plain", "trm"])
def test_decoder_cannot_predict_random_answers(variant):
    """If a token leaked, the loss on random answers would fall below log V."""
    decoder, generator = make(variant), torch.Generator().manual_seed(0)
    prefix, mask, questions, _ = inputs()
    optimizer = torch.optim.AdamW(decoder.parameters(), 3e-3)

    def loss():
        answers = torch.randint(4, 14, (6, 6), generator=generator)
        logits = decoder(prefix, mask, questions, answers)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())

    for _ in range(300):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    with torch.no_grad():
        held_out = torch.stack([loss() for _ in range(100)]).mean()
    assert held_out > torch.tensor(10.0).log() - 0.01


@every_variant
def test_decoder_ignores_padding_of_prefix_and_question(variant):
    decoder = make(variant).double()
    prefix, mask, questions, answer = inputs(torch.float64)
    expected = decoder(prefix, mask, questions, answer)
    longer = torch.cat([prefix, 9 * torch.ones(2, 3, WIDTH)], 1).double()
    mask = torch.cat([mask, torch.zeros(2, 3).bool()], 1)
    questions = torch.cat([questions, torch.full((6, 2), PAD)], 1)
    torch.testing.assert_close(decoder(longer, mask, questions, answer), expected)


@every_variant
def test_questions_that_share_a_prefix_are_independent(variant):
    decoder = make(variant).double()
    prefix, mask, questions, answer = inputs(torch.float64)
    together = decoder(prefix, mask, questions, answer)
    apart = decoder(prefix.repeat_interleave(3, 0), mask.repeat_interleave(3, 0), questions, answer)
    torch.testing.assert_close(together, apart)


@every_variant
def test_cache_gives_the_same_states_and_tokens(variant):
    decoder = make(variant).double()
    *context, answer = inputs(torch.float64)
    whole = decoder.states(*context, answer)
    shifted = torch.cat([torch.full_like(answer[:, :1], BOS), answer[:, :-1]], 1)
    start, cache = decoder.read_context(*context), Cache()
    parts = [decoder.read_answer(part, start, cache) for part in shifted.split([1, 2, 1, 1, 1], 1)]
    for number, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[number] for part in parts], 1), expected)
    cached = decoder.generate(*context, 12)
    assert torch.equal(cached, decoder.generate(*context, 12, use_cache=False))
    kept = cached != PAD
    assert torch.equal(decoder(*context, cached).argmax(-1)[kept], cached[kept])


def test_generated_answers_are_padded_after_their_end():
    decoder = make("trm")
    *context, _ = inputs()
    decoder.head.weight.data[PAD] = 0  # an untrained head may generate it
    answers = decoder.generate(*context, 12)
    # a token that some answers have early and others do not have
    token = next(
        token
        for token in answers[:, :6].unique()
        if token > EOS and not (answers == token).any(1).all()
    )
    with torch.no_grad():
        decoder.head.weight[EOS] = decoder.head.weight[token]  # argmax takes the first
    answers = decoder.generate(*context, 12)
    after = (answers == EOS).cumsum(1) - (answers == EOS).int() > 0
    assert after.any()
    assert not after[:, -1].all()
    assert (answers[after] == PAD).all()
    assert (answers[~after] != PAD).all()


def test_questions_must_divide_among_images():
    prefix, mask, questions, answer = inputs()
    with pytest.raises(ValueError, match="5 questions do not divide among 2 images"):
        make("plain")(prefix, mask, questions[:5], answer[:5])


def test_recursive_decoder_with_one_step_and_no_latent_is_plain():
    plain = make("plain")
    looped = make("trm, no latent", inner_steps=1)
    looped.load_state_dict(plain.state_dict())
    assert torch.equal(plain(*inputs()), looped(*inputs()))


def test_recursive_decoder_runs_at_any_depth():
    decoder = make("trm")
    states = decoder.states(*inputs())
    decoder.inner_steps = 5
    deeper = decoder.states(*inputs())
    assert len(states) == 3
    assert len(deeper) == 5
    torch.testing.assert_close(torch.stack(states), torch.stack(deeper[:3]))


def test_rounds_before_the_last_have_no_gradient():
    decoder = make("trm, two rounds")
    states = decoder.states(*inputs())
    assert [state.requires_grad for state in states] == [False] * 3 + [True] * 3
    assert not decoder.z_start.requires_grad


def test_deep_supervision_gives_each_round_its_own_gradient():
    decoder = make("trm, deep")
    states = decoder.states(*inputs())
    first, last = decoder.supervised(states)
    assert first is states[2]
    assert last is states[5]
    [unused] = torch.autograd.grad(
        last.sum(), decoder.z_start, retain_graph=True, allow_unused=True
    )
    assert unused is None
    assert torch.autograd.grad(first.square().sum(), decoder.z_start)[0].norm() > 0


def test_decoder_works_without_a_prefix():
    decoder = make("plain")
    prefix, mask, questions, answer = inputs()
    without = decoder(prefix[:, :0], mask[:, :0], questions, answer)
    assert without.isfinite().all()
    assert not torch.allclose(without, decoder(prefix, mask, questions, answer))


@pytest.mark.parametrize(
    ("variant", "changes", "expected"),
    [("plain", {"layers": 4}, 401), ("trm", {"inner_steps": 4}, 617)],
    ids=["plain", "trm"],
)
def test_layer_tokens_equal_hand_count(variant, changes, expected):
    """For 84 context and 32 answer rows: 3.25 x 84 + 4 x 32; 1.25 x 84 + 4 x 2 x 64."""
    kind, _ = VARIANTS[variant]
    config = DecoderConfig(width=32, heads=2, **({"layers": 2} | changes))
    decoder = kind.from_config(config, 8, 8)
    assert decoder.layer_tokens(84, 32) == expected

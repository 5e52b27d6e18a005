"""A tiny Qwen2 that sees through soft tokens: what it reads, learns, keeps and says."""

import copy
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from vlm_targets import save_sharded_vlm

from edge_lib.bench.vlm import build, first_token
from edge_lib.config import ConfigError
from edge_lib.config.language import LanguageConfig, LoRAConfig
from edge_lib.config.vlm import ProjectorConfig, VLMConfig
from edge_lib.data.chat import IGNORE, ChatError
from edge_lib.data.chat_batches import ChatBatch
from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.data.vocabulary import pad
from edge_lib.models import Aligner
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.vlm import VLM
from edge_lib.nn.decoders.language import load_language
from edge_lib.nn.fusion import FUSIONS
from edge_lib.nn.projectors import Projector
from edge_lib.training.launch import launch


@pytest.fixture(scope="module")
def aligner(small_align):
    torch.manual_seed(0)
    config = small_align("vision.pooler=perceiver vision.num_latents=3")
    return Aligner(config, {"vision": (16, 16), "text": (384, 384)})


@pytest.fixture(scope="module")
def make_vlm_on(language_folder):
    """make_vlm_on(streams, projector={...}, language={...}, key=value) -> an untrained VLM, always
    the same."""

    def make(seen, projector=None, language=None, **settings):
        lora = {"rank": 4, "alpha": 8}
        about = {"model": str(language_folder), "lora": lora} | (language or {})
        settings = {"projector": projector or {}, "max_new_tokens": 6} | settings
        config = VLMConfig(language=about, **settings)
        alone = features(1)
        both = MultimodalOutput({"vision": alone, "audio": alone})
        examples = {n: both if s == "fused" else alone for n, s in config.streams.items()}
        torch.manual_seed(0)
        return VLM.new(seen, config, examples).eval()

    return make


@pytest.fixture(scope="module")
def make_vlm(aligner, make_vlm_on):
    """The same, on an aligner of vision alone."""
    return lambda **settings: make_vlm_on(PrefixSources(aligner), **settings)


def features(count, seed=0):
    """Of images: 4 tokens each, of width 16."""
    made = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, 4, 16, generator=made)
    return EncoderOutput(tokens, torch.ones(count, 4, dtype=torch.bool), tokens.mean(1))


def turns(*texts):
    roles = ("user", "assistant") * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def batch_of(vlm, *conversations, images=1, seed=0):
    """A batch of conversations, with features of `images` images in all."""
    ids, labels = zip(*(vlm.chat.encode(messages) for messages in conversations), strict=True)
    mask = pad([[1] * len(row) for row in ids], 0).bool()
    prefixes = {"image": features(images, seed)} if images else {}
    labels = pad(labels, IGNORE)
    return ChatBatch(pad(ids, vlm.chat.pad), mask, labels, prefixes, float((labels >= 0).sum()))


SEEN = turns("<image>\nwhat is it?", "a red three")


# --- what it reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "clip_mlp", "tokens", "sequence"])
def test_soft_tokens_are_as_many_as_asked_and_as_large_as_words(kind):
    torch.manual_seed(0)
    count = 3 if kind in ("tokens", "sequence") else 1
    projector = Projector(ProjectorConfig(kind=kind, tokens=count), 512, 896, scale=0.02)
    length = 5 if kind == "sequence" else 1
    soft = projector(7 * torch.randn(4, length, 512))
    assert soft.shape == (4, length * count, 896)
    assert soft.std().item() == pytest.approx(0.02, rel=0.02)
    if kind == "clip_mlp":
        names = [type(layer).__name__ for layer in projector.layers]
        assert names == ["Linear", "ReLU", "LayerNorm", "Linear"]
        assert [tuple(projector.layers[i].weight.shape) for i in (0, 3)] == [(896, 512), (896, 896)]


def test_vectors_take_the_places_of_their_images_in_order(make_vlm):
    vlm = make_vlm()
    two = turns("<image> and <image>\nwhere is it?", "no")
    batch = batch_of(vlm, two, SEEN, images=3)
    embedded, mask = vlm.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
    soft, _ = vlm.soft_tokens("image", batch.prefixes["image"])
    place = batch.input_ids == vlm.chat.placeholders["image"]
    assert place.sum(1).tolist() == [6, 3]
    torch.testing.assert_close(embedded[place], soft.flatten(0, 1))
    words = vlm.language.get_input_embeddings()(batch.input_ids[~place])
    torch.testing.assert_close(embedded[~place], words)
    assert torch.equal(mask, batch.attention_mask)


def test_images_and_places_must_agree(make_vlm):
    vlm = make_vlm()
    with pytest.raises(ValueError, match="<image> without image"):
        vlm(batch_of(vlm, SEEN, images=0))
    with pytest.raises(ValueError, match="2 of image for 1 places"):
        vlm(batch_of(vlm, SEEN, images=2))


def test_fewer_vectors_than_places_leave_the_rest_masked(make_vlm_on, small_align):
    """A batch of the store is as long as its longest item, which may be shorter than the first."""
    torch.manual_seed(0)
    whole = Aligner(small_align("vision.pooler=tokens"), {"vision": (16, 16), "text": (384, 384)})
    vlm = make_vlm_on(PrefixSources(whole))
    batch = batch_of(vlm, SEEN)
    four = features(1)
    three = EncoderOutput(four.tokens[:, :3], four.mask[:, :3], four.pooled)
    masked = EncoderOutput(
        four.tokens, four.mask & torch.tensor([True, True, True, False]), four.pooled
    )
    losses = []
    for encoded in (three, masked):
        batch.prefixes["image"] = encoded
        losses.append(vlm(batch).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    five = EncoderOutput(
        *(torch.cat([x, x[:, :1]], 1) for x in (four.tokens, four.mask)), four.pooled
    )
    batch.prefixes["image"] = five
    with pytest.raises(ValueError, match="5 vectors for <image>: 4 fit"):
        vlm(batch)


def test_what_stands_on_padding_is_not_read(make_vlm, monkeypatch):
    """A soft token that is masked changes nothing, wherever it stands, and takes no position."""
    vlm = make_vlm()
    batch = batch_of(vlm, SEEN)
    soft, mask = vlm.soft_tokens("image", batch.prefixes["image"])
    losses = []
    for garbage in (0.0, 50.0):
        hidden = mask.clone()
        hidden[:, 1] = False
        made = torch.where(hidden[..., None], soft, torch.full_like(soft, garbage))
        monkeypatch.setattr(vlm, "soft_tokens", lambda *_, s=made, m=hidden: (s, m))
        losses.append(vlm(batch).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    # as if that token were not there at all
    place = (batch.input_ids[0] == vlm.chat.placeholders["image"]).nonzero()[1, 0]
    kept = torch.arange(batch.input_ids.shape[1]) != place
    fewer = ChatBatch(
        *(x[:, kept] for x in (batch.input_ids, batch.attention_mask, batch.labels)),
        batch.prefixes,
        batch.tokens,
    )
    some = soft[:, [0, 2]], mask[:, [0, 2]]
    monkeypatch.setattr(vlm, "soft_tokens", lambda *_: some)
    assert vlm(fewer).item() == pytest.approx(losses[0], abs=1e-5)


def test_longer_neighbours_change_nothing(make_vlm):
    vlm = make_vlm()
    long = turns("what is in the image ? where is it ?", "a red three yes no two a red three")
    alone, both = batch_of(vlm, SEEN), batch_of(vlm, SEEN, long)
    tokens = alone.tokens
    both.labels[1] = IGNORE
    both.tokens = tokens
    assert vlm(both).item() == pytest.approx(vlm(alone).item(), abs=1e-6)


# --- the loss --------------------------------------------------------------------------------


def test_loss_and_gradients_are_those_of_the_full_logits(make_vlm):
    """transformers' own loss on every place's logits is the reference."""
    vlm = make_vlm()
    batch = batch_of(vlm, SEEN, turns("<image>\nwhere is it?", "no", "what?", "yes two"), images=2)
    trained = [p for p in vlm.parameters() if p.requires_grad]
    ours = vlm(batch)
    gradients = torch.autograd.grad(ours, trained)
    embedded, mask = vlm.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
    theirs = vlm.language(inputs_embeds=embedded, attention_mask=mask, labels=batch.labels).loss
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for mine, other in zip(gradients, torch.autograd.grad(theirs, trained), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_answer_token_is_seen_before_it_is_said(make_vlm, precision):
    vlm = make_vlm(language={"precision": precision})
    for p in vlm.language.parameters():  # adapters that do something
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    batch = batch_of(vlm, SEEN)
    states = {}
    answer = (batch.labels[0] != IGNORE).nonzero()[:, 0]
    for token in (5, 300):
        ids = batch.input_ids.clone()
        ids[0, answer[1]] = token
        states[token] = vlm.read(*vlm.embed(ids, batch.attention_mask, batch.prefixes))
    before, after = states[5][0], states[300][0]
    assert torch.equal(before[: answer[1]], after[: answer[1]])
    assert (before[answer[1] :] != after[answer[1] :]).any(-1).all()


# --- what is trained -------------------------------------------------------------------------


def some_steps(vlm, count=12):
    batch = batch_of(vlm, SEEN, turns("<image>\nwhere is it?", "no two"), images=2)
    optimizer = torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(count):
        loss = vlm(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def changed(vlm, before):
    return {n for n, p in vlm.named_parameters() if not torch.equal(p, before[n])}


def test_projectors_alone_are_trained_then_adapters_too(make_vlm):
    vlm = make_vlm()
    for adapters in (False, True):
        vlm.train_adapters(adapters)
        before = {n: p.detach().clone() for n, p in vlm.named_parameters()}
        losses = some_steps(vlm)
        assert losses[-1] < 0.8 * losses[0]
        moved = changed(vlm, before)
        assert any(n.startswith("projectors.") for n in moved)
        assert any(".lora_" in n for n in moved) == adapters
        assert all(n.startswith("projectors.") or ".lora_" in n for n in moved)


@pytest.mark.parametrize(("bits", "layer"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_quantised_weights_are_read_and_adapters_trained_on_a_cpu(make_vlm, bits, layer):
    vlm = make_vlm(language={"quantize": bits})
    projection = vlm.language.base_model.layers[0].self_attn.q_proj
    assert type(projection.base_layer).__name__ == layer
    weight = projection.base_layer.weight.clone()
    exact = make_vlm()
    batch = batch_of(vlm, SEEN)
    assert vlm(batch).item() == pytest.approx(exact(batch).item(), rel=0.1)
    assert vlm(batch).item() != exact(batch).item()
    expected = vlm(batch).item()
    with torch.no_grad():  # what is evaluated in between stays as it was
        assert vlm(batch).item() == expected
    losses = some_steps(vlm)
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(projection.base_layer.weight, weight)
    assert projection.lora_B["default"].weight.abs().max() > 0


def test_a_state_holds_what_is_trained_and_nothing_else(make_vlm):
    vlm, other = make_vlm(), make_vlm()
    some_steps(vlm, 2)
    state = vlm.state_dict()
    assert state.keys() == {n for n, p in vlm.named_parameters() if p.requires_grad}
    other.load_state_dict(state)
    batch = batch_of(vlm, SEEN)
    assert other(batch).item() == vlm(batch).item()
    with pytest.raises(RuntimeError, match="projectors"):
        other.load_state_dict({n: v for n, v in state.items() if ".lora_" in n})
    # inside a wrapper such as DDP as well
    wrapped = torch.nn.ModuleDict({"module": vlm}).state_dict()
    assert wrapped.keys() == {f"module.{name}" for name in state}


def test_adapters_of_a_model_in_16_bits_are_in_32(make_vlm):
    vlm = make_vlm(language={"precision": "bf16"})
    vlm.train_adapters(True)
    kinds = {
        "lora" if ".lora_" in n else "own": p.dtype for n, p in vlm.language.named_parameters()
    }
    assert kinds == {"lora": torch.float32, "own": torch.bfloat16}
    loss = vlm(batch_of(vlm, SEEN))
    loss.backward()
    trained = [p for n, p in vlm.language.named_parameters() if ".lora_B" in n]
    assert all(p.grad.any() for p in trained)


def test_a_whole_model_in_16_bits_reads_features_in_32(make_vlm):
    """As DeepSpeed makes it, which casts no inputs."""
    vlm = make_vlm()
    batch = batch_of(vlm, SEEN)
    expected = vlm(batch).item()
    loss = copy.deepcopy(vlm).bfloat16()(batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.05)


def test_a_head_that_is_not_the_last_word_is_refused(language_folder, tmp_path):
    shutil.copytree(language_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    (tmp_path / "other/config.json").write_text(json.dumps(config | {"logits_scaling": 8.0}))
    with pytest.raises(ConfigError, match="changes logits by its logits_scaling"):
        load_language(LanguageConfig(model=str(tmp_path / "other")))


def test_checkpointing_gives_the_same_gradients_by_reading_twice(make_vlm):
    found, passes = [], []
    for checkpointing in (False, True):
        vlm = make_vlm(language={"gradient_checkpointing": checkpointing}).train()
        projection = vlm.language.base_model.layers[0].mlp.up_proj
        projection.register_forward_hook(lambda *_, now=checkpointing: passes.append(now))
        vlm(batch_of(vlm, SEEN)).backward()
        found.append({n: p.grad for n, p in vlm.named_parameters() if p.grad is not None})
    assert passes == [False, True, True]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


# --- what it says ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(make_vlm):
    """One that learned a little, so that it says different things of different images."""
    vlm = make_vlm()
    some_steps(vlm, 30)
    return vlm.eval()


def test_saved_and_loaded_it_says_the_same(trained, tmp_path):
    trained.save_pretrained(tmp_path / "vlm")
    loaded = VLM.from_pretrained(tmp_path / "vlm")
    prompts = [turns("<image>\nwhat is it?"), turns("<image>\nwhere is it?")]
    how = prompts, {"image": features(2)}
    assert loaded.answer(*how) == trained.answer(*how)
    assert trained.answer(*how) == ["a red three", "no two"]
    batch = batch_of(trained, SEEN)
    assert loaded(batch).item() == trained(batch).item()


def test_it_is_loaded_otherwise_but_with_its_own_adapters(trained, language_folder, tmp_path):
    trained.save_pretrained(tmp_path / "vlm")
    batch = batch_of(trained, SEEN)
    fewer = LanguageConfig(model=str(language_folder), precision="bf16")
    loaded = VLM.from_pretrained(tmp_path / "vlm", fewer)
    assert loaded.language.dtype == torch.bfloat16
    assert loaded(batch).item() == pytest.approx(trained(batch).item(), abs=0.05)
    for lora in (None, LoRAConfig(rank=4, alpha=8, targets=["q_proj"])):
        other = LanguageConfig(model=str(language_folder), lora=lora)
        with pytest.raises(ValueError, match="has other adapters"):
            VLM.from_pretrained(tmp_path / "vlm", other)


def test_what_two_ranks_share_is_kept_whole(trained, tmp_path):
    trained.save_pretrained(tmp_path / "start")
    (tmp_path / "checkpoints").mkdir()
    batch = batch_of(trained, SEEN)
    about = str(tmp_path), str(tmp_path / "start"), batch
    shares = launch(save_sharded_vlm, *about, num_processes=2)
    expected = trained(batch).item()
    assert [loss for loss, _ in shares.values()] == [pytest.approx(expected, rel=1e-5)] * 2
    kept = VLM.from_pretrained(tmp_path / "checkpoints" / "best")
    kept.train_adapters(True)
    weights = {name: p for name, p in kept.named_parameters() if p.requires_grad}
    assert sum(count for _, count in shares.values()) == sum(p.numel() for p in weights.values())
    whole = dict(trained.named_parameters())
    assert all(torch.equal(weight, whole[name]) for name, weight in weights.items())


def test_unequal_prompts_in_a_batch_are_answered_as_alone(trained):
    images = features(3, seed=5)
    prompts = [
        turns("<image>\nwhat is it?"),
        turns("<image> <image>\nwhat is in the image ? where is it ? a red three ?"),
        turns("where?"),
    ]
    parts = [images.tokens[:1], images.tokens[1:]]
    alone = [
        trained.answer([p], {"image": EncoderOutput(t, torch.ones(len(t), 4).bool(), t.mean(1))})[0]
        for p, t in zip(prompts, parts, strict=False)
    ]
    alone.append(trained.answer([prompts[2]], {})[0])
    assert trained.answer(prompts, {"image": images}) == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 1}], ids=str)
def test_a_remembered_image_is_answered_about_as_if_read_anew(trained, how):
    image = features(1, seed=3)
    remembered = trained.remember(image)
    prompts = [turns(f"<image>\n{text}") for text in ("what is it?", "where is the red three ?")]
    both = EncoderOutput(*(x.repeat(2, *[1] * (x.ndim - 1)) for x in vars(image).values()))
    expected = trained.answer(prompts, {"image": both}, **how)
    for _ in range(2):  # it is not used up
        assert trained.answer(prompts, {}, remembered, **how) == expected


def test_beams_find_what_is_likelier_than_the_greedy_answer(make_vlm):
    vlm = make_vlm()  # untrained: its greedy answers are poor
    prompt, images = turns("<image>\nwhat is it?"), {"image": features(1)}
    texts = [vlm.answer([prompt], images, num_beams=n)[0] for n in (1, 5)]
    ids, mask = vlm._pad([vlm.chat.prompt(prompt)])
    embedded, mask = vlm.embed(ids, mask, images)

    def likelihood(beams):
        found = vlm.language.generate(
            inputs_embeds=embedded, attention_mask=mask.long(), max_new_tokens=6, num_beams=beams
        )
        words = vlm.language.get_input_embeddings()(found)
        everything = torch.cat([embedded, words], 1)
        logits = vlm.language(inputs_embeds=everything).logits[:, embedded.shape[1] - 1 : -1]
        each = -F.cross_entropy(logits[0], found[0], reduction="none")
        return vlm.chat.tokenizer.decode(found[0], skip_special_tokens=True).strip(), each.mean()

    (greedy, low), (beam, high) = likelihood(1), likelihood(5)
    assert texts == [greedy, beam]
    assert high > low


def test_sampling_draws_from_what_is_allowed(make_vlm):
    vlm = make_vlm()
    prompt, images = turns("<image>\nwhat is it?"), {"image": features(1)}

    def draw(seed, **how):
        torch.manual_seed(seed)
        return vlm.answer([prompt], images, do_sample=True, **how)[0]

    assert draw(1) == draw(1)
    assert len({draw(seed, temperature=2.0) for seed in range(6)}) > 1
    assert {draw(seed, top_k=1) for seed in range(3)} == {vlm.answer([prompt], images)[0]}
    assert {draw(seed, top_p=1e-6) for seed in range(3)} == {vlm.answer([prompt], images)[0]}


def picture(seed):
    noise = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def test_pictures_are_put_before_a_text_that_does_not_place_them(trained):
    one, two = picture(1), picture(2)
    assert trained.generate("what is it?", one) == trained.generate("<image>\nwhat is it?", [one])
    batch = trained.generate(["what is it?", "where is it?", "no?"], [one, [one, two], None])
    assert batch[0] == trained.generate("what is it?", one)
    assert batch[1] == trained.generate("<image>\n<image>\nwhere is it?", [one, two])
    assert batch[2] == trained.generate("no?")
    assert trained.generate(turns("<image>\nwhat is it?"), one) == batch[0]
    remembered = trained.remember(one)
    assert trained.generate(["what is it?", "what is it?"], remembered) == [batch[0]] * 2


@pytest.mark.parametrize(
    ("prompt", "images", "error", "said"),
    [
        ("<image>\nwhat is it?", None, ValueError, "1 <image>, but 0 were given"),
        ("<image>\nwhat is it?", [1, 2], ValueError, "1 <image>, but 2 were given"),
        (turns("what is it?"), [1], ValueError, "0 <image>, but 1 were given"),
        ("", None, ChatError, "without text"),
        ("what? " * 2000, None, ChatError, "more than max_length=1024"),
        ("<audio>\nwhat is it?", None, ValueError, "1 <audio>, but 0 were given"),
        (["what?", "where?"], [1], ValueError, "2 prompts, but image for 1"),
        ("what?", [None], ValueError, "None in a list of image"),
        ([], None, ValueError, "no prompt"),
        ("what?", [[1, 2]], ValueError, "a list in the list of image"),
        ([{"from": "human", "value": "what?"}], None, ChatError, "not from, value"),
    ],
    ids=[
        "no image",
        "two images",
        "no placeholder",
        "empty",
        "too long",
        "no clip",
        "one image",
        "null image",
        "no prompt",
        "nested list",
        "wrong keys",
    ],
)
def test_what_cannot_be_asked_says_why(trained, prompt, images, error, said):
    if images and not isinstance(images[0], list):
        images = [seed and picture(seed) for seed in images]
    with pytest.raises(error, match=said):
        trained.generate(prompt, images)


def test_what_a_model_has_no_place_for_is_refused(trained):
    with pytest.raises(ValueError, match="audio given, but the model has no <audio>"):
        trained.generate("what?", picture(1), audio=[0.0] * 16000)
    with pytest.raises(ValueError, match="2 prompts, but image for one"):
        trained.generate(["what?", "where?"], picture(1))


def test_what_is_no_picture_and_no_model_is_refused(trained, tmp_path):
    for odd in ("picture.png", tmp_path, [picture(1), picture(2)]):
        with pytest.raises(TypeError, match="has to be a PIL image"):
            trained.remember(odd)
    best = tmp_path / "lora" / "checkpoints" / "best"
    trained.save_pretrained(best)
    with pytest.raises(FileNotFoundError, match=f"no saved model .*there is one in {best}"):
        VLM.from_pretrained(tmp_path)


def test_samples_about_a_remembered_image(trained):
    remembered = trained.remember(picture(1))
    how = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 4}
    found = []
    for image in (picture(1), remembered):
        torch.manual_seed(0)
        shown = image if image is remembered else [image, image]
        found.append(trained.generate(["what is it?", "where?"], shown, **how))
    assert found[0] == found[1]
    assert len(found[0]) == 6
    assert len(trained.generate("what is it?", picture(1), **how)) == 3


def test_the_benchmark_asks_a_remembered_image_the_same(language_folder):
    found = first_token(build(str(language_folder)))
    assert found["same_token"] == 1


def test_another_image_cannot_take_the_remembered_ones_place(trained):
    remembered = trained.remember(features(1))
    with pytest.raises(ValueError, match="prompt 0 does not begin with the remembered image"):
        trained.answer([turns("what is it?\n<image>")], {}, remembered)


# --- other streams ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hearing(small_trimodal):
    """PrefixSources of an untrained aligner of vision and audio, with a fusion of both."""
    torch.manual_seed(0)
    config = small_trimodal("vision.pooler=perceiver vision.num_latents=3")
    aligner = Aligner(config, dict.fromkeys(("vision", "audio"), (16, 16)) | {"text": (384, 384)})
    return PrefixSources(aligner, FUSIONS["concat"](config.fusion, 16))


def clip(seed):
    return torch.randn(16000, generator=torch.Generator().manual_seed(seed)).numpy()


def test_clips_take_the_places_of_audio(hearing, make_vlm_on):
    vlm = make_vlm_on(hearing, streams={"image": "vision", "audio": "audio"})
    batch = batch_of(vlm, turns("<image>\n<audio>\nwhat is it?", "yes"), SEEN, images=2)
    batch.prefixes["audio"] = features(1, seed=9)
    embedded, _ = vlm.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
    heard, _ = vlm.soft_tokens("audio", features(1, seed=9))
    place = batch.input_ids == vlm.chat.placeholders["audio"]
    torch.testing.assert_close(embedded[place], heard.flatten(0, 1))
    # a batch without clips still gives the ear's projector a gradient, of zero
    vlm(batch_of(vlm, SEEN)).backward()
    assert all(not p.grad.any() for p in vlm.projectors["audio"].parameters())
    assert all(p.grad.any() for p in vlm.projectors["image"].parameters())
    assert vlm.generate("what?", [picture(1)], [clip(1)]) == vlm.generate(
        "<image>\n<audio>\nwhat?", picture(1), clip(1)
    )


def test_what_is_fused_takes_the_images_place(hearing, make_vlm_on, tmp_path):
    vlm = make_vlm_on(hearing, streams={"image": "fused"}, fusion="concat")
    both = MultimodalOutput({"vision": features(2), "audio": features(2, seed=9)})
    soft, mask = vlm.soft_tokens("image", both)
    heads = hearing.aligner.heads
    sequences = {name: heads[name](part)[0] for name, part in both.parts.items()}
    there = dict.fromkeys(sequences, torch.ones(2, dtype=torch.bool))
    fused = hearing.fusion(sequences, there)
    torch.testing.assert_close(soft, vlm.projectors["image"](fused.prefix))
    assert torch.equal(mask, fused.mask)
    answer = vlm.generate("what is it?", picture(1), clip(1))
    assert answer == vlm.generate(["what is it?"], [picture(1)], [clip(1)])[0]
    with pytest.raises(ValueError, match="1 images to fuse with 0 clips"):
        vlm.generate("what is it?", picture(1))
    images, clips = [[picture(1)], [picture(2)]], [[clip(1), clip(2)], None]  # two, and two
    with pytest.raises(ValueError, match="1 images to fuse with 2 clips"):
        vlm.generate(["what is it?", "where?"], images, clips)
    assert vlm.generate("what is it?", vlm.remember(picture(1), clip(1))) == answer
    with pytest.raises(ValueError, match="1 images to fuse with 0 clips"):
        vlm.remember(picture(1))
    vlm.save_pretrained(tmp_path / "vlm")
    loaded = VLM.from_pretrained(tmp_path / "vlm")
    torch.testing.assert_close(loaded.soft_tokens("image", both)[0], soft)
    assert loaded.generate("what is it?", picture(1), clip(1)) == answer

"""A VLM of a tiny Qwen2: soft tokens, loss, training, saving and generation."""

import copy
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file
from transformers import GraniteConfig, GraniteForCausalLM

from edge_lib.bench.vlm import build, first_token
from edge_lib.config import ConfigError, LanguageConfig, LoRAConfig, VLMModelConfig
from edge_lib.data.chat import IGNORE, ChatError
from edge_lib.data.chat_batches import ChatBatch
from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.data.vocabulary import pad
from edge_lib.models import Aligner, Fuser
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.vlm import VLM
from edge_lib.nn.decoders.language import supervised_loss
from edge_lib.nn.projectors import Projector


@pytest.fixture(scope="module")
def aligner(small_align):
    return untrained_aligner(small_align("vision.pooler=perceiver vision.num_latents=3"))


def untrained_aligner(config):
    torch.manual_seed(0)
    widths = {"vision": (16, 16), "audio": (16, 16), "text": (384, 384)}
    return Aligner(config.modalities, config.loss.dims, widths)


@pytest.fixture(scope="module")
def make_vlm_on(language_folder):
    """make_vlm_on(prefix_sources, language={...}, key=value) -> an untrained VLM, the same each
    time.
    """

    def make(prefix_sources, /, language=None, **keys):
        lora = {"rank": 4, "alpha": 8}
        language = {"model": str(language_folder), "lora": lora} | (language or {})
        config = VLMModelConfig(language=language, **{"max_new_tokens": 6} | keys)
        single = features(1)
        fused = MultimodalOutput({"vision": single, "audio": single})
        sources = config.prefix_sources.items()
        examples = {n: fused if source == "fused" else single for n, source in sources}
        torch.manual_seed(0)
        return VLM.new(prefix_sources, config, examples).eval()

    return make


@pytest.fixture(scope="module")
def make_vlm(aligner, make_vlm_on):
    """make_vlm(language={...}, key=value): `make_vlm_on` an aligner without audio."""
    return lambda **keys: make_vlm_on(PrefixSources(aligner), **keys)


def features(count, seed=0):
    """Random encoder output of `count` images: 4 tokens each, of width 16."""
    tokens = torch.randn(count, 4, 16, generator=torch.Generator().manual_seed(seed))
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


CONVERSATION = turns("<image>\nwhat is it?", "a red three")


# --- inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "clip_mlp", "tokens", "sequence"])
def test_projector_gives_soft_tokens_with_the_scale_of_words(kind):
    torch.manual_seed(0)
    count = 3 if kind in ("tokens", "sequence") else 1
    projector = Projector(kind, 512, 896, count, scale=0.02)
    length = 5 if kind == "sequence" else 1
    soft = projector(7 * torch.randn(4, length, 512))
    assert soft.shape == (4, length * count, 896)
    assert soft.std().item() == pytest.approx(0.02, rel=0.02)
    if kind == "clip_mlp":
        names = [type(layer).__name__ for layer in projector.layers]
        assert names == ["Linear", "ReLU", "LayerNorm", "Linear"]
        assert [tuple(projector.layers[i].weight.shape) for i in (0, 3)] == [(896, 512), (896, 896)]


def test_soft_tokens_replace_placeholders_in_order(make_vlm):
    vlm = make_vlm()
    two = turns("<image> and <image>\nwhere is it?", "no")
    batch = batch_of(vlm, two, CONVERSATION, images=3)
    embedded, mask = vlm.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
    soft, _ = vlm.soft_tokens("image", batch.prefixes["image"])
    position = batch.input_ids == vlm.chat.placeholders["image"]
    assert position.sum(1).tolist() == [6, 3]
    torch.testing.assert_close(embedded[position], soft.flatten(0, 1))
    words = vlm.language.get_input_embeddings()(batch.input_ids[~position])
    torch.testing.assert_close(embedded[~position], words)
    assert torch.equal(mask, batch.attention_mask)


def test_vlm_rejects_unequal_numbers_of_images_and_placeholders(make_vlm):
    vlm = make_vlm()
    with pytest.raises(ValueError, match="<image> without image"):
        vlm(batch_of(vlm, CONVERSATION, images=0))
    with pytest.raises(ValueError, match="2 of image for 1 placeholders <image>"):
        vlm(batch_of(vlm, CONVERSATION, images=2))


def test_missing_vectors_are_masked(make_vlm_on, small_align):
    """A batch of a store is as long as its longest item, which may be shorter than the first."""
    vlm = make_vlm_on(PrefixSources(untrained_aligner(small_align("vision.pooler=tokens"))))
    batch = batch_of(vlm, CONVERSATION)
    four = features(1)
    three = EncoderOutput(four.tokens[:, :3], four.mask[:, :3], four.pooled)
    masked = EncoderOutput(
        four.tokens, four.mask & torch.tensor([True, True, True, False]), four.pooled
    )
    losses = []
    for output in (three, masked):
        batch.prefixes["image"] = output
        losses.append(vlm(batch).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    five = EncoderOutput(
        *(torch.cat([x, x[:, :1]], 1) for x in (four.tokens, four.mask)), four.pooled
    )
    batch.prefixes["image"] = five
    with pytest.raises(ValueError, match="5 vectors for <image>, at most 4 fit"):
        vlm(batch)


def test_masked_soft_tokens_change_nothing(make_vlm, monkeypatch):
    """Whatever their values; they take no position either."""
    vlm = make_vlm()
    batch = batch_of(vlm, CONVERSATION)
    soft, mask = vlm.soft_tokens("image", batch.prefixes["image"])
    losses = []
    for garbage in (0.0, 50.0):
        valid = mask.clone()
        valid[:, 1] = False
        values = torch.where(valid[..., None], soft, torch.full_like(soft, garbage))
        monkeypatch.setattr(vlm, "soft_tokens", lambda *_, s=values, m=valid: (s, m))
        losses.append(vlm(batch).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    # the same as without that token
    position = (batch.input_ids[0] == vlm.chat.placeholders["image"]).nonzero()[1, 0]
    kept = torch.arange(batch.input_ids.shape[1]) != position
    fewer = ChatBatch(
        *(x[:, kept] for x in (batch.input_ids, batch.attention_mask, batch.labels)),
        batch.prefixes,
        batch.tokens,
    )
    others = soft[:, [0, 2]], mask[:, [0, 2]]
    monkeypatch.setattr(vlm, "soft_tokens", lambda *_: others)
    assert vlm(fewer).item() == pytest.approx(losses[0], abs=1e-5)


def test_padding_to_a_longer_conversation_changes_nothing(make_vlm):
    vlm = make_vlm()
    long = turns("what is in the image ? where is it ?", "a red three yes no two a red three")
    alone, both = batch_of(vlm, CONVERSATION), batch_of(vlm, CONVERSATION, long)
    tokens = alone.tokens
    both.labels[1] = IGNORE
    both.tokens = tokens
    assert vlm(both).item() == pytest.approx(vlm(alone).item(), abs=1e-6)


# --- the loss --------------------------------------------------------------------------------


def test_loss_and_gradients_equal_those_of_the_full_logits(make_vlm):
    """The reference is transformers' own loss, on the logits of every position."""
    vlm = make_vlm()
    batch = batch_of(
        vlm, CONVERSATION, turns("<image>\nwhere is it?", "no", "what?", "yes two"), images=2
    )
    trained = [p for p in vlm.parameters() if p.requires_grad]
    loss = vlm(batch)
    gradients = torch.autograd.grad(loss, trained)
    embedded, mask = vlm.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
    full = vlm.language(inputs_embeds=embedded, attention_mask=mask, labels=batch.labels).loss
    assert loss.item() == pytest.approx(full.item(), abs=1e-6)
    for gradient, expected in zip(gradients, torch.autograd.grad(full, trained), strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_do_not_depend_on_later_answer_tokens(make_vlm, precision):
    vlm = make_vlm(language={"precision": precision})
    for p in vlm.language.parameters():  # adapters that change outputs
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    batch = batch_of(vlm, CONVERSATION)
    states = {}
    answer = (batch.labels[0] != IGNORE).nonzero()[:, 0]
    for token in (5, 300):
        ids = batch.input_ids.clone()
        ids[0, answer[1]] = token
        inputs = vlm.language_inputs(*vlm.embed(ids, batch.attention_mask, batch.prefixes))
        states[token] = vlm.language.base_model(**inputs).last_hidden_state
    before, after = states[5][0], states[300][0]
    assert torch.equal(before[: answer[1]], after[: answer[1]])
    assert (before[answer[1] :] != after[answer[1] :]).any(-1).all()


def test_loss_includes_what_a_model_does_to_its_logits():
    """Granite divides them by a constant."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = GraniteConfig(vocab_size=40, logits_scaling=8.0, **sizes, **heads)
    model, ids = GraniteForCausalLM(config).eval(), torch.arange(12).view(2, 6)
    labels = ids.masked_fill(ids % 3 == 0, IGNORE)
    expected = model(input_ids=ids, labels=labels).loss * (labels[:, 1:] != IGNORE).sum()
    torch.testing.assert_close(supervised_loss(model, labels, input_ids=ids), expected)


# --- training --------------------------------------------------------------------------------


def train_steps(vlm, count=12):
    batch = batch_of(vlm, CONVERSATION, turns("<image>\nwhere is it?", "no two"), images=2)
    optimizer = torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(count):
        loss = vlm(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_changes_projectors_and_adapters_if_enabled(make_vlm):
    vlm = make_vlm()
    for adapters in (False, True):
        vlm.train_adapters(adapters)
        before = {n: p.detach().clone() for n, p in vlm.named_parameters()}
        losses = train_steps(vlm)
        assert losses[-1] < 0.8 * losses[0]
        changed = {n for n, p in vlm.named_parameters() if not torch.equal(p, before[n])}
        assert any(n.startswith("projectors.") for n in changed)
        assert any(".lora_" in n for n in changed) == adapters
        assert all(n.startswith("projectors.") or ".lora_" in n for n in changed)


@pytest.mark.parametrize(("bits", "layer"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_quantised_model_trains_adapters_on_a_cpu(make_vlm, bits, layer):
    vlm = make_vlm(language={"quantize": bits})
    projection = vlm.language.base_model.layers[0].self_attn.q_proj
    assert type(projection.base_layer).__name__ == layer
    weight = projection.base_layer.weight.clone()
    exact = make_vlm()
    batch = batch_of(vlm, CONVERSATION)
    assert vlm(batch).item() == pytest.approx(exact(batch).item(), rel=0.1)
    assert vlm(batch).item() != exact(batch).item()
    expected = vlm(batch).item()
    with torch.no_grad():  # evaluation changes no weights
        assert vlm(batch).item() == expected
    losses = train_steps(vlm)
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(projection.base_layer.weight, weight)
    assert projection.lora_B["default"].weight.abs().max() > 0


def test_state_dict_holds_trained_weights_alone(make_vlm):
    vlm, other = make_vlm(), make_vlm()
    train_steps(vlm, 2)
    state = vlm.state_dict()
    assert state.keys() == {n for n, p in vlm.named_parameters() if p.requires_grad}
    other.load_state_dict(state)
    batch = batch_of(vlm, CONVERSATION)
    assert other(batch).item() == vlm(batch).item()
    with pytest.raises(RuntimeError, match="projectors"):
        other.load_state_dict({n: v for n, v in state.items() if ".lora_" in n})
    # also inside a wrapper such as DDP
    wrapped = torch.nn.ModuleDict({"module": vlm}).state_dict()
    assert wrapped.keys() == {f"module.{name}" for name in state}


def test_adapters_of_a_16_bit_model_are_in_32_bits(make_vlm):
    vlm = make_vlm(language={"precision": "bf16"})
    vlm.train_adapters(True)
    parameters = vlm.language.named_parameters()
    dtypes = {"adapter" if ".lora_" in n else "frozen": p.dtype for n, p in parameters}
    assert dtypes == {"adapter": torch.float32, "frozen": torch.bfloat16}
    loss = vlm(batch_of(vlm, CONVERSATION))
    loss.backward()
    trained = [p for n, p in vlm.language.named_parameters() if ".lora_B" in n]
    assert all(p.grad.any() for p in trained)


@pytest.mark.parametrize("pooler", ["mean", "cls", "attention", "perceiver"])
def test_prefix_sources_have_no_scalar_parameters(small_trimodal, pooler):
    """DeepSpeed 0.19.8 cannot start with any: it views each parameter as bytes."""
    config = small_trimodal(
        f"vision.pooler={pooler} fusion.strategies=[concat,cross_attention,gated]"
    )
    sources = PrefixSources(Fuser(untrained_aligner(config), config.fusion))
    assert [name for name, p in sources.named_parameters() if p.ndim == 0] == []


def test_vlm_in_16_bits_accepts_features_in_32_bits(make_vlm):
    """DeepSpeed converts the whole model and no inputs."""
    vlm = make_vlm()
    batch = batch_of(vlm, CONVERSATION)
    expected = vlm(batch).item()
    loss = copy.deepcopy(vlm).bfloat16()(batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.05)


def test_gradient_checkpointing_runs_layers_twice_for_the_same_gradients(make_vlm):
    gradients, passes = [], []
    for checkpointing in (False, True):
        vlm = make_vlm(language={"gradient_checkpointing": checkpointing}).train()
        projection = vlm.language.base_model.layers[0].mlp.up_proj
        projection.register_forward_hook(lambda *_, now=checkpointing: passes.append(now))
        vlm(batch_of(vlm, CONVERSATION)).backward()
        gradients.append({n: p.grad for n, p in vlm.named_parameters() if p.grad is not None})
    assert passes == [False, True, True]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


# --- saving and loading ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(make_vlm):
    """A VLM that was trained until it gives different answers about different images."""
    vlm = make_vlm()
    train_steps(vlm, 30)
    return vlm.eval()


def test_vlm_loads_with_the_same_answers(trained, tmp_path, rename_keys):
    trained.save_pretrained(tmp_path / "vlm")
    rename_keys()
    loaded = VLM.from_pretrained(tmp_path / "vlm")
    prompts = [turns("<image>\nwhat is it?"), turns("<image>\nwhere is it?")]
    inputs = prompts, {"image": features(2)}
    assert loaded.answer_batch(*inputs) == trained.answer_batch(*inputs)
    assert trained.answer_batch(*inputs) == ["a red three", "no two"]
    batch = batch_of(trained, CONVERSATION)
    assert loaded(batch).item() == trained(batch).item()


def test_vlm_file_holds_the_model_alone(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    metadata = json.loads((tmp_path / "vlm.json").read_text())
    assert metadata.keys() == {"config", "shapes", "language_digest", "sha256"}
    model = {"language", "prefix_sources", "fusion", "projector", "system"}
    assert metadata["config"].keys() == model | {"max_length", "max_new_tokens"}
    language = {"model", "revision", "weights", "precision", "quantize", "lora"}
    assert metadata["config"]["language"].keys() == language | {"device_map", "max_memory"}


def test_vlm_paths_are_relative_to_the_working_directory(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.save_pretrained("vlm")
    assert (tmp_path / "vlm/aligner/aligner.json").is_file()
    loaded = VLM.from_pretrained("vlm").state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in trained.state_dict().items())


def test_vlm_loads_its_language_model_in_another_precision(trained, language_folder, tmp_path):
    trained.save_pretrained(tmp_path / "vlm")
    batch = batch_of(trained, CONVERSATION)
    half = LanguageConfig(model=str(language_folder), precision="bf16")
    loaded = VLM.from_pretrained(tmp_path / "vlm", half)
    assert loaded.language.dtype == torch.bfloat16
    assert loaded(batch).item() == pytest.approx(trained(batch).item(), abs=0.05)
    for lora in (None, LoRAConfig(rank=4, alpha=8, targets=["q_proj"])):
        other = LanguageConfig(model=str(language_folder), lora=lora)
        with pytest.raises(ConfigError, match="has other adapters"):
            VLM.from_pretrained(tmp_path / "vlm", other)


def test_vlm_refuses_adapters_of_other_layers(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    metadata = json.loads((tmp_path / "vlm.json").read_text())
    del metadata["sha256"]
    (tmp_path / "vlm.json").write_text(json.dumps(metadata))
    adapters = load_file(path := tmp_path / "adapters.safetensors")
    save_file(dict([*adapters.items()][1:]), path)
    with pytest.raises(ConfigError, match=rf"^{path} has not the adapters of this model$"):
        VLM.from_pretrained(tmp_path)


def test_vlm_without_its_tokenizer_is_refused(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    (path := tmp_path / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=f"^{path} is missing: copy the whole folder$"):
        VLM.from_pretrained(tmp_path)


def test_vlm_refuses_other_weights_of_its_language_model(trained, language_folder, tmp_path):
    """A copy elsewhere is the same; a weight that changed under the adapters is not."""
    trained.save_pretrained(tmp_path / "vlm")
    copy = Path(shutil.copytree(language_folder, tmp_path / "language"))
    language = LanguageConfig(model=str(copy))
    loaded = VLM.from_pretrained(tmp_path / "vlm", language)
    batch = batch_of(trained, CONVERSATION)
    assert loaded(batch).item() == trained(batch).item()
    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    error = f"{copy}: its weights .digest .* are not those .* trained on .{trained.language_digest}"
    with pytest.raises(ConfigError, match=error):
        VLM.from_pretrained(tmp_path / "vlm", language)
    metadata = json.loads((tmp_path / "vlm/vlm.json").read_text())
    del metadata["language_digest"]  # as older versions saved it
    (tmp_path / "vlm/vlm.json").write_text(json.dumps(metadata))
    assert VLM.from_pretrained(tmp_path / "vlm", language).language_digest


# --- generation ------------------------------------------------------------------------------


def test_answers_in_a_batch_equal_single_answers(trained):
    images = features(3, seed=5)
    prompts = [
        turns("<image>\nwhat is it?"),
        turns("<image> <image>\nwhat is in the image ? where is it ? a red three ?"),
        turns("where?"),
    ]
    parts = [images.tokens[:1], images.tokens[1:]]
    single = [
        trained.answer_batch(
            [p], {"image": EncoderOutput(t, torch.ones(len(t), 4).bool(), t.mean(1))}
        )[0]
        for p, t in zip(prompts, parts, strict=False)
    ]
    single.append(trained.answer_batch([prompts[2]], {})[0])
    assert trained.answer_batch(prompts, {"image": images}) == single
    assert len(set(single)) > 1


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 1}], ids=str
)
def test_image_cache_gives_the_same_answers(trained, options):
    image = features(1, seed=3)
    cache = trained.cache_image(image)
    prompts = [turns(f"<image>\n{text}") for text in ("what is it?", "where is the red three ?")]
    repeated = (x.repeat(2, *[1] * (x.ndim - 1)) for x in (image.tokens, image.mask, image.pooled))
    both = EncoderOutput(*repeated)
    expected = trained.answer_batch(prompts, {"image": both}, **options)
    for _ in range(2):  # the cache can be used again
        assert trained.answer_batch(prompts, {}, cache, **options) == expected


def test_beam_search_gives_likelier_answers_than_greedy(make_vlm):
    vlm = make_vlm()  # untrained: its greedy answers are poor
    prompt, images = turns("<image>\nwhat is it?"), {"image": features(1)}
    texts = [vlm.answer_batch([prompt], images, num_beams=n)[0] for n in (1, 5)]
    ids, mask = vlm._pad([vlm.chat.prompt(prompt)])
    embedded, mask = vlm.embed(ids, mask, images)

    def likelihood(beams):
        ids = vlm.language.generate(
            inputs_embeds=embedded, attention_mask=mask.long(), max_new_tokens=6, num_beams=beams
        )
        words = vlm.language.get_input_embeddings()(ids)
        inputs = torch.cat([embedded, words], 1)
        logits = vlm.language(inputs_embeds=inputs).logits[:, embedded.shape[1] - 1 : -1]
        log_likelihoods = -F.cross_entropy(logits[0], ids[0], reduction="none")
        text = vlm.chat.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
        return text, log_likelihoods.mean()

    (greedy, low), (beam, high) = likelihood(1), likelihood(5)
    assert texts == [greedy, beam]
    assert high > low


def test_sampling_follows_its_options(make_vlm):
    vlm = make_vlm()
    prompt, images = turns("<image>\nwhat is it?"), {"image": features(1)}

    def draw(seed, **options):
        torch.manual_seed(seed)
        return vlm.answer_batch([prompt], images, do_sample=True, **options)[0]

    assert draw(1) == draw(1)
    assert len({draw(seed, temperature=2.0) for seed in range(6)}) > 1
    assert {draw(seed, top_k=1) for seed in range(3)} == {vlm.answer_batch([prompt], images)[0]}
    assert {draw(seed, top_p=1e-6) for seed in range(3)} == {vlm.answer_batch([prompt], images)[0]}


def make_image(seed):
    noise = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def test_generate_puts_images_before_a_text_without_placeholders(trained):
    one, two = make_image(1), make_image(2)
    assert trained.generate("what is it?", one) == trained.generate("<image>\nwhat is it?", [one])
    batch = trained.generate(["what is it?", "where is it?", "no?"], [one, [one, two], None])
    assert batch[0] == trained.generate("what is it?", one)
    assert batch[1] == trained.generate("<image>\n<image>\nwhere is it?", [one, two])
    assert batch[2] == trained.generate("no?")
    assert trained.generate(turns("<image>\nwhat is it?"), one) == batch[0]
    cache = trained.cache_image(one)
    assert trained.generate(["what is it?", "what is it?"], cache) == [batch[0]] * 2


def stored_as(image, form):
    """A picture as files may hold it: on its side with EXIF data, grey, or transparent."""
    grey = np.asarray(image.convert("L"))
    if form == "rotated":
        exif, content = Image.Exif(), io.BytesIO()
        exif[ExifTags.Base.Orientation] = 6
        image.rotate(90, expand=True).save(content, "PNG", exif=exif)
        return Image.open(content), image
    if form == "16-bit":
        return Image.fromarray(grey.astype(np.uint16) * 257), Image.fromarray(grey).convert("RGB")
    mask = Image.fromarray(np.where(grey > 127, 255, 0).astype(np.uint8))
    white = Image.composite(image, Image.new("RGB", image.size, "white"), mask)
    image = image.copy()
    image.putalpha(mask)
    return image, white


@pytest.mark.parametrize("form", ["rotated", "16-bit", "transparent"])
def test_generate_sees_pictures_in_their_normal_form(trained, form, monkeypatch):
    picture = Image.fromarray(np.asarray(make_image(3))[:24])
    stored, upright = stored_as(picture, form)
    inputs = []
    monkeypatch.setattr(
        trained, "answer_batch", lambda messages, prefixes, *_: inputs.append(prefixes) or [""]
    )
    for image in (stored, upright, make_image(4)):
        trained.generate("what is it?", image)
    seen, expected, other = (prefixes["image"].pooled for prefixes in inputs)
    torch.testing.assert_close(seen, expected)
    assert (seen - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("prompt", "images", "error", "message"),
    [
        ("<image>\nwhat is it?", None, ValueError, "the prompt has 1 <image> for 0 items"),
        ("<image>\nwhat is it?", [1, 2], ValueError, "the prompt has 1 <image> for 2 items"),
        (turns("what is it?"), [1], ValueError, "the prompt has 0 <image> for 1 item"),
        ("", None, ChatError, "without text"),
        ("what? " * 2000, None, ChatError, "over the model's 1,024"),
        ("<audio>\nwhat is it?", None, ValueError, "the prompt has 1 <audio> for 0 items"),
        (["what?", "where?"], [1], ValueError, "2 prompts, but image for 1"),
        ("what?", [None], ValueError, "None in a list of image"),
        ([], None, ValueError, "no prompt"),
        ("what?", [[1, 2]], ValueError, "a list inside the list of image for one prompt"),
        (
            [{"from": "human", "value": "what?"}],
            None,
            ChatError,
            "role and content, got from, value",
        ),
        ([{"role": "tool", "content": "so"}], None, ChatError, "assistant, not 'tool'"),
        ([{"role": "user", "content": [{"type": "text"}]}], None, ChatError, "text, not a list"),
        ([{"role": "user", "content": None}], None, ChatError, "a text, not a NoneType"),
        ("what \ud83d?", None, ChatError, "a text that is not Unicode: 'what"),
        ("x" * 100_000, None, ChatError, "over the model's 1,024"),
        ([{"role": "system", "content": " "}], None, ChatError, "without messages"),
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
        "unknown role",
        "list of parts",
        "null content",
        "lone surrogate",
        "100,000 characters",
        "empty system prompt alone",
    ],
)
def test_generate_rejects_prompts_and_images_that_do_not_fit(
    trained, prompt, images, error, message
):
    if images and not isinstance(images[0], list):
        images = [seed and make_image(seed) for seed in images]
    with pytest.raises(error, match=message):
        trained.generate(prompt, images)


def test_generate_rejects_inputs_that_the_model_does_not_take(trained):
    with pytest.raises(ValueError, match="the model takes no audio"):
        trained.generate("what?", make_image(1), audio=[0.0] * 16000)
    with pytest.raises(ValueError, match="2 prompts, but one image: give a list"):
        trained.generate(["what?", "where?"], make_image(1))


def test_cache_image_rejects_other_types(trained, tmp_path):
    for value in ("image.png", tmp_path, [make_image(1), make_image(2)]):
        with pytest.raises(TypeError, match="item 0 of vision: expected Image, got"):
            trained.cache_image(value)
    with pytest.raises(ValueError, match="audio given, but the model does not fuse"):
        trained.cache_image(make_image(1), make_clip(1))


def test_from_pretrained_names_models_inside_the_folder(trained, tmp_path):
    best = tmp_path / "lora" / "checkpoints" / "best"
    trained.save_pretrained(best)
    with pytest.raises(FileNotFoundError, match=f"no saved model .*found in {best}"):
        VLM.from_pretrained(tmp_path)


def test_image_cache_gives_the_same_samples(trained):
    cache = trained.cache_image(make_image(1))
    options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 4}
    samples = []
    for images in ([make_image(1), make_image(1)], cache):
        torch.manual_seed(0)
        samples.append(trained.generate(["what is it?", "where?"], images, **options))
    assert samples[0] == samples[1]
    assert len(samples[0]) == 6
    assert len(trained.generate("what is it?", make_image(1), **options)) == 3


def test_first_token_benchmark_gives_the_same_token_with_and_without_cache(language_folder):
    assert first_token(build(str(language_folder)), rounds=1)["same_token"] == 1


def test_image_cache_rejects_prompts_that_do_not_begin_with_the_image(trained):
    cache = trained.cache_image(features(1))
    with pytest.raises(ValueError, match="prompt 0 does not begin with the cached image"):
        trained.answer_batch([turns("what is it?\n<image>")], {}, cache)


# --- audio and fusion ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fused_sources(small_trimodal):
    """PrefixSources of an untrained aligner of vision and audio, with a fusion of both."""
    overrides = "vision.pooler=perceiver vision.num_latents=3 fusion.strategies=[concat]"
    config = small_trimodal(overrides)
    return PrefixSources(Fuser(untrained_aligner(config), config.fusion))


def make_clip(seed):
    return torch.randn(16000, generator=torch.Generator().manual_seed(seed)).numpy()


def test_soft_tokens_of_clips_replace_audio_placeholders(fused_sources, make_vlm_on):
    vlm = make_vlm_on(fused_sources, prefix_sources={"image": "vision", "audio": "audio"})
    batch = batch_of(vlm, turns("<image>\n<audio>\nwhat is it?", "yes"), CONVERSATION, images=2)
    batch.prefixes["audio"] = features(1, seed=9)
    embedded, _ = vlm.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
    soft, _ = vlm.soft_tokens("audio", features(1, seed=9))
    position = batch.input_ids == vlm.chat.placeholders["audio"]
    torch.testing.assert_close(embedded[position], soft.flatten(0, 1))
    # without clips the gradient of their projector is zero, not None
    vlm(batch_of(vlm, CONVERSATION)).backward()
    assert all(not p.grad.any() for p in vlm.projectors["audio"].parameters())
    assert all(p.grad.any() for p in vlm.projectors["image"].parameters())
    assert vlm.generate("what?", [make_image(1)], [make_clip(1)]) == vlm.generate(
        "<image>\n<audio>\nwhat?", make_image(1), make_clip(1)
    )


def test_fused_images_and_clips_replace_image_placeholders(fused_sources, make_vlm_on, tmp_path):
    vlm = make_vlm_on(fused_sources, prefix_sources={"image": "fused"}, fusion="concat")
    both = MultimodalOutput({"vision": features(2), "audio": features(2, seed=9)})
    soft, mask = vlm.soft_tokens("image", both)
    heads = fused_sources.aligner.heads
    sequences = {name: heads[name](part)[0] for name, part in both.parts.items()}
    present = dict.fromkeys(sequences, torch.ones(2, dtype=torch.bool))
    fused = fused_sources.model.fusions["concat"](sequences, present)
    torch.testing.assert_close(soft, vlm.projectors["image"](fused.prefix))
    assert torch.equal(mask, fused.mask)
    answer = vlm.generate("what is it?", make_image(1), make_clip(1))
    assert answer == vlm.generate(["what is it?"], [make_image(1)], [make_clip(1)])[0]
    with pytest.raises(ValueError, match="1 images to fuse with 0 clips"):
        vlm.generate("what is it?", make_image(1))
    images, clips = (
        [[make_image(1)], [make_image(2)]],
        [[make_clip(1), make_clip(2)], None],
    )  # as many clips as images in all
    with pytest.raises(ValueError, match="1 images to fuse with 2 clips"):
        vlm.generate(["what is it?", "where?"], images, clips)
    assert vlm.generate("what is it?", vlm.cache_image(make_image(1), make_clip(1))) == answer
    with pytest.raises(ValueError, match="1 images to fuse with 0 clips"):
        vlm.cache_image(make_image(1))
    vlm.save_pretrained(tmp_path / "vlm")
    loaded = VLM.from_pretrained(tmp_path / "vlm")
    torch.testing.assert_close(loaded.soft_tokens("image", both)[0], soft)
    assert loaded.generate("what is it?", make_image(1), make_clip(1)) == answer

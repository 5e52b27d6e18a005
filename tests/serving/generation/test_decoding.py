"""The batch of a language model: its caches as rows join and leave."""

import shutil

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from edge_lib.serving.generation.decoding import CausalBatch
from edge_lib.serving.generation.rows import Prompt


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def prompt(vlm, text):
    return Prompt(vlm.chat.prompt([{"role": "user", "content": text}]))


def logits_alone(vlm, ids):
    """Of the token after ids, from the language model without cache or padding."""
    return vlm.language(input_ids=torch.tensor([ids])).logits[0, -1]


SHORT, LONG = "no?", "what is in the image ? where is it , a red three or two ?"


def test_rows_that_join_and_leave_keep_their_logits(vlm):
    batch, texts = CausalBatch(vlm), [SHORT, LONG, "two?"]
    rows = [list(prompt(vlm, text).ids) for text in texts]
    batch.join([Prompt(rows[0])])
    batch.advance([7])
    batch.join([Prompt(rows[1]), Prompt(rows[2])])
    batch.advance([8, 9, 10])
    batch.keep([0, 2])
    batch.advance([11, 12])
    for number, ids in enumerate([rows[0] + [7, 8, 11], rows[2] + [10, 12]]):
        expected = logits_alone(vlm, ids)
        torch.testing.assert_close(batch.logits[number], expected, atol=1e-4, rtol=1e-4)


def test_columns_of_padding_are_dropped_with_the_longest_row(vlm):
    batch = CausalBatch(vlm)
    prompts = [prompt(vlm, text) for text in (SHORT, LONG)]
    short, long = (len(prompt.ids) for prompt in prompts)
    batch.join(prompts)
    lengths = [layer.keys.shape[2] for layer in batch._cache.layers]
    batch.keep([0])
    assert lengths == [long] * len(lengths)
    assert {layer.values.shape[2] for layer in batch._cache.layers} == {short}
    assert batch._mask.shape == (1, short)
    assert batch._mask.all()


def test_batch_without_rows_holds_nothing(vlm):
    batch = CausalBatch(vlm)
    batch.join([prompt(vlm, SHORT)])
    batch.keep([])
    assert (batch.logits, batch._cache, batch._mask) == (None, None, None)
    batch.join([prompt(vlm, LONG)])
    assert batch.logits.shape == (1, vlm.language.config.vocab_size)


def sliding(config):
    """A Qwen2 that sees the last 8 tokens alone."""
    config.use_sliding_window, config.sliding_window, config.max_window_layers = True, 8, 0
    config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    return Qwen2ForCausalLM(config)


def recurrent(config):
    """An LFM2 of the same size, whose first layer is a convolution over the last tokens."""
    names = ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads")
    sizes = {name: getattr(config, name) for name in (*names, "num_hidden_layers", "eos_token_id")}
    layer_types = ["conv", "full_attention"]
    return Lfm2ForCausalLM(Lfm2Config(**sizes, intermediate_size=64, layer_types=layer_types))


@pytest.fixture(scope="module", params=[sliding, recurrent], ids=["sliding", "recurrent"])
def closed_vlm(request, make_vlm, language_folder, tmp_path_factory):
    """A VLM whose language model has caches without columns."""
    folder = shutil.copytree(language_folder, tmp_path_factory.mktemp("language") / "model")
    torch.manual_seed(0)
    request.param(Qwen2Config.from_pretrained(language_folder)).save_pretrained(folder)
    return make_vlm(language={"model": str(folder), "lora": None})


def test_caches_without_columns_take_rows_only_while_empty(closed_vlm, vlm):
    for model, open_after in ((vlm, True), (closed_vlm, False)):
        batch = CausalBatch(model)
        assert batch.open
        batch.join([prompt(model, SHORT)])
        assert batch.open == open_after
        batch.keep([])
        assert batch.open


def test_rows_leave_caches_without_columns(closed_vlm):
    batch = CausalBatch(closed_vlm)
    rows = [prompt(closed_vlm, text).ids for text in (LONG, SHORT)]
    batch.join(list(map(Prompt, rows)))
    for token in range(7, 10):
        batch.advance([token, token])
    batch.keep([1])
    batch.advance([11])
    expected = logits_alone(closed_vlm, rows[1] + [7, 8, 9, 11])
    torch.testing.assert_close(batch.logits[0], expected, atol=1e-4, rtol=1e-4)

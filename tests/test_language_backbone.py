"""The tiny language model: its tokenizer, what it reads, how it is judged."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from edge_lib.backbones.language import (
    LanguageReader,
    in_words,
    learn_tokenizer,
    scenes_in_words,
)
from edge_lib.config import ConversationsConfig, LanguageBackboneConfig
from edge_lib.data.chat import IGNORE
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.questions import SPOTS
from edge_lib.data.scenes import COLOURS, DIGITS, random_scenes

FEW = ConversationsConfig(train_scenes=6, val_scenes=2, test_scenes=2, per_scene=2)


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    table = scenes_in_words(FEW, "train")
    texts = (f" {t['content']}" for talk in table.conversations.messages for t in talk)
    tokenizer = learn_tokenizer([*texts, *[" a large red three"] * 9, "user assistant"], 600)
    return LanguageReader(LanguageBackboneConfig(width=64, layers=2), tokenizer)


def test_any_text_comes_back_from_its_tokens(reader):
    tokenizer = reader.chat.tokenizer
    assert isinstance(tokenizer, Qwen2Tokenizer)
    for text in ("a large red three at the top left", "Héllo, wörld!\n3 × 4 = 12", "日本"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize(" a large red") == ["Ġa", "Ġlarge", "Ġred"]


def test_words_tell_of_every_digit_and_of_some_empty_cells():
    rng, told = np.random.default_rng(0), []
    for scene in random_scenes("train", 200, 4, 0):
        words = in_words(scene, rng).split()
        cells = [words[i : i + 4] for i in range(0, len(words), 4)]
        places = [cell[0] for cell in cells]
        assert places == sorted(set(places), key=SPOTS.index)
        things = {(SPOTS.index(p), d, c, s) for p, s, c, d in cells if d != "nothing"}
        assert things == {
            (t.cell, DIGITS[t.digit], t.colour, "large" if t.large else "small")
            for t in scene.things
        }
        told.append((len(cells) - len(things)) / (9 - len(things)))
    assert min(told) == 0
    assert max(told) == 1
    assert 0.4 < np.mean(told) < 0.6


def test_a_scene_in_words_is_the_conversation_about_its_image_without_the_image():
    for split in ("train", "val"):
        table = scenes_in_words(FEW, split)
        assert len(table) == 2 * getattr(FEW, f"{split}_scenes")
        for messages, kind in zip(
            table.conversations.messages, table.conversations.kinds, strict=True
        ):
            words, question = messages[0]["content"].split("\n")
            assert words.split()[0] in SPOTS
            assert set(words.split()) & (set(COLOURS) | {"nothing"})
            assert "<image>" not in str(messages)
            assert (
                question.endswith(".") or "?" in question or question.startswith(("name", "which"))
            )
            assert len(messages) == (2 if kind == "caption" else 4)


def test_it_learns_what_it_is_told_and_is_judged_by_its_words(reader):
    table = scenes_in_words(FEW, "train")
    batches = ChatBatches(table.conversations, table, {}, reader.chat, 12, 0)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    assert reader.scores(table) == {"answers": 0, "captions": 0}
    for _ in range(150):
        loss = reader(batches[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert reader.scores(table) == {"answers": 1, "captions": 1}
    question = table.conversations.messages[1][0]
    table.conversations.messages[1] = [question, {"role": "assistant", "content": "never"}]
    assert reader.scores(table) == {"answers": 5 / 6, "captions": 1}


def test_saved_it_is_a_checkpoint_that_transformers_reads(reader, tmp_path):
    reader.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == "qwen2"
    messages = [{"role": "user", "content": "top large red three\nDescribe the image."}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>user\n top large red three\nDescribe the image.<|im_end|>\n"
    )
    ids = torch.tensor([reader.chat.prompt(messages)])
    found, expected = (m(ids).logits for m in (model, reader.language.eval()))
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    assert (
        (reader.chat.encode([*messages, {"role": "assistant", "content": "no"}])[1]).count(IGNORE)
        == ids.shape[1] + 1
    )  # the prompt and the line break at the end

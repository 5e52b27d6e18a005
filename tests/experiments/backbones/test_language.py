"""The tiny language model: its tokenizer, what it reads, how it is judged."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from edge_lib.config import ConversationsConfig, LanguageBackboneConfig
from edge_lib.data.chat import IGNORE
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.experiments.backbones.language import (
    CurriculumBatches,
    LanguageReader,
    Words,
    describe_cells,
    learn_tokenizer,
    text_scenes,
)
from edge_lib.sources.scenes.conversations import scene_turns, scenes_asked
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.questions import SPOTS
from edge_lib.sources.scenes.scene import DIGITS

FEW = ConversationsConfig(train_scenes=6, val_scenes=2, test_scenes=2, per_scene=2)


@pytest.fixture(scope="module")
def told():
    return text_scenes(FEW, "train")


@pytest.fixture(scope="module")
def reader(told):
    torch.manual_seed(0)
    said = [f" {t['content']}" for talk in told.conversations.messages for t in talk]
    words = [" a large red three nothing"] * 9
    tokenizer = learn_tokenizer([*said, *words, "user assistant"], 600)
    return LanguageReader(LanguageBackboneConfig(width=64, layers=2), tokenizer)


def test_any_text_comes_back_from_its_tokens(reader):
    tokenizer = reader.chat.tokenizer
    assert isinstance(tokenizer, Qwen2Tokenizer)
    for text in ("a large red three at the top left", "Héllo, wörld!\n3 × 4 = 12", "日本"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize(" a large red") == ["Ġa", "Ġlarge", "Ġred"]


def test_words_tell_what_stands_in_every_cell():
    for scene in random_scenes("train", 200, 4, 0):
        cells = [words.split() for words in describe_cells(scene)]
        assert [cell[0] for cell in cells] == list(SPOTS)
        assert {(place, *look) for place, *look in cells if look != ["nothing"]} == {
            (SPOTS[t.cell], "large" if t.large else "small", t.colour, DIGITS[t.digit])
            for t in scene.things
        }


def test_conversations_are_those_about_the_scenes_images(told):
    talks = told.conversations
    found = iter(zip(talks.kinds, talks.messages, talks.pictures, strict=True))
    for number, (scene, asked) in enumerate(scenes_asked(FEW, "train")):
        assert told.words[number] == describe_cells(scene)
        for kind, turns in scene_turns(number, scene, asked):
            assert next(found) == (kind, turns, [number])
    assert next(found, None) is None


def test_the_curriculum_asks_its_kinds_alone_and_then_all(told):
    looking = text_scenes(FEW, "train", ["colour", "digit", "position"])
    assert looking.words == told.words
    drawn = [question for _, asked in scenes_asked(FEW, "train") for question in asked]
    for found, expected in (
        (told, drawn),
        (looking, [q for q in drawn if q.kind in ("colour", "digit", "position")]),
    ):
        talks = zip(found.conversations.kinds, found.conversations.messages, strict=True)
        said = [m["content"] for kind, turns in talks if kind == "qa" for m in turns[1::2]]
        assert said == [question.answer for question in expected]
    lessons = CurriculumBatches(["a", "b", "c"], ["d", "e", "f"], 2)
    assert [lessons[step] for step in range(3)] == ["a", "b", "f"]


def test_a_cell_is_the_sum_of_its_words_over_the_root_of_their_number(reader):
    tokenizer, table = reader.chat.tokenizer, reader.language.get_input_embeddings()
    cells = [[" left nothing", " centre large red three"] + [" top"] * 7]
    ids = torch.tensor([reader.chat.prompt([{"role": "user", "content": "<image>\nwhat?"}])])
    embedded = reader.embed(ids, Words(cells, tokenizer).gather([0]))[0]
    place = ids[0] == reader.chat.placeholders["image"]
    assert place.sum() == 9
    for found, words in zip(embedded[place], cells[0], strict=True):
        each = table(torch.tensor(tokenizer(words)["input_ids"]))
        torch.testing.assert_close(found, each.sum(0) / len(each) ** 0.5)
    torch.testing.assert_close(embedded[~place], table(ids[0][~place]))


def test_it_learns_what_it_is_told_and_is_judged_by_its_words(reader, told):
    features = {"image": Words(told.words, reader.chat.tokenizer)}
    batches = ChatBatches(told.conversations, told.table, features, reader.chat, 12, 0)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    assert reader.scores(told) == {"answers": 0, "things": 0}
    for _ in range(150):
        loss = reader(batches[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert reader.scores(told) == {"answers": 1, "things": 1}
    told.words.append(told.words.pop(0))  # every scene is told by another's words
    assert reader.scores(told)["things"] < 0.5


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

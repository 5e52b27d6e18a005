"""The tiny language model: tokenizer, scenes as text, training, checkpoint."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from edge_lib.config import ConversationsConfig, LanguageBackboneConfig, TrainConfig
from edge_lib.data.chat import IGNORE
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.chat_store import tokenize
from edge_lib.experiments.backbones.language import (
    CurriculumBatches,
    LanguageReader,
    learn_tokenizer,
)
from edge_lib.experiments.backbones.text_scenes import (
    CellTokens,
    curriculum_scenes,
    describe_cells,
    text_scenes,
)
from edge_lib.sources.scenes.conversations import scene_conversations, scenes_with_questions
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.question_kinds import CELL_NAMES
from edge_lib.sources.scenes.scene import DIGITS

FEW = ConversationsConfig(train_scenes=6, val_scenes=2, test_scenes=2, per_scene=2)


@pytest.fixture(scope="module")
def scenes():
    return text_scenes(FEW, "train")


@pytest.fixture(scope="module")
def reader(scenes):
    torch.manual_seed(0)
    texts = [f" {t['content']}" for turns in scenes.conversations.messages for t in turns]
    words = [" a large red three nothing"] * 9
    tokenizer = learn_tokenizer([*texts, *words, "user assistant"], 600)
    return LanguageReader(LanguageBackboneConfig(width=64, layers=2), tokenizer)


def test_tokenizer_decodes_any_text_unchanged(reader):
    tokenizer = reader.chat.tokenizer
    assert isinstance(tokenizer, Qwen2Tokenizer)
    for text in ("a large red three at the top left", "Héllo, wörld!\n3 × 4 = 12", "日本"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize(" a large red") == ["Ġa", "Ġlarge", "Ġred"]


def test_describe_cells_names_the_content_of_every_cell():
    for scene in random_scenes("train", 200, 4, 0):
        cells = [words.split() for words in describe_cells(scene)]
        assert [cell[0] for cell in cells] == list(CELL_NAMES)
        assert {(name, *words) for name, *words in cells if words != ["nothing"]} == {
            (CELL_NAMES[t.cell], "large" if t.large else "small", t.colour, DIGITS[t.digit])
            for t in scene.things
        }


def test_text_scenes_have_the_conversations_of_the_table(scenes):
    columns = scenes.conversations
    conversations = iter(zip(columns.kinds, columns.messages, columns.image_rows, strict=True))
    for number, (scene, questions) in enumerate(scenes_with_questions(FEW, "train")):
        assert scenes.words[number] == describe_cells(scene)
        for kind, turns in scene_conversations(number, scene, questions):
            assert next(conversations) == (kind, turns, [number])
    assert next(conversations, None) is None


def test_curriculum_has_only_its_kinds_first_and_then_all(scenes):
    kinds = ("colour", "digit", "position")
    first, rest = curriculum_scenes(FEW, kinds)
    assert first.words == rest.words == scenes.words
    assert rest.conversations.messages == scenes.conversations.messages
    questions = [q for _, part in scenes_with_questions(FEW, "train") for q in part]
    for part, expected in ((rest, questions), (first, [q for q in questions if q.kind in kinds])):
        columns = zip(part.conversations.kinds, part.conversations.messages, strict=True)
        answers = [m["content"] for kind, turns in columns if kind == "qa" for m in turns[1::2]]
        assert answers == [question.answer for question in expected]
    batches = CurriculumBatches(["a", "b", "c"], ["d", "e", "f"], 2)
    assert [batches[step] for step in range(3)] == ["a", "b", "f"]


def test_cell_vector_is_the_sum_of_its_words_over_the_root_of_their_number(reader):
    tokenizer, table = reader.chat.tokenizer, reader.language.get_input_embeddings()
    cells = [[" left nothing", " centre large red three"] + [" top"] * 7]
    ids = torch.tensor([reader.chat.prompt([{"role": "user", "content": "<image>\nwhat?"}])])
    embedded = reader.embed(ids, CellTokens(cells, tokenizer).gather([0]))[0]
    mask = ids[0] == reader.chat.placeholders["image"]
    assert mask.sum() == 9
    for vector, words in zip(embedded[mask], cells[0], strict=True):
        vectors = table(torch.tensor(tokenizer(words)["input_ids"]))
        torch.testing.assert_close(vector, vectors.sum(0) / len(vectors) ** 0.5)
    torch.testing.assert_close(embedded[~mask], table(ids[0][~mask]))


def test_reader_learns_its_conversations_and_depends_on_the_cells(reader, scenes):
    features = {"image": CellTokens(scenes.words, reader.chat.tokenizer)}
    tokenized = tokenize(scenes.conversations, scenes.table, reader.chat)
    batches = ChatBatches(tokenized, features, TrainConfig(batch_size=12), 0)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    assert reader.scores(scenes) == {"answers": 0, "things": 0}
    for _ in range(150):
        loss = reader(batches[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert reader.scores(scenes) == {"answers": 1, "things": 1}
    scenes.words.append(scenes.words.pop(0))  # each scene gets the words of another
    assert reader.scores(scenes)["things"] < 0.5


def test_saved_reader_is_a_transformers_checkpoint(reader, tmp_path):
    reader.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == "qwen2"
    messages = [{"role": "user", "content": "top large red three\nDescribe the image."}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>user\n top large red three\nDescribe the image.<|im_end|>\n"
    )
    ids = torch.tensor([reader.chat.prompt(messages)])
    logits, expected = (m(ids).logits for m in (model, reader.language.eval()))
    torch.testing.assert_close(logits, expected, atol=2e-2, rtol=2e-2)
    assert (
        (reader.chat.encode([*messages, {"role": "assistant", "content": "no"}])[1]).count(IGNORE)
        == ids.shape[1] + 1
    )  # the prompt and the line break at the end

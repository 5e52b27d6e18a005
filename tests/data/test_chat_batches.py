"""Chat batches: which conversations a step holds, on any number of processes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edge_lib.config import ConfigError, TrainConfig
from edge_lib.data.chat import IGNORE, Chat
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.chat_store import tokenize
from edge_lib.data.conversations import read_conversations
from edge_lib.data.encoder_output import EncoderOutput


class FakeFeatures:
    """Features whose pooled vector is the item's own number."""

    def __init__(self, valid):
        self.valid = np.asarray(valid, bool)

    def gather(self, items):
        assert all(self.valid[items])
        return EncoderOutput(None, None, torch.as_tensor(items).float()[:, None])


def conversation(question, *answers):
    """A conversation whose later questions are all alike."""
    turns = []
    for number, answer in enumerate(answers):
        turns.append({"role": "user", "content": "and?" if number else question})
        turns.append({"role": "assistant", "content": answer})
    return turns


@pytest.fixture
def rows(encode_image):
    """12 rows, in turn with an image, without one, and with two: its own and that of row n - 2."""
    questions = ("<image>\nwhat?", "why?", "<image> <image>\nsame?")
    rows = []
    for number in range(12):
        row = {"id": f"r{number}", "image_id": f"p{number}"}
        row["turns"] = conversation(
            questions[number % 3], *["so " * (number + 1)] * (number % 2 + 1)
        )
        if number % 3 != 1:
            row["image"] = encode_image(number)
        if number % 3 == 2:
            row["image_ids"] = [f"p{number}", f"p{number - 2}"]
        rows.append(row)
    return rows


@pytest.fixture
def make(make_table, make_tokenizer):
    """make(rows, ...) -> ChatBatches with images and without audio."""

    def make(rows, batch_size=4, seed=0, valid=None, max_length=200, accumulation=1, **options):
        table = make_table(rows)
        features = {"image": FakeFeatures(np.ones(len(rows)) if valid is None else valid)}
        chat = Chat(make_tokenizer(), {"image": 3}, max_length)
        tokenized = tokenize(read_conversations(table), table, chat)
        train = SimpleNamespace(batch_size=batch_size, accumulation=accumulation)
        return ChatBatches(tokenized, features, train, seed, **options)

    return make


def messages_of(batches, step):
    conversations = read_conversations(batches.table)
    numbers = {batches.table.ids[row]: n for n, row in enumerate(conversations.rows)}
    return [conversations.messages[numbers[name]] for name in batches.ids(step)]


def test_batch_holds_conversations_as_chat_encodes_them(make, rows):
    batches = make(rows)
    for step in range(batches.steps_per_epoch):
        batch = batches[step]
        width = batch.input_ids.shape[1]
        shapes = {x.shape for x in (batch.input_ids, batch.attention_mask, batch.labels)}
        assert shapes == {(4, width)}
        lengths = []
        for number, messages in enumerate(messages_of(batches, step)):
            ids, labels = batches.chat.encode(messages)
            rest = width - len(ids)
            pad = batches.chat.tokenizer.pad_token_id
            assert batch.input_ids[number].tolist() == ids + [pad] * rest
            assert batch.labels[number].tolist() == labels + [IGNORE] * rest
            expected = [True] * len(ids) + [False] * rest
            assert batch.attention_mask[number].tolist() == expected
            lengths.append(len(ids))
        assert max(lengths) == width
        assert batch.tokens == (batch.labels != IGNORE).sum()


def test_prefixes_are_in_the_order_of_the_placeholders(make, rows):
    batches = make(rows)
    expected = {f"r{n}": ([n], [], [n, n - 2])[n % 3] for n in range(12)}
    token = batches.chat.placeholders["image"]
    for step in range(batches.steps_per_epoch):
        batch = batches[step]
        items = [item for name in batches.ids(step) for item in expected[name]]
        assert batch.prefixes["image"].pooled[:, 0].tolist() == items
        counts = [3 * len(expected[name]) for name in batches.ids(step)]
        assert (batch.input_ids == token).sum(1).tolist() == counts


def test_batch_without_images_has_no_prefix(make, rows):
    batches = make(rows[1::3], batch_size=2)
    assert [batches[step].prefixes for step in range(2)] == [{}, {}]


def test_epoch_holds_each_conversation_once_in_its_own_order(make, rows):
    batches, again, other = make(rows), make(rows), make(rows, seed=1)
    epochs = [[name for s in range(e, e + 3) for name in batches.ids(s)] for e in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(f"r{n}" for n in range(12))] * 2
    assert epochs[0] != epochs[1]
    assert other.ids(0) != batches.ids(0)
    assert torch.equal(again[4].input_ids, batches[4].input_ids)
    assert make(rows[:11]).steps_per_epoch == 2  # the last short batch is left out


def test_conversations_of_a_batch_have_similar_lengths(make):
    rng = np.random.default_rng(0)
    turns = [conversation("why?", "so " * int(n)) for n in rng.integers(1, 60, 128)]
    batches = make([{"id": str(n), "turns": messages} for n, messages in enumerate(turns)])
    masks = [batches[step].attention_mask for step in range(32)]
    assert np.mean([mask.float().mean() for mask in masks]) > 0.9  # 0.65 in shuffled batches
    widths = [mask.shape[1] for mask in masks]
    assert abs(np.corrcoef(widths, range(32))[0, 1]) < 0.5  # long ones are not last


@pytest.mark.parametrize("step", [0, 4])
def test_shares_of_two_ranks_equal_the_whole_batch(make, rows, step):
    whole = make(rows)[step]
    halves = [make(rows, rank=rank, world_size=2)[step] for rank in (0, 1)]
    for number in range(4):
        half, place = halves[number // 2], number % 2
        for name in ("input_ids", "labels"):
            kept = getattr(whole, name)[number][whole.attention_mask[number]]
            assert torch.equal(getattr(half, name)[place][half.attention_mask[place]], kept)
    images = [half.prefixes["image"].pooled for half in halves if half.prefixes]
    assert torch.equal(torch.cat(images), whole.prefixes["image"].pooled)
    counts = [int((half.labels != IGNORE).sum()) for half in halves]
    assert counts[0] != counts[1]
    assert [half.tokens for half in halves] == [sum(counts) / 2] * 2 == [whole.tokens / 2] * 2


def test_tokens_are_the_mean_over_accumulated_batches(make, rows):
    batches = make(rows, batch_size=2, accumulation=3)
    labels = [int((batches[step].labels != IGNORE).sum()) for step in range(6)]
    shares = [sum(labels[:3]) / 3] * 3 + [sum(labels[3:]) / 3] * 3
    assert [batches[step].tokens for step in range(6)] == shares
    assert len(set(labels[:3])) > 1


def test_with_items_keeps_conversations_with_images_or_clips(make, rows):
    kept = make(rows).conversations.with_items()
    assert kept.rows.tolist() == [n for n in range(12) if n % 3 != 1]


def test_selected_conversations_keep_their_columns(make, rows):
    conversations = read_conversations(make(rows).table)
    kept = conversations.select(np.array([1, 4, 11]))
    assert kept.rows.tolist() == [1, 4, 11]
    for name in ("messages", "image_rows", "kinds"):
        column = getattr(conversations, name)
        assert getattr(kept, name) == [column[n] for n in kept.rows]


def test_unusable_conversations_are_counted_and_skipped(make, rows):
    rows[4]["turns"] = conversation("why?", "so " * 200)
    rows[7]["turns"] = conversation("why?", "an <image>")
    rows[10]["turns"] = conversation("<audio>why?", "so")
    rows[10]["audio"] = b"fLaC"
    valid = np.ones(12)
    valid[6] = 0  # of r6, and the second of r8
    batches = make(rows, valid=valid, batch_size=1)
    seen = [name for step in range(batches.steps_per_epoch) for name in batches.ids(step)]
    assert sorted(seen) == ["r0", "r1", "r11", "r2", "r3", "r5", "r9"]
    assert batches.table.skipped == {
        "refused by the chat template": ["r4", "r7", "r10"],
        "an image or clip could not be encoded": ["r6", "r8"],
    }


def test_clips_are_numbered_by_row(make_table, make_tokenizer, encode_image):
    rows = [{"turns": conversation("why?", "so")}]
    rows += [{"turns": conversation("<audio>\nwhat?", "so"), "audio": b"fLaC"} for _ in range(2)]
    both = conversation("<image><audio>\nsame?", "so")
    rows += [{"turns": both, "audio": b"fLaC", "image": encode_image(), "image_id": "p"}]
    table = make_table([{"id": str(n), **row} for n, row in enumerate(rows)])
    features = {"image": FakeFeatures(np.ones(4)), "audio": FakeFeatures([0, 1, 0, 1])}
    chat = Chat(make_tokenizer(), {"image": 3, "audio": 2}, 100)
    tokenized = tokenize(read_conversations(table), table, chat)
    batches = ChatBatches(tokenized, features, TrainConfig(batch_size=3), seed=0)
    batch = batches[0]
    order = batches.ids(0)
    assert sorted(order) == ["0", "1", "3"]
    clips = [int(name) for name in order if name != "0"]
    assert batch.prefixes["audio"].pooled[:, 0].tolist() == clips
    assert batch.prefixes["image"].pooled[:, 0].tolist() == [3]
    token = chat.placeholders["audio"]
    assert (batch.input_ids == token).sum(1).tolist() == [0 if n == "0" else 2 for n in order]


@pytest.mark.parametrize(
    ("batch_size", "world_size", "sizes"),
    [(5, 1, [5, 5, 2]), (16, 1, [12]), (10, 2, [5, 5, 2])],
    ids=["several", "one", "share"],
)
def test_once_gives_every_conversation_once_by_length(make, rows, batch_size, world_size, sizes):
    batches = make(rows, batch_size=batch_size, world_size=world_size, rank=world_size - 1)
    results = [*batches.once()]
    assert [len(batch.input_ids) for batch in results] == sizes
    assert [batch.tokens for batch in results] == [(b.labels >= 0).sum().item() for b in results]
    assert sum(batch.tokens for batch in results) == batches.labelled.sum()
    lengths = [n for batch in results for n in batch.attention_mask.sum(1).tolist()]
    assert lengths == sorted(batches.lengths)


def test_sizes_that_do_not_fit_are_config_errors(make, rows):
    with pytest.raises(ConfigError, match="small: conversations: 12 do not fill one batch of 16"):
        _ = make(rows, batch_size=16).steps_per_epoch
    with pytest.raises(ConfigError, match="small: conversations: none can be used"):
        next(make([{"turns": conversation("why?", "so " * 300)}]).once())
    with pytest.raises(ConfigError, match="batch_size=4 does not divide among 3"):
        make(rows, world_size=3)


def test_batch_moves_to_a_device(make, rows):
    batch = make(rows)[0].to("meta")
    moved = [batch.input_ids, batch.attention_mask, batch.labels, batch.prefixes["image"].pooled]
    assert {x.device.type for x in moved} == {"meta"}
    assert isinstance(batch.tokens, float)

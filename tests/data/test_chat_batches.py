"""Batches of conversations: what a step holds, on any number of processes."""

import numpy as np
import pytest
import torch

from edge_lib.config import ConfigError
from edge_lib.data.chat import IGNORE, Chat
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.encoder_output import EncoderOutput


class FakeFeatures:
    """Features whose pooled vector is the item's own number."""

    def __init__(self, valid):
        self.valid = np.asarray(valid, bool)

    def gather(self, items):
        assert all(self.valid[items])
        return EncoderOutput(None, None, torch.as_tensor(items).float()[:, None])


def talk(asked, *answers):
    """A conversation whose later questions are all alike."""
    turns = []
    for number, answer in enumerate(answers):
        turns.append({"role": "user", "content": "and?" if number else asked})
        turns.append({"role": "assistant", "content": answer})
    return turns


@pytest.fixture
def rows(encode_image):
    """Of 12 rows every third is without an image, and every third shows the one before as well."""
    asked = ("<image>\nwhat?", "why?", "<image> <image>\nsame?")
    rows = []
    for number in range(12):
        row = {"id": f"r{number}", "image_id": f"p{number}"}
        row["turns"] = talk(asked[number % 3], *["so " * (number + 1)] * (number % 2 + 1))
        if number % 3 != 1:
            row["image"] = encode_image(number)
        if number % 3 == 2:
            row["image_ids"] = [f"p{number}", f"p{number - 2}"]
        rows.append(row)
    return rows


@pytest.fixture
def make(make_table, make_tokenizer):
    """make(rows, ...) -> ChatBatches about images alone."""

    def make(rows, batch_size=4, seed=0, valid=None, max_length=200, rank=0, world_size=1, steps=1):
        table = make_table(rows)
        features = {"image": FakeFeatures(np.ones(len(rows)) if valid is None else valid)}
        chat = Chat(make_tokenizer(), {"image": 3}, max_length)
        batches = (batch_size, seed, rank, world_size, steps)
        return ChatBatches(table.conversations, table, features, chat, *batches)

    return make


def messages_of(batches, step):
    found = batches.table.conversations
    named = {batches.table.ids[row]: n for n, row in enumerate(found.rows)}
    return [found.messages[named[name]] for name in batches.ids(step)]


def test_a_batch_holds_conversations_as_the_chat_encodes_them(make, rows):
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


def test_every_placeholder_finds_its_picture_in_order(make, rows):
    batches = make(rows)
    expected = {f"r{n}": ([n], [], [n, n - 2])[n % 3] for n in range(12)}
    token = batches.chat.placeholders["image"]
    for step in range(batches.steps_per_epoch):
        batch = batches[step]
        shown = [picture for name in batches.ids(step) for picture in expected[name]]
        assert batch.prefixes["image"].pooled[:, 0].tolist() == shown
        each = [3 * len(expected[name]) for name in batches.ids(step)]
        assert (batch.input_ids == token).sum(1).tolist() == each


def test_a_batch_without_images_has_no_prefix(make, rows):
    batches = make(rows[1::3], batch_size=2)
    assert [batches[step].prefixes for step in range(2)] == [{}, {}]


def test_every_epoch_holds_each_conversation_once_in_an_order_of_its_own(make, rows):
    batches, again, other = make(rows), make(rows), make(rows, seed=1)
    epochs = [[name for s in range(e, e + 3) for name in batches.ids(s)] for e in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(f"r{n}" for n in range(12))] * 2
    assert epochs[0] != epochs[1]
    assert other.ids(0) != batches.ids(0)
    assert torch.equal(again[4].input_ids, batches[4].input_ids)
    assert make(rows[:11]).steps_per_epoch == 2  # the last short batch is left out


def test_those_of_a_batch_are_about_equally_long(make):
    rng = np.random.default_rng(0)
    turns = [talk("why?", "so " * int(n)) for n in rng.integers(1, 60, 128)]
    batches = make([{"id": str(n), "turns": some} for n, some in enumerate(turns)])
    masks = [batches[step].attention_mask for step in range(32)]
    assert np.mean([mask.float().mean() for mask in masks]) > 0.9  # 0.65 in shuffled batches
    widths = [mask.shape[1] for mask in masks]
    assert abs(np.corrcoef(widths, range(32))[0, 1]) < 0.5  # the long ones are not last


@pytest.mark.parametrize("step", [0, 4])
def test_two_ranks_share_each_batch(make, rows, step):
    whole = make(rows)[step]
    halves = [make(rows, rank=rank, world_size=2)[step] for rank in (0, 1)]
    for number in range(4):
        half, place = halves[number // 2], number % 2
        for name in ("input_ids", "labels"):
            kept = getattr(whole, name)[number][whole.attention_mask[number]]
            assert torch.equal(getattr(half, name)[place][half.attention_mask[place]], kept)
    pictures = [half.prefixes["image"].pooled for half in halves if half.prefixes]
    assert torch.equal(torch.cat(pictures), whole.prefixes["image"].pooled)
    counts = [int((half.labels != IGNORE).sum()) for half in halves]
    assert counts[0] != counts[1]
    assert [half.tokens for half in halves] == [sum(counts) / 2] * 2 == [whole.tokens / 2] * 2


def test_batches_that_make_one_update_share_its_labels(make, rows):
    batches = make(rows, batch_size=2, steps=3)
    labels = [int((batches[step].labels != IGNORE).sum()) for step in range(6)]
    shares = [sum(labels[:3]) / 3] * 3 + [sum(labels[3:]) / 3] * 3
    assert [batches[step].tokens for step in range(6)] == shares
    assert len(set(labels[:3])) > 1


def test_those_about_nothing_can_be_left_out(make, rows):
    talks = make(rows).table.conversations
    some = talks.with_items()
    assert some.rows.tolist() == [n for n in range(12) if n % 3 != 1]
    assert some.messages == [talks.messages[n] for n in some.rows]
    assert some.pictures == [talks.pictures[n] for n in some.rows]


def test_what_cannot_be_read_or_seen_is_counted_and_left_out(make, rows):
    rows[4]["turns"] = talk("why?", "so " * 200)
    rows[7]["turns"] = talk("why?", "an <image>")
    rows[10]["turns"] = talk("<audio>why?", "so")
    rows[10]["audio"] = b"fLaC"
    valid = np.ones(12)
    valid[6] = 0  # of r6, and the second of r8
    batches = make(rows, valid=valid, batch_size=1)
    seen = [name for step in range(batches.steps_per_epoch) for name in batches.ids(step)]
    assert sorted(seen) == ["r0", "r1", "r11", "r2", "r3", "r5", "r9"]
    assert batches.table.skipped == {
        "refused by the chat": ["r4", "r7", "r10"],
        "an image or clip that could not be encoded": ["r6", "r8"],
    }


def test_clips_are_their_rows(make_table, make_tokenizer, encode_image):
    rows = [{"turns": talk("why?", "so")}]
    rows += [{"turns": talk("<audio>\nwhat?", "so"), "audio": b"fLaC"} for _ in range(2)]
    both = talk("<image><audio>\nsame?", "so")
    rows += [{"turns": both, "audio": b"fLaC", "image": encode_image(), "image_id": "p"}]
    table = make_table([{"id": str(n), **row} for n, row in enumerate(rows)])
    features = {"image": FakeFeatures(np.ones(4)), "audio": FakeFeatures([0, 1, 0, 1])}
    chat = Chat(make_tokenizer(), {"image": 3, "audio": 2}, 100)
    batches = ChatBatches(table.conversations, table, features, chat, 3, seed=0)
    batch = batches[0]
    order = batches.ids(0)
    assert sorted(order) == ["0", "1", "3"]
    heard = [int(name) for name in order if name != "0"]
    assert batch.prefixes["audio"].pooled[:, 0].tolist() == heard
    assert batch.prefixes["image"].pooled[:, 0].tolist() == [3]
    token = chat.placeholders["audio"]
    assert (batch.input_ids == token).sum(1).tolist() == [0 if n == "0" else 2 for n in order]


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, [5, 5, 2]), (16, [12])], ids=str)
def test_evaluation_meets_every_conversation_once(make, rows, batch_size, sizes):
    batches = make(rows, batch_size=batch_size)
    found = [*batches.once()]
    assert [len(batch.input_ids) for batch in found] == sizes
    assert [batch.tokens for batch in found] == [(b.labels >= 0).sum().item() for b in found]
    assert sum(batch.tokens for batch in found) == batches.labelled.sum()
    lengths = [n for batch in found for n in batch.attention_mask.sum(1).tolist()]
    assert lengths == sorted(batches.lengths)


def test_what_does_not_fit_is_said(make, rows):
    with pytest.raises(ConfigError, match="small: 12 conversations do not fill one batch of 16"):
        _ = make(rows, batch_size=16).steps_per_epoch
    with pytest.raises(ConfigError, match="small: no conversation that the model can read"):
        next(make([{"turns": talk("why?", "so " * 300)}]).once())
    with pytest.raises(ConfigError, match="batch_size=4 does not divide among 3"):
        make(rows, world_size=3)


def test_a_batch_moves_as_one(make, rows):
    batch = make(rows)[0].to("meta")
    moved = [batch.input_ids, batch.attention_mask, batch.labels, batch.prefixes["image"].pooled]
    assert {x.device.type for x in moved} == {"meta"}
    assert isinstance(batch.tokens, float)

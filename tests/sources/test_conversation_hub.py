"""Conversations in data sets of the Hub."""

import pytest
from conversation_helpers import assistant, load_conversations, user
from datasets import Dataset, Features, Image, List, Value

from edge_lib.config import ConfigError, ConversationsConfig
from edge_lib.data.conversations import read_conversations


@pytest.fixture
def load(tmp_path):
    """load(key=value) -> the conversations of the data set saved in `saved`."""

    def load(split="train", **keys):
        section = {"name": str(tmp_path / "saved"), **keys}
        config = ConversationsConfig(source="hub", hub=section)
        return load_conversations(config, tmp_path / "cache", split)

    return load


def test_conversation_hub_reads_ten_rows_saved_to_disk(load, tmp_path, encode_image):
    """Rows as in the_cauldron: several rounds, and several pictures, about each of which one is."""
    turn = {"user": Value("string"), "assistant": Value("string"), "source": Value("string")}
    features = Features({"images": List(Image()), "texts": List(turn)})
    rows = []
    for n in range(10):
        cells = [{"bytes": encode_image(n, size=(10 + n, 8)), "path": None}] * (n != 3)
        rounds = [{"user": f"q{n}", "assistant": f"a{n}", "source": "x"}]
        rows.append({"images": cells, "texts": rounds + rounds * (n == 5)})
    Dataset.from_list(rows, features).save_to_disk(tmp_path / "saved")
    table = load(column="texts")
    conversations = read_conversations(table)
    expected = [[user(f"<image>\nq{n}"), assistant(f"a{n}")] for n in range(10)]
    expected[3][0] = user("q3")
    expected[5] += [user("q5"), assistant("a5")]
    assert conversations.messages == expected
    widths = [image and image.width for image in table.images(table.image_rows)]
    shown = [[widths[table.image_index[row]] for row in rows] for rows in conversations.image_rows]
    assert shown == [[10 + n] * (n != 3) for n in range(10)]
    assert table.ids[3] == "train-3"
    message = (
        r"conversations\.hub: .*saved has no column 'messages' .*; it has \['images', 'texts'\]"
    )
    with pytest.raises(ConfigError, match=message):
        load()
    with pytest.raises(ConfigError, match=r"conversations\.hub: .*saved without splits; set"):
        load("val", column="texts")

"""The text of an answer while its tokens come."""

from itertools import accumulate

import pytest

from edge_lib.experiments.backbones.language import learn_tokenizer
from edge_lib.serving.generation.text_stream import TextStream


def from_characters(ids):
    return "".join(map(chr, ids))


def from_bytes(ids):
    return bytes(ids).decode(errors="replace")


def pieces(tokens, decode=from_characters, stop=()):
    """The pieces of an answer, up to its end or a stop string."""
    stream, parts = TextStream(decode, stop), []
    for token in tokens:
        parts.append(stream.push(token))
        if stream.stopped:
            return parts
    return [*parts, stream.finish()]


def test_text_is_released_token_by_token():
    assert pieces(map(ord, "abc")) == ["a", "b", "c", ""]


TEXTS = ["dé€🙂🙃x", "🙂", "é", "👩‍👩‍👧", "ab\ufffdc"]
BROKEN = {
    "ends in a character": b"a\xf0\x9f",
    "half a character": b"\xe2\x82",
    "no characters": b"a\xffb\xfe\xfd",
    "interrupted": b"\xf0\x9f\x99a\x82",
    "trailing": b"\x80\x80\x80\xc3\xa9",
}


@pytest.mark.parametrize("text", TEXTS, ids=["mixed", "4 bytes", "2 bytes", "joined", "U+FFFD"])
def test_characters_are_never_split(text):
    parts = pieces(text.encode(), from_bytes)
    assert "".join(parts) == text
    assert all(text.startswith(prefix) for prefix in accumulate(parts))
    assert "\ufffd" not in "".join(parts).replace(text, "")


@pytest.mark.parametrize("octets", BROKEN.values(), ids=BROKEN)
def test_bytes_of_no_character_are_replaced_as_in_the_whole_text(octets):
    assert "".join(pieces(octets, from_bytes)) == from_bytes(octets)


def test_tokens_whose_text_depends_on_neighbours_join_to_the_whole_text(language_folder):
    """The shipped kind of tokenizer, a Metaspace one and byte-level text in many scripts."""
    text = " où est-ce que 3 < 4?\n\n  日本語 🙂 ok "
    tokenizer = learn_tokenizer([text, "est ok que"], 300)
    ids = tokenizer(text)["input_ids"]
    assert "".join(pieces(ids, tokenizer.decode)) == text.strip()

    def metaspace(ids):  # drops the space before the first word
        return "".join(["▁ab", "▁", "c", "▁d"][n] for n in ids).replace("▁", " ")[1:]

    for ids in ([0, 2, 3, 1, 2], [1, 2, 0, 1, 1, 3], [3, 0]):
        assert "".join(pieces(ids, metaspace)) == metaspace(ids).strip()


def test_white_space_around_the_answer_is_left_out():
    parts = pieces(map(ord, " \n a  b \n"))
    assert "".join(parts) == "a  b"
    assert parts[:3] == ["", "", ""]
    assert pieces(map(ord, " \n")) == ["", "", ""]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one. two", ("two",), "one."),
        ("one\ntwo", ("\n",), "one"),
        ("\none", ("\n",), ""),
        ("aab", ("ab",), "a"),
        ("aaab", ("aab",), "a"),
        ("abcabd", ("abd",), "abc"),
        ("abab", ("abc",), "abab"),
        ("one two", ("two", "one"), ""),
        ("abc", ("", "c"), "ab"),
        ("a b", (" b",), "a"),
        ("x🙂y", ("🙂",), "x"),
        ("abc", ("bcd", "b"), "a"),
        ("none", ("one!",), "none"),
    ],
    ids=str,
)
def test_answer_ends_before_a_stop_string(text, stop, expected):
    parts = pieces(map(ord, text), stop=stop)
    assert "".join(parts) == expected
    assert all(expected.startswith(prefix) for prefix in accumulate(parts))


def test_text_that_may_begin_a_stop_string_is_held():
    expected = ["a", "", "", "", "<en", "", "", "", "<end"]
    assert pieces(map(ord, "a<en<end"), stop=("<end>",)) == expected


def test_stop_string_across_tokens_ends_the_answer_at_its_last_token():
    words = ["one ", "t", "wo th", "ree"]
    stream = TextStream(lambda ids: "".join(words[n] for n in ids), ["two"])
    assert [stream.push(n) for n in range(3)] == ["one", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_stop_string_in_bytes_that_only_the_end_replaces():
    stream = TextStream(from_bytes, ["\ufffd"])
    assert [stream.push(octet) for octet in b"a\xf0"] == ["a", ""]
    assert (stream.finish(), stream.stopped) == ("", True)

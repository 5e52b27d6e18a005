"""The vocabulary: words become tokens, and tokens become text again."""

import torch

from edge_lib.data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, pad

TEXTS = ["where is the red three?", "top-left", "two three", "which digit is right of the red two?"]


def test_vocabulary_has_a_token_for_each_word_of_a_small_corpus():
    vocabulary = Vocabulary.learn(TEXTS * 3, 200)
    [question] = vocabulary.encode(["Where is the red three?"])
    assert len(question) == 6  # five words and the mark
    assert vocabulary.encode(["three"])[0] == [question[4]]
    assert len(vocabulary.encode(["top-left"])[0]) == 1


def test_vocabulary_decodes_up_to_the_end_token():
    vocabulary = Vocabulary.learn(TEXTS, 200)
    rows = [[*ids, EOS] for ids in vocabulary.encode(["two three", "top-left"])]
    ids = torch.cat([pad(rows), torch.full((2, 1), 7)], 1)
    assert vocabulary.decode(ids) == ["two three", "top-left"]


def test_vocabulary_maps_unknown_characters_and_is_saved(tmp_path):
    vocabulary = Vocabulary.learn(TEXTS, 200)
    assert UNK in vocabulary.encode(["é§"])[0]
    vocabulary.save(tmp_path / "v.json")
    again = Vocabulary.load(tmp_path / "v.json")
    assert again.encode(TEXTS) == vocabulary.encode(TEXTS)
    assert len(again) == len(vocabulary) <= 200


def test_pad_fills_shorter_rows():
    assert pad([[5], [6, 7]]).tolist() == [[5, PAD], [6, 7]]
    assert pad([[5], [6, 7]], 9, left=True).tolist() == [[9, 5], [6, 7]]
    assert len({PAD, BOS, EOS, UNK}) == 4

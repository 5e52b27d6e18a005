"""Caption metrics: tokens against the Java tokenizer, scores by hand and against torchmetrics."""

import shutil
from collections import Counter

import numpy as np
import pytest
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from torchmetrics.text import BLEUScore

from edge_lib.metrics.captions import caption_scores, cider_each, ptb_tokenize

# Pieces of text, put in the middle, at the end, in brackets and in quotes of captions by FRAMES
_PARTS = """
    a large red three at the top left and a small blue seven in the centre
    on the right a big purple 2, a little orange 5 and a little green 0
    a man riding a wave on top of a surfboard|two dogs, three cats and a bird
    the dog's bowl|dogs' bowls|James's hat|the women's t-shirts|a boss' desk
    its' it's|the 1990's
    doesn't|DON'T|can't|cannot|won't|I'm|we've|you're|they'd|she'll|y'all|don'ts|ain't|couldn`t
    gonna|wanna|gotta|gimme|lemme|'tis|'twas|o'clock|ma'am|rock 'n' roll|'em|'til|c'mon
    G'day|O'Malley|don’t|it’s|the dog’s|dogs’|o’clock|“curly”|‘curly’|’70s|«duck feet»
    well-known|t-shirt|mother-in-law's|state-of-the-art|X-ray|half-|pro-|-ish|re-use|mid-20s
    3-D|a_b|black/white|and/or|w/|w/o|24/7|a/b/c/d|black-and-white/red|x / y
    one -- two|one --- two|one - two|one-two|one—two|one – two|wait...|wait....|wait…
    so...that|. . .
    what?!|no!!|really?|yes!|a;b:c|cat:dog|cat,dog|end.Next|hello!world|red,blue-green
    (two)|[three]|{four}|<b>|</s>|a < b > c|a <3 b|<<x>>|"quoted"|"quoted," he said
    'single'|''two''
    5|5.5|.5|-5|+5|10,000|12:30|12:30pm|5.5in|4.5-inch|1st|22nd|2x4|747s|1,2,3|1:5|3 000 000
    #1|no. 5
    1/2|1 1/2|1-1/2|½ cup|2⅓|12/25/2003|555-1234|(555) 123-4567|555-123-4567|'05|the '50s|6'2"
    $5|US$5.00|£5|€5|5¢|50%|¥5|x²|50°|A&W|R&B|AT&T|a & b|M&M's|C++|C#|a+b|a = b|a * b|**bold**
    Mr. Smith|mrs. smith|Dr. No|St. John St.|e.g. this|i.e. that|etc.|vs. them|a.m.|5 p.m.
    p.m|the U.S.|U.S.A.|J.R.R. Tolkien|Ph.D.|D.C. The end|vitamin C. The end|vitamin C. then
    the letter a.|plan B.
    ft.|in.|oz.|lbs.|approx. 5|no.|No. The|fig. 2|Inc.|Co.|Jr.|La.|la.|miss.|Miss.|min.|jan.
    may.|sat.
    @home|#hashtag|# 1|@ noon|a@b.com|www.a.com|http://a.com/b?c=d|a.com|:)|:-)|;) x|=D|:|;|,|.
    ?|!
    café|naïve|jalapeño|Ωμέγα|日本|cafe\u0301|a cat \U0001f408 here|a\u200bb|a\u00a0b|a~b
    ^|\\|_|__x__|™|•
"""
PARTS = [part for line in _PARTS.strip().splitlines() for part in line.strip().split("|") if part]
FRAMES = (
    "{}",
    "A photo of {} on a table.",
    "the sign says {}, not {}.",
    "A cat ({}) sat",
    'It is "{}"',
)
CAPTIONS = [frame.replace("{}", part) for part in PARTS for frame in FRAMES]


@pytest.mark.skipif(shutil.which("java") is None, reason="coco-caption's tokenizer needs Java")
def test_ptb_tokenize_matches_the_java_tokenizer():
    # a dash between captions: after a full stop the Java tokenizer looks at the next line
    lines = {i: [{"caption": text}, {"caption": "-"}] for i, text in enumerate(CAPTIONS)}
    java = {CAPTIONS[i]: tokens for i, (tokens, _) in PTBTokenizer().tokenize(lines).items()}
    assert {text: " ".join(ptb_tokenize(text)) for text in CAPTIONS} == java


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man doesn't ride a well-known horse.", "a man does n't ride a well-known horse"),
        ("The dog's owners' bowl (red).", "the dog 's owners bowl -lrb- red -rrb-"),
        ("It’s “one”, they said -- and left...", "it 's one they said and left"),
        ("Mr. Smith cannot pay $5.00 at 3 p.m.", "mr. smith can not pay $ 5.00 at 3 p.m."),
        ("a black/white no. 5 at 12:30pm?!", "a black/white no. 5 at 12:30 pm ?!"),
        ("two\ncats,\tand a\u00a0dog", "two cats and a dog"),
        ("... ?", ""),
        ("", ""),
    ],
)
def test_ptb_tokenize_keeps_recorded_tokens(text, expected):
    """The expected tokens were recorded from the Java tokenizer."""
    assert " ".join(ptb_tokenize(text)) == expected


REFERENCES = [
    ["A large red three at the top left.", "There is a big red 3 in the corner, at the top."],
    ["Two dogs run over the wet grass", "A pair of dogs is running on grass."],
    ["the small blue seven is below a green one", "a little blue 7 under a green 1"],
    ["A man doesn't ride his horse on the beach at night"],
]
CANDIDATES = [
    "a large red three at the top",
    "two dogs is running on the wet wet grass today",
    "a small blue seven is under a green 1",
    "a man rides his horse on the beach",
]


def test_bleu_matches_torchmetrics():
    words = [" ".join(ptb_tokenize(text)) for text in CANDIDATES]
    targets = [[" ".join(ptb_tokenize(text)) for text in texts] for texts in REFERENCES]
    bleu = caption_scores(CANDIDATES, REFERENCES)["bleu4"]
    assert 0.3 < bleu < 0.7
    assert bleu == pytest.approx(float(BLEUScore(n_gram=4)(words, targets)), rel=1e-5)


def test_rouge_combines_the_best_precision_and_recall():
    """By hand. First item: a common subsequence of 4 of its 5 words with one reference, and of 3 of
    the 4 words of the other. Second item: no common words."""
    scores = caption_scores(
        ["a red three there now", "blue"],
        [["a big red three is there at last", "one red three there"], ["green", "a red one"]],
    )
    precision, recall, beta = 4 / 5, 3 / 4, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert scores["rouge_l"] == pytest.approx(expected / 2)
    assert scores["n"] == 2


def cider_by_definition(candidates, references):
    """CIDEr-D from the paper: tf-idf vectors over all n-grams, clipped cosines, length penalty."""

    def grams(text, n):
        words = text.split()
        return Counter(zip(*(words[start:] for start in range(n)), strict=False))

    scores = np.zeros(len(candidates))
    for n in (1, 2, 3, 4):
        sets = [set().union(*(grams(text, n) for text in texts)) for texts in references]
        names = sorted(set().union(*sets, *(grams(text, n) for text in candidates)))
        documents = np.array([sum(name in item for item in sets) for name in names])
        idf = np.log(len(references) / np.maximum(documents, 1))
        for item, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
            a = np.array([grams(candidate, n)[name] for name in names]) * idf
            for text in texts:
                b = np.array([grams(text, n)[name] for name in names]) * idf
                norms = np.linalg.norm(a) * np.linalg.norm(b)
                cosine = np.minimum(a, b) @ b / norms if norms else 0
                longer = len(candidate.split()) - len(text.split())
                scores[item] += 10 / 4 / len(texts) * cosine * np.exp(-(longer**2) / (2 * 6**2))
    return scores


def test_cider_each_matches_the_definition():
    words = [" ".join(ptb_tokenize(text)) for text in CANDIDATES]
    targets = [[" ".join(ptb_tokenize(text)) for text in texts] for texts in REFERENCES]
    each = cider_each(CANDIDATES, REFERENCES)
    assert each.shape == (4,)
    assert each.min() > 0.5
    np.testing.assert_allclose(each, cider_by_definition(words, targets), rtol=0, atol=1e-6)
    assert caption_scores(CANDIDATES, REFERENCES)["cider"] == pytest.approx(each.mean())


def test_cider_of_equal_and_unrelated_captions():
    references = [[texts[0]] for texts in REFERENCES]
    np.testing.assert_allclose(cider_each([text for (text,) in references], references), 10)
    assert not cider_each(["purple"] * 3 + ["nine orange cubes"], references).any()
    assert cider_each(["red three", *CANDIDATES[1:]], [["red three"], *REFERENCES[1:]])[0] == 5
    assert not cider_each(["a red three here"], [["a red three here"]]).any()  # one item


def test_caption_scores_do_not_depend_on_item_order():
    order = [2, 0, 3, 1]
    candidates, references = [CANDIDATES[i] for i in order], [REFERENCES[i] for i in order]
    each = cider_each(CANDIDATES, REFERENCES)
    np.testing.assert_allclose(cider_each(candidates, references), each[order])
    expected = caption_scores(CANDIDATES, REFERENCES)
    assert caption_scores(candidates, references) == pytest.approx(expected)


def test_caption_scores_of_perfect_and_empty_captions(capsys):
    perfect = caption_scores([texts[0] for texts in REFERENCES], [[t[0]] for t in REFERENCES])
    assert perfect == pytest.approx({"bleu4": 1, "rouge_l": 1, "cider": 10, "n": 4}, rel=1e-6)
    empty = caption_scores(["", " ", "...", "\n"], [[*texts, "!"] for texts in REFERENCES])
    assert empty == {"bleu4": 0, "rouge_l": 0, "cider": 0, "n": 4}
    assert capsys.readouterr().out == ""


def test_cider_of_other_captions_is_unchanged_by_an_empty_one():
    each = cider_each(["", *CANDIDATES[1:]], REFERENCES)
    assert each[0] == 0
    np.testing.assert_allclose(each[1:], cider_each(CANDIDATES, REFERENCES)[1:])


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a cat"], [["a cat"], ["a dog"]], "1 captions and 2 lists"),
        (["a cat"], [], "1 captions and 0 lists"),
    ],
    ids=["lengths_differ", "no_lists"],
)
def test_caption_scores_reject_bad_input(candidates, references, message):
    with pytest.raises(ValueError, match=message):
        caption_scores(candidates, references)
    with pytest.raises(ValueError, match=message):
        cider_each(candidates, references)


WORDLESS = {
    "emoji": ["\U0001f600"],
    "punctuation": ["...", "!"],
    "empty": [""],
    "spaces": [" \n\t"],
    "zero width": ["\u200b"],
    "no references": [],
}


@pytest.mark.parametrize("wordless", WORDLESS)
def test_caption_scores_leave_out_and_count_items_without_a_word(wordless):
    expected = caption_scores(CANDIDATES, REFERENCES)
    candidates = [CANDIDATES[0], "a red three", *CANDIDATES[1:], "\U0001f600"]
    references = [REFERENCES[0], WORDLESS[wordless], *REFERENCES[1:], WORDLESS[wordless]]
    assert caption_scores(candidates, references) == expected | {"skipped": 2}
    each = cider_each(candidates, references)
    np.testing.assert_array_equal(np.isnan(each), [False, True, False, False, False, True])
    np.testing.assert_array_equal(each[[0, 2, 3, 4]], cider_each(CANDIDATES, REFERENCES))


@pytest.mark.parametrize("count", [0, 2])
def test_caption_scores_are_nan_without_any_scored_item(count):
    scores = caption_scores(["a cat"] * count, [["\U0001f600"]] * count)
    assert all(np.isnan(scores[name]) for name in ("bleu4", "rouge_l", "cider"))
    assert (scores["n"], scores.get("skipped", 0)) == (0, count)
    assert len(cider_each(["a cat"] * count, [["!"]] * count)) == count


def test_caption_scores_of_articles_and_of_one_caption_for_all():
    """coco-caption keeps articles; equal references leave CIDEr nothing to tell items apart."""
    assert caption_scores(["the", "a cat"], [["the"], ["a dog"]])["n"] == 2
    same = caption_scores(["a red cat sits"] * 3, [["a red cat sits"]] * 3)
    assert same == pytest.approx({"bleu4": 1, "rouge_l": 1, "cider": 0, "n": 3}, rel=1e-6)
    long = "word " * 3000
    assert caption_scores([long], [[long]])["rouge_l"] == pytest.approx(1)

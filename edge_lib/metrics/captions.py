"""Similarity of generated captions to human references: BLEU-4, ROUGE-L and CIDEr.

The scores are computed by pycocoevalcap, so they are comparable with published ones. Its tokenizer
needs Java (Stanford CoreNLP 3.4.1 with -preserveLines -lowerCase); `ptb_tokenize` gives the same
tokens without it.
"""

import re
from collections.abc import Sequence

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

# Abbreviations that keep their full stop: in any case, or only when capitalised (La. but not la.)
_ABBREVIATIONS = r"""
    [a-z](?:\.[a-z])* adj adm adv al ala alex apr ariz assn assoc asst attys? aug ave bldg blvd brig
    bros calif capt cf cie cos? col colo co?mdr conn corp cpl ct dak dec dept det drs? ed\.d elec
    ens esq est etc ext feb fla fri ft ga gen govs? hon inc ind insp intl jan jos jr jul jun kans?
    ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt natl neb
    nev nov oct okla penn pfc ph(?:\.d)? plc pres profs? pvt rd reps? rev rt sens? seq sept? sgt spc
    sq sr ste? supts? sys tel tenn thu(?:rs)? tues? univ va vs vt wed wisc? wm wyo
""".split()  # noqa: SIM905

_CAPITALISED_ABBREVIATIONS = "Ark|Az|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"

# After a single letter, a full stop ends the sentence if one of these follows: vitamin C. The
_SENTENCE_STARTS = """
    About According Additionally After An? As At But Earlier He Her Here However If In It Last Many
    More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then There These They
    This We When While What Yet You
""".split()  # noqa: SIM905

_LETTER = r"(?:[^\W\d_¹²³¼-¾⅐-⅟]|[\u0300-\u036f])"
_CHAR = r"[^\W_¹²³¼-¾⅐-⅟]"  # letter or digit
_WORD = rf"{_LETTER}(?:{_LETTER}|\d)*(?:[.!?]{_LETTER}(?:{_LETTER}|\d)*)*"
_PART = rf"(?:[dol]['’`]{_CHAR})?{_CHAR}+"  # d'or, o'clock
_HYPHENATED = r"[a-z0-9][a-z0-9.,]*(?:-(?:[a-z0-9]+|[a-z](?:\.[a-z])+\.))+"
_SLASHED = r"[a-z0-9]+(?:-[a-z]+){0,2}"
_AUXILIARY = "'(?:[msd]|re|ve|ll)"
_CURLY = re.compile(r"(?i)’(?=(?:[msd]|re|ve|ll)(?![a-z]))|(?<=n)’(?=t(?![a-z]))")
_PLAIN_WORD = re.compile(r"(?i)\s*(?!(?:can|gon|wan|got|gim|lem)(?:not|[nt]a|me)\s)([a-z]+)\s")

# Each rule matches (token)context. The longest match including context wins; on a tie, the first.
_RULES = [
    re.compile(rule, re.IGNORECASE)
    for rule in (
        r"(can)not|(gon|wan)na|(got)ta|(gim|lem)me|('t)(?:is|was)",
        r"(</?[a-z][\w:.-]*\ */?>)",
        rf"({_WORD})(?:{_AUXILIARY})?",
        r"([a-z]*[a-mo-z])n['`]t",
        r"(['’](?:n['’]?|em|till?|cause|[2-9]0s)|(?:[ldj]|ol)['’]|c'mon)",
        rf"((?-i:[A-HJ-XZn])['’`]{_LETTER}{{2,}}|{_LETTER}+[aeiouy]['’`](?-i:[aeiouA-Z]){_LETTER}*)",
        rf"(y['’]){_LETTER}",
        r"""((?:https?://|www\.)[^\s"<>|()]*[^\s"<>|.!?(){},-])""",
        r"""(<?[a-z0-9][^\s"<>|(){}]*@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.]+>?)""",
        rf"(@[a-z_]\w*|\#{_LETTER}+)",
        rf"({_AUXILIARY}|n['`]t)[^a-z]",
        r"([-+]?(?:\d*(?:[.:,]\d+)+|\d+))",
        r"((?:\d{1,4}[- ])?\d{1,4}/\d{1,4})",  # 1 1/2
        r"((?:\(\d{2,3}\)\ ?|(?:\d{2,4}[- ])?\d{2,4}[- ])\d{3,4}[- ]?\d{3,5})",  # telephone number
        r"(pro-|anti-|c\+\+|[cf]\#|(?-i:[A-Z]*)\$)",
        rf"({_SLASHED}(?:/{_SLASHED}){{1,2}})",
        rf"([a-z])\.\s+(?-i:{'|'.join(_SENTENCE_STARTS)})\s",
        r"((?:ca|figs?|nos?|prop|art|pp|op)\.)\s?\d",
        rf"((?:{'|'.join(_ABBREVIATIONS)}|(?-i:{_CAPITALISED_ABBREVIATIONS}))\.)",
        r"(['’]\d\d)\s",
        rf"((?:{_WORD}|{_HYPHENATED})\.)[,;:]",
        rf"({_HYPHENATED}|(?-i:[A-Z]+(?:[+&][A-Z]+)+))",  # R&B
        rf"({_PART}(?:[-_‐‑]{_PART})*)",
        r"([<>]?[:;=][-o*']?[()dpo\\@|])[^a-z0-9]",  # :-)
        r"(')[a-z]\S",
        r"\s+|[\u200b-\u200f]|[^!-\u2bff]",  # emoji are not tokens
        r"(-+|\.{3,5}|[?!]+|@+|\#+|_+|\*+|<<|>>|.)",
    )
]

_REPLACEMENTS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_REPLACEMENTS |= {"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3"}
_REPLACEMENTS = str.maketrans(_REPLACEMENTS | {"⅔": "2/3", " ": "\xa0"})

# Punctuation that coco-caption drops, and the characters its tokenizer maps to it. Brackets stay:
# its list has them in capitals (-LRB-), but its tokenizer emits lower case.
_PUNCTUATION = {*"\"'`‘’“”«».?!,:;-–—―…", "--", "---", "----", "...", "....", "....."}


def ptb_tokenize(text: str) -> list[str]:
    """The tokens that coco-caption scores: Penn Treebank's, lower case, without most punctuation.

    Each text is tokenized on its own; the Java tokenizer also looks at the next line, and drops the
    full stop of a final "plan b." if that line begins with "A".
    """
    text = _CURLY.sub("'", text) + "\n"
    tokens, start = [], 0
    while start < len(text):
        # trying plain words first saves the rules for most of the text
        match = _PLAIN_WORD.match(text, start)
        match = match or max((m for r in _RULES if (m := r.match(text, start))), key=re.Match.end)
        start = match.end(match.lastindex or 0)
        if match.lastindex and match[match.lastindex] not in _PUNCTUATION:
            tokens.append(match[match.lastindex].lower().translate(_REPLACEMENTS))
    return tokens


def caption_scores(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Scores of one generated caption per item against its one or several references.

    bleu4: corpus BLEU-4, 0 to 1 (Papineni et al. 2002); the brevity penalty uses the reference
        closest in length.
    rouge_l: mean over items of the F measure with beta 1.2, 0 to 1 (Lin 2004), from the highest
        precision and the highest recall over the references.
    cider: mean of `cider_each`, 0 to 10. n: number of items with a score.
    skipped: number of items that have none, without a word in their references (an emoji), if any.
    Papers report all three times 100. Further references without any word are ignored. The scores
    are NaN if no item has one. Raises ValueError for lists of different lengths.
    """
    texts = _tokenized(candidates, references)
    scored = len(texts[0])
    counts = {"n": scored} | ({"skipped": skipped} if (skipped := len(candidates) - scored) else {})
    if not scored:
        return dict.fromkeys(("bleu4", "rouge_l", "cider"), float("nan")) | counts
    bleu, _ = Bleu(4).compute_score(*texts, verbose=0)
    rouge, _ = Rouge().compute_score(*texts)
    cider, _ = Cider().compute_score(*texts)
    return {"bleu4": bleu[3], "rouge_l": float(rouge), "cider": float(cider)} | counts


def cider_each(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) CIDEr-D of each caption (Vedantam et al. 2015); 10 if it equals its only reference.

    N-grams of 1 to 4 words are weighted by how few items have them in a reference. Scores thus
    depend on the corpus: they cannot be compared between data sets, and a single item scores 0.
    Captions of fewer than 4 words cannot reach 10. Items without a word in a reference have NaN.
    """
    texts, scores = _tokenized(candidates, references), np.full(len(candidates), np.nan)
    if texts[0]:
        scores[[*texts[0]]] = Cider().compute_score(*texts)[1]
    return scores


def _tokenized(candidates, references) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """{item: references}, {item: [candidate]}, as tokens joined by spaces, of the items that have a
    reference with a word in it.
    """
    if len(candidates) != len(references):
        raise ValueError(
            f"got {len(candidates)} captions and {len(references)} lists of references; "
            "need one list for each caption"
        )
    tokenized = {}
    for item, texts in enumerate(references):
        if words := [*filter(None, (" ".join(ptb_tokenize(text)) for text in texts))]:
            tokenized[item] = words
    return tokenized, {i: [" ".join(ptb_tokenize(candidates[i]))] for i in tokenized}

"""How near generated captions are to what people wrote: BLEU-4, ROUGE-L and CIDEr.

The scores are pycocoevalcap's, so they compare with papers'. Its tokenizer is Stanford's, in Java;
`ptb_tokenize` splits as that one does (CoreNLP 3.4.1 with -preserveLines -lowerCase), without it.
"""

import re
from collections.abc import Sequence

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

# What keeps its full stop, and what does so only with its capital: La. but not la.
_SHORTENED = r"""
    [a-z](?:\.[a-z])* adj adm adv al ala alex apr ariz assn assoc asst attys? aug ave bldg blvd brig
    bros calif capt cf cie cos? col colo co?mdr conn corp cpl ct dak dec dept det drs? ed\.d elec
    ens esq est etc ext feb fla fri ft ga gen govs? hon inc ind insp intl jan jos jr jul jun kans?
    ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt natl neb
    nev nov oct okla penn pfc ph(?:\.d)? plc pres profs? pvt rd reps? rev rt sens? seq sept? sgt spc
    sq sr ste? supts? sys tel tenn thu(?:rs)? tues? univ va vs vt wed wisc? wm wyo
""".split()  # noqa: SIM905


_CAPITALISED = "Ark|Az|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"


# Before these a single letter's full stop ends the sentence: vitamin C. The
_OPENING = """
    About According Additionally After An? As At But Earlier He Her Here However If In It Last Many
    More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then There These They
    This We When While What Yet You
""".split()  # noqa: SIM905


_LETTER = r"(?:[^\W\d_¹²³¼-¾⅐-⅟]|[\u0300-\u036f])"


_CHAR = r"[^\W_¹²³¼-¾⅐-⅟]"  # of a letter or a number


_WORD = rf"{_LETTER}(?:{_LETTER}|\d)*(?:[.!?]{_LETTER}(?:{_LETTER}|\d)*)*"


_PART = rf"(?:[dol]['’`]{_CHAR})?{_CHAR}+"  # d'or, o'clock


_HYPHENED = r"[a-z0-9][a-z0-9.,]*(?:-(?:[a-z0-9]+|[a-z](?:\.[a-z])+\.))+"


_SLASHED = r"[a-z0-9]+(?:-[a-z]+){0,2}"


_AUXILIARY = "'(?:[msd]|re|ve|ll)"


_CURLY = re.compile(r"(?i)’(?=(?:[msd]|re|ve|ll)(?![a-z]))|(?<=n)’(?=t(?![a-z]))")


_PLAIN = re.compile(r"(?i)\s*(?!(?:can|gon|wan|got|gim|lem)(?:not|[nt]a|me)\s)([a-z]+)\s")


# Each is (token)context. The longest match, context and all, wins; of equals the first.
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
        r"((?:\(\d{2,3}\)\ ?|(?:\d{2,4}[- ])?\d{2,4}[- ])\d{3,4}[- ]?\d{3,5})",  # a telephone's
        r"(pro-|anti-|c\+\+|[cf]\#|(?-i:[A-Z]*)\$)",
        rf"({_SLASHED}(?:/{_SLASHED}){{1,2}})",
        rf"([a-z])\.\s+(?-i:{'|'.join(_OPENING)})\s",
        r"((?:ca|figs?|nos?|prop|art|pp|op)\.)\s?\d",
        rf"((?:{'|'.join(_SHORTENED)}|(?-i:{_CAPITALISED}))\.)",
        r"(['’]\d\d)\s",
        rf"((?:{_WORD}|{_HYPHENED})\.)[,;:]",
        rf"({_HYPHENED}|(?-i:[A-Z]+(?:[+&][A-Z]+)+))",  # R&B
        rf"({_PART}(?:[-_‐‑]{_PART})*)",
        r"([<>]?[:;=][-o*']?[()dpo\\@|])[^a-z0-9]",  # :-)
        r"(')[a-z]\S",
        r"\s+|[\u200b-\u200f]|[^!-\u2bff]",  # an emoji is no token
        r"(-+|\.{3,5}|[?!]+|@+|\#+|_+|\*+|<<|>>|.)",
    )
]


_NAMES = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_NAMES |= {"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3"}
_NAMES = str.maketrans(_NAMES | {"⅔": "2/3", " ": "\xa0"})


# coco-caption's list, and what the tokenizer turns into its members. Brackets stay: that list has
# them in capitals, after a tokenizer that writes small letters.
_DROPPED = {*"\"'`‘’“”«».?!,:;-–—―…", "--", "---", "----", "...", "....", "....."}


def ptb_tokenize(text: str) -> list[str]:
    """The words that coco-caption scores: Penn Treebank's, lower case, without most punctuation.

    As for a line on its own; in Java a final "plan b." loses its stop if the next begins with "A".
    """
    text = _CURLY.sub("'", text) + "\n"
    tokens, at = [], 0
    while at < len(text):
        found = _PLAIN.match(text, at)  # most words need no rules
        found = found or max((m for r in _RULES if (m := r.match(text, at))), key=re.Match.end)
        at = found.end(found.lastindex or 0)
        if found.lastindex and found[found.lastindex] not in _DROPPED:
            tokens.append(found[found.lastindex].lower().translate(_NAMES))
    return tokens


def caption_scores(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """One generated caption for each item against the one or several that people wrote.

    bleu4: of the corpus, 0 to 1 (Papineni et al. 2002); of the references the nearest in length
        tells what is too short.
    rouge_l: mean of the items' F with beta 1.2, 0 to 1 (Lin 2004), of the highest precision and the
        highest recall over the references.
    cider: mean of `cider_each`, 0 to 10. n: items.
    Papers print all three times 100. References without a word are left out.
    Raises ValueError for lists of different lengths, for none, and for an item without references.
    """
    wanted, given = _tokenized(candidates, references)
    bleu, _ = Bleu(4).compute_score(wanted, given, verbose=0)
    rouge, _ = Rouge().compute_score(wanted, given)
    cider, _ = Cider().compute_score(wanted, given)
    return {"bleu4": bleu[3], "rouge_l": float(rouge), "cider": float(cider), "n": len(given)}


def cider_each(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) CIDEr-D of each caption (Vedantam et al. 2015), 10 for one equal to its only reference.

    N-grams of 1 to 4 words weigh the more, the fewer items have them in a reference. So a score
    depends on the corpus: those of two sets do not compare, and that of a single item is 0.
    Captions of fewer than 4 words cannot reach 10.
    """
    return Cider().compute_score(*_tokenized(candidates, references))[1]


def _tokenized(candidates, references) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """{item: references}, {item: [candidate]}, each a text of tokens and spaces."""
    if len(candidates) != len(references) or not len(candidates):
        raise ValueError(f"{len(candidates)} captions for {len(references)} items of references")
    given = {i: [" ".join(ptb_tokenize(text))] for i, text in enumerate(candidates)}
    wanted = {}
    for item, texts in enumerate(references):
        wanted[item] = [words for text in texts if (words := " ".join(ptb_tokenize(text)))]
        if not wanted[item]:
            raise ValueError(f"item {item} has no reference with a word in it: {list(texts)}")
    return wanted, given

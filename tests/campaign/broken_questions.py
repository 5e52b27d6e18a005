"""Files of questions about pictures: good ones and, spread among them, broken ones.

Writers are as in `broken_sources`; a good row has a picture, a question and its answer.
"""

import json

from campaign.broken_cells import broken_pictures, spare
from campaign.broken_sources import NOT_UTF8, ODD_ENTRIES, ODD_PATHS, Files, csv_line, mix
from datasets import Dataset, Features, Image, List, Value

QUESTION, ANSWER = "how much red ?", "some"
ODD_TEXTS = (None, "", " \t", 5, ["some"], {"text": "some"})
LONG = "how much red ? " * 60
COLOURS = ("red", "green", "blue")


def questions(pictures, seed=0):
    """(content, question, answer) of pictures with captions, one each."""
    for n, (content, caption) in enumerate(pictures):
        colour = COLOURS[(n + seed) % 3]
        words = caption.replace(",", "").split()
        yield content, f"how much {colour} ?", words[words.index(colour) - 1]


def broken_questions():
    """[(content, question, answer)], in every way that all formats can hold."""
    rows = [(content, QUESTION, ANSWER) for content in broken_pictures().values()]
    rows += [(None, QUESTION, ANSWER), (spare(20), LONG, ANSWER)]
    rows += [(spare(21 + n), text, ANSWER) for n, text in enumerate(ODD_TEXTS[:3])]
    return rows + [(spare(24 + n), QUESTION, text) for n, text in enumerate(ODD_TEXTS[:3])]


def write_vqav2(folder, split, good, broken):
    files = Files(folder / f"{split} pictures", ".jpg")
    rows = []

    def row(content, question, answer, **changes):
        name, number = files.add(content).name, len(rows)
        query = {"question_id": number, "image_id": name, "question": question} | changes
        answers = answer if isinstance(answer, list) else [{"answer": answer}]
        rows.append((query, {"question_id": number, "image_id": name, "answers": answers}))
        return rows[-1]

    bad = broken_questions() if broken else []
    for own in mix([*good], bad):
        row(*own)
    if broken:
        more = [row(spare(30 + n), odd, ANSWER) for n, odd in enumerate(ODD_TEXTS[3:])]
        odd_answers = [], [None], [{"answer": ""}], [{"answer": None}, {}]
        more += [row(spare(40 + n), QUESTION, odd) for n, odd in enumerate(odd_answers)]
        odd_images = None, 1.5, True, ["a.jpg"], 12, "../absent.jpg", "a" * 400
        more += [row(spare(50), QUESTION, ANSWER, image_id=odd) for odd in odd_images]
        more += [
            row(spare(51 + n), QUESTION, ANSWER, question_id=o) for n, o in enumerate([None, []])
        ]
        bad += [*more, *ODD_ENTRIES]
    query, answered = map(list, zip(*rows, strict=True))
    odd = [*ODD_ENTRIES * broken]
    names = {"questions": query + odd, "annotations": answered + odd}
    where = "data.questions.source=vqav2 "
    for name, entries in names.items():
        path = folder / f"{split} {name}.json"
        path.write_text(json.dumps({name: entries}))
        where += f"data.questions.vqav2.{name}.{split}='{path}' "
    return where + f"data.questions.vqav2.images.{split}='{files.folder}' ", len(bad)


def write_gqa(folder, split, good, broken):
    files = Files(folder / "pictures" / split, ".jpg")
    rows = [gqa(f"{split}/{files.add(c).name}", *texts) for c, *texts in good]
    bad = []
    if broken:
        bad += [gqa(f"{split}/{files.add(c).name}", *texts) for c, *texts in broken_questions()]
        odd_images = None, 1.5, True, ["a.jpg"], 12, "absent.jpg", "a" * 400
        bad += [gqa(odd, QUESTION, ANSWER) for odd in odd_images]
        names = [f"{split}/{files.add(spare(30 + n)).name}" for n in range(10)]
        bad += [gqa(names[n], odd, ANSWER) for n, odd in enumerate(ODD_TEXTS[3:])]
        bad += [{"imageId": names[5], "question": QUESTION}, {"imageId": names[6]}, {}]
        bad += ODD_ENTRIES
    path = folder / f"{split}.json"
    path.write_text(json.dumps({f"q{n}": row for n, row in enumerate(mix(rows, bad))}))
    where = f"data.questions.source=gqa data.questions.gqa.questions.{split}={path} "
    return where + f"data.questions.gqa.images={folder}/pictures ", len(bad)


def gqa(image, question, answer):
    return {
        "imageId": image,
        "question": question,
        "answer": answer,
        "types": {"structural": "query"},
    }


def write_csv(folder, split, good, broken):
    files = Files(folder / f"{split} pictures")
    rows = [csv_line(files.add(content), *texts) for content, *texts in good]
    bad = []
    if broken:
        bad += [csv_line(files.add(content), *texts) for content, *texts in broken_questions()]
        bad += [csv_line(path, QUESTION, ANSWER) for path in ODD_PATHS]
        bad += [
            b"%s,%s,some\n" % (bytes(files.add(spare(n))), text) for n, text in enumerate(NOT_UTF8)
        ]
        bad += [b"one field\n", b"two,fields\n", b"a,b,c,d\n"]
    path = folder / f"{split}.csv"
    path.write_bytes(b"image,question,answer\n" + b"".join(mix(rows, bad)))
    return f"data.questions.source=table data.questions.table.{split}=[{path}] ", len(bad)


def write_jsonl(folder, split, good, broken):
    files = Files(folder / f"{split} pictures")
    rows = [entry(files.add(content), *texts) for content, *texts in good]
    bad = []
    if broken:
        bad += [entry(files.add(content), *texts) for content, *texts in broken_questions()]
        bad += [entry(path, QUESTION, ANSWER) for path in (*ODD_PATHS, "a\0b.png")]
        bad += [entry(files.add(spare(n)), odd, ANSWER) for n, odd in enumerate(ODD_TEXTS[3:])]
        bad += [entry(files.add(spare(9)), QUESTION, ODD_TEXTS[-1]), *ODD_ENTRIES]
        bad += [{"question": QUESTION, "answer": ANSWER}, {"image": str(files.add(spare(8)))}]
    lines = [json.dumps(own) for own in mix(rows, bad)] + ["{"] * broken
    path = folder / f"{split}.jsonl"
    path.write_text("\n".join(lines))
    where = f"data.questions.source=table data.questions.table.{split}=[{path}] "
    return where, len(bad) + broken


def entry(path, question, answer):
    return {"image": str(path), "question": question, "answer": answer}


def write_saved(folder, split, good, broken):
    """What `save_to_disk` writes, with lists of answers."""
    bad = broken_questions() if broken else []
    bad += [(spare(60), QUESTION, [])] * broken + [(spare(61), QUESTION, [None, ""])] * broken
    images, texts, answers = zip(*mix([*good], bad), strict=True)
    columns = {
        "image": [None if image is None else {"bytes": image, "path": None} for image in images],
        "question": texts,
        "answer": [a if isinstance(a, list) else [a] for a in answers],
    }
    features = {"image": Image(), "question": Value("string"), "answer": List(Value("string"))}
    Dataset.from_dict(columns, Features(features)).save_to_disk(folder / "saved" / split)
    splits = {"splits": ["train", "val", "test"]}
    (folder / "saved/dataset_dict.json").write_text(json.dumps(splits))
    where = f"data.questions.source=hub data.questions.hub.name={folder}/saved "
    return where + f"data.questions.hub.{split}={split} ", len(bad)

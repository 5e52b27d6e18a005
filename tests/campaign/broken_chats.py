"""Files of conversations about pictures: good ones and, spread among them, broken ones.

Writers are as in `broken_sources`; a good row has a picture, a question and its answer.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from campaign.broken_cells import broken_pictures, spare
from campaign.broken_sources import NOT_UTF8, ODD_ENTRIES, Files, mix
from datasets import Dataset

from edge_lib.data.table import SCHEMA

QUESTION, ANSWER = "<image>\nhow much red ?", "some"
ODD_TURNS = (None, [], "some text", 5, {"a": 1}, [5], [None], [["user", "a"]])
ODD_CONTENTS = (None, "", " \t", 5, {"a": 1}, [{"type": "text"}], [{"type": "video"}], [7])
ODD_IMAGES = (5, True, {"a": 1}, "https://example.com/a.png", "data:image/png;base64,#", "a" * 400)
ODD_ROLES = (None, 5, "narrator", ["user"])


def turns(question, answer, roles=("user", "assistant")):
    return [
        {"role": role, "content": content}
        for role, content in zip(roles, (question, answer), strict=True)
    ]


def llava_turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def broken_entries(files, key, make):
    """Entries of json whose turns, as `make` makes them of question and answer, are under `key`."""
    whole = make(QUESTION, ANSWER)

    def about(image, own=whole):
        return {"image": image, key: own}

    def about_spare(own):
        return about(files.add(spare(5)).name, own)

    role, content = whole[0]
    bad = [about(files.add(content_).name) for content_ in broken_pictures().values()]
    bad += [about("absent.jpg"), *(about(image) for image in ODD_IMAGES)]
    bad += [about_spare(odd) for odd in ODD_TURNS]
    bad += [about_spare(make(odd, ANSWER)) for odd in ODD_CONTENTS]
    bad += [about_spare(make(QUESTION, odd)) for odd in ODD_CONTENTS]
    bad += [about_spare([{role: odd, content: QUESTION}, whole[1]]) for odd in ODD_ROLES]
    bad += [about_spare(whole[:1]), about_spare(make("<image> <image>", ANSWER))]
    bad += [about([files.add(spare(n)).name for n in (1, 2)])]  # two for one <image>
    bad += [{key: whole}, {"image": files.add(spare(3)).name}, {}]
    bad += [about_spare(whole) | {"video": "a.mp4"}, {key: make("<audio>", ANSWER)}]
    return [*bad, *ODD_ENTRIES]


def json_entries(files, good, broken, key, make):
    entries = [{"image": files.add(c).name, key: make(*texts)} for c, *texts in good]
    bad = broken_entries(files, key, make) if broken else []
    return mix(entries, bad), len(bad)


def write_llava(folder, split, good, broken):
    files = Files(folder / "pictures" / split, ".jpg")
    entries, bad = json_entries(files, good, broken, "conversations", llava_turns)
    for entry in entries:
        image = entry.get("image") if isinstance(entry, dict) else None
        if isinstance(image, str):
            entry["image"] = f"{split}/{image}"
        elif isinstance(image, list):
            entry["image"] = [f"{split}/{name}" for name in image]
    path = folder / f"{split}.json"
    path.write_text(json.dumps(entries))
    where = f"data.conversations.source=llava data.conversations.llava.files.{split}={path} "
    return where + f"data.conversations.llava.images={folder}/pictures ", bad


def write_messages(folder, split, good, broken):
    """jsonl beside its pictures."""
    files = Files(folder / f"{split} pictures")
    entries, bad = json_entries(files, good, broken, "messages", turns)
    lines = [json.dumps(entry).encode() for entry in entries]
    odd = [lines[0][:30], b'{"messages": "\xff"}', b"["] * broken
    path = files.folder / "chats.jsonl"
    path.write_bytes(b"\n".join(lines + odd))
    where = "data.conversations.source=messages data.conversations.messages.files."
    return f"{where}{split}=['{path}'] ", bad + len(odd)


def broken_rows():
    """[(content, turns)] that columns of an image and of turns can hold."""
    whole = turns(QUESTION, ANSWER)
    rows = [(content, whole) for content in broken_pictures().values()]
    rows += [(None, whole), (spare(1), []), (spare(2), whole[:1]), (spare(3), [None])]
    odd = [(None, ANSWER), ("", ANSWER), (QUESTION, None), (QUESTION, " ")]
    rows += [(spare(4), turns(*texts)) for texts in [*odd, ("<image> <image>", ANSWER)]]
    rows += [(spare(5), turns(QUESTION, ANSWER, (role, "assistant"))) for role in (None, "a", "")]
    return [*rows, (None, turns("<audio>", ANSWER))]


def write_parquet(folder, split, good, broken):
    """In the table's schema; some texts are not UTF-8."""
    rows = [(content, turns(*texts)) for content, *texts in good]
    bad = broken_rows() if broken else []
    bad += [(spare(6), turns(QUESTION, text)) for text in NOT_UTF8] * broken
    images, columns = zip(*mix(rows, bad), strict=True)
    kind = pa.list_(pa.struct([("role", pa.binary()), ("content", pa.binary())]))
    encoded = [
        [turn and {k: encode(v) for k, v in turn.items()} for turn in own] for own in columns
    ]
    lists = pa.array(encoded, kind)
    parts = [lists.values.field(n).view(pa.string()) for n in range(2)]
    own = pa.StructArray.from_arrays(parts, fields=[*SCHEMA.field("turns").type.value_type])
    table = pa.table({"image": images, "turns": pa.ListArray.from_arrays(lists.offsets, own)})
    path = folder / f"{split}.parquet"
    pq.write_table(table, path)
    return f"data.conversations.source=parquet data.conversations.parquet.{split}=[{path}] ", len(
        bad
    )


def encode(text):
    return text.encode() if isinstance(text, str) else text


def write_saved(folder, split, good, broken):
    """What `save_to_disk` writes."""
    rows = [(content, turns(*texts)) for content, *texts in good]
    bad = broken_rows() if broken else []
    images, columns = zip(*mix(rows, bad), strict=True)
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [image if image is None else {"bytes": image, "path": None} for image in images]
    own = pa.array(columns, SCHEMA.field("turns").type)
    table = pa.table({"image": pa.array(cells, file), "messages": own})
    Dataset(table).save_to_disk(folder / "saved" / split)
    splits = {"splits": ["train", "val", "test"]}
    (folder / "saved/dataset_dict.json").write_text(json.dumps(splits))
    where = f"data.conversations.source=hub data.conversations.hub.name={folder}/saved "
    return where + f"data.conversations.hub.{split}={split} ", len(bad)


def write_instructions(folder, split, good, broken):
    """Half of the rows as text alone, beside the others in LLaVA's form."""
    half = len(good) // 2
    where, _ = write_llava(folder, split, good[:half], broken=False)
    rows = [{"question": question, "response": answer} for _, question, answer in good[half:]]
    bad = []
    if broken:
        bad += [{"question": odd, "response": ANSWER} for odd in ODD_CONTENTS]
        bad += [{"question": "how much ?", "response": odd} for odd in ODD_CONTENTS]
        bad += [{"question": QUESTION, "response": ANSWER}, {"response": ANSWER}]
        bad += [{"question": "how much ?"}, {}, *ODD_ENTRIES]
    lines = [json.dumps(entry).encode() for entry in mix(rows, bad)]
    odd = [lines[0][:20], b'{"question": "\xff", "response": "a"}'] * broken
    path = folder / f"{split}.jsonl"
    path.write_bytes(b"\n".join(lines + odd))
    where += f"data.conversations.instructions.files.{split}=[{path}] "
    return where, len(bad) + len(odd)

"""Files of each source with good rows and, spread among them, rows that are broken in every way.

A writer is a function (folder, split, good, broken): good is [(content, caption)], and broken says
whether there are broken rows as well. It returns the overrides that name the files of the split,
and the number of broken rows.
"""

import csv
import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from campaign.broken_cells import broken_clips, broken_pairs, spare, spare_clip
from datasets import Dataset, Features, Image, Value

CAPTION = "some red"
ODD_CAPTIONS = (5, 2.5, True, {"en": CAPTION}, [CAPTION, 7], [[CAPTION]])
ODD_ENTRIES = (None, 7, "some text", [], [1, 2])
NOT_UTF8 = (b"\xff\xfe caption \xe9", b"\xc3\x28")
ODD_PATHS = ("absent.png", "a" * 5000, "/", "~", "~nobody/a.png", "a\nb.png")
ODD_PATHS += ("https://example.com/a.png", "data:image/png;base64,#", "data:,", "file:///a.png")


def mix(good, broken):
    """The broken records, spread evenly among the good ones."""
    size = len(good) // max(1, len(broken))
    parts = [[*good[n * size : (n + 1) * size], record] for n, record in enumerate(broken)]
    return [record for part in parts for record in part] + good[len(broken) * size :]


class Files:
    """Media files in a folder, called by numbers."""

    def __init__(self, folder, ending=".png"):
        self.folder, self.ending, self.count = folder, ending, 0
        folder.mkdir(parents=True)

    def add(self, content):
        """The path of a new file, which does not exist without content."""
        self.count += 1
        path = self.folder / f"{self.count:05d}{self.ending}"
        if content is not None:
            path.write_bytes(content)
        return path

    def rows(self, pairs):
        return [(self.add(content), caption) for content, caption in pairs]


def write_csv(folder, split, good, broken):
    files = Files(folder / f"{split} pictures")
    rows, bad = [csv_line(*row) for row in files.rows(good)], []
    if broken:
        bad += [csv_line(*row) for row in files.rows(broken_pairs())]
        bad += [csv_line(path, CAPTION) for path in ODD_PATHS]
        bad += [b"%s,%s\n" % (bytes(files.add(spare(n))), text) for n, text in enumerate(NOT_UTF8)]
        bad += [b"one field\n", b'1.png,a "quote, in a field\n', b"a,b,c,d,e\n"]
        bad += [b'absent.png,"never closed\n']
    path = folder / f"{split}.csv"
    path.write_bytes(b"image,caption\n" + b"".join(mix(rows, bad)))
    return f"data.table.{split}=[{path}] ", len(bad)


def csv_line(*fields):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(fields)
    return buffer.getvalue().encode()


def json_entries(folder, split, good, broken):
    """The entries of json and jsonl: good ones, broken ones."""
    files = Files(folder / f"{split} pictures")
    entries = [entry(*row) for row in files.rows(good)]
    if not broken:
        return entries, []
    bad = [entry(*row) for row in files.rows(broken_pairs())]
    bad += [entry(path, CAPTION) for path in (*ODD_PATHS, "a\0b.png")]
    bad += [entry(files.add(spare(n)), odd) for n, odd in enumerate(ODD_CAPTIONS)]
    bad += [{"image": odd, "caption": CAPTION} for odd in (5, ["a.png"], {"a": 1})]
    bad += [{"caption": CAPTION}, {"image": str(files.add(spare(30)))}, *ODD_ENTRIES]
    return entries, bad


def entry(path, caption):
    return {"image": str(path), "caption": caption}


def write_json(folder, split, good, broken):
    entries, bad = json_entries(folder, split, good, broken)
    path = folder / f"{split}.json"
    path.write_text(json.dumps(mix(entries, bad)))
    return f"data.table.{split}=[{path}] ", len(bad)


def write_jsonl(folder, split, good, broken):
    entries, bad = json_entries(folder, split, good, broken)
    lines, bad = ([json.dumps(e).encode() for e in part] for part in (entries, bad))
    if broken:
        bad += [
            lines[0][:20],
            b'{"image": "a.png", "caption": "\xff"}',
            b"{'image': 'a.png'}",
            b"[",
        ]
    path = folder / f"{split}.jsonl"
    path.write_bytes(b"\n".join(mix(lines, bad)))
    return f"data.table.{split}=[{path}] ", len(bad)


def write_parquet(folder, split, good, broken):
    """In two shards, of bytes."""
    bad = broken_pairs() if broken else []
    if broken:
        bad += [(spare(40 + n), text) for n, text in enumerate(NOT_UTF8)]
    images, captions = zip(*mix(good, bad), strict=True)
    texts = [text.encode() if isinstance(text, str) else text for text in captions]
    caption = pa.array(texts, pa.binary()).view(pa.string())
    table = pa.table({"image": pa.array(images, pa.binary()), "caption": caption})
    half = len(table) // 2
    for n, part in enumerate((table[:half], table[half:])):
        pq.write_table(part, folder / f"{split}-{n}.parquet")
    return f"data.parquet.{split}=[{folder}/{split}-*.parquet] ", len(bad)


def write_saved(folder, split, good, broken):
    """What `save_to_disk` writes, a folder a split."""
    bad = broken_pairs() if broken else []
    images, captions = zip(*mix(good, bad), strict=True)
    cells = [None if image is None else {"bytes": image, "path": None} for image in images]
    features = Features({"image": Image(), "caption": Value("string")})
    dataset = Dataset.from_dict({"image": cells, "caption": captions}, features)
    dataset.save_to_disk(folder / "saved" / split)
    path, splits = folder / "saved/dataset_dict.json", ["train", "val", "test"]
    path.write_text(json.dumps({"splits": splits}))
    return f"data.hub.name={folder}/saved data.hub.{split}={split} ", len(bad)


def write_folder(folder, split, good, broken):
    """With metadata.csv."""
    files = Files(folder / "pictures" / split)
    rows, bad = [csv_line(path.name, text) for path, text in files.rows(good)], []
    if broken:
        bad += [csv_line(path.name, text) for path, text in files.rows(broken_pairs())]
        bad += [csv_line(path, CAPTION) for path in ODD_PATHS]
        bad += [b"one field\n", b"a,b,c,d\n", b"%s,\xe9\n" % files.add(spare(3)).name.encode()]
    (files.folder / "metadata.csv").write_bytes(b"file_name,caption\n" + b"".join(mix(rows, bad)))
    return f"data.folder.path={folder}/pictures ", len(bad)


def write_texts(folder, split, good, broken):
    """A folder with a .txt beside each picture."""
    files = Files(folder / "pictures" / split)
    bad = broken_pairs() if broken else []
    for path, caption in files.rows(mix(good, bad)):
        if caption is not None:
            path.with_suffix(".txt").write_text(caption)
    absent = sum(content is None for content, _ in bad)  # a .txt alone is no row
    for n, text in enumerate(NOT_UTF8 if broken else ()):
        files.add(spare(50 + n)).with_suffix(".txt").write_bytes(text)
    return f"data.folder.path={folder}/pictures ", len(bad) - absent + 2 * broken


def write_shards(folder, split, good, broken):
    """Two tar files, of which the last one is cut off when there are broken rows."""
    samples = [{"png": content, "txt": caption.encode()} for content, caption in good]
    bad = []
    if broken:
        pairs = [(content, text) for content, text in broken_pairs() if content is not None]
        bad += [{"png": c, "txt": (t or "").encode()} for c, t in pairs if t is not None]
        bad += [{"png": spare(60)}, {"txt": CAPTION.encode()}, {"json": b"{}"}]
        bad += [{"png": spare(61 + n), "txt": text} for n, text in enumerate(NOT_UTF8)]
        odd = [json.dumps({"caption": odd}).encode() for odd in ODD_CAPTIONS[:4]]
        odd += [b"{", b"[]", b"7", b'{"caption": null}', b'{"other": "caption"}']
        bad += [{"png": spare(70 + n), "json": content} for n, content in enumerate(odd)]
    mixed = mix(samples, bad)
    half = len(mixed) // 2
    for n, part in enumerate((mixed[:half], mixed[half:])):
        write_tar(folder / f"{split}-{n}.tar", part)
    shards = f"{folder}/{split}-*.tar"
    if broken:
        write_tar(folder / f"{split}-2.tar", [{"png": bytes(20_000)}])
        os.truncate(folder / f"{split}-2.tar", 9000)
        (folder / f"{split}-3.tar").touch()
    return f"data.webdataset.{split}=[{shards}] ", len(bad) + 2 * broken


def write_tar(path, samples):
    with tarfile.open(path, "w") as tar:
        for n, sample in enumerate(samples):
            for ending, content in sample.items():
                add(tar, f"{n:05d}.{ending}", content)


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_coco(folder, split, good, broken):
    files = Files(folder / f"{split} pictures")
    images, annotations = [], []

    def image(content, *captions):
        name = files.add(content).name
        images.append({"id": files.count, "file_name": name})
        own = [{"image_id": files.count, "caption": caption} for caption in captions]
        annotations.extend(own)
        return images[-1]

    bad = broken_pairs() if broken else []
    for content, caption in mix(good, bad):
        image(content, caption)
    if broken:
        more = [image(spare(80 + n), odd) for n, odd in enumerate(ODD_CAPTIONS)]
        more += [image(spare(90)), image(spare(91), CAPTION), image(spare(92), CAPTION)]
        more[-2]["file_name"], more[-1]["file_name"] = 5, None
        images += [*ODD_ENTRIES, images[0] | {"file_name": "of an id that is taken.png"}]
        annotations += [*ODD_ENTRIES, {"image_id": 10**6, "caption": CAPTION}]
        bad += [*more, *ODD_ENTRIES, *ODD_ENTRIES, "the id", "a caption of no image"]
    path = folder / f"{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    where = f"data.coco.annotations.{split}={path} data.coco.images.{split}='{files.folder}' "
    return where, len(bad)


def write_karpathy(folder, split, good, broken):
    """All splits are in one file, which grows."""
    files = Files(folder / "pictures" / split)
    images = [karpathy(split, files.add(c).name, [{"raw": text}]) for c, text in good]
    bad = []
    if broken:
        bad += [karpathy(split, files.add(c).name, [{"raw": t}]) for c, t in broken_pairs()]
        odd = [[{"raw": o}] for o in ODD_CAPTIONS] + [None, 5, [], [CAPTION], [{}]]
        bad += [karpathy(split, files.add(spare(n)).name, o) for n, o in enumerate(odd)]
        bad += [karpathy(split, "absent.png", [{"raw": CAPTION}])]
        bad += [bad[-1] | {"filename": odd} for odd in (5, None, ["a.png"], "")]
    path = folder / "dataset.json"
    before = json.loads(path.read_text())["images"] if path.exists() else []
    path.write_text(json.dumps({"images": before + mix(images, bad)}))
    return f"data.coco.annotations={path} data.coco.images={folder}/pictures ", len(bad)


def karpathy(split, name, sentences):
    return {"split": split, "filename": f"{split}/{name}", "sentences": sentences}


def write_common_voice(folder, split, good, broken):
    files = Files(folder / "clips" / split, ".wav")
    rows = [voice(split, files.add(content).name, text) for content, text in good]
    bad = []
    if broken:
        bad += [voice(split, files.add(c).name, CAPTION) for c in broken_clips().values()]
        bad += [voice(split, files.add(spare_clip(n)).name, " " * n) for n in range(2)]
        bad += [voice(split, "absent.wav", CAPTION), voice(split, "a" * 400, CAPTION)]
        bad += [b"me\t\tno clip\t2\t0\n", b"me\ta.wav\ta\ttab\t2\t0\n", b"me\ta.wav\n"]
        bad += [b"me\ta.wav\tvotes\tmany\t0\n", b"me\ta.wav\t\xff\xfe\t2\t0\n"]
    header = b"client_id\tpath\tsentence\tup_votes\tdown_votes\n"
    (folder / f"{split}.tsv").write_bytes(header + b"".join(mix(rows, bad)))
    return f"data.common_voice.folder={folder} data.common_voice.{split}={split}.tsv ", len(bad)


def voice(split, name, sentence):
    return f"me\t{split}/{name}\t{sentence}\t2\t0\n".encode()


def write_sounds(folder, split, good, broken):
    """Parquet with paths of clips."""
    files = Files(folder / f"{split} clips", ".wav")
    rows, bad = files.rows(good), []
    if broken:
        bad += files.rows((content, CAPTION) for content in broken_clips().values())
        bad += [(files.add(spare_clip(n)), text) for n, text in enumerate((None, "", " \t"))]
        bad += [(path, CAPTION) for path in ODD_PATHS]
    paths, captions = zip(*mix(rows, bad), strict=True)
    table = pa.table({"audio": [*map(str, paths)], "caption": captions})
    pq.write_table(table, folder / f"{split}.parquet")
    return f"data.parquet.{split}=[{folder}/{split}.parquet] ", len(bad)

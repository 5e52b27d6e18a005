"""Tiny copies of the publishers' archives on a FileServer, at the paths that `mirror` asks for."""

import hashlib
import json

from file_server import zip_of
from hub_server import add_dataset

COCO, VQA = "/images.cocodataset.org", "/s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
KARPATHY = "/cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
GQA = "/downloads.cs.stanford.edu/nlp/data/gqa"
TEXTVQA = "/dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip"
VISUAL_GENOME = "/cs.stanford.edu/people/rak248/VG_100K_2"
SCHEMES = {COCO: "http"}  # all others https
TRAIN, VAL = range(1, 41), range(101, 111)  # numbers of pictures


def add_coco(server, picture):
    """COCO 2014 and 2017, Karpathy's splits. picture: seed -> bytes of a JPEG."""
    for split, numbers in (("train", TRAIN), ("val", VAL)):
        names = {f"COCO_{split}2014_{n:012}.jpg": picture(n) for n in numbers}
        members = {f"{split}2014/{name}": content for name, content in names.items()}
        server.files[f"{COCO}/zips/{split}2014.zip"] = zip_of({f"{split}2014/": b"", **members})
        members = {f"{split}2017/{n:012}.jpg": picture(n) for n in numbers}
        server.files[f"{COCO}/zips/{split}2017.zip"] = zip_of(members)
    for year in ("2014", "2017"):
        prefix = "COCO_{}2014_" if year == "2014" else ""
        captions = {
            f"annotations/captions_{split}{year}.json": _captions(numbers, prefix.format(split))
            for split, numbers in (("train", TRAIN), ("val", VAL))
        }
        others = {"annotations/instances_train2014.json": {"categories": []}}
        path = f"{COCO}/annotations/annotations_trainval{year}.zip"
        server.files[path] = zip_of(captions | others)
    server.files[KARPATHY] = zip_of(
        {"dataset_coco.json": {"images": _karpathy()}, "dataset_flickr8k.json": {"images": []}}
    )


def add_vqav2(server):
    for split, numbers in (("train", TRAIN), ("val", VAL)):
        ids = [(n, 10 * n + k) for n in numbers for k in range(2)]
        questions = [{"image_id": n, "question_id": q, "question": f"what is {q}?"} for n, q in ids]
        annotations = [
            {"image_id": n, "question_id": q, "answer_type": "other", "answers": [{"answer": "a"}]}
            for n, q in ids
        ]
        for kind, name, content in (
            ("Questions", f"v2_OpenEnded_mscoco_{split}2014_questions", {"questions": questions}),
            ("Annotations", f"v2_mscoco_{split}2014_annotations", {"annotations": annotations}),
        ):
            path = f"{VQA}/v2_{kind}_{split.title()}_mscoco.zip"
            server.files[path] = zip_of({f"{name}.json": content})


def add_gqa(server, picture):
    splits = {"train": range(1, 21), "val": range(21, 31), "testdev": range(31, 36)}
    questions = {
        f"{split}_balanced_questions.json": {
            f"{n}{k}": {
                "imageId": str(n),
                "question": f"is it {n}?",
                "answer": "yes",
                "types": {"structural": "verify"},
            }
            for n in numbers
            for k in "ab"
        }
        for split, numbers in splits.items()
    }
    others = {"train_all_questions/train_all_questions_0.json": {}, "readme.txt": b"GQA"}
    others |= {"test_balanced_questions.json": {}}
    server.files[f"{GQA}/questions1.2.zip"] = zip_of(questions | others)
    pictures = {f"images/{n}.jpg": picture(n) for n in range(1, 36)}
    server.files[f"{GQA}/images.zip"] = zip_of(pictures)


def add_llava(server, picture):
    """LLaVA's conversations on the Hub; add_coco and add_gqa have most of their pictures."""
    images = [f"coco/train2017/{n:012}.jpg" for n in range(1, 21)]
    images += [f"gqa/images/{n}.jpg" for n in range(1, 6)]
    images += ["textvqa/train_images/t1.jpg", "vg/VG_100K/1.jpg", "vg/VG_100K_2/2.jpg"]
    images += [f"ocr_vqa/images/{n}.jpg" for n in range(1, 4)] + [None] * 4
    entries = [_conversation(number, image) for number, image in enumerate(images)]
    files = {
        "llava_v1_5_mix665k.json": json.dumps(entries).encode(),
        "README.md": b"",
        "other.json": b"[]",
    }
    add_dataset(server, "liuhaotian/LLaVA-Instruct-150K", files)
    server.files[TEXTVQA] = zip_of({"train_images/t1.jpg": picture(1)})
    server.files[f"{VISUAL_GENOME}/images.zip"] = zip_of({"VG_100K/1.jpg": picture(1)})
    server.files[f"{VISUAL_GENOME}/images2.zip"] = zip_of({"VG_100K_2/2.jpg": picture(2)})


def published_sums(server):
    """What `PUBLISHED` has for these archives, for those of COCO and VQAv2."""
    archives = {path: content for path, content in server.files.items() if path.endswith(".zip")}
    checked = {p: c for p, c in archives.items() if p.startswith((COCO, VQA, KARPATHY))}
    return {
        f"{'http' if path.startswith(COCO) else 'https'}:/{path}": (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
        for path, content in checked.items()
    }


def _captions(numbers, prefix):
    images = [{"id": n, "file_name": f"{prefix}{n:012}.jpg"} for n in numbers]
    captions = [{"image_id": n, "caption": f"{n} {k}"} for n in numbers for k in range(5)]
    return {"images": images, "annotations": captions}


def _karpathy():
    """30 train, 10 restval, 5 val and 5 test."""
    splits = ["train"] * 40 + ["restval"] * 2 + ["val"] * 4 + ["test"] * 4
    folders = ["train"] * 40 + ["val"] * 10
    return [
        {
            "split": split,
            "cocoid": n,
            "filepath": f"{folder}2014",
            "filename": f"COCO_{folder}2014_{n:012}.jpg",
            "sentences": [{"raw": f"{n} {k}"} for k in range(5)],
        }
        for n, split, folder in zip([*TRAIN, *VAL], splits, folders, strict=True)
    ]


def _conversation(number, image):
    question = "<image>\nwhat is it?" if image else "what is two and two?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"it is {number}"}]
    return {"id": str(number), "conversations": turns} | ({"image": image} if image else {})

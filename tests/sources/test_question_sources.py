"""Questions from scenes, captions, VQAv2 and GQA in the one-table schema."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_lib.config import ConfigError, DataConfig, load_config
from edge_lib.sources import load_table
from edge_lib.sources.caption_questions import caption_questions
from edge_lib.sources.split_names import SPLITS


@pytest.fixture
def scenes(tmp_path):
    sizes = {"train_scenes": 6, "val_scenes": 4, "test_scenes": 20, "per_scene": 5}
    return DataConfig(cache_dir=tmp_path, questions=sizes)


def test_scene_questions_share_one_image_per_scene(scenes):
    table = load_table(scenes, "qa-train")
    assert len(table) == len(table.questions.texts) == 30
    assert table.image_rows.tolist() == [0, 5, 10, 15, 20, 25]
    assert table.image_index.tolist() == [row // 5 for row in range(30)]
    assert len(table.items("vision")) == 6
    assert all(table.images(table.image_rows))
    assert not table.skipped


def test_scene_questions_have_longer_chains_in_test_only(scenes):
    assert {"chain3", "chain4"} <= {*load_table(scenes, "qa-test").questions.kinds}
    assert not {"chain3", "chain4"} & {*load_table(scenes, "qa-val").questions.kinds}


def test_questions_skip_and_count_empty_texts_and_answers(make_table):
    rows = [("what?", ["one"]), ("", ["two"]), (None, ["x"]), ("who?", []), ("how?", [None, " "])]
    named = [{"id": f"r{i}", "question": q, "answers": a} for i, (q, a) in enumerate(rows)]
    table = make_table([*named, {"id": "r5", "question": " why? ", "answers": ["", " yes "]}])
    assert table.questions.texts == ["what?", "why?"]
    assert table.questions.answers == [["one"], ["yes"]]
    assert table.questions.rows.tolist() == [0, 5]
    assert table.skipped == {"no question": ["r1", "r2"], "no answer": ["r3", "r4"]}


def test_caption_questions_have_captions_as_answers(encode_image, tmp_path):
    images = [encode_image(seed) for seed in range(3)]
    texts = [["a cat", "one cat"], [""], ["a dog"]]
    pq.write_table(pa.table({"image": images, "caption": texts}), tmp_path / "train.parquet")
    data = DataConfig(
        source="parquet",
        parquet={split: [f"{tmp_path}/{split}.parquet"] for split in ("train", "val", "test")},
        questions={"source": "captions"},
        cache_dir=tmp_path,
    )
    table = load_table(data, "qa-train")
    assert table.questions.texts == ["What is in this image?"] * 2 + ["Describe this image."] * 2
    assert table.questions.answers == [["a cat", "one cat"], ["a dog"]] * 2
    assert table.image_index.tolist() == [0, 1, 2, 0, 1, 2]
    assert table.groups.tolist() == [-1, -2, -3, -1, -2, -3]  # bootstrap resamples whole images
    assert table.skipped["no answer"] == ["1-0", "1-1"]
    assert [image.size for image in table.images(table.image_rows)] == [(12, 10)] * 3


@pytest.mark.parametrize(
    "ids", [["1", "1", "2"], [None] * 3, ["0", None, "x"]], ids=["equal", "null", "mixed"]
)
def test_caption_questions_ask_with_the_picture_of_the_row(encode_image, tmp_path, ids):
    """Ids may repeat: a question about the second picture was asked with the first one."""
    images = [encode_image(seed, size=(10 + seed, 5)) for seed in range(3)]
    columns = {"image": images, "caption": ["a", "b", "c"], "key": pa.array(ids, pa.string())}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    files = {split: [f"{tmp_path}/{split}.parquet"] for split in ("train", "val", "test")}
    data = DataConfig(
        source="parquet",
        parquet={**files, "id_column": "key"},
        questions={"source": "captions"},
        cache_dir=tmp_path,
    )
    table = load_table(data, "qa-train")
    assert table.questions.answers == [["a"], ["b"], ["c"]] * 2
    assert image_widths(table) == [10, 11, 12] * 2


def test_caption_questions_of_selected_rows(encode_image, make_table):
    rows = [{"image": encode_image(n, size=(10 + n, 5)), "texts": [f"{n}"]} for n in range(4)]
    table = caption_questions(make_table(rows).select([3, 1], "two", "fingerprint"))
    assert table.questions.answers == [["3"], ["1"]] * 2
    assert image_widths(table) == [13, 11] * 2


@pytest.fixture
def vqav2(tmp_path, encode_image):
    """VQAv2's files: two questions about one image, and one without annotation about another."""
    rows = [(1, 7, "What colour?"), (2, 7, "How many?"), (3, 8, "Where?")]
    questions = [{"question_id": q, "image_id": i, "question": t} for q, i, t in rows]
    annotations = [
        {
            "question_id": number,
            "image_id": 7,
            "answer_type": kind,
            "answers": [{"answer": a, "answer_id": n} for n, a in enumerate(answers)],
        }
        for number, kind, answers in (
            (1, "other", ["red"] * 7 + ["blue"] * 3),
            (2, "number", ["2"]),
        )
    ]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": annotations}))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/COCO_val2014_000000000007.jpg").write_bytes(encode_image(0, "JPEG"))
    return {
        "questions": {"val": str(tmp_path / "q.json")},
        "annotations": {"val": str(tmp_path / "a.json")},
        "images": {"val": str(tmp_path / "images")},
        "prefix": {"val": "COCO_val2014_"},
    }


def test_vqav2_without_any_of_its_pictures_is_an_error(vqav2, tmp_path):
    vqav2["prefix"] = {}
    data = DataConfig(questions={"source": "vqav2", "vqav2": vqav2}, cache_dir=tmp_path)
    error = r"vqav2\.questions\.val: .*image: no such file as 000000000007\.jpg in .*\(3 tried\)"
    with pytest.raises(ConfigError, match=error):
        load_table(data, "qa-val")


def test_vqav2_reads_published_files(vqav2, tmp_path):
    data = DataConfig(questions={"source": "vqav2", "vqav2": vqav2}, cache_dir=tmp_path)
    table = load_table(data, "qa-val")
    assert table.questions.answers == [["red"] * 7 + ["blue"] * 3, ["2"]]
    assert table.questions.kinds == ["other", "number"]
    assert table.skipped == {"no answer": ["3"]}
    assert table.image_index.tolist() == [0, 0, 1]
    image, missing = table.images(table.image_rows)
    assert image.size == (12, 10)
    assert missing is None


@pytest.fixture
def load_vqav2(tmp_path, encode_image):
    """load_vqav2(questions, annotations) -> their table; the images 7 and 8 are 7 and 8 wide."""
    (tmp_path / "coco").mkdir()
    for number in (7, 8):
        path = tmp_path / "coco" / f"COCO_val2014_{number:012d}.jpg"
        path.write_bytes(encode_image(number, "JPEG", size=(number, 5)))

    def load(questions, annotations, folder="coco", prefix="COCO_val2014_"):
        (tmp_path / "q.json").write_text(json.dumps(questions))
        (tmp_path / "a.json").write_text(json.dumps(annotations))
        paths = {"questions": "q.json", "annotations": "a.json", "images": folder}
        section = {name: {"val": str(tmp_path / path)} for name, path in paths.items()}
        section["prefix"] = {"val": prefix}
        data = DataConfig(
            questions={"source": "vqav2", "vqav2": section}, cache_dir=tmp_path / "cache"
        )
        return load_table(data, "qa-val")

    return load


def vqa(number, image, text="What?", **annotation):
    """A question with its annotation."""
    question = {"question_id": number, "image_id": image, "question": text}
    return question, {"question_id": number, "image_id": image, **annotation}


def image_widths(table):
    """The width of each row's image; None where it has none."""
    images = [image and image.width for image in table.images(table.image_rows)]
    return [images[number] for number in table.image_index]


@pytest.mark.parametrize(
    "image",
    [7, "7", 7.0, "000000000007", "COCO_val2014_000000000007.jpg"],
    ids=["number", "text", "float", "padded", "file name"],
)
@pytest.mark.parametrize("number", [1, "1"], ids=["number", "text"])
def test_vqav2_takes_ids_as_texts_or_numbers(load_vqav2, image, number):
    pairs = vqa(number, image, answers=[{"answer": "red"}]), vqa(2, 8, answers=[{"answer": "two"}])
    questions, annotations = zip(*pairs, strict=True)
    table = load_vqav2({"questions": questions}, {"annotations": annotations})
    assert table.questions.answers == [["red"], ["two"]]
    assert (table.ids, image_widths(table)) == (["1", "2"], [7, 8])
    assert table.groups[0] != table.groups[1]


def test_vqav2_takes_names_of_other_image_files(load_vqav2, tmp_path, encode_image):
    (tmp_path / "coco" / "0054c9.jpg").write_bytes(encode_image(1, "JPEG", size=(9, 5)))
    pairs = vqa(1, "0054c9", answers=["a"]), vqa(2, "0054c9.jpg", answers=["b"])
    table = load_vqav2(*zip(*pairs, strict=True), prefix="")  # lists without a field
    assert image_widths(table) == [9, 9]
    assert table.groups[0] == table.groups[1]


def test_vqav2_matches_repeated_ids_by_image_and_order(load_vqav2):
    pairs = [
        vqa(1, 7, "First?", answers=["a"]),
        vqa(1, 8, "Second?", answers=["b"]),
        vqa(1, 7, "Third?", answers=["c"]),
        vqa(None, 8, "Fourth?", answers=["d"]),
        vqa(None, 8, "Fifth?", answers=["e"]),
    ]
    questions, annotations = zip(*pairs, strict=True)
    order = [1, 0, 2, 3, 4]
    table = load_vqav2({"questions": questions}, {"annotations": [annotations[n] for n in order]})
    assert table.questions.texts == ["First?", "Second?", "Third?"]
    assert table.questions.answers == [["a"], ["b"], ["c"]]
    assert table.ids == ["1", "1", "1", "q-3", "q-4"]
    assert image_widths(table) == [7, 8, 7, 8, 8]
    assert table.skipped["no answer"] == ["q-3", "q-4"]  # null names no annotation


def test_vqav2_takes_answers_in_several_forms(load_vqav2):
    pairs = [
        vqa(1, 7, multiple_choice_answer="red"),
        vqa(2, 7, answers=["red", "blue"]),
        vqa(3, 7, answers=[{"answer": 2}, {"answer": None}, {"answer": "two"}, None]),
        vqa(4, 7, answers=[], multiple_choice_answer="yes"),
        vqa(5, 7, answer=3),
        vqa(6, 7),
        vqa(7, 7, None, answers=["red"]),
    ]
    questions, annotations = zip(*pairs, strict=True)
    table = load_vqav2({"questions": [*questions, "odd"]}, {"annotations": [None, *annotations]})
    assert table.questions.answers == [["red"], ["red", "blue"], ["2", "two"], ["yes"], ["3"]]
    assert table.skipped == {
        "not an object": ["q-7"],
        "no answer": ["6"],
        "no question": ["7"],
    }


def test_vqav2_fingerprint_follows_the_images(load_vqav2, tmp_path, encode_image):
    questions, annotations = zip(vqa(1, 7, answers=["a"]), vqa(2, 9, answers=["b"]), strict=True)

    def fingerprint(folder="coco"):
        return load_vqav2(questions, annotations, folder).fingerprint

    first = fingerprint()
    os.utime(tmp_path / "coco" / "COCO_val2014_000000000007.jpg", (1, 1))
    shutil.copytree(tmp_path / "coco", tmp_path / "copy")
    assert fingerprint("copy") == fingerprint() == first
    (tmp_path / "copy" / "COCO_val2014_000000000009.jpg").write_bytes(encode_image(9, "JPEG"))
    assert fingerprint("copy") != first
    (tmp_path / "coco" / "COCO_val2014_000000000007.jpg").write_bytes(encode_image(1, "JPEG"))
    assert fingerprint() not in (first, fingerprint("copy"))


@pytest.fixture
def load_gqa(tmp_path, encode_image):
    """load_gqa(content, ...) -> the table of files with these contents; image 9 is 9 wide."""
    (tmp_path / "9.jpg").write_bytes(encode_image(0, "JPEG", size=(9, 5)))

    def load(*contents):
        shutil.rmtree(tmp_path / "q", ignore_errors=True)
        (tmp_path / "q").mkdir()
        for number, content in enumerate(contents):
            (tmp_path / "q" / f"{number}.json").write_text(json.dumps(content))
        path = tmp_path / "q" / ("0.json" if len(contents) == 1 else "")
        gqa = {"questions": {"test": str(path)}, "images": str(tmp_path)}
        data = DataConfig(questions={"source": "gqa", "gqa": gqa}, cache_dir=tmp_path / "cache")
        return load_table(data, "qa-test")

    return load


ENTRY = {"imageId": "9", "question": "Is it red?", "answer": "no"}


def test_gqa_reads_published_files(load_gqa):
    table = load_gqa(
        {"q1": ENTRY | {"types": {"structural": "verify"}}, "q2": ENTRY | {"answer": None}}
    )
    assert table.questions.texts == ["Is it red?"]
    assert table.questions.kinds == ["verify"]
    assert image_widths(table) == [9, 9]
    assert table.skipped == {"no answer": ["q2"]}


def test_gqa_takes_entries_in_several_forms(load_gqa):
    entries = {
        "1": ENTRY,
        "2": ENTRY | {"imageId": 9, "types": None},
        "3": ENTRY | {"imageId": "9.jpg", "types": {}, "answer": 2},
        "4": ENTRY | {"imageId": None},
        "5": "odd",
        "6": ENTRY | {"imageId": "late"},
    }
    table = load_gqa(entries)
    assert table.questions.answers == [["no"], ["no"], ["2"], ["no"], ["no"]]
    assert table.questions.kinds == ["question"] * 5
    assert image_widths(table) == [9, 9, 9, None, None]
    assert table.skipped["not an object"] == ["5"]
    assert table.groups[0] == table.groups[1] == table.groups[2]


def test_gqa_reads_lists_and_folders(load_gqa):
    """train_all_questions of GQA is a folder of files."""
    table = load_gqa([ENTRY | {"questionId": 7}, ENTRY], {"7": ENTRY})
    assert table.ids == ["7", "0-1", "7"]
    assert table.image_index.tolist() == [0, 0, 0]


def test_gqa_keeps_questions_of_one_id(load_gqa, tmp_path):
    """json keeps the last value of a key that repeats, without a word."""
    texts = [json.dumps(ENTRY | {"question": text}) for text in ("First?", "Second?", "Third?")]
    pairs = ", ".join(f'"{name}": {text}' for name, text in zip("112", texts, strict=True))
    load_gqa({"0": ENTRY})
    (tmp_path / "q" / "0.json").write_text(f"{{{pairs}}}")
    gqa = {"questions": {"test": str(tmp_path / "q" / "0.json")}, "images": str(tmp_path)}
    data = DataConfig(questions={"source": "gqa", "gqa": gqa}, cache_dir=tmp_path / "cache")
    table = load_table(data, "qa-test")
    assert table.ids == ["1", "1", "2"]
    assert table.questions.texts == ["First?", "Second?", "Third?"]


def test_gqa_fingerprint_follows_the_images(load_gqa, tmp_path, encode_image):
    entries = {"1": ENTRY, "2": ENTRY | {"imageId": "late"}}
    first = load_gqa(entries).fingerprint
    os.utime(tmp_path / "9.jpg", (1, 1))
    assert load_gqa(entries).fingerprint == first
    (tmp_path / "late.jpg").write_bytes(encode_image(1, "JPEG"))
    assert load_gqa(entries).fingerprint != first


def test_gqa_questions_are_divided_by_image(tmp_path):
    entries = {f"{n}": ENTRY | {"imageId": n % 20} for n in range(100)}
    (tmp_path / "19.jpg").touch()
    (tmp_path / "q.json").write_text(json.dumps(entries))
    gqa = {"questions": {"train": str(tmp_path / "q.json")}, "images": str(tmp_path)}
    shares = {"val": 0.1, "test": 0.2, "seed": 1}
    data = DataConfig(
        questions={"source": "gqa", "gqa": gqa, "split": shares}, cache_dir=tmp_path / "cache"
    )
    tables = [load_table(data, f"qa-{split}") for split in SPLITS]
    images = [{int(name) % 20 for name in table.ids} for table in tables]
    assert [len(table) for table in tables] == [70, 10, 20]
    assert [len(numbers) for numbers in images] == [14, 2, 4]
    assert set().union(*images) == {*range(20)}


def test_gqa_names_a_file_without_questions(load_gqa):
    with pytest.raises(
        ConfigError, match=r"gqa\.questions\.test: .*0\.json has no usable entry: not"
    ):
        load_gqa({"info": "x", "license": "y"})
    with pytest.raises(ConfigError, match=r"gqa\.questions\.test: .*0\.json is empty"):
        load_gqa({})


def test_question_sources_name_missing_sections_splits_and_fields(vqav2, tmp_path):
    with pytest.raises(ConfigError, match=r"missing section data\.questions"):
        load_table(DataConfig(cache_dir=tmp_path), "qa-train")
    data = DataConfig(questions={"source": "vqav2", "vqav2": vqav2}, cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="questions has no split 'train', only"):
        load_table(data, "qa-train")
    (tmp_path / "a.json").write_text('{"images": []}')
    with pytest.raises(ConfigError, match=r"a\.json is not JSON with a field 'annotations'"):
        load_table(data, "qa-val")
    with pytest.raises(ConfigError, match=r"needs a section 'gqa'"):
        load_config("params/tiny/trm_qa.yaml", "data.questions.source=gqa")

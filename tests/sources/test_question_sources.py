"""Questions from scenes, captions, VQAv2 and GQA in the one-table schema."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_lib.config import ConfigError, DataConfig, load_config
from edge_lib.sources import load_table


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


def test_gqa_reads_published_files(tmp_path, encode_image):
    (tmp_path / "9.jpg").write_bytes(encode_image(0, "JPEG"))
    entry = {"imageId": "9", "question": "Is it red?", "answer": "no"}
    content = {"q1": entry | {"types": {"structural": "verify"}}, "q2": entry | {"answer": None}}
    (tmp_path / "q.json").write_text(json.dumps(content))
    gqa = {"questions": {"test": str(tmp_path / "q.json")}, "images": str(tmp_path)}
    data = DataConfig(questions={"source": "gqa", "gqa": gqa}, cache_dir=tmp_path)
    table = load_table(data, "qa-test")
    assert table.questions.texts == ["Is it red?"]
    assert table.questions.kinds == ["verify"]
    assert table.images(table.image_rows)[0].size == (12, 10)


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

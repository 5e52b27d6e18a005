"""Own pictures, as params/tiny/own.yaml reads them, from each kind of source: a few steps."""

import io
import tarfile

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture

from edge_lib.config import load_config
from edge_lib.experiments.align import train_aligner
from edge_lib.experiments.checks import check_experiment
from edge_lib.features.extract import write_features
from edge_lib.runs import Run

SMALL = "train.epochs=4 train.batch_size=8 train.eval_every=24 vision.width=16 text.width=16 "


@pytest.fixture(scope="module")
def pictures():
    """Sixty pictures of one colour, with its red, green and blue as caption."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (60, 3))
    return [(encode(c), f"red {c[0]} green {c[1]} blue {c[2]}") for c in colours]


def encode(colour):
    buffer = io.BytesIO()
    Picture.new("RGB", (16, 16), tuple(map(int, colour))).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root, pictures):
    for n, (content, _) in enumerate(pictures):
        (root / f"{n}.png").write_bytes(content)
    lines = (f"{n}.png,{caption}" for n, (_, caption) in enumerate(pictures))
    (root / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]))
    return f"data.folder.path={root}"


def write_shard(root, pictures):
    with tarfile.open(root / "0.tar", "w") as tar:
        for n, (content, caption) in enumerate(pictures):
            for suffix, member in (("png", content), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{n}.{suffix}")
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return f"data.webdataset.train={root}/0.tar"


def save_to_disk(root, pictures):
    images, captions = zip(*pictures, strict=True)
    columns = {"image": [{"bytes": i, "path": None} for i in images], "caption": captions}
    features = Features({"image": Image(), "caption": Value("string")})
    Dataset.from_dict(columns, features).save_to_disk(root / "saved")
    return f"data.hub.name={root}/saved"


@pytest.mark.parametrize(
    ("source", "write"),
    [("folder", write_folder), ("webdataset", write_shard), ("hub", save_to_disk)],
    ids=["folder", "webdataset", "hub"],
)
def test_own_pictures_train(source, write, pictures, tiny_vision, tmp_path):
    where = f"data.cache_dir={tmp_path}/cache vision.encoder={tiny_vision} data.source={source} "
    config = load_config("params/tiny/own.yaml", SMALL + where + write(tmp_path, pictures))
    check_experiment(config)
    counts = write_features(config.data, config.feature_spec)
    assert {name: (count["items"], count["skipped"]) for name, count in counts.items()} == {
        f"{split}/{modality}": (items, 0)
        for split, items in (("train", 48), ("val", 6), ("test", 6))
        for modality in ("vision", "text")
    }
    run = Run.create(config, "align", tmp_path / "run")
    train_aligner(config, run.folder)
    losses = run.history()["loss"].dropna().to_numpy()
    assert losses[-1] < 0.95 * losses[0]

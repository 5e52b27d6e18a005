"""Every source with 1% of its rows broken in every way: trained to the end, each row accounted for,
and recall as without them.
"""

import csv
from functools import cache

import pytest
from campaign import broken_sources
from campaign.broken_cells import clips, pictures

from edge_lib.config import load_config
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.experiments.align import measure_aligner
from edge_lib.features.store import open_stores
from edge_lib.runs import Run
from edge_lib.sources import load_table

pytestmark = [pytest.mark.campaign, pytest.mark.usefixtures("fresh_accelerate")]

SIZES = {"train": 1000, "val": 50, "test": 150}
SMALL = (
    "data.split=null text.width=32 text.pooler=attention text.num_heads=2 loss.dims=[16,8] "
    "train.epochs=12 train.batch_size=64 train.lr=3e-3 train.eval_every=100 "
    "train.checkpoint_every=500 train.log_every=50 "
)
VISION = "vision.width=32 vision.num_heads=2 "
AUDIO = "vision=null audio.encoder=tiny-whisper audio.pooler=attention audio.num_heads=2 "
SPEECH = "data.parquet.image_column=null data.parquet.audio_column=audio "
SOURCES = {  # name: data.source, writer, other overrides
    "csv": ("table", broken_sources.write_csv, VISION),
    "json": ("table", broken_sources.write_json, VISION),
    "jsonl": ("table", broken_sources.write_jsonl, VISION),
    "parquet": ("parquet", broken_sources.write_parquet, VISION),
    "hub": ("hub", broken_sources.write_saved, VISION),
    "folder": ("folder", broken_sources.write_folder, VISION),
    "texts": ("folder", broken_sources.write_texts, VISION),
    "webdataset": ("webdataset", broken_sources.write_shards, VISION),
    "coco": ("coco", broken_sources.write_coco, VISION),
    "karpathy": ("coco", broken_sources.write_karpathy, VISION),
    "common_voice": ("common_voice", broken_sources.write_common_voice, AUDIO),
    "sounds": ("parquet", broken_sources.write_sounds, AUDIO + SPEECH),
}


@pytest.fixture(scope="module")
def measure(tiny_vision, tiny_text, tmp_path_factory):
    """measure(source, broken) -> config, recall and the number of broken rows of each split."""

    @cache
    def run(source, broken):
        name, write, own = SOURCES[source]
        media = clips if "audio" in own else pictures
        folder, counts = tmp_path_factory.mktemp(source), {}
        vision = "" if "audio" in own else f"vision.encoder={tiny_vision} "
        overrides = f"{SMALL}{own}{vision}text.encoder={tiny_text} data.source={name} "
        overrides += f"data.cache_dir={folder}/cache data.folder=null "
        for seed, (split, size) in enumerate(SIZES.items()):
            where, counts[split] = write(folder, split, media(size, seed), broken)
            overrides += where
        config = load_config("params/tiny/own.yaml", overrides)
        metrics = measure_aligner(config, Run.create(config, "align", folder / "run").folder)
        recall = [value for name, value in metrics.items() if name.endswith("_to_text.r1")]
        return config, recall[0], counts

    return run


@pytest.mark.parametrize("source", SOURCES)
def test_broken_rows_are_named_and_change_no_recall(source, measure):
    config, recall, counts = measure(source, broken=True)
    clean = measure("common_voice" if "audio" in config.modalities else "csv", broken=False)
    print(f"{source}: {counts} rows broken, R@1 {recall:.3f}, of whole rows alone {clean[1]:.3f}")
    assert min(counts.values()) >= 0.01 * SIZES["train"]
    for split, size in SIZES.items():
        usable, skipped = rows_of(config, split)
        assert (usable, len(skipped)) == (size, counts[split]), skipped
    assert clean[1] > 0.4
    assert recall == pytest.approx(clean[1], abs=0.05)


def rows_of(config, split):
    """The number of rows that are trained on, and the names of those that are skipped."""
    table, spec = load_table(config.data, split), config.feature_spec
    stores = open_stores(spec, table)
    usable = len(AlignmentBatches(table, stores, config.train, 0).blocks)
    skipped = {name for names in table.skipped.values() for name in names}
    for store in stores.values():
        with (store.folder / "skipped.csv").open(newline="") as file:
            skipped |= {row["id"] for row in csv.DictReader(file)}
    return usable, skipped

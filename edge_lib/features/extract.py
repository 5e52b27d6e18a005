"""Feature extraction: each frozen encoder runs once over each table, in shards, on all processes.

Of W processes, process r encodes the shards r, r + W, r + 2W, ... They share only files, without
collectives that could time out while one of them still has hours of work.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from filelock import FileLock

from edge_lib.config import MODALITIES, ConfigError, DataConfig, FeatureSpec
from edge_lib.features.encoder import Encoder, check_output, load_encoder
from edge_lib.features.store_writer import StoreWriter
from edge_lib.sources import load_table, splits
from edge_lib.sources.digests import has_item_fingerprint
from edge_lib.training.device import local_device, process_rank
from edge_lib.training.launch import launch

Counts = dict[str, dict[str, int]]


def extract_features(
    data: DataConfig,
    spec: FeatureSpec,
    only: Sequence[str] = (),
    log_dir: Path | None = None,
    **launch_options,
) -> Counts:
    """Write the feature stores that are missing. Processes are launched only if one is.

    only: names of splits; by default all splits of the source. launch_options: of `launch`.
    Returns {"train/vision": {"items": n, "skipped": k, "truncated": t}, ...}; a truncated item is
    longer than the encoder's window. Raises ConfigError before tokens exceed features.max_gb.
    """
    writers = _store_writers(data, spec, only)
    if all(writer.is_complete() for writer in writers.values()):
        return _counts(writers)
    for name, modality in spec.modalities.items():
        check_output(name, modality.encoder_config)
    results = launch(write_features, data, spec, only, log_dir=log_dir, **launch_options)
    return next(iter(results.values()))  # of this node's ranks, which may lack 0


def has_features(data: DataConfig, spec: FeatureSpec, only: Sequence[str] = ()) -> bool:
    """Whether all stores have been written; neither their shards nor the items are read."""
    return all(
        has_item_fingerprint(writer.table, writer.modality, spec.cache_dir)
        and (writer.folder / "manifest.json").exists()
        for writer in _store_writers(data, spec, only).values()
    )


def write_features(data: DataConfig, spec: FeatureSpec, only: Sequence[str] = ()) -> Counts:
    """`extract_features` in this process, which shares the work with those launched beside it."""
    writers = _store_writers(data, spec, only)
    write_stores([*writers.values()], spec)
    return _counts(writers)


def write_stores(writers: Sequence[StoreWriter], spec: FeatureSpec) -> None:
    """Write the stores that are missing, which share a spec, as `write_features` does."""
    if process_rank()[1] > 1:
        return _write_stores(writers, spec)
    spec.cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(spec.cache_dir / "encode.lock"):  # points of a sweep wait for the first one
        _write_stores(writers, spec)


def _write_stores(writers: Sequence[StoreWriter], spec: FeatureSpec) -> None:
    for modality in spec.modalities:
        own = [writer for writer in writers if writer.modality == modality]
        encoder = None
        for writer, shards in missing_shards(own):
            encoder = encoder or _load_encoder(spec, modality)
            writer.write(shards, encoder)
        for writer in own:
            writer.finish()


def _load_encoder(spec: FeatureSpec, modality: str) -> Encoder:
    config = spec.modalities[modality].encoder_config
    encoder = load_encoder(modality, config)
    if spec.features.backend == "torch":
        return encoder.to(local_device())
    from edge_lib.features.onnx import OnnxEncoder  # optional packages

    return OnnxEncoder(modality, encoder, config, spec.cache_dir)


def _store_writers(
    data: DataConfig, spec: FeatureSpec, only: Sequence[str]
) -> dict[tuple[str, str], StoreWriter]:
    """One for each split and modality; none for the training split if it is encoded online.
    ConfigError for a table without any item of a modality.
    """
    online = {"train"} if spec.features.online else set()
    tables = {s: load_table(data, s) for s in only or splits(data) if s not in online}
    writers = {
        (split, modality): StoreWriter(spec, modality, table)
        for split, table in tables.items()
        for modality in spec.modalities
    }
    for (_, modality), writer in writers.items():
        if not len(writer.items):
            column = MODALITIES[modality].column
            raise ConfigError(f"{writer.name}: nothing to encode, the table has no {column}")
    return writers


def missing_shards(writers: Iterable[StoreWriter]) -> Iterator[tuple[StoreWriter, list[int]]]:
    """This process's shards that do not exist or are corrupt, by their writer."""
    rank, world_size = process_rank()
    by_folder = {writer.folder: writer for writer in writers}  # tables may share their captions
    shards = [(folder, n) for folder, w in by_folder.items() for n in range(w.num_shards)]
    for folder, own in groupby(shards[rank::world_size], key=itemgetter(0)):
        writer = by_folder[folder]
        if missing := [shard for _, shard in own if not writer.has(shard)]:
            yield writer, missing


def _counts(writers: dict[tuple[str, str], StoreWriter]) -> Counts:
    return {"/".join(names): writer.counts() for names, writer in writers.items()}

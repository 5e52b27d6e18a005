"""Feature extraction: each frozen encoder runs once over each table, in shards, on all processes.

Processes, of one machine or several, share only files: each claims a shard that no other encodes,
and takes over those of processes that died. None waits for one that is dead, or not yet started.
"""

import time
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path

from edge_lib.config import MODALITIES, ConfigError, DataConfig, FeatureSpec
from edge_lib.features.encoder import Encoder, check_output, load_encoder
from edge_lib.features.store_writer import StoreWriter
from edge_lib.sources import load_table, splits
from edge_lib.sources.digests import has_item_fingerprint
from edge_lib.training.device import local_device, process_rank
from edge_lib.training.launch import launch
from edge_lib.training.worker import digest_of

POLL_SECONDS = 0.5, 10  # between two looks for a shard to take over, at first and later
REPORT_SECONDS = 60  # between two lines on the processes that this one waits for

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
    writers = store_writers(data, spec, only)
    if not incomplete(writers.values()):
        return count_items(writers)
    check_outputs(spec)
    results = launch(share_features, data, spec, only, log_dir=log_dir, **launch_options)
    return next(iter(results.values()))  # of this node's ranks, which may lack 0


def launch_logs(data: DataConfig, *call: object) -> Path:
    """The folder for the logs of a launch outside a run, which names what is encoded: on Slurm a
    launch takes the job that it finds in its folder for one of its own.
    """
    return data.cache_dir / "logs" / f"launch-{digest_of(data, *call)[:8]}"


def check_outputs(spec: FeatureSpec) -> None:
    """ConfigError for an encoder without the layers and tokens that are configured."""
    for name, modality in spec.modalities.items():
        check_output(name, modality.encoder_config)


def has_features(data: DataConfig, spec: FeatureSpec, only: Sequence[str] = ()) -> bool:
    """Whether all stores have been written; neither their shards nor the items are read."""
    return all(
        has_item_fingerprint(writer.table, writer.modality, spec.cache_dir)
        and (writer.folder / "manifest.json").exists()
        for writer in store_writers(data, spec, only).values()
    )


def incomplete(writers: Iterable[StoreWriter]) -> list[StoreWriter]:
    """Those of stores that lack shards; corrupt shards of any are removed."""
    return [writer for writer in writers if not writer.is_complete()]


def write_features(data: DataConfig, spec: FeatureSpec, only: Sequence[str] = ()) -> Counts:
    """`extract_features` in this process, which shares the work with any others that do so."""
    writers = store_writers(data, spec, only)
    write_stores([*writers.values()], spec)
    return count_items(writers)


def share_features(data: DataConfig, spec: FeatureSpec, only: Sequence[str] = ()) -> Counts:
    """`write_features`; shards that exist are not read, as the process that started it has."""
    writers = store_writers(data, spec, only)
    share_stores([*writers.values()], spec)
    return count_items(writers)


def write_stores(writers: Sequence[StoreWriter], spec: FeatureSpec) -> None:
    """Write the stores that are missing, which share a spec, as `write_features` does."""
    if process_rank()[0] == 0:
        incomplete(writers)  # removes corrupt shards
    share_stores(writers, spec)


def share_stores(writers: Sequence[StoreWriter], spec: FeatureSpec) -> None:
    """Write missing shards until all stores are complete; shards that exist are not read."""
    started = reported = time.monotonic()
    while rest := [writer for writer in writers if not writer.finish()]:
        if _write(rest, spec, take_over=False) or _write(rest, spec, take_over=True):
            started = reported = time.monotonic()
            continue
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            for writer in rest:
                print(f"{writer.name}: waiting for {writer.holders()}", flush=True)
        time.sleep(min(POLL_SECONDS[0] + (time.monotonic() - started) / 10, POLL_SECONDS[1]))


def _write(writers: Sequence[StoreWriter], spec: FeatureSpec, take_over: bool) -> bool:
    """Write the shards that this process can claim; False if there are none."""
    wrote = False
    for modality in spec.modalities:
        get_encoder = cache(partial(_load_encoder, spec, modality))
        for writer in writers:
            if writer.modality == modality:
                wrote |= writer.write(get_encoder, take_over)
    return wrote


def _load_encoder(spec: FeatureSpec, modality: str) -> Encoder:
    config = spec.modalities[modality].encoder_config
    encoder = load_encoder(modality, config)
    if spec.features.backend == "torch":
        return encoder.to(local_device())
    from edge_lib.features.onnx import OnnxEncoder  # optional packages

    return OnnxEncoder(modality, encoder, config, spec.cache_dir)


def store_writers(
    data: DataConfig, spec: FeatureSpec, only: Sequence[str] = ()
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


def count_items(writers: dict[tuple[str, str], StoreWriter]) -> Counts:
    return {"/".join(names): writer.counts() for names, writer in writers.items()}

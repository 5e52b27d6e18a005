"""The tables of scenes as a source: splits, generation on first use, and the swap probe."""

from collections.abc import Iterator

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.generated import generated_path, read_generated
from edge_lib.sources.scenes.probes import swap_metrics
from edge_lib.sources.scenes.rows import degraded_rows, scene_rows
from edge_lib.sources.source import Source
from edge_lib.sources.split_names import DEGRADED, SPLITS

VERSION = 1  # raise it whenever the same config gives different rows


def scene_splits(config: DataConfig) -> tuple[str, ...]:
    """Train, val, test, swap (the pairs of the swap probe), and degraded splits if configured."""
    degraded = [f"{DEGRADED}{split}" for split in SPLITS]
    return (*SPLITS, "swap", *(degraded if config.scenes.degraded_size else ()))


def load(config: DataConfig, split: str) -> Table:
    """One split of the scenes, generated on first use."""
    path = generated_path(config.cache_dir, "scenes", config.scenes, VERSION, split)
    return read_generated(path, lambda: _rows(config, split), f"scenes {split}")


def _rows(config: DataConfig, split: str) -> Iterator[dict]:
    if not split.startswith(DEGRADED):
        return scene_rows(config.scenes, split)
    return degraded_rows(config.scenes, load(config, split.removeprefix(DEGRADED)))


SOURCE = Source(
    load,
    splits=scene_splits,
    probe=swap_metrics,
    licence="CC BY 4.0, of the digits: Optical Recognition of Handwritten Digits (Alpaydin and "
    "Kaynak 1998), UCI, from scikit-learn",
)

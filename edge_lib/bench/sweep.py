"""The 27 points of 04's sweep on 64 scenes: forked, against processes that import for themselves.

Without forks a point imports the library three times: for papermill, in the kernel, and in the
process that trains. CPU time is that of all processes. Both ways give the same metrics.
"""

import resource
import tempfile
import time

from edge_lib.bench.tools import ratios
from edge_lib.config import ExperimentConfig, load_config
from edge_lib.features.extract import write_features
from edge_lib.runs.points import make_points
from edge_lib.runs.sweep import run_here

CONFIG = "params/tiny/mrl_ablation.yaml"
SMALL = "data.scenes.train_size=64 data.scenes.val_size=16 data.scenes.test_size=40 "
SMALL += "data.scenes.swap_size=4 features.num_processes=1 vision.width=16 text.width=16 "
SMALL += "train.batch_size=16 train.epochs=1 "
MEASURED = "seconds.", "samples_per_second", "memory."


def sweep(overrides: str = "") -> dict[str, float]:
    """Seconds and CPU seconds of the sweep, and whether every metric of every point is the same."""
    seconds, cpu_seconds, metrics = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        small = f"{SMALL} data.cache_dir={folder}/cache {overrides}"
        config = load_config(CONFIG, small)
        write_features(config.data, config.feature_spec)
        for name, fork in {"ours_new_processes": False, "ours": True}.items():
            start, used = time.perf_counter(), children_seconds()
            metrics[name] = run_points(config, f"{small} sweep.folder={folder}/{name}", fork)
            seconds[name] = [time.perf_counter() - start]
            cpu_seconds[name] = [children_seconds() - used]
    result = ratios("seconds", seconds) | ratios("cpu_seconds", cpu_seconds)
    same = metrics["ours"] == metrics["ours_new_processes"]
    return result | {"points": len(metrics["ours"]), "same_metrics": float(same)}


def run_points(config: ExperimentConfig, overrides: str, fork: bool) -> list[dict[str, float]]:
    """The metrics of each point that do not measure time or memory."""
    points = make_points(CONFIG, overrides)
    for point, cause in run_here(points, config.sweep, fork):
        if point.state != "done":
            raise RuntimeError(f"{point.settings}: {cause}")
    return [
        {name: value for name, value in point.metrics().items() if not name.startswith(MEASURED)}
        for point in points
    ]


def children_seconds() -> float:
    """CPU time of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

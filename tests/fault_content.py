"""What a fault must not change: the files of feature stores and of trainings."""

from edge_lib.runs import Run
from edge_lib.training.checkpoints import newest_checkpoint

TIMES = ["seconds", "samples_per_second", "peak_mb"]
# Accelerate's file of the counters, among them seconds; digests of all; a card with a date
UNSTABLE = ("seconds", "samples_per_second", "memory")
VARYING = {"custom_checkpoint_1.pkl", "sha256.json", "README.md"}


def files_of(folder):
    """{path below the folder: content} of all files."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def trained_content(folder):
    """Of a run: the best model, the newest checkpoint, what was logged but for times, and what
    killed processes left. A process may be killed before it removes older checkpoints.
    """
    run = Run(folder)
    kept = "best", newest_checkpoint(run.checkpoints).name
    files = files_of(run.checkpoints)
    files = {n: c for n, c in files.items() if n.startswith((*kept, "."))}
    files = {name: c for name, c in files.items() if name.split("/")[-1] not in VARYING}
    return files | {"metrics.jsonl": run.history().drop(columns=TIMES).to_csv()}


def scores(metrics):
    """Metrics without those of time and memory."""
    return {name: m for name, m in metrics.items() if not name.startswith(UNSTABLE)}


def differences(content, expected):
    """The names of what differs."""
    names = content.keys() | expected.keys()
    return sorted(name for name in names if content.get(name) != expected.get(name))

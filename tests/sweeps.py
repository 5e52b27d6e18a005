"""What tests of sweeps share: a point's code, and waiting."""

import time

# A point: it fails at lr 0.5, counts while there is a file `hold` and goes on from the last number.
CODE = """
import json, os, pathlib, time
run, points = pathlib.Path(run_dir), pathlib.Path(run_dir).parent
lr = next(float(x.split()[1]) for x in open(config) if x.strip().startswith("lr:"))
began = time.time()
with open(points / "executed.txt", "a") as log:
    log.write(f"{run.name} {lr}\\n")
if lr == 0.5 and not (points / "repaired").exists():
    raise ValueError("this point fails")
read = lambda name: float((points / name).read_text()) if (points / name).exists() else 0
time.sleep(read("pause"))
counter = run / "step"
first = int(counter.read_text()) if counter.exists() else 0
step = first
while (points / "hold").exists():
    time.sleep(0.1)
    step += 1
    (run / "next").write_text(str(step))
    os.replace(run / "next", counter)
metrics = {"lr": lr, "threads": int(os.environ["OMP_NUM_THREADS"]), "began": began, "first": first}
(run / "metrics.json").write_text(json.dumps({**metrics, "ended": time.time()}))
"""


def executed(folder):
    """A line for each start of a point: its digest and learning rate."""
    path = folder / "points" / "executed.txt"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)

"""Collecting the suite twice gives the same test ids, as pytest-xdist requires of its workers."""

import os
import subprocess
import sys
import time

from edge_lib.config import ROOT


def pytest_make_parametrize_id(config, val, argname):
    """Refuse the ids that pytest makes from values; this module is a plugin of the collection."""
    if not isinstance(val, str | int | None) and not hasattr(val, "__name__"):
        raise ValueError(f"give explicit ids for {argname}={val!r:.80}")


def collect(hash_seed):
    """Start a process that prints the ids of all tests."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    options = ["-p", "test_collection", "-p", "no:cacheprovider", "-o", "addopts=-q", "--tb=line"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "--collect-only", "--import-mode=importlib", *options],
        cwd=ROOT,
        env=own | paths | {"PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_collection_gives_the_same_ids_twice():
    first = collect("1")
    time.sleep(1.5)  # a float WAV holds the second in which it was written
    second = collect("2")
    outputs = [process.communicate()[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs[0][-5000:]
    ids = [[line for line in text.splitlines() if "::" in line] for text in outputs]
    assert len(ids[0]) > 100
    assert ids[0] == ids[1]

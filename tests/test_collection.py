"""Collecting the tests again gives the same ids, as pytest-xdist requires of its workers."""

import os
import subprocess
import sys
from operator import itemgetter

from edge_lib.config import ROOT


def pytest_make_parametrize_id(config, val, argname):
    """Refuse the ids that pytest makes from values; this module is a plugin of the collection."""
    if not isinstance(val, str | int | None) and not hasattr(val, "__name__"):
        raise ValueError(f"give explicit ids for {argname}={val!r:.80}")


def collect(hash_seed):
    """The ids of all tests, from a new process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    options = ["-p", "test_collection", "-p", "no:cacheprovider", "-o", "addopts=-q", "--tb=line"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "--import-mode=importlib", *options],
        cwd=ROOT,
        env=own | paths | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    return [line for line in result.stdout.splitlines() if "::" in line]


def test_collection_gives_the_same_ids_twice(request):
    """This process collected with another hash seed, and in another second than the new one; only
    some of the tests if it was told to.
    """
    own, ids = request.config.collected_ids, collect("1")
    assert len(ids) > 100
    again = [name for name in ids if name in set(own)]
    file = itemgetter(0)
    parts = [sorted((n.split("::", 1) for n in names), key=file) for names in (own, again)]
    assert parts[0] == parts[1]

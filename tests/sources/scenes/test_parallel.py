"""Jobs that run in forks of this process."""

import gc
import os

from edge_lib.sources.scenes.parallel import _run_in_new_process, run_in_parallel


class Owner:
    """Garbage that only the collector finds, and whose end must be in its own process."""

    def __init__(self, path):
        self.path, self.pid, self.itself = path, os.getpid(), self

    def __del__(self):
        if os.getpid() != self.pid:
            self.path.touch()


def collect(number):
    gc.collect()
    return number


def test_forks_do_not_collect_what_their_parent_left(tmp_path):
    gc.disable()
    try:
        Owner(tmp_path / "ended in a fork")
        assert _run_in_new_process(collect, [(1,), (2,)]) == [1, 2]
    finally:
        gc.enable()
    assert [*tmp_path.iterdir()] == []


def test_results_keep_the_order_of_jobs():
    assert [*run_in_parallel(divmod, ((n, 3) for n in range(7)), chunk_size=2)] == [
        divmod(n, 3) for n in range(7)
    ]

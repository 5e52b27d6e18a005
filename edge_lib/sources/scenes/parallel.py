"""Rows made on all cores."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from joblib import Parallel, delayed, parallel_config

from edge_lib.data.audio import resampling
from edge_lib.sources.scenes.render import handwriting


def in_parallel(function: Callable, jobs: Iterable[tuple], size: int = 250) -> Iterator:
    """Results of `function(*job)` in order, made by all cores.

    What eSpeak says depends on what it said before, so each `size` jobs get a process of their own:
    the same jobs give the same bytes, whatever the number of cores.
    """
    jobs = iter(jobs)
    chunks = iter(lambda: list(islice(jobs, size)), [])
    # the processes wait a moment for the next split, and then end
    with parallel_config("loky", n_jobs=-1, idle_worker_timeout=10, inner_max_num_threads=1):
        made = Parallel(return_as="generator")(delayed(_afresh)(function, c) for c in chunks)
        yield from chain.from_iterable(made)


def _afresh(function: Callable, jobs: list[tuple]) -> list:
    handwriting(), resampling()  # read here once, for all that are forked
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.starmap(function, jobs, chunksize=len(jobs))

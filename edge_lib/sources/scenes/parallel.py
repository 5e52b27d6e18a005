"""Run a function over many jobs on all cores, with results that do not depend on their number."""

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from joblib import Parallel, delayed, parallel_config

from edge_lib.data.audio import scipy_signal
from edge_lib.sources.scenes.render import load_handwriting


def run_in_parallel(function: Callable, jobs: Iterable[tuple], chunk_size: int = 250) -> Iterator:
    """Yield `function(*job)` for each job, in order.

    eSpeak NG keeps state between utterances, so every `chunk_size` jobs run in a process of their
    own: the same jobs give the same bytes on any number of cores.
    """
    jobs = iter(jobs)
    chunks = iter(lambda: list(islice(jobs, chunk_size)), [])
    # idle workers stay for a moment, so that the next split can use them
    with parallel_config("loky", n_jobs=-1, idle_worker_timeout=10, inner_max_num_threads=1):
        tasks = (delayed(_run_in_new_process)(function, chunk) for chunk in chunks)
        yield from chain.from_iterable(Parallel(return_as="generator")(tasks))


def _run_in_new_process(function: Callable, jobs: list[tuple]) -> list:
    load_handwriting(), scipy_signal()  # loaded before the fork, so that no child loads them again
    # objects of this process are not collected in its fork: threads that they would end, such as
    # those of an onnxruntime session, are not there, and the fork would wait for them for ever
    with multiprocessing.get_context("fork").Pool(1, initializer=gc.freeze) as pool:
        return pool.starmap(function, jobs, chunksize=len(jobs))

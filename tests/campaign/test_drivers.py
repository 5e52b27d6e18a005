"""Several drivers of one run folder, started at almost the same time: one works at once, the others
wait for it or are refused, and the result is that of one alone.
"""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_content import differences, files_of, scores, trained_content
from fault_targets import in_new_process, measure, measure_late

from edge_lib.config import ConfigError

pytestmark = pytest.mark.campaign
TRIES, DRIVERS = 6, 3


def test_drivers_of_one_folder_give_the_result_of_one(small_align, tiny_text, tmp_path):
    """Also of one cache, whose tables and features none of them has."""

    def config(folder):
        return small_align(f"text.encoder={tiny_text} data.cache_dir={folder / 'cache'}")

    alone, generator, outcomes = tmp_path / "alone", random.Random(0), Counter()
    expected = scores(in_new_process(measure, config(alone), alone / "run"))
    for number in range(TRIES):
        folder, own = tmp_path / str(number), Counter()
        with ThreadPoolExecutor(DRIVERS) as threads:
            results = [
                threads.submit(in_new_process, measure_late, *times, config(folder), folder / "run")
                for times in [draw_times(generator) for _ in range(DRIVERS)]
            ]
        for result in results:
            own[outcome(result, expected)] += 1
        assert own["the result"]
        outcomes += own
        assert not differences(trained_content(folder / "run"), trained_content(alone / "run"))
        assert not differences(*(files_of(f / "cache/features") for f in (folder, alone)))
    print(f"{DRIVERS} drivers of one folder: {dict(outcomes)}")


def draw_times(generator):
    """Seconds until a driver starts, and for which it waits for another."""
    return generator.uniform(0, 0.3), generator.choice([0.1, 60])


def outcome(result, expected):
    try:
        metrics = result.result()
    except ConfigError as error:
        if " is in use by process " not in str(error):
            raise
        return "refused"
    assert scores(metrics) == expected
    return "the result"

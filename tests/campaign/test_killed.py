"""Processes killed at random moments: what they made, once it is finished, is the same to the bit.

A third of the kills comes after a random time, the others before a random change of a file, where
a process alone or all of them are killed. An experiment is started again until it ends.
"""

import random
import time
from concurrent.futures.process import BrokenProcessPool

import pytest
from fault_content import differences, files_of, trained_content
from fault_targets import in_new_process, run_launched
from small_configs import qa_config, vlm_config

from edge_lib.experiments.align import train_aligner
from edge_lib.experiments.trm_qa import QA_SPLITS, train_decoder, vision_spec
from edge_lib.experiments.vlm import train_vlm
from edge_lib.experiments.vlm_checks import CHAT_SPLITS
from edge_lib.experiments.vlm_features import prefix_spec
from edge_lib.features.extract import share_features, write_features
from edge_lib.runs import Run
from edge_lib.training.launch import WorkerError

pytestmark = pytest.mark.campaign
KILLS = 20


@pytest.fixture
def encoding(small_align, tiny_text):
    """(folder) -> the encoding of two small tables, which it first makes; what it writes."""
    small = f"text.encoder={tiny_text} data.scenes.train_size=24 features.shard_rows=7 "

    def experiment(folder):
        config = small_align(f"{small} features.batch_size=4 data.cache_dir={folder}")
        return share_features, config.data, config.feature_spec

    return experiment, lambda folder: files_of(folder / "features")


@pytest.fixture
def alignment(small_align, tiny_text):
    config = small_align(f"text.encoder={tiny_text} train.epochs=3 train.text_dropout=0.2")
    write_features(config.data, config.feature_spec)
    return lambda folder: (train_aligner, config, folder), trained_content


@pytest.fixture
def decoder(small_align, aligner_folder):
    config = qa_config(aligner_folder, small_align().data.cache_dir)
    write_features(config.data, vision_spec(config, aligner_folder), QA_SPLITS)
    return lambda folder: (train_decoder, config, "trm", aligner_folder, folder), trained_content


@pytest.fixture
def language(small_align, aligner_folder, language_folder):
    config = vlm_config(aligner_folder, language_folder, small_align().data.cache_dir)
    write_features(config.data, prefix_spec(config, aligner_folder), CHAT_SPLITS)
    return lambda folder: (train_vlm, config, "lora", aligner_folder, folder), trained_content


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["encoding", "alignment", "decoder", "language"])
def test_killed_processes_leave_what_makes_the_same_result(name, processes, request, tmp_path):
    make_experiment, content_of = request.getfixturevalue(name)
    run = Run(tmp_path).part("whole")
    started = time.monotonic()
    arguments = processes, run.logs, None, None, make_experiment(run.folder)
    writes = in_new_process(run_launched, *arguments)
    seconds, expected = time.monotonic() - started, content_of(run.folder)
    generator, kills, starts = random.Random(f"{name} {processes}"), 0, 0
    while kills < KILLS:
        run = Run(tmp_path).part(f"killed-{starts}")
        experiment, ended = make_experiment(run.folder), False
        while not ended:
            starts += 1
            moment = choose_moment(generator, seconds, writes, processes)
            ended = survives(processes, run.logs, *moment, experiment)
            kills += not ended
        assert not differences(content_of(run.folder), expected)
    print(f"{name}, {processes} processes: {kills} kills in {starts} starts, the same result")


def choose_moment(generator, seconds, writes, processes):
    """Seconds, or (rank, number of a write, whether all are killed)."""
    if generator.random() < 1 / 3:
        return generator.uniform(0, seconds), None
    rank = str(generator.randrange(processes))
    return None, (rank, generator.randrange(writes), generator.random() < 0.5)


def survives(*arguments):
    try:
        in_new_process(run_launched, *arguments)
    except BrokenProcessPool:
        return False
    except WorkerError as error:
        if "SIGKILL" not in str(error):
            raise
        return False
    return True

"""What tests run in other processes: functions that end themselves at a chosen moment."""

import os
import signal

from edge_lib import encode, shards, train
from edge_lib.align import train_aligner


def train_and_die(config, run_folder, step):
    """`train_aligner`, killed right after the update number `step`."""
    report = train.Reporter.step

    def die(self, *args):
        report(self, *args)
        if self.progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train.Reporter.step = die
    return train_aligner(config, run_folder)


def encode_and_die(config, shard):
    """`encode_tables`, killed after shard number `shard` was written but before it got its name."""
    save = shards.save_file

    def die(data, path):
        save(data, path)
        if f"shard-{shard:05d}" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)

    shards.save_file = die
    return encode.encode_tables(config)

"""A bit flipped in each file of a run and of what it reads, and files of a checkpoint cut short: a
run that goes on recovers, or names the file; its result is never another one.
"""

import random
import shutil
from collections import Counter

import pytest
from fault_content import differences, scores, trained_content
from fault_targets import in_new_process, measure

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(3600)]
LOG = "metrics.jsonl"  # text without checksums
UNCHECKED = {"arrow"}  # folders of files whose damage is not noticed, as docs/faults.md says


class Experiment:
    """A run of 12 steps that has made 10, with its tables and features in a folder beside it."""

    def __init__(self, folder, config):
        self.folder, self.config = folder / "work", config
        self.run = self.folder / "run"
        self.metrics = self.finish()
        self.expected = trained_content(self.run)
        shutil.rmtree(self.run / "checkpoints/step-00000012")
        self.backup = shutil.copytree(self.folder, folder / "backup")

    def files(self):
        """All that are not empty, below the folder, but for UNCHECKED ones."""
        files = (path for path in sorted(self.backup.rglob("*")) if path.is_file())
        names = (path.relative_to(self.backup) for path in files if path.stat().st_size)
        return [name for name in names if UNCHECKED.isdisjoint(name.parts)]

    def restore(self):
        shutil.rmtree(self.folder)
        shutil.copytree(self.backup, self.folder)

    def finish(self):
        return scores(in_new_process(measure, self.config, self.run))

    def outcome(self, name):
        """`recovered`, `error` or what is wrong, of a run one of whose files is damaged."""
        try:
            metrics = self.finish()
        except Exception as error:
            is_clear = name.name in str(error) or str(self.run) in str(error)
            return "error" if is_clear else f"unclear error {error!r:.300}"
        changed = differences(trained_content(self.run), self.expected)
        changed = [other for other in changed if other != LOG]
        changed += differences(metrics, self.metrics)
        return f"other result {changed[:3]}" if changed else "recovered"


@pytest.fixture(scope="module")
def experiment(small_align, tiny_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    small = f"text.encoder={tiny_text} data.scenes.train_size=96 train.keep_checkpoints=3 "
    small += f"data.cache_dir={folder}/work/cache features.shard_rows=40 "
    return Experiment(folder, small_align(small))


def flip_bit(path):
    """The same bit in each run of the test, whatever digests of paths the folders are named by."""
    content = bytearray(path.read_bytes())
    place = random.Random(path.name).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def test_flipped_bit_changes_no_result(experiment):
    outcomes = {}
    for name in experiment.files():
        experiment.restore()
        flip_bit(experiment.folder / name)
        outcomes[name] = experiment.outcome(name)
    print(f"a bit flipped: {Counter(outcomes.values())}")
    assert {*outcomes.values()} <= {"recovered", "error"}, outcomes


def test_cut_checkpoint_changes_no_result(experiment):
    newest = [name for name in experiment.files() if "step-00000010" in name.parts]
    outcomes = {}
    for name in newest:
        size = (experiment.backup / name).stat().st_size
        for length in {size * tenth // 10 for tenth in range(10)}:
            experiment.restore()
            with (experiment.folder / name).open("r+b") as file:
                file.truncate(length)
            outcomes[name, length] = experiment.outcome(name)
    print(f"files of a checkpoint cut: {Counter(outcomes.values())}")
    assert set(outcomes.values()) == {"recovered"}

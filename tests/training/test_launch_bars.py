"""Progress bars of launched processes in the notebook that launched them."""

import json

import launch_targets
import pytest

from edge_lib.training import launch_context
from edge_lib.training.launch import WorkerError, launch


@pytest.fixture
def drawn(monkeypatch):
    """The bars drawn in an open notebook, as the options of each and its method calls."""
    bars = []

    class Bar:
        n = 0

        def __init__(self, **options):
            self.options, self.closed = options, False
            bars.append(self)

        def set_postfix_str(self, text, refresh):
            self.postfix = text

        def update(self, n):
            self.n += n

        def close(self):
            self.closed = True

    monkeypatch.setenv("JPY_SESSION_NAME", "01_align.ipynb")
    monkeypatch.setattr(launch_context, "progress_bar", Bar)
    return bars


def test_open_notebook_draws_the_bars_of_rank_0_until_it_dies(drawn, tmp_path, capfd):
    with pytest.raises(WorkerError, match="SIGKILL"):
        launch(launch_targets.kill_rank_0_within_a_bar, num_processes=2, log_dir=tmp_path)
    states = [(bar.options["name"], bar.options["total"], bar.n, bar.closed) for bar in drawn]
    assert states == [("encode 0", 4, 4, True), ("train 0", 8, 3, True)]
    assert drawn[1].postfix == "loss=0.5"
    assert capfd.readouterr() == ("a line\n", "")
    assert (tmp_path / "rank-0.log").read_text() == "a line\n"


def test_headless_launch_draws_no_bar(drawn, monkeypatch, tmp_path):
    monkeypatch.delenv("JPY_SESSION_NAME")
    monkeypatch.delenv("VSCODE_PID", raising=False)
    with launch_context.bars_drawn(tmp_path / "bars"):
        assert not (tmp_path / "bars").exists()
    assert drawn == []


def test_interrupted_work_closes_its_bars(drawn, tmp_path):
    def interrupted_work(file):
        options = {"name": "train", "total": 9, "unit": " steps"}
        state = {"bar": 1, "options": options, "n": 0, "postfix": "", "closed": False}
        file.write_text(json.dumps(state) + "\n")
        with launch_context.bars_drawn(file):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_work(tmp_path / "bars")
    assert [bar.closed for bar in drawn] == [True]

"""An interrupt of papermill, as by Ctrl-C in a terminal."""

import os
import signal
import subprocess
import sys
from functools import partial

import nbformat
import pytest
from sweeps import wait_for

from edge_lib.config import ROOT

CODE = """
import pathlib, time

pathlib.Path("started").touch()
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("cancelling")
    error = KeyboardInterrupt({line!r})
    error._render_traceback_ = lambda: [{line!r}]
    raise error from None
"""


@pytest.fixture
def interrupt(write_notebook, tmp_path):
    """interrupt(line) -> what papermill prints when its cell, interrupted, raises a line."""

    def run(line):
        notebook = write_notebook(CODE.format(line=line))
        # background jobs of a shell ignore SIGINT, and so would this child
        handle = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        command = [sys.executable, "-m", "papermill", notebook, "out.ipynb"]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        options |= {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
        process = subprocess.Popen(command, preexec_fn=handle, **options)
        wait_for((tmp_path / "started").exists)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 1
        return output

    return run


@pytest.mark.parametrize("line", ["interrupted, Slurm job 78 is cancelled", ""], ids=["job", "no"])
def test_interrupt_of_papermill_shows_what_the_cell_says(interrupt, tmp_path, line):
    output = interrupt(line)
    assert f"\n{line or 'interrupted'}\n" in output
    assert output.endswith("Aborted!\n")
    assert "Traceback" not in output
    outputs = nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs
    assert [output.output_type for output in outputs] == ["stream", "error"]
    assert outputs[0].text == "cancelling\n"

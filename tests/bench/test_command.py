"""The command line of the benchmarks: help, output, and lazy imports."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from edge_lib import bench


def test_help_lists_benchmarks_without_importing_torch():
    code = "import sys; from edge_lib import bench\ntry: bench.main(['--help'])\n"
    code += "finally: assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(f"  {name} " in result.stdout for name in bench.BENCHMARKS)


def test_every_benchmark_has_a_module():
    assert all(find_spec(f"edge_lib.bench.{name}") for name in bench.BENCHMARKS)


def test_unknown_name_is_an_error_that_lists_benchmarks(capsys):
    with pytest.raises(SystemExit):
        bench.main(["nothing"])
    assert "'store'" in capsys.readouterr().err


def test_json_is_the_last_line_after_a_table_of_comparisons(monkeypatch, capsys):
    result = {"s.ours": 2.0, "s.faiss": 3.0, "s.faiss.ratio": 1.5, "recall": 0.5}
    monkeypatch.setattr(bench, "run", {"store": result}.get)
    bench.main(["store", "--json"])
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == result
    assert [line.split() for line in table[1:]] == [
        ["s", "faiss", "2", "3", "1.50x"],
        ["recall", "0.5"],
    ]

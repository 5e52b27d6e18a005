"""09_benchmarks, executed by papermill with one benchmark that works and one that fails."""

import pandas as pd
import pytest
from notebook_outputs import figure_alts
from notebook_runs import printed_text, read_metrics, run_notebook

from edge_lib.config import load_config

CONFIG = "params/tiny/benchmarks.yaml"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    names = load_config(CONFIG).bench.benchmarks.keys() - {"trm", "retrieval"}
    overrides = dict.fromkeys(names, "null")
    overrides |= {"retrieval.rows": 4096, "retrieval.rounds": 1}
    overrides |= {"trm.width": 64, "trm.rounds": 1}
    overrides["trm.batch"] = "many"  # a wrong value, which only its function tells
    text = " ".join(f"bench.benchmarks.{name}={value}" for name, value in overrides.items())
    return folder / "run", run_notebook("09_benchmarks", folder, text)


def test_benchmarks_are_measured_drawn_and_kept(executed):
    run, notebook = executed
    metrics = read_metrics(run)
    assert metrics["retrieval.recall10.exact"] == 1
    assert metrics["rivals.beaten"] + metrics["rivals.not_beaten"] == 4
    rivals = pd.read_csv(run / "figures/ratios.csv")
    assert {*rivals.benchmark} == {"retrieval"}
    assert {*rivals.rival} == {"faiss", "faiss_no_blas"}
    kept = "retrieval." + rivals.metric + "." + rivals.rival + ".ratio"
    assert list(rivals.ratio) == pytest.approx([metrics[name] for name in kept])
    assert len(figure_alts(notebook)) == 1


def test_benchmark_that_fails_is_told_and_counted(executed):
    run, notebook = executed
    metrics = read_metrics(run)
    assert (metrics["benchmarks.done"], metrics["benchmarks.failed"]) == (1, 1)
    assert "**trm** was not measured: TypeError" in printed_text(notebook)

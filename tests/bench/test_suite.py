"""Several benchmarks in turn: kept results, failures, arguments, the table of all."""

import json
import math

import pytest

from edge_lib.bench import suite
from edge_lib.config import BenchConfig, ConfigError, load_config

RESULT = {"s.ours": 2.0, "s.faiss": 1.0, "s.faiss.ratio": 0.5, "s.faiss.ratio_min": 0.4}


@pytest.fixture
def measured(monkeypatch):
    """The calls of `measure_apart`, which gives a number, and of trm an error the first time."""
    calls = []

    def measure_apart(module, function, timeout, **arguments):
        calls.append((module, function, timeout, arguments))
        failed = module == "trm" and len(calls) < 3
        return {"error": "TimeoutError: late"} if failed else {"value": float(len(calls))}

    monkeypatch.setattr(suite, "measure_apart", measure_apart)
    monkeypatch.setattr(suite.os, "getloadavg", lambda: (0.5, 2.0, 3.0))
    return calls


def test_suite_keeps_results_and_repeats_only_what_failed(tmp_path, measured):
    config = BenchConfig(benchmarks={"store": {"rounds": 1}, "trm": {}, "vlm": None}, timeout=9)
    first = dict(suite.run_benchmarks(config, tmp_path / "benchmarks"))
    assert measured == [("store", "store", 9, {"rounds": 1}), ("trm", "trm", 9, {})]
    error = {"error": "TimeoutError: late", "load": 0.5}
    assert first == {"store": {"value": 1.0, "load": 0.5}, "trm": error}
    again = dict(suite.run_benchmarks(config, tmp_path / "benchmarks"))
    assert [call[0] for call in measured] == ["store", "trm", "trm"]
    assert again == first | {"trm": {"value": 3.0, "load": 0.5}}
    assert json.loads((tmp_path / "benchmarks/trm.json").read_text()) == again["trm"]


def test_suite_keeps_infinite_and_missing_numbers(tmp_path, monkeypatch):
    numbers = {"inf": math.inf, "nan": math.nan}
    monkeypatch.setattr(suite, "measure_apart", lambda *_, **__: numbers)
    config = BenchConfig(benchmarks={"store": {}})
    for _ in range(2):
        ((_, kept),) = suite.run_benchmarks(config, tmp_path / "benchmarks")
        assert kept["inf"] == math.inf
        assert math.isnan(kept["nan"])


def test_argument_that_a_benchmark_lacks_is_one_line_with_the_nearest():
    config = BenchConfig(benchmarks={"trm": {"round": 3}})
    message = "bench.benchmarks.trm.round: no such argument; did you mean 'rounds'? allowed: batch"
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        suite.check_arguments(config)
    suite.check_arguments(BenchConfig(benchmarks={"trm": {"rounds": 3}, "table": {}}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("bench.benchmarks.tabel={}", "bench.benchmarks.tabel: unknown name; did you mean 'table'"),
        ("bench.timeout=0", "bench.timeout: Input should be greater than 0"),
        ("bench.benchmarks.trm=fast", "bench.benchmarks.trm: Input should be a valid dictionary"),
    ],
    ids=["name", "timeout", "arguments"],
)
def test_benchmarks_of_a_config_are_checked(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config("params/tiny/benchmarks.yaml", overrides)
    assert f"overrides: {message}" in str(error.value)


def test_config_without_any_benchmark_is_an_error(tmp_path):
    path = tmp_path / "none.yaml"
    path.write_text("name: none\nbench: {benchmarks: {trm: null}}\n")
    with pytest.raises(ConfigError, match="bench: benchmarks names none to run"):
        load_config(path)


@pytest.mark.parametrize("path", ["tiny", "full"])
def test_arguments_of_the_configs_are_those_of_the_benchmarks(path):
    suite.check_arguments(load_config(f"params/{path}/benchmarks.yaml").bench)


def test_compared_tells_rivals_from_variants_and_limits():
    names = {"ours_int8": 0.2, "limit": 0.1}
    others = {f"s.{n}{end}": x for n, x in names.items() for end in ("", ".ratio")}
    table = suite.compared({"a": RESULT | others, "b": {"error": "no memory"}})
    assert table.set_index("rival").kind.to_dict() == {
        "faiss": "rival",
        "ours_int8": "variant",
        "limit": "limit",
    }
    row = table.iloc[0]
    assert (row.benchmark, row.metric, row.ours, row.theirs) == ("a", "s", 2, 1)
    assert (row.ratio, row.lowest) == (0.5, 0.4)


def test_compared_of_failures_alone_is_an_empty_table_with_its_columns():
    table = suite.compared({"b": {"error": "no memory", "seconds.total": 3.0}})
    assert len(table) == 0
    assert {"benchmark", "rival", "ratio", "kind"} < {*table.columns}

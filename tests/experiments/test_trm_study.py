"""Comparison of decoders over the points of sweeps; differences checked by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from edge_lib.config import load_config
from edge_lib.experiments import trm_study as study
from edge_lib.experiments.trm_study import answers_of, paired_differences, point_table
from edge_lib.runs.points import Point


@pytest.fixture
def make_point(tmp_path):
    """make_point(grid, settings, metrics, answers) -> a point; finished if there are metrics."""

    def make(grid, settings, metrics=None, answers=()):
        words = " ".join(f"{key}={value}" for key, value in settings.items())
        config = load_config("params/tiny/trm_qa.yaml", f"{words} sweep=null")
        point = Point(grid, settings, config, tmp_path / config.digest())
        (decoder,) = config.qa.decoders
        (point.folder / decoder).mkdir(parents=True)
        columns = ["row", "kind", "answer", "reference", "em", "f1"]
        answers = pd.DataFrame(list(answers), columns=columns)
        answers.to_csv(point.folder / decoder / "answers.csv", index=False)
        if metrics:
            (point.folder / "metrics.json").write_text(json.dumps(metrics))
        return point

    return make


def test_point_table_has_the_same_columns_for_both_decoders(make_point):
    ours = {"qa.trm.em": 0.8, "qa.trm.em.basic.steps6": 0.7, "flops.trm": 5.0, "seconds.total": 9.0}
    theirs = {"qa.plain.em": 0.6, "flops.plain": 4.0, "seconds.total": 8.0}
    points = [
        make_point("recursive", {"qa.use_trm": True, "qa.trm.width": 32}, ours),
        make_point("plain decoder", {"qa.use_trm": False}, theirs),
        make_point("recursive", {"qa.use_trm": True, "qa.trm.width": 16}),  # not finished
    ]
    table = point_table(points).set_index("grid")
    assert list(table.index) == ["recursive", "plain decoder"]
    assert table.em.to_dict() == {"recursive": 0.8, "plain decoder": 0.6}
    assert table.flops.to_dict() == {"recursive": 5.0, "plain decoder": 4.0}
    assert table["seconds.total"].tolist() == [9.0, 8.0]
    assert table.loc["recursive", "em.basic.steps6"] == 0.7
    assert table.loc["recursive", "qa.trm.width"] == 32
    assert table.loc["plain decoder", ["em.basic.steps6", "qa.trm.width"]].isna().all()


def test_step_times_measure_each_distinct_decoder_once(make_point, monkeypatch):
    timed = []

    def step_seconds(decoders):
        timed.extend((name, config.width) for name, config in decoders)
        return [0.5 + number for number in range(len(decoders))]

    monkeypatch.setattr(study, "step_seconds", step_seconds)
    points = [
        make_point("a", {"qa.use_trm": True, "seed": 0}),
        make_point("a", {"qa.use_trm": True, "seed": 1}),
        make_point("b", {"qa.use_trm": True, "qa.trm.lr": 1e-4, "qa.scenes": 500}),
        make_point("c", {"qa.use_trm": True, "qa.trm.width": 32}),
        make_point("d", {"qa.use_trm": False}),
    ]
    times = study.step_times(points)
    assert timed == [("trm", 64), ("trm", 32), ("plain", 64)]
    assert times["seconds.step"].tolist() == [0.5, 0.5, 0.5, 1.5, 2.5]
    assert times.point.tolist() == [point.folder.name for point in points]


def test_answers_of_points_have_grid_and_seed(make_point):
    point = make_point(
        "recursive",
        {"qa.use_trm": True, "seed": 3},
        {"seconds.total": 1},
        [(4, "colour", "null", "red", 0.0, 0.0)],
    )
    unfinished = make_point("other", {"qa.use_trm": False})
    (line,) = answers_of([point, unfinished]).to_dict("records")
    expected = {"grid": "recursive", "seed": 3, "row": 4, "kind": "colour", "answer": "null"}
    assert line == expected | {"reference": "red", "em": 0.0, "f1": 0.0}


def answers(grid, seed, em, kinds=("sum",) * 4):
    return pd.DataFrame({"grid": grid, "seed": seed, "row": [0, 1, 2, 3], "kind": kinds, "em": em})


def test_paired_differences_are_per_question_and_per_seed():
    kinds = ("sum", "sum", "chain1", "chain1")
    table = pd.concat(
        [
            answers("ours", 0, [1, 1, 1, 0], kinds),
            answers("ours", 1, [1, 0, 1, 0], kinds),
            answers("theirs", 0, [0, 1, 0, 0], kinds),
            answers("theirs", 1, [0, 0, 1, 1], kinds),
            answers("others", 0, [1, 1, 1, 1], kinds),  # a grid of several points a seed
            answers("others", 0, [0, 0, 0, 0], kinds),
        ]
    )
    sets = {"basic": ["sum"], "chained": ["chain1"]}
    differences = paired_differences(table, "ours", ["theirs"], sets, np.arange(4), 200)
    basic, chained = differences.to_dict("records")
    assert (basic["difference"], basic["smallest"], basic["largest"]) == (0.5, 0.5, 0.5)
    assert (chained["difference"], chained["smallest"], chained["largest"]) == (0, -0.5, 0.5)
    # both seeds win one of the two questions and neither wins the other: draws lie between
    assert (basic["low"], basic["high"]) == (0, 1)
    assert basic["questions"] == 2
    swapped = paired_differences(table, "theirs", ["ours"], sets, np.arange(4), 200)
    assert swapped.difference.tolist() == [-0.5, 0]


def test_paired_interval_excludes_the_difficulty_of_questions():
    """Scenes vary much in difficulty and the decoders differ by a constant: the interval of the
    difference is narrow, although that of each decoder's own score is wide.
    """
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    rows = {"row": np.arange(400), "kind": "sum", "seed": 0}
    ours = pd.DataFrame(rows | {"grid": "ours", "em": np.where(hard, 0.0, 1.0)})
    theirs = pd.DataFrame(rows | {"grid": "theirs", "em": np.where(hard, 0.0, 0.9)})
    (record,) = paired_differences(
        pd.concat([ours, theirs]), "ours", ["theirs"], {"all": ["sum"]}, np.arange(400) // 4, 500
    ).to_dict("records")
    assert 0 < record["low"] < record["difference"] < record["high"] < 0.07
    assert record["difference"] == pytest.approx(0.1 * (1 - hard.mean()))


def test_paired_interval_widens_if_seeds_differ():
    """All questions are alike. One of three seeds gives 0.3 and two give 0, and a resample of three
    seeds holds the first from never to three times.
    """
    parts = [answers("ours", seed, [0.3 * (seed == 0)] * 4) for seed in range(3)]
    parts += [answers("theirs", seed, [0.0] * 4) for seed in range(3)]
    table = pd.concat(parts)
    options = "ours", ["theirs"], {"all": ["sum"]}, np.arange(4), 2000
    (record,) = paired_differences(table, *options).to_dict("records")
    assert record["difference"] == pytest.approx(0.1)
    assert (record["low"], record["high"]) == pytest.approx((0, 0.3))


def test_paired_differences_reject_other_questions_or_seeds():
    fewer = answers("theirs", 0, [1, 1, 1, 1]).iloc[:3]
    for theirs in (fewer, answers("theirs", 1, [1, 1, 1, 1])):
        table = pd.concat([answers("ours", 0, [1, 1, 1, 0]), theirs])
        with pytest.raises(ValueError, match="ours and theirs have different questions or seeds"):
            paired_differences(table, "ours", ["theirs"], {"all": ["sum"]}, np.arange(4), 10)

"""The benchmark of sweeps, on one point."""

from edge_lib.bench.sweep import sweep


def test_forked_and_new_processes_give_the_same_metrics_of_each_point():
    drop = "full size", "one size", "equal weights", "one size a step"
    grids = " ".join(f"'sweep.grids.{name}=null'" for name in drop)
    result = sweep(f"{grids} sweep.seeds=[0] loss.dims=[16,8] loss.weights=null evaluate.dims=[16]")
    assert (result["points"], result["same_metrics"]) == (1, 1.0)
    assert result["cpu_seconds.ours_new_processes"] > 0

"""Options of Slurm: names that submitit does not take are refused when a config is read."""

import pytest

from edge_lib.config import load_config


@pytest.mark.parametrize(
    ("section", "name", "nearest"),
    [
        ("launch", "slurm_partion", "slurm_partition"),
        ("launch", "partition", "slurm_partition"),
        ("features", "timeout_minutes", "timeout_min"),
        ("features", "slurm_timeout_mins", "slurm_timeout_min"),
        ("sweep", "slurm_mem_gbs", "slurm_mem_gb"),
        ("sweep", "local_partition", "slurm_partition"),
    ],
)
def test_slurm_option_of_another_name_is_refused(message, plain, section, name, nearest):
    grid = "sweep.grids={a: {}} " if section == "sweep" else ""
    text = message(plain, f"{grid}{section}.slurm.{name}=1")
    line = f"overrides: {section}.slurm: unknown option {name!r}; did you mean {nearest!r}? allowed"
    assert text.startswith(line)


@pytest.mark.parametrize(
    "name",
    [
        "timeout_min",
        "name",
        "slurm_job_name",
        "slurm_name",
        "slurm_mem_gb",
        "slurm_setup",
        "slurm_dependency",
        "slurm_signal_delay_s",
        "slurm_array_parallelism",
        "slurm_max_num_timeout",
        "slurm_additional_parameters",
    ],
)
def test_slurm_option_of_the_documentation_is_taken(plain, name):
    assert load_config(plain, {"launch": {"slurm": {name: 1}}}).launch.slurm == {name: 1}

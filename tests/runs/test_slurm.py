"""What is read from Slurm's commands, by programs of their names that print what Slurm prints."""

import os
import stat

import pytest

from edge_lib.config import ConfigError
from edge_lib.runs.slurm import (
    Job,
    SlurmError,
    cancel,
    find_jobs,
    max_array_size,
    new_name,
    submit,
)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(name, script) makes a shell script the command of that name."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


def test_find_jobs_reads_tasks_and_single_jobs(command):
    lines = "7|0|RUNNING|a|None\n7|3|PENDING|a|JobArrayTaskLimit\n9|N/A|TIMEOUT|b|x | y\n"
    command("squeue", f"printf '{lines}'")
    assert find_jobs(["a", "b"]) == {
        ("a", 0): Job("7_0", "RUNNING", "None"),
        ("a", 3): Job("7_3", "PENDING", "JobArrayTaskLimit"),
        ("b", 0): Job("9", "TIMEOUT", "x | y"),
    }


def test_find_jobs_searches_all_states_of_names_without_user_settings(command, monkeypatch):
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    command("squeue", 'echo "1|0|RUNNING|a|$* env:$SQUEUE_PARTITION."')
    reason = find_jobs(["a", "b"])["a", 0].reason
    assert reason.endswith("--name=a,b env:.")
    assert "--states=all" in reason
    assert "--array" in reason


def test_find_jobs_of_no_name_calls_nothing(command):
    command("squeue", "exit 1")
    assert find_jobs([]) == {}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'Unable to contact slurm controller' >&2; exit 1",
            "squeue: Unable to contact slurm",
        ),
        ("exit 3", "squeue: 3"),
    ],
    ids=["controller down", "no message"],
)
def test_find_jobs_rejects_missing_answer(command, script, message):
    command("squeue", script)
    with pytest.raises(SlurmError, match=message):
        find_jobs(["a"])


def test_find_jobs_waits_a_limited_time(command, monkeypatch):
    monkeypatch.setattr("edge_lib.runs.slurm.TIMEOUT", 0.2)
    command("squeue", "exec sleep 60")
    with pytest.raises(SlurmError, match=r"squeue did not answer in 0\.2 s"):
        find_jobs(["a"])


@pytest.mark.parametrize(
    ("state", "reason", "cause"),
    [
        ("TIMEOUT", "TimeLimit", "time limit"),
        ("CANCELLED", "None", "cancelled"),
        ("CANCELLED", "DependencyNeverSatisfied", "the job that it depends on failed"),
        ("NODE_FAIL", "NodeDown", "node failed"),
        ("OUT_OF_MEMORY", "OutOfMemory", "out of memory"),
        ("FAILED", "OutOfMemory", "out of memory"),
        ("FAILED", "JobLaunchFailure", "killed, or not launched"),
        ("PREEMPTED", "None", "preempted"),
    ],
)
def test_job_names_its_cause(state, reason, cause):
    job = Job("1", state, reason)
    assert job.ended
    assert job.cause == cause


@pytest.mark.parametrize(
    "state",
    ["PENDING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING", "NEW_STATE"],
)
def test_job_has_not_ended_in_other_states(state):
    assert not Job("1", state).ended


@pytest.mark.parametrize("prefix", ["a,b", "a b", "", "a|b"])
def test_new_name_rejects_what_squeue_cannot_search(prefix):
    with pytest.raises(ConfigError, match="job name"):
        new_name(prefix, {})


def test_new_name_is_unique():
    assert new_name("sweep", {}) != new_name("sweep", {})


@pytest.mark.parametrize("key", ["name", "slurm_name", "slurm_job_name"])
def test_new_name_begins_with_that_of_options(key):
    assert new_name("sweep", {key: "mine", "timeout_min": 5}).startswith("mine-")


def test_max_array_size_is_that_of_configuration(command):
    command("scontrol", "echo 'MaxArraySize            = 4000000'")
    assert max_array_size() == 4_000_000


def test_max_array_size_of_zero_is_rejected(command):
    command("scontrol", "echo 'MaxArraySize            = 0'")
    with pytest.raises(ConfigError, match="takes no job arrays"):
        max_array_size()


def test_cancel_tries_all_jobs_and_lists_those_that_run(command, tmp_path):
    command("scancel", f'echo "$*" >> {tmp_path}/calls; [ $1 != --name=a ]')
    with pytest.raises(SlurmError, match=r"^still running: scancel --name=a \(scancel: 1\)$"):
        cancel(["a", "b"], ["7"])
    assert (tmp_path / "calls").read_text() == "--name=a\n--name=b\n7\n"


def test_cancel_takes_names_and_numbers(command, tmp_path):
    command("scancel", f'echo "$*" >> {tmp_path}/calls')
    cancel(["a", "b"], ["7_1", "8"])
    cancel()
    assert (tmp_path / "calls").read_text() == "--name=a\n--name=b\n7_1 8\n"


def test_submit_hides_outer_job_and_writes_options(command, tmp_path, monkeypatch):
    for name, value in {
        "SLURM_MEM_PER_NODE": "1",
        "SLURM_CONF": "c",
        "SBATCH_ACCOUNT": "x",
    }.items():
        monkeypatch.setenv(name, value)
    command("srun", "")
    command("sbatch", f"cp $1 {tmp_path}/script; env >{tmp_path}/env; echo Submitted batch job 12")
    options = {"timeout_min": 5, "slurm_job_name": "mine", "slurm_dependency": "afterany:1"}
    number = submit([print, print], tmp_path / "jobs", "sweep-1", options, "afterok:2")
    script = (tmp_path / "script").read_text()
    assert number == "12"
    for line in ("job-name=sweep-1", "array=0-1%2", "requeue", "dependency=afterany:1,afterok:2"):
        assert f"#SBATCH --{line}\n" in script
    environment = (tmp_path / "env").read_text().splitlines()
    assert "SLURM_CONF=c" in environment
    assert "SBATCH_ACCOUNT=x" in environment
    assert "SLURM_MEM_PER_NODE=1" not in environment
    assert os.environ["SLURM_MEM_PER_NODE"] == "1"


def test_submit_requeues_unless_user_forbids(command, tmp_path):
    command("srun", "")
    command("sbatch", f"cp $1 {tmp_path}/script; echo Submitted batch job 12")
    for flags, expected in [({}, ["--requeue"]), ({"no-requeue": True}, ["--no-requeue"])]:
        submit([print], tmp_path / "jobs", "a", {"slurm_additional_parameters": flags})
        lines = (tmp_path / "script").read_text().splitlines()
        assert [line.split()[1] for line in lines if line.endswith("requeue")] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^invalid partition: nope; Batch job submission failed$"),
        ({"slurm_partitoin": "a"}, r"^Unknown argument 'partitoin' for executor 'slurm'.*"),
        ({"timeout_min": "1 h"}, r'^Parameter "timeout_min" expected type.*'),
        (
            {"slurm_additional_parameters": {"job_name": "mine"}},
            r"^slurm_additional_parameters\.job_name is not allowed; use slurm_job_name$",
        ),
        (
            {"slurm_additional_parameters": {"dependency": "afterok:3"}},
            r"^slurm_additional_parameters\.dependency is not allowed; use slurm_dependency$",
        ),
        ({"slurm_additional_parameters": 3}, "int"),
    ],
    ids=["sbatch", "unknown key", "wrong type", "name", "dependency", "no flags"],
)
def test_submit_refusal_is_one_line(command, tmp_path, capfd, options, message):
    command("srun", "")
    command(
        "sbatch",
        "printf 'sbatch: error: invalid partition: nope\\nsbatch: error: Batch job submission "
        "failed\\n' >&2; exit 1",
    )
    with pytest.raises(ConfigError, match=message) as error:
        submit([print], tmp_path / "jobs", "a", options)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_submit_rejects_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="slurm"):
        submit([print], tmp_path / "jobs", "a", {})

"""Slurm as the points of a sweep, a launch and tasks see it, without Slurm."""

from edge_lib.runs import job_watch, slurm_points, slurm_tasks
from edge_lib.runs.slurm import Job, SlurmError
from edge_lib.training import launch_slurm


class FakeSlurm:
    """Takes jobs, answers what it is given, once each and the last for ever, and notes what is
    cancelled. An answer holds tasks of the array submitted last, by their index, or of any, by name
    and index; a task that is not in it is not in the queue.
    """

    def __init__(self, monkeypatch, *answers):
        self.answers, self.submitted, self.cancelled = [*answers], [], []
        for name in ("submit", "find_jobs", "cancel"):
            monkeypatch.setattr(job_watch, name, getattr(self, name))
        monkeypatch.setattr(launch_slurm, "cancel", self.cancel)
        for module in (launch_slurm, slurm_tasks):
            monkeypatch.setattr(module, "gpu_options", lambda *_: {})
        for module in (slurm_points, slurm_tasks):
            monkeypatch.setattr(module, "max_array_size", lambda: 1001)

    def submit(self, functions, folder, name, options, dependency=""):
        self.submitted.append((name, len(functions), dependency))
        return str(len(self.submitted))

    def find_jobs(self, names):
        if not names:
            return {}
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise SlurmError(answer)
        tasks = {self._key(key): job for key, job in answer.items()}
        return {(name, index): Job(f"1_{index}", *job) for (name, index), job in tasks.items()}

    def _key(self, key):
        return key if isinstance(key, tuple) else (self.submitted[-1][0], key)

    def cancel(self, names=(), numbers=()):
        self.cancelled += [*names, *numbers]

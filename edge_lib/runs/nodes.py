"""One notebook on the tasks of one srun: the first executes it, the others join its launches.

A store that the first node serves numbers the launches and hands out what each node is to run. A
notebook that the first one executes meanwhile, such as an aligner's, uses the same store.
"""

import _thread
import atexit
import contextlib
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any

from torch.distributed import DistError, TCPStore

from edge_lib.config import ConfigError
from edge_lib.runs.allocation import JOINED, Allocation, check_host, find_allocation
from edge_lib.runs.threads import background_thread

SECONDS = 0.3  # between two looks at the store
WAIT_SECONDS, REPORT_SECONDS = 5, 60  # before a line on tasks that are missing, and between two
JOIN_SECONDS = 600  # for all tasks to come to the same cell
FAILURE_SECONDS = 10  # for the failures of the other nodes after that of this one
LOST_SECONDS = 20  # without a sign of life: importing a large library may take as long
LEAVE = timedelta(seconds=2)
HOSTED = "EDGE_GLASS_NODES"  # in the environment below the process that serves the store


def join_nodes(experiment: str, endpoint: str = "") -> None:
    """Returns on the first node, or on a single one, once all are here. On the others, runs what
    the first one launches until it ends, and then ends the notebook: papermill takes SystemExit(0)
    for success.

    experiment: what they must agree on. endpoint: host:port, if not that of the environment.
    """
    if (nodes := find_nodes(endpoint)) is None or (nodes.rank == 0 and not nodes.hosts):
        return
    if nodes.rank == 0:
        return nodes.gather(experiment)
    nodes.join(experiment)
    print(JOINED, flush=True)
    nodes.follow()
    raise SystemExit(0)


def find_nodes(endpoint: str = "") -> "Nodes | None":
    """The nodes of this process's run; None if it is the only one."""
    if (allocation := find_allocation()) is None:
        return None
    return _connect(allocation, endpoint or allocation.endpoint, os.getpid())


@cache
def _connect(allocation: Allocation, endpoint: str, process: int) -> "Nodes":
    """Once a process: a fork must not share its parent's connection."""
    host = os.environ.setdefault(HOSTED, str(process)) if allocation.rank == 0 else ""
    return Nodes(allocation, endpoint, hosts=host == str(process))


class Nodes:
    """The nodes of a run, and the store that they share."""

    def __init__(self, allocation: Allocation, endpoint: str, hosts: bool):
        self.rank, self.size, self.endpoint = allocation.rank, allocation.size, endpoint
        self.hosts, self.launches = hosts, count()
        check_host(endpoint)
        host, port = endpoint.rsplit(":", 1)
        try:
            self.store = TCPStore(
                host,
                int(port),
                is_master=hosts,
                multi_tenant=True,  # torch's rendezvous serves from it as well
                wait_for_workers=False,
                timeout=timedelta(seconds=JOIN_SECONDS),
            )
        except DistError as error:
            hint = "" if hosts else "task 0 ended, or did not start the notebook, or else "
            raise ConfigError(
                f"nodes of this srun: no store at {endpoint}: {error}; {hint}"
                "set launch.rdzv_endpoint to a host and a free port of node 0"
            ) from None

    def gather(self, experiment: str) -> None:
        """On the first node: wait for the others. ConfigError if some do not come."""
        atexit.register(self._end)
        self.store.set("experiment", experiment)
        missing, start = {*range(1, self.size)}, time.monotonic()
        next_line = start + WAIT_SECONDS
        while missing := {rank for rank in missing if not self.store.check([f"joined-{rank}"])}:
            if (now := time.monotonic()) > next_line:
                print(f"waiting for tasks {sorted(missing)} of this srun", flush=True)
                next_line = now + REPORT_SECONDS
            if now > start + JOIN_SECONDS:
                raise ConfigError(
                    f"tasks {sorted(missing)} of this srun did not start the notebook within "
                    f"{JOIN_SECONDS} s"
                )
            time.sleep(SECONDS)

    def _end(self) -> None:
        """Let the others leave the store before it is gone, as they would take this for a crash."""
        self.store.set("end", "")
        with contextlib.suppress(DistError):  # one that has already left
            self.store.wait([f"left-{rank}" for rank in range(1, self.size)], LEAVE)

    def join(self, experiment: str) -> None:
        """On another node: ConfigError if the first one ends, or runs another experiment."""
        try:
            self.store.set(f"joined-{self.rank}", socket.gethostname())
            first = self.store.get("experiment").decode()
        except DistError:
            raise ConfigError("task 0 of this srun ended before it made its run") from None
        if first != experiment:
            raise ConfigError(
                f"task {self.rank} of this srun runs {experiment}, task 0 {first}: the tasks of "
                "one srun are the nodes of one run; start separate runs by an srun each"
            )

    def send(self, function: Callable[["Nodes", int], Any]) -> int:
        """On the first node: let each other one call function(nodes, number); returns the number
        of this launch.
        """
        number = self.store.add("launches", 1) - 1
        self.store.set(f"launch-{number}", pickle.dumps(function))
        return number

    def follow(self) -> None:
        """Run what the first node sends, until its process has ended."""
        # the first one's process may be killed
        with contextlib.suppress(DistError), background_thread(self._count_signs):
            for number in self.launches:
                while not self.store.check([f"launch-{number}"]):
                    if self.store.check(["end"]):
                        return self.store.set(f"left-{self.rank}", "")
                    time.sleep(SECONDS)
                self._run(number, self.store.get(f"launch-{number}"))

    def _count_signs(self, ended: threading.Event) -> None:
        """Count in the store, so that the first node sees that this process lives."""
        with contextlib.suppress(DistError):
            while not ended.wait(SECONDS):
                self.store.add(f"signs-{self.rank}", 1)

    def lost(self) -> str:
        """On the first node: the others that have joined and now give no sign of life, in words."""
        joined = [rank for rank in range(1, self.size) if self.store.check([f"joined-{rank}"])]
        silent = {rank: self._signs(rank) for rank in joined}
        end = time.monotonic() + LOST_SECONDS
        while silent and time.monotonic() < end:
            time.sleep(SECONDS)
            silent = {rank: n for rank, n in silent.items() if self._signs(rank) == n}
        hosts = (f"{rank} on {self.store.get(f'joined-{rank}').decode()}" for rank in silent)
        return ", ".join(hosts)

    def _signs(self, rank: int) -> int:
        return self.store.add(f"signs-{rank}", 0)

    def _run(self, number: int, function: bytes) -> None:
        ended, lock = threading.Event(), threading.Lock()
        threading.Thread(target=self._interrupt, args=(number, ended, lock), daemon=True).start()
        try:
            try:
                pickle.loads(function)(self, number)
            finally:
                with lock:  # an interrupt comes before, or not at all
                    ended.set()
        except Exception as error:
            print(error, flush=True)  # the first node raises one of the failures
        except KeyboardInterrupt:
            ended.set()  # by the first node

    def _interrupt(self, number: int, ended: threading.Event, lock: threading.Lock) -> None:
        """Interrupt the main thread if the first node stops a launch, or ends."""
        while not ended.wait(SECONDS):
            try:
                stopped = self.store.check([f"stop-{number}"])
            except DistError:
                stopped = True
            if stopped:
                with lock:
                    return None if ended.is_set() else _thread.interrupt_main()

    def report(self, number: int, error: Exception) -> None:
        """On another node: pass on the failure of its part of a launch."""
        self.store.set(f"failure-{number}-{self.rank}", pickle.dumps(error))

    def stop(self, number: int) -> None:
        """On the first node: stop a launch on the others."""
        self.store.set(f"stop-{number}", "")

    def failures(self, number: int) -> list:
        """On the first node: those of the others, which come after its own."""
        keys = [f"failure-{number}-{rank}" for rank in range(1, self.size)]
        end = time.monotonic() + FAILURE_SECONDS
        while not self.store.check(keys) and time.monotonic() < end:
            time.sleep(SECONDS)
        return [pickle.loads(self.store.get(key)) for key in keys if self.store.check([key])]

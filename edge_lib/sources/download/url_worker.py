"""One of the processes of a URL download: an event loop that fetches, threads that decode."""

import asyncio
import os
import random
import resource
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

from edge_lib.config import ConfigError
from edge_lib.sources.download.content import Picture, check_picture
from edge_lib.sources.download.dead_hosts import DeadHosts
from edge_lib.sources.download.fetch import FetchLimits, Response, fetch, make_client
from edge_lib.sources.download.schedule import Schedule, host_of
from edge_lib.sources.download.url_list import UrlList
from edge_lib.sources.download.url_shards import UrlShard, open_shard, shard_files

MAX_WAITING = 2000  # URLs that wait for others of their hosts before another shard is opened
TASKS = 2  # at a time for a connection: the others wait between two tries, or are decoded
SPARE_FILES = 100  # that a process opens beside its connections
NEXT = b"next"  # the message that asks for a shard
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class UrlJob:
    """What a process is to do. connections, per_host: the most at a time in this process; retried:
    statuses of rows that are fetched again.
    """

    out: Path
    limits: FetchLimits
    connections: int
    per_host: int
    threads: int
    max_side: int | None
    max_pixels: int
    seed: int
    retried: frozenset[str]


def run_worker(job: UrlJob, link: Connection) -> None:
    """In a new process: finish the shards that the parent gives. Sends NEXT for another, what was
    counted (rows, alive, bytes) as it goes, or an error.
    """
    try:
        _allow_files(job.connections + SPARE_FILES)
        asyncio.run(_Worker(job, link).run())
    except* (OSError, ConfigError) as group:
        link.send(str(group.exceptions[0]))


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files. ConfigError if the system allows fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise ConfigError(
            f"a process needs {count} open files, but may have {hard} (ulimit -Hn); "
            "give fewer connections"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class _Worker:
    def __init__(self, job: UrlJob, link: Connection):
        self.job, self.link, self.more = job, link, True
        self.list, self.schedule = UrlList(job.out), Schedule(job.per_host)
        self.dead = DeadHosts()
        self.threads = ThreadPoolExecutor(job.threads)
        self.slots = asyncio.Semaphore(TASKS * job.connections)
        self.ended = asyncio.Event()  # a task has, since this was last cleared
        self.counts = Counter()

    async def run(self) -> None:
        # the pipe ends when the parent does, also when that is killed
        asyncio.get_running_loop().add_reader(parent_process().sentinel, os._exit, 1)
        reporter = asyncio.create_task(self._report())
        limits = self.job.limits, self.job.connections, self.job.per_host
        async with make_client(*limits) as self.client, asyncio.TaskGroup() as group:
            while task := await self._next_task():
                await self.slots.acquire()
                group.create_task(self._fetch(*task))
        reporter.cancel()
        self._send_counts()

    async def _next_task(self) -> tuple[str, tuple] | None:
        while not (task := self.schedule.take()):
            if self.more and self.schedule.waiting < MAX_WAITING:
                await self._open_next()
            elif self.schedule.active:
                self.ended.clear()
                await self.ended.wait()
            else:
                return None
        return task

    async def _open_next(self) -> None:
        self.link.send(NEXT)
        number = await asyncio.to_thread(self.link.recv)
        if number is None:
            self.more = False
        else:
            await self._open(number)

    async def _open(self, number: int) -> None:
        files, rows = shard_files(self.job.out, number), self.list.shard(number)
        shard = await asyncio.to_thread(open_shard, files, rows, self.job.retried)
        for fields in shard.kept:
            self._count(shard.copies[fields["key"]], fields["status"], fields["bytes"])
        tasks = [(host_of(url), (shard, key, url)) for key, url in shard.left.items()]
        self.schedule.add(tasks, random.Random(f"{self.job.seed} {number}"))
        if not tasks:
            await asyncio.to_thread(shard.finish)

    async def _fetch(self, host: str, task: tuple[UrlShard, int, str]) -> None:
        shard, key, url = task
        try:
            response = self.dead.refusal(host)
            if response is None:
                response = await fetch(self.client, url, self.job.limits)
                self.dead.add(host, response)
            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(self.threads, self._keep, shard, key, response)
            self._count(shard.copies[key], picture.status, len(picture.content or b""))
            del shard.left[key]
            if not shard.left:
                await asyncio.to_thread(shard.finish)
        finally:
            self.schedule.release(host)
            self.slots.release()
            self.ended.set()

    def _keep(self, shard: UrlShard, key: int, response: Response) -> Picture:
        if response.content is None:
            picture = Picture(response.status, response.error)
        else:
            picture = check_picture(response.content, self.job.max_side, self.job.max_pixels)
        shard.record(key, picture)
        return picture

    def _count(self, rows: int, status: str, size: int | None) -> None:
        self.counts += Counter(rows=rows, alive=rows * (status == "ok"), bytes=size or 0)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._send_counts()

    def _send_counts(self) -> None:
        self.link.send(self.counts)
        self.counts = Counter()

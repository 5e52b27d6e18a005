"""Downloads of small URL lists, in this process or in one that may be killed."""

import os
import resource
import signal
from multiprocessing import get_context

import pyarrow.parquet as pq

from edge_lib import download
from edge_lib.config import ConfigError
from edge_lib.sources.download import url_processes
from edge_lib.sources.download.journal import recover
from edge_lib.sources.download.url_list import UrlList

OPTIONS = {"shard_rows": 10, "retries": 0, "allow_private": True, "processes": 2}


def write_csv(path, urls):
    path.write_text("url,caption\n" + "".join(f"{url},a {n}\n" for n, url in enumerate(urls)))
    return path


def fetch_urls(folder, urls, **options):
    """Download a csv list of these URLs into folder/out; the summary."""
    path = write_csv(folder / "list.csv", urls)
    return download("urls", folder / "out", list=path, **OPTIONS | options)


def read_rows(folder, name):
    """The rows of all shards of "train" or "status"."""
    pattern = {"train": "out/train-*.parquet", "status": "out/status/*.parquet"}[name]
    return [r for path in sorted(folder.glob(pattern)) for r in pq.read_table(path).to_pylist()]


def statuses(folder):
    return [row["status"] for row in read_rows(folder, "status")]


def recorded_urls(folder):
    """The URLs whose outcome is kept, in finished shards and in journals."""
    urls = {row["url"] for row in read_rows(folder, "status")}
    for path in folder.glob("out/partial/*.journal"):
        shard = UrlList(folder / "out").shard(int(path.stem))["url"].to_pylist()
        urls |= {shard[record.fields["key"]] for record in recover(path)}
    return urls


class Run:
    """A download in a process group of its own, a fork of one that has imported the library."""

    def __init__(self, folder, urls, **options):
        self.process = get_context("forkserver").Process(
            target=_run, args=(folder, urls), kwargs=options
        )
        self.process.start()
        while os.getpgid(self.process.pid) != self.process.pid:
            os.sched_yield()

    def kill(self, group=True):
        """SIGKILL to all its processes, or to the first alone."""
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.join()


def _run(folder, urls, limits=(), **options):
    """limits: of `resource`, such as the size of a file, as if the disk were full."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    url_processes.START_METHOD = "fork"
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))
    try:
        fetch_urls(folder, urls, **options)
    except (ConfigError, KeyboardInterrupt) as error:
        (folder / "ended").write_text(str(error))

"""Downloads of 8,000 URLs from a local server that answers after 20 ms, beside img2dataset 1.47.

Both use two processes and 64 connections in each, write Parquet with the original bytes and their
sha256, and retry up to three times. img2dataset decodes what it keeps (`skip_reencode`), as ours
does, or never looks at it (`disable_all_reencoding`), its fastest way. It needs an older pandas
than this library, so it is installed into runs/cache/img2dataset-1.47.0 at first use; without it
only ours is measured.

The wall time is that from the first request until the last file is written, so without imports.
CPU time is that of all processes of a program, above what it spends on two URLs.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.bench.picture_server import first_request, picture_server
from edge_lib.bench.tools import ratios
from edge_lib.config import from_root

FEW, LATENCY = 2, 0.02
PROCESSES, CONNECTIONS = 2, 128  # in all
SHARD_ROWS = 1000
RIVAL = ("img2dataset==1.47.0", "pandas<3")
RIVAL_FOLDER = "runs/cache/img2dataset-1.47.0"
SAMPLE_SECONDS = 0.1

Command = Callable[[Path, Path], list[str]]  # list, folder to write -> what is run


def download(
    images: int = 8000, rounds: int = 3, memory_rows: Sequence[int] = (10_000, 50_000)
) -> dict[str, float]:
    """Milliseconds a picture with and without kept connections; start-up; peak memory by rows."""
    rival, result = _rival_program(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, keep_alive in (("keep_alive", True), ("connection_each", False)):
            with picture_server(LATENCY, keep_alive) as address:
                own = Path(folder) / name
                result |= _compare(name, address, own, rival, images, rounds)
        with picture_server(LATENCY, True) as address:
            return result | _memory(address, Path(folder), memory_rows)


def write_list(path: Path, address: str, rows: int) -> Path:
    """A Parquet file of so many URLs of the server, with captions."""
    urls = [f"{address}/{row}.jpg" for row in range(rows)]
    captions = [f"a picture with the number {row}" for row in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)
    return path


def _compare(
    name: str, address: str, folder: Path, rival: Path | None, images: int, rounds: int
) -> dict[str, float]:
    """Start-up, wall and CPU time of all programs, in turn; times are for each picture."""
    folder.mkdir()
    many = write_list(folder / "urls.parquet", address, images)
    few = write_list(folder / "few.parquet", address, FEW)
    programs, runs, result = _programs(rival), defaultdict(list), {}
    for i in range(rounds):
        for program, command in list(programs.items())[:: 1 if i % 2 else -1]:
            out = folder / f"{program}-{i}"
            start, wall, cpu = _run(command, many, images, out, address)
            *_, few_cpu = _run(command, few, FEW, out / "few", address)
            runs[program].append((start, 1000 * wall / images, 1000 * (cpu - few_cpu) / images))
    for position, metric in enumerate(("seconds.start", "milliseconds", "cpu_milliseconds")):
        values = {program: [run[position] for run in own] for program, own in runs.items()}
        result |= ratios(f"{metric}.{name}", values)
    return result


def _programs(rival: Path | None) -> dict[str, Command]:
    if rival is None:
        return {"ours": _ours}
    return {
        "ours": _ours,
        "img2dataset": partial(_rival, rival, "skip_reencode"),
        "img2dataset_unchecked": partial(_rival, rival, "disable_all_reencoding"),
    }


def _run(
    command: Command, url_list: Path, rows: int, out: Path, address: str
) -> tuple[float, float, float]:
    """Seconds before the first request, from there until the last file is written, and of CPU."""
    start, cpu = time.time(), _cpu_of_children()
    # a session of its own: Linux schedules by session, else more threads get more of a busy machine
    subprocess.run(
        command(url_list, out),
        check=True,
        capture_output=True,
        env=_environment(),
        start_new_session=True,
    )
    first, files = first_request(address), [path for path in out.rglob("*") if path.is_file()]
    assert _pictures(files) == rows
    wall = max(path.stat().st_mtime for path in files) - first
    return first - start, wall, _cpu_of_children() - cpu


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _pictures(files: list[Path]) -> int:
    """Rows with a picture, in the Parquet files of either program."""
    images = {"image", "jpg"}
    tables = [pq.ParquetFile(path) for path in files if path.suffix == ".parquet"]
    tables = [table for table in tables if images & {*table.schema_arrow.names}]
    names = [(images & {*table.schema_arrow.names}).pop() for table in tables]
    read = (table.read([name])[name] for table, name in zip(tables, names, strict=True))
    return sum(len(column) - column.null_count for column in read)


def _environment() -> dict[str, str]:
    """img2dataset's albumentations would ask a registry for its newest version."""
    return os.environ | {
        "NO_PROXY": "127.0.0.1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _ours(url_list: Path, out: Path) -> list[str]:
    flags = {
        "list": url_list,
        "out": out,
        "processes": PROCESSES,
        "connections": CONNECTIONS,
        "per_host": CONNECTIONS,
        "shard_rows": SHARD_ROWS,
    }
    pairs = [part for name, value in flags.items() for part in (_flag(name), str(value))]
    return [sys.executable, "-m", "edge_lib", "download", "urls", *pairs, "--allow-private"]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _rival(program: Path, check: str, url_list: Path, out: Path) -> list[str]:
    flags = {
        "url_list": url_list,
        "output_folder": out,
        "input_format": "parquet",
        "output_format": "parquet",
        "caption_col": "caption",
        "processes_count": PROCESSES,
        "thread_count": CONNECTIONS // PROCESSES,
        "number_sample_per_shard": SHARD_ROWS,
        "resize_mode": "no",
        check: True,
        "extract_exif": False,
        "retries": 3,
        "timeout": 20,
    }
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]


def _rival_program() -> Path | None:
    """img2dataset's command, installed if it is not there; None, with a word, if it cannot be."""
    folder = from_root(RIVAL_FOLDER)
    program = folder / "bin/img2dataset"
    if not program.exists():
        print(f"installing {RIVAL[0]} into {folder}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", *RIVAL]
        if subprocess.run(pip).returncode:
            print(f"{RIVAL[0]} could not be installed: only ours is measured", flush=True)
            return None
    return program


def _memory(address: str, folder: Path, numbers: Sequence[int]) -> dict[str, float]:
    """Peak MB of all our processes together, by the number of URLs."""
    result = {}
    for rows in numbers:
        url_list = write_list(folder / f"{rows}.parquet", address, rows)
        command = _ours(url_list, folder / f"rows-{rows}")
        result[f"memory.peak_mb.{rows}_urls"] = _peak_mb(command)
    few, *_, many = result.values()
    return result | {"memory.peak_mb.growth": many / few}


def _peak_mb(command: list[str]) -> float:
    """Of a command and its processes."""
    peak, process = 0, psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(_rss, [process, *process.children(recursive=True)])))
        time.sleep(SAMPLE_SECONDS)
    assert process.returncode == 0
    return peak / 2**20


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0

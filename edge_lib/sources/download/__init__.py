"""Downloads of data sets, written in a form that a source reads as it is."""

import json
import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError, DataConfig, from_root
from edge_lib.config.base import did_you_mean
from edge_lib.config.flags import parse_section
from edge_lib.config.registry import DOWNLOADS, load_registered
from edge_lib.runs.files import write_json
from edge_lib.runs.lock import hold_lock
from edge_lib.sources.download.base import LOCK, SUMMARY, Download, path_fields


def download(name: str, out: str | Path, **options) -> dict[str, Any]:
    """Write a data set to the folder `out`, and what it counted to `out`/download.json.

    The same call resumes an interrupted download; one that is complete is not repeated.

    Args:
        name: one of `config.registry.DOWNLOADS`.
        out: the folder, relative to the working directory.
        options: the flags of `edge-glass download NAME --help`, with `_` for `-`.

    Returns: the summary that download.json holds.

    Raises: ConfigError for an unknown name or option, a folder that holds another download, or one
        that another process writes; for a full disk or the like; the same call resumes then.

    Example:
        >>> download("stamps", "data/stamps")  # doctest: +SKIP
    """
    return _run(name, make_download(name, {"out": out, **options}))


def download_missing(config: DataConfig) -> dict[str, Any] | None:
    """The download that an experiment's data names, made unless it is there; its summary. None if
    the data names none. Of several processes one makes it, and the others wait.
    """
    if config.download is None:
        return None
    name, out, rows, seed, options = (value for _, value in config.download)
    paths = options.keys() & path_fields(download_class(name))
    options = options | {key: from_root(options[key]) for key in paths}
    job = make_download(name, {"out": out, "rows": rows, "seed": seed, **options})
    return _run(name, job, wait=True)


def download_class(name: str) -> type[Download]:
    """The class of a registered download. ConfigError for another name."""
    if name not in DOWNLOADS:
        hint, allowed = did_you_mean(name, DOWNLOADS), ", ".join(DOWNLOADS)
        raise ConfigError(f"no download is called {name!r}; {hint}allowed: {allowed}")
    return load_registered(DOWNLOADS[name])


def make_download(name: str, options: dict[str, Any]) -> Download:
    """A download with its options, checked. ConfigError names the first wrong one."""
    return parse_section(name, download_class(name), options)


def _run(name: str, job: Download, wait: bool = False) -> dict[str, Any]:
    """The summary of a download. wait: for another process that writes the folder."""
    try:
        return _write(job, {"name": name, **job.content()}, wait)
    except OSError as error:
        raise ConfigError(f"{name}: {error}") from None


def _write(job: Download, settings: dict[str, Any], wait: bool) -> dict[str, Any]:
    summary = _read_summary(job, settings)
    if _is_done(job, summary):  # without the lock, as the folder may be read-only
        return summary
    job.out.mkdir(parents=True, exist_ok=True)
    with hold_lock(job.out / LOCK[0], wait):
        summary = _read_summary(job, settings)
        if _is_done(job, summary):  # by the process that was waited for
            return summary
        if summary is None:
            _clear(job.out)
        write_json(job.out / SUMMARY, (summary or {"settings": settings}) | {"complete": False})
        try:
            summary = {"settings": settings, "complete": True, **job.run()}
        except ConfigError:
            if _has_only(job.out, Download.TRACES):
                _clear(job.out)
            raise
        write_json(job.out / SUMMARY, summary)
    return summary


def _is_done(job: Download, summary: dict[str, Any] | None) -> bool:
    return summary is not None and summary["complete"] and not job.repeats


def _read_summary(job: Download, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call wrote; None without one, or if it had other options and kept nothing.
    ConfigError if the folder holds another download.
    """
    path = job.out / SUMMARY
    summary = json.loads(path.read_text()) if path.exists() else None
    if summary is None or summary["settings"] == settings:
        return summary
    if _has_only(job.out, job.TRACES):
        return None
    raise ConfigError(
        f"{job.out} holds another download: {_difference(summary['settings'], settings)}; "
        "choose another folder, or remove it"
    )


def _has_only(folder: Path, names: Set[str]) -> bool:
    return {path.name for path in folder.iterdir()} <= names


def _clear(folder: Path) -> None:
    """Remove what an earlier call left; of a folder without its summary, nothing."""
    paths = folder.iterdir() if (folder / SUMMARY).exists() else []
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in LOCK:
            path.unlink()


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """The name if it differs, else the options that do."""
    keys = [key for key in earlier | now if earlier.get(key) != now.get(key)]
    keys = ["name"] if "name" in keys else keys
    return ", ".join(
        f"{key} is {earlier.get(key, 'the default')} there, {now.get(key, 'the default')} here"
        for key in keys
    )

"""The runs in a folder, beside one another: config keys that differ, metrics and recall.

Files are read as they are, not validated: a run of an older version is a run as well. A folder that
cannot be read, or is no run, is listed with the reason.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from edge_lib.config import ROOT, ConfigError, ExperimentConfig
from edge_lib.runs.files import absolute_path
from edge_lib.runs.notebooks import run_state

HEADLINES = re.compile(r"test\.\w+\.r1|(.+\.)?(em|qa_em|cider|group)|seconds\.total")
RECALL = re.compile(r"test\.(?P<query>\w+)_to_(?P<gallery>\w+)\.r(?P<k>\d+)\.dim(?P<dim>\d+)")
HASHED = re.compile(r"(.+)-[0-9a-f]{8}")  # the name of a run folder
STATES = {"pending": "incomplete"}
CURVES = ["run", "query", "gallery", "k", "dim", "recall", "low", "high", "rows"]
Values = dict[str, Any]
NO_RUN = "other folders"
MAX_KEYS = 6  # in a line


def find_runs(folder: str | Path = ROOT / "runs") -> list[Path]:
    """The run folders in a folder, or one level below (points of a sweep), and the other folders
    in it; sorted. ConfigError if there is no such folder.
    """
    if not (folder := absolute_path(folder)).is_dir():
        raise ConfigError(f"no such folder {folder}")
    if (folder / "config.yaml").exists():
        return [folder]
    paths = []
    for path in _folders(folder):
        inside = [] if _is_run(path) else [p for p in _folders(path) if _is_run(p)]
        paths += inside or [path]
    return paths


def sibling_runs(folder: Path) -> list[Path]:
    """The runs beside a run's folder of the same notebook and the same name of the config."""
    match = HASHED.fullmatch(folder.name)
    if not match:
        return [folder]
    names = re.compile(re.escape(match[1]) + "-[0-9a-f]{8}")
    return [path for path in _folders(folder.parent) if names.fullmatch(path.name)]


def list_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """A row for each folder: run, state, finished, the config keys that differ (dotted; defaults
    where a config lacks them), and the headline metrics that any of them has.

    state: done, failed (its notebook raised), incomplete, "not a run", or "broken: ..." with the
    reason.
    """
    configs = {path: _read(path, _config) for path in folders}
    metrics = {path: _read(path, _metrics) for path in folders}
    keys, records = differing_keys([c for c in configs.values() if isinstance(c, dict)]), []
    for path in folders:
        config, own = configs[path], metrics[path]
        problem = next((x for x in (config, own) if isinstance(x, str)), None)
        record = {"run": _name(path), "state": problem or _state(path, own)}
        if isinstance(config, dict):
            record |= {key: _value(config, key) for key in keys}
        if own and isinstance(own, dict):
            time = datetime.fromtimestamp((path / "metrics.json").stat().st_mtime)
            headlines = {k: v for k, v in own.items() if HEADLINES.fullmatch(k)}
            record |= {"finished": time.isoformat(" ", "minutes"), **headlines}
        records.append(record)
    first = ["run", "state", "finished", *keys]
    measured = dict.fromkeys(key for record in records for key in record if key not in first)
    table = pd.DataFrame(records, columns=[*first, *measured], dtype=object)
    return table.astype(dict.fromkeys(measured, float))


def differing_keys(configs: Sequence[Values]) -> list[str]:
    """The dotted keys whose values are not all equal; the name is none of them."""
    keys = dict.fromkeys(key for config in configs for key in config if key != "name")
    return [key for key in keys if len({json.dumps(_value(c, key)) for c in configs}) > 1]


def compare_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """Recall on the test split of the runs that have it, by run, query, gallery, k and dim.

    A run is named by the config keys in which it differs, by its folder if there are none. low,
    high (95% interval) and rows (gallery size) are null where a run drew no recall_by_dim.
    """
    curves = {path: curve for path in folders if len(curve := _recall(path))}
    configs = {path: _read(path, _config) for path in curves}
    configs = {path: c if isinstance(c, dict) else {} for path, c in configs.items()}
    keys = differing_keys([*configs.values()])
    labels = {path: " ".join(f"{k}={_value(configs[path], k)}" for k in keys) for path in curves}
    unique = len({*labels.values()}) == len(labels) and all(labels.values())
    parts = [c.assign(run=labels[p] if unique else _name(p)) for p, c in curves.items()]
    return pd.concat(parts)[CURVES] if parts else pd.DataFrame(columns=CURVES)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:  # not readable
        return []


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "config.yaml").is_file()
    except OSError:
        return False


def _name(folder: Path) -> str:
    """The folder's name; that of a sweep's point with the sweep's."""
    is_point = not HASHED.fullmatch(folder.name) and re.fullmatch("[0-9a-f]{8}", folder.name)
    return f"{folder.parent.name}/{folder.name}" if is_point else folder.name


def _state(folder: Path, metrics: Values) -> str:
    state = "done" if metrics else run_state(folder)
    return STATES.get(state, state)


def _read(folder: Path, read: Callable[[Path], Values]) -> Values | str:
    """What a run's file holds, or the state that says why it is not read."""
    if not _is_run(folder):
        return "not a run"
    try:
        return read(folder)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"broken: {str(error).splitlines()[0]}"


def _config(folder: Path) -> Values:
    """The dotted keys of a config."""
    content = yaml.safe_load((folder / "config.yaml").read_text())
    if not isinstance(content, dict):
        raise ValueError("config.yaml holds no keys")
    return dict(_flat(content))


def _flat(section: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


DEFAULTS = dict(_flat(ExperimentConfig(name="default").model_dump(mode="json")))


def _value(config: Values, key: str) -> Any:
    """A config written before a key existed has its default."""
    return config[key] if key in config else DEFAULTS.get(key)


def _metrics(folder: Path) -> Values:
    """The numbers among a run's metrics."""
    path = folder / "metrics.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError("metrics.json holds no metrics")
    return {name: value for name, value in content.items() if isinstance(value, int | float)}


def _recall(folder: Path) -> pd.DataFrame:
    """The recall of a run's test split, by query, gallery, k and dim."""
    metrics = _read(folder, _metrics)
    matches = {name: RECALL.fullmatch(name) for name in metrics if isinstance(metrics, dict)}
    records = [
        match.groupdict() | {"recall": metrics[name]} for name, match in matches.items() if match
    ]
    table = pd.DataFrame(records, columns=CURVES[1:6]).astype({"k": int, "dim": int})
    drawn = _drawn(folder)
    table = table.merge(drawn, "left", on=CURVES[1:5])
    return table.astype(dict.fromkeys(CURVES[5:], float))


def _drawn(folder: Path) -> pd.DataFrame:
    """Intervals and gallery sizes, from the table of the figure."""
    columns = [*CURVES[1:5], *CURVES[6:]]
    try:
        table = pd.read_csv(folder / "figures/recall_by_dim.csv")[columns]
    except (OSError, ValueError, KeyError):  # a run without the figure, or another version's
        return pd.DataFrame(columns=columns).astype({"k": int, "dim": int})
    return table.drop_duplicates(CURVES[1:5])


def format_runs(folders: Sequence[Path]) -> str:
    """A block for each notebook and each sweep, whose runs are compared with one another."""
    ordered = sorted(folders, key=lambda path: (_family(path) == NO_RUN, _family(path)))
    blocks = [
        f"{family}\n{_format(list_runs([*paths]))}" for family, paths in groupby(ordered, _family)
    ]
    return "\n\n".join(blocks) or "no runs"


def _family(folder: Path) -> str:
    """The notebook that makes runs of this name, or the folder of a sweep."""
    if not (folder / "config.yaml").exists():
        return NO_RUN
    return folder.name.split("-")[0] if HASHED.fullmatch(folder.name) else folder.parent.name


def _format(table: pd.DataFrame) -> str:
    """The keys of the config that differ are in the last column: they may be many."""
    metrics = [name for name in table.columns if HEADLINES.fullmatch(name)]
    keys = [name for name in table.columns[3:] if name not in metrics]
    shown = table[[*table.columns[:3], *metrics]].dropna(axis="columns", how="all")
    text = shown.to_string(index=False, na_rep="", float_format="{:.3f}".format)
    ends = ["differs in" if keys else "", *_differences(table[keys])]
    lines = zip(text.splitlines(), ends, strict=True)
    return "\n".join(f"  {line}  {end}".rstrip() for line, end in lines)


def _differences(table: pd.DataFrame) -> list[str]:
    """The keys that a config has, as overrides."""
    lines = []
    for row in table.itertuples(index=False, name=None):
        pairs = zip(table.columns, row, strict=True)
        own = [f"{k}={v}" for k, v in pairs if v is not None and v == v]  # NaN is null, too
        rest = [f"... ({len(own) - MAX_KEYS} more)"] if len(own) > MAX_KEYS else []
        lines.append(" ".join(own[:MAX_KEYS] + rest))
    return lines

"""The model card of a trained model: what its run measured, and how it was trained."""

import json
import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from huggingface_hub import EvalResult, ModelCard

from edge_lib.config import DataConfig, ExperimentConfig, from_root
from edge_lib.models.card import CARD, FIGURES
from edge_lib.runs import Run
from edge_lib.runs.files import whole_file
from edge_lib.sources import get_source
from edge_lib.sources.download import SUMMARY

RESULTS = "\n## Results\n"
SECTIONS = {"seed", "vision", "audio", "text", "loss", "train", "fusion", "qa", "vlm"}
METRICS = {"em": "exact_match"}  # the Hub's names of measures
VERSIONS = ("edge-glass", "torch", "transformers")
UNKNOWN = "not recorded"

TEXT = """
{answer}

{figures}

## Limits

{limits}
- Recall depends on the size of the gallery and on what counts as a hit: compare it only with recall
  in the same gallery by the same rule.

## Data

| | |
|---|---|
| source | {source} |
| licence | {licence} |

## Training

| | |
|---|---|
| commit | {commit} |
| versions | {versions} |
| device | {device} |
| processes | {processes} |

The keys of the config that are not defaults:

```yaml
{config}
```
"""


def write_card(
    run: Run,
    config: ExperimentConfig,
    folder: Path,
    scores: pd.DataFrame,
    answer: Sequence[str],
    limits: Sequence[str] = (),
    figures: Sequence[str] = (),
) -> None:
    """Complete the card of a model that `run` trained and saved in `folder`.

    scores: of `recall_table`, of which the largest dim counts, or of `by_kind`, with a column
    `variant`; they become the card's model-index. answer, limits: items of Markdown lists. figures:
    names of the run's figures that show no item of the data, as a card may be published.
    """
    if not (folder / CARD).is_file():
        warnings.warn(f"{folder} has no model card, as an older version saved it", stacklevel=2)
        return
    card = ModelCard.load(folder / CARD)
    names = [name for name in figures if (run.folder / FIGURES / f"{name}.png").is_file()]
    results = _text(run, config, answer, limits, names)
    card.text = card.text.partition(RESULTS)[0] + RESULTS + results
    card.data.model_name, card.data.eval_results = config.name, eval_results(config.data, scores)
    if (name := _hub_data(config.data)) is not None:
        card.data.datasets = [name]
    shutil.rmtree(folder / FIGURES, ignore_errors=True)
    for name in names:
        (folder / FIGURES).mkdir(exist_ok=True)
        shutil.copyfile(run.folder / FIGURES / f"{name}.png", folder / FIGURES / f"{name}.png")
    with whole_file(folder / CARD) as temporary:
        card.save(temporary)


def eval_results(data: DataConfig, scores: pd.DataFrame) -> list[EvalResult]:
    """The scores on the test split, as the Hub's model-index holds them; without those of NaN."""
    make = _recall if "gallery" in scores else _answers
    name = _hub_data(data) or data.source
    dataset = {"dataset_type": name, "dataset_name": name, "dataset_split": "test"}
    results = [make(row) | dataset for row in scores.to_dict("records")]
    if "dim" in scores:
        results = [r for r in results if r["metric_args"]["dim"] == scores.dim.max()]
    return [EvalResult(**result) for result in results if math.isfinite(result["metric_value"])]


def _recall(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `recall_table`."""
    keys = ("dim", "k", "rows", "rule", "chance", "low", "high")
    return {
        "task_type": "cross-modal-retrieval",
        "metric_type": "recall",
        "metric_name": f"R@{row['k']}, {row['query']} to {row['gallery']}, gallery of "
        f"{row['rows']:,}, {row['rule']}",
        "metric_value": float(row["recall"]),
        "metric_args": _plain({key: row[key] for key in keys if key in row}),
    }


def _answers(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `by_kind`."""
    keys = ("kind", "variant", "questions", "low", "high")
    return {
        "task_type": "visual-question-answering",
        "metric_type": METRICS.get(row["measure"], row["measure"]),
        "metric_name": f"{row['measure']}, {row['kind']}, {row['variant']}, "
        f"{row['questions']:,} questions",
        "metric_value": float(row["value"]),
        "metric_args": _plain({key: row[key] for key in keys if key in row}),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values of types that YAML has; NaN is left out."""
    plain = {key: x.item() if hasattr(x, "item") else x for key, x in values.items()}
    plain = {key: round(x, 6) if isinstance(x, float) else x for key, x in plain.items()}
    return {key: x for key, x in plain.items() if x == x}


def _text(
    run: Run,
    config: ExperimentConfig,
    answer: Sequence[str],
    limits: Sequence[str],
    figures: Sequence[str],
) -> str:
    environment = json.loads((run.folder / "env.json").read_text())
    values = config.model_dump(mode="json", exclude_defaults=True, include=SECTIONS)
    return TEXT.format(
        answer="\n".join(answer),
        figures="\n\n".join(f"![{name}]({FIGURES}/{name}.png)" for name in figures),
        limits="\n".join([f"- Measured for one training seed, {config.seed}.", *limits]),
        source=_hub_data(config.data) or f"`{config.data.source}`",
        licence=data_licence(config.data),
        commit=environment["git_commit"] or UNKNOWN,
        versions=", ".join(f"{name} {environment[name]}" for name in VERSIONS),
        device=environment["device"],
        processes=config.launch.world_size,
        config=yaml.safe_dump(_without_paths(values), sort_keys=False).strip(),
    )


def data_licence(data: DataConfig) -> str:
    """What a download or the source itself states."""
    if data.download and (data.download.out / SUMMARY).is_file():
        summary = json.loads((data.download.out / SUMMARY).read_text())
        return summary.get("licence") or UNKNOWN
    return get_source(data).licence or UNKNOWN


def _hub_data(data: DataConfig) -> str | None:
    """The name of a data set of the Hub, not of a folder."""
    name = data.hub.name if data.source == "hub" else None
    return None if name is None or from_root(name).exists() else name


def _without_paths(value: Any) -> Any:
    """A config's value in which absolute paths are names of files: a card may be published."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

"""Open-Orca's instructions."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from edge_lib.sources.download.base import Download
from edge_lib.sources.download.disk import write_whole
from edge_lib.sources.download.hub_files import dataset_info, download_files, source_of

REPO = "Open-Orca/OpenOrca"
GPT4, GPT35 = "1M-GPT4-Augmented.parquet", "3_5M-GPT3_5-Augmented.parquet"


class OpenOrcaDownload(Download):
    """Open-Orca (after Mukherjee et al. 2023): English instructions without pictures, answered by
    GPT-4 and GPT-3.5, for 06. `data.conversations.instructions` reads it.

    4,233,923 rows, 4.1 GB: 994,896 of GPT-4 (1.0 GB) and 3,239,027 of GPT-3.5, in
    OUT/train-0000{0,1}.parquet: `system_prompt`, `question`, `response`. There is no val and no
    test split.

    --rows: a random part of all rows, in one file; the whole files are fetched first, and removed.

    Licence: MIT. From the Hugging Face Hub, Open-Orca/OpenOrca; sha256 checked.
    """

    gpt4: bool = Field(False, description="only the rows that GPT-4 answered")
    revision: str | None = Field(None, description="branch, tag or commit (default main)")

    def run(self) -> dict[str, Any]:
        names, folder = [GPT4] if self.gpt4 else [GPT4, GPT35], self.out / "whole"
        targets = [self.out / f"train-{number:05}.parquet" for number in range(len(names))]
        info = dataset_info(REPO, self.revision, self.out)
        moved = [target.exists() and self.rows is None for target in targets]
        download_files(info, [n for n, m in zip(names, moved, strict=True) if not m], folder)
        files = [folder / name for name in names]
        if self.rows is None:
            for file, target in zip(files, targets, strict=True):
                file.replace(target) if file.exists() else None
        else:
            targets = targets[:1]
            write_whole(targets[0], lambda file: write_sample(files, file, self.rows, self.seed))
        shutil.rmtree(folder, ignore_errors=True)
        return {
            "rows": {"train": sum(pq.read_metadata(path).num_rows for path in targets)},
            "files": {"train": "train-*.parquet"},
            "licence": "MIT",
            "source": source_of(info),
        }


def write_sample(files: Sequence[Path], target, rows: int, seed: int) -> None:
    """Write a random part of the rows of Parquet files, in their order; a row group at a time."""
    counts = [pq.read_metadata(file).num_rows for file in files]
    total = sum(counts)
    chosen = np.sort(random.Random(seed).sample(range(total), min(rows, total)))
    start = 0
    schema = pq.read_schema(files[0])
    with pq.ParquetWriter(target, schema) as writer:
        for file in map(pq.ParquetFile, files):
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                taken = chosen[(start <= chosen) & (chosen < stop)] - start
                if len(taken):
                    part = file.read_row_group(group, schema.names).take(taken)
                    writer.write_table(part.cast(schema))
                start = stop

"""Questions in columns of users' tables, or of a data set of the Hub: a row a question."""

from datasets import Dataset, concatenate_datasets

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.files import named_files
from edge_lib.sources.hub import read_hub
from edge_lib.sources.join import media_numbers
from edge_lib.sources.select import named_columns
from edge_lib.sources.tabular import read_tables


def load(config: DataConfig, split: str) -> Table:
    """One row per question; those about the same picture share its `image_id`."""
    name, cache_dir = config.questions.source, config.cache_dir
    source, key = getattr(config.questions, name), f"data.questions.{name}"
    columns = named_columns(source)
    if name == "hub":
        table = read_hub(source, split, columns, cache_dir, key)
    else:
        files = named_files(source, split, key)
        table = read_tables(f"questions {split}", files, cache_dir, columns, source.folder)
    images = Dataset.from_dict({"image_id": media_numbers(table, cache_dir)})
    rows = concatenate_datasets([table.dataset, images], axis=1)
    shared = Table(rows, table.name, table.fingerprint)
    shared.skipped.update(table.skipped)
    return shared

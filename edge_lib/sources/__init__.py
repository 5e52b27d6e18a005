"""Sources of tables: `load_table` reads what the `data` section of a config names.

The names are imported when they are first used: a process of a download needs no table.
"""

from importlib import import_module

__all__ = ["get_source", "kind_sets", "load_table", "splits"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'edge_lib.sources' has no attribute {name!r}")
    return getattr(import_module("edge_lib.sources.tables"), name)

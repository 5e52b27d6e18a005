"""Edge Glass: align vision, audio and text with frozen encoders and small trained heads.

The names below are the ones most users need. They are imported when they are first used, so
`import edge_lib` costs nothing.
"""

from importlib import import_module

_MODULES = {
    "load_config": "edge_lib.config",
    "load_table": "edge_lib.sources",
    "download": "edge_lib.sources.download",
    "extract_features": "edge_lib.features.extract",
    "launch": "edge_lib.training.launch",
    "Run": "edge_lib.runs",
    "Aligner": "edge_lib.models",
    "Fuser": "edge_lib.models",
    "QAModel": "edge_lib.models",
    "VLM": "edge_lib.models.vlm",
    "export_model": "edge_lib.export.folder",
    "MatryoshkaIndex": "edge_lib.search",
    "info_nce": "edge_lib.nn.losses",
    "matryoshka_info_nce": "edge_lib.nn.losses",
}

__all__ = [*_MODULES, "plots"]


def __getattr__(name: str):
    if name == "plots":
        return import_module("edge_lib.plots")
    if name not in _MODULES:
        raise AttributeError(f"module 'edge_lib' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Run folders, headless notebooks and sweeps."""

import sys

# nbformat's validation would import it for URIs, of which notebooks have none: a second of work for
# each process of a sweep
sys.modules.setdefault("rfc3987_syntax", None)


def __getattr__(name: str):
    if name != "Run":
        raise AttributeError(f"module 'edge_lib.runs' has no attribute {name!r}")
    from edge_lib.runs.run import Run  # a new process looks after its parent before it imports this

    return Run

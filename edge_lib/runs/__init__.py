"""Run folders, headless notebooks and sweeps."""

import sys

from edge_lib.runs.run import Run

# nbformat's validation would import it for URIs, of which notebooks have none: a second of work for
# each process of a sweep
sys.modules.setdefault("rfc3987_syntax", None)

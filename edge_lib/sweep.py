"""`python -m edge_lib.sweep`: see `edge_lib.runs.sweep`."""

import sys

from edge_lib.runs.sweep import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m edge_lib.sweep CONFIG`: the same as `edge-glass sweep CONFIG`."""

import sys

from edge_lib.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))

"""The options of a download as flags of the command line."""

import argparse
import inspect
from collections.abc import Sequence
from typing import Any

from edge_lib.config.flags import add_flags, flags_of, metavar
from edge_lib.sources.download.base import Download


def parse_flags(name: str, download: type[Download], arguments: Sequence[str]) -> dict[str, Any]:
    """`--max-side 512` -> {"max_side": "512"}, for pydantic to convert; only what is given. Exits
    like argparse for an unknown flag, and for --help.
    """
    fields = flags_of(download).items()
    required = [f"{flag} {metavar(flag, info)}" for flag, info in fields if info.is_required()]
    parser = argparse.ArgumentParser(
        prog=f"edge-glass download {name}",
        usage=" ".join(["%(prog)s", *required, "[options]"]),
        description=inspect.getdoc(download),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,  # --row would be --rows, and --r an error once there is --retry
    )
    add_flags(parser, download)
    return vars(parser.parse_args(arguments))

"""The options of a download as flags of the command line."""

import argparse
import inspect
from collections.abc import Sequence
from typing import Any

from edge_lib.sources.download.base import Download


def parse_flags(name: str, download: type[Download], arguments: Sequence[str]) -> dict[str, Any]:
    """`--max-side 512` -> {"max_side": "512"}, for pydantic to convert; only what is given. Exits
    like argparse for an unknown flag, and for --help.
    """
    parser = argparse.ArgumentParser(
        prog=f"edge-glass download {name}",
        description=inspect.getdoc(download),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    for field, info in download.model_fields.items():
        switch = {"action": "store_true"} if info.annotation is bool else {"metavar": "VALUE"}
        parser.add_argument(
            f"--{field.replace('_', '-')}",
            help=_help(info),
            required=info.is_required(),
            **switch,
        )
    return vars(parser.parse_args(arguments))


def _help(info) -> str:
    tells = not info.is_required() and info.default not in (None, False, "")
    default = f" (default {info.default})" if tells else ""
    return f"{info.description or ''}{default}".replace("%", "%%")

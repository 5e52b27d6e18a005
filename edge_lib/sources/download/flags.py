"""The options of a download as flags of the command line."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from edge_lib.sources.download.base import Download, types_of


def parse_flags(name: str, download: type[Download], arguments: Sequence[str]) -> dict[str, Any]:
    """`--max-side 512` -> {"max_side": "512"}, for pydantic to convert; only what is given. Exits
    like argparse for an unknown flag, and for --help.
    """
    fields = {f"--{key.replace('_', '-')}": info for key, info in download.model_fields.items()}
    required = [f"{flag} {_metavar(flag, i)}" for flag, i in fields.items() if i.is_required()]
    parser = argparse.ArgumentParser(
        prog=f"edge-glass download {name}",
        usage=" ".join(["%(prog)s", *required, "[options]"]),
        description=inspect.getdoc(download),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,  # --row would be --rows, and --r an error once there is --retry
    )
    for flag, info in fields.items():
        switch = info.annotation is bool
        kind = {"action": "store_true"} if switch else {"metavar": _metavar(flag, info)}
        parser.add_argument(flag, help=_help(info), required=info.is_required(), **kind)
    return vars(parser.parse_args(arguments))


def _metavar(flag: str, info: FieldInfo) -> str:
    types = types_of(info.annotation)
    if choices := [choice for t in types if get_origin(t) is Literal for choice in get_args(t)]:
        return "|".join(choices)
    if Path in types:
        return "DIR" if flag == "--out" else "PATH"
    return "N" if {int, float} & {t for t in types if isinstance(t, type)} else "TEXT"


def _help(info: FieldInfo) -> str:
    tells = not info.is_required() and info.default not in (None, False, "")
    default = f" (default {info.default})" if tells else ""
    return f"{info.description or ''}{default}".replace("%", "%%")

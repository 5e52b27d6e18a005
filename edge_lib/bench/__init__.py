"""Benchmarks against named rivals: `python -m edge_lib.bench NAME [--json]`.

A benchmark is a function named like its module, which returns a flat dict of numbers; its arguments
are sizes, with defaults. `comparisons` says what its names mean.
"""

import argparse
import json
from importlib import import_module

from edge_lib.bench.comparisons import comparisons
from edge_lib.config.bench import BENCHMARKS


def run(name: str) -> dict[str, float | str]:
    """The numbers of one benchmark, measured in this process."""
    import_module("edge_lib.bench.tools").limit_threads()
    return getattr(import_module(f"edge_lib.bench.{name}"), name)()


def format_table(result: dict[str, float | str]) -> str:
    """One row for each comparison with a rival, then the other numbers."""
    lines = [f"{'':34}{'rival':24}{'ours':>12}{'rival':>12}{'ratio':>9}"]
    shown = set()
    for row in comparisons(result):
        numbers = f"{row.ours:12.4g}{row.theirs:12.4g}{row.ratio:8.2f}x"
        lines.append(f"{row.metric:34}{row.rival:24}{numbers}")
        own = f"{row.metric}.{row.rival}"
        shown |= {f"{row.metric}.ours", own, f"{own}.ratio"}
    other = [f"{key:48}{_text(value):>12}" for key, value in result.items() if key not in shown]
    return "\n".join(lines + other)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def main(arguments: list[str] | None = None, prog: str = "python -m edge_lib.bench") -> None:
    """The command line; `arguments` default to the process's."""
    names = "\n".join(f"  {name:12} {summary}" for name, summary in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run a benchmark and print its numbers; ratio = rival / ours.",
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help="one of those below")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    options = parser.parse_args(arguments)
    result = run(options.name)
    print(format_table(result))
    if options.json:
        print(json.dumps(result))

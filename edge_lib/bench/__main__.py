"""The command line of `edge_lib.bench`."""

import argparse
import json
from collections.abc import Callable

import edge_lib.bench
from edge_lib.bench.matryoshka import matryoshka
from edge_lib.bench.perceiver import perceiver
from edge_lib.bench.retrieval import retrieval
from edge_lib.bench.store import store
from edge_lib.bench.trm import trm
from edge_lib.bench.vlm import vlm

BENCHMARKS: dict[str, Callable[[], dict[str, float]]] = {
    "matryoshka": matryoshka,
    "perceiver": perceiver,
    "retrieval": retrieval,
    "store": store,
    "trm": trm,
    "vlm": vlm,
}


def table(result: dict[str, float]) -> str:
    """Lines of `what rival ours theirs ratio`, then the numbers that stand alone."""
    lines = [f"{'':34}{'rival':24}{'ours':>12}{'theirs':>12}{'ratio':>9}"]
    shown = set()
    for key in result:
        if key.endswith(".ratio"):
            what, rival = key.removesuffix(".ratio").rsplit(".", 1)
            ours, theirs = result[f"{what}.ours"], result[f"{what}.{rival}"]
            lines.append(f"{what:34}{rival:24}{ours:12.4g}{theirs:12.4g}{result[key]:8.2f}x")
            shown |= {key, f"{what}.ours", f"{what}.{rival}"}
    alone = [f"{key:48}{value:12.4g}" for key, value in result.items() if key not in shown]
    return "\n".join(lines + alone)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m edge_lib.bench", description=edge_lib.bench.__doc__
    )
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--json", action="store_true", help="one flat JSON object as last line")
    options = parser.parse_args(arguments)
    result = BENCHMARKS[options.name]()
    print(table(result))
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

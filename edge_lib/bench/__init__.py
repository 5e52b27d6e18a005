"""Benchmarks against named rivals: `python -m edge_lib.bench NAME [--json]`.

A benchmark is a function without arguments, named like its module, that returns a flat dict of
numbers. `X.ours`, `X.RIVAL` and `X.RIVAL.ratio` (rival / ours) are printed as one row.
"""

import argparse
import json
from importlib import import_module

BENCHMARKS = {  # modules, imported only when run
    "chats": "tokenising 665,000 conversations with all cores, and opening them again",
    "download": "8,000 URLs of a local server, beside img2dataset: time, memory by rows",
    "export": "exported graphs, in 8 bits too, against torch: cosines, recall, size and time",
    "gpu": "one GPU: training, loss, a 7B language model, recursive decoder, search",
    "lance": "exact search in memory against LanceDB's IVF-PQ on disk: recall, time, bytes",
    "matryoshka": "one-pass Matryoshka loss against a loss per size: time, memory, error",
    "maxsim": "late interaction: loss in chunks and two-stage search: time, memory, recall",
    "perceiver": "poolers against self-attention over all tokens: time and memory by length",
    "retrieval": "Matryoshka search of 262,144 embeddings against faiss: time, recall, memory",
    "serve": "32 clients of a server beside FastAPI and a lock: time, /health, first tokens",
    "store": "training steps from the feature store against encoding in every step",
    "sweep": "27 tiny points, forked, against processes that import: time, same metrics",
    "table": "tables of millions of rows: opening, batches, steps and skips: time and memory",
    "trm": "recursive decoder: generation with a cache against generation without",
    "vlm": "language model with a cached image prefix, and its head: time and memory",
}


def run(name: str) -> dict[str, float | str]:
    """The numbers of one benchmark."""
    return getattr(import_module(f"edge_lib.bench.{name}"), name)()


def format_table(result: dict[str, float | str]) -> str:
    """One row for each comparison with a rival, then the other numbers."""
    lines = [f"{'':34}{'rival':24}{'ours':>12}{'rival':>12}{'ratio':>9}"]
    shown = set()
    for key in result:
        if key.endswith(".ratio"):
            metric, rival = key.removesuffix(".ratio").rsplit(".", 1)
            ours, theirs = result[f"{metric}.ours"], result[f"{metric}.{rival}"]
            lines.append(f"{metric:34}{rival:24}{ours:12.4g}{theirs:12.4g}{result[key]:8.2f}x")
            shown |= {key, f"{metric}.ours", f"{metric}.{rival}"}
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

"""One GPU, part by part: `python -m edge_lib.bench gpu --json`.

Each part runs in a process of its own: one that fails or runs out of memory leaves its error in the
result, and the others whole. Its numbers are printed as a line of JSON when it ends.
"""

import json
from importlib import import_module
from time import perf_counter

import torch

from edge_lib.bench.tools import in_new_process
from edge_lib.training.timing import seconds

# name -> module of this package, function in it, its arguments
PARTS = {
    "card": ("gpu", "card"),
    "align": ("store", "store"),
    "loss": ("matryoshka", "large_batches"),
    "language_bf16": ("vlm", "large_model", None),
    "language_nf4": ("vlm", "large_model", "4bit"),
    "decoder": ("trm", "at_widths", (512, 1024)),
    "search": ("retrieval", "against_brute_force"),
}


def gpu() -> dict[str, float | str]:
    """The numbers of all parts, each under the part's name."""
    if not torch.cuda.is_available():
        raise SystemExit("bench gpu needs a CUDA device")
    result = {}
    for name, target in PARTS.items():
        numbers = {f"{name}.{key}": value for key, value in part_numbers(*target).items()}
        print(json.dumps(numbers), flush=True)
        result |= numbers
    return result


def part_numbers(*target) -> dict[str, float | str]:
    """Numbers of a part and the seconds it took, or its error."""
    start = perf_counter()
    try:
        numbers = in_new_process(_run, *target)
    except Exception as error:  # out of memory, a missing package: the other parts still count
        numbers = {"error": f"{type(error).__name__}: {error}"}
    return numbers | {"seconds.total": perf_counter() - start}


def _run(module: str, function: str, *args) -> dict[str, float | str]:
    """Imports the module only now, so that a missing package fails one part."""
    return getattr(import_module(f"edge_lib.bench.{module}"), function)(*args)


def card(size: int = 8192) -> dict[str, float | str]:
    """The device, and its speed in a bf16 product and in copies: what the other parts can reach."""
    x, y = torch.randn(2, size, size, device="cuda", dtype=torch.bfloat16)
    buffer = torch.empty(2, 2**30, device="cuda", dtype=torch.uint8)
    product = min(seconds(lambda: x @ y) for _ in range(10))
    copy = min(seconds(lambda: buffer[0].copy_(buffer[1])) for _ in range(10))
    return {
        "name": torch.cuda.get_device_name(),
        "memory_gb": torch.cuda.get_device_properties(0).total_memory / 1e9,
        "torch": torch.__version__,
        "bf16_tflops": 2 * size**3 / product / 1e12,
        "copy_gb_per_s": 2 * buffer[0].numel() / copy / 1e9,
    }

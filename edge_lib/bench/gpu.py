"""One GPU, part by part: `python -m edge_lib.bench gpu --json`.

Each part runs in a process of its own: one that fails, runs out of memory or takes longer than
`timeout` leaves its error in the result, and the others whole. Its numbers are printed as a line of
JSON when it ends.
"""

import json

import torch

from edge_lib.bench.tools import measure_apart
from edge_lib.training.timing import seconds

# name -> module of this package, function in it, its arguments
PARTS = {
    "card": ("gpu", "card"),
    "align": ("store", "store", 3),
    "loss": ("matryoshka", "large_batches"),
    "language_bf16": ("vlm", "large_model", None),
    "language_nf4": ("vlm", "large_model", "4bit"),
    "decoder": ("trm", "at_widths", (512, 1024)),
    "search": ("retrieval", "against_brute_force"),
}


def gpu(timeout: float = 180) -> dict[str, float | str]:
    """The numbers of all parts, each under the part's name. timeout: seconds of a part."""
    if not torch.cuda.is_available():
        raise SystemExit("bench gpu needs a CUDA device")
    result = {}
    for name, target in PARTS.items():
        measured = measure_apart(*target, timeout=timeout)
        numbers = {f"{name}.{key}": value for key, value in measured.items()}
        print(json.dumps(numbers), flush=True)
        result |= numbers
    return result


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

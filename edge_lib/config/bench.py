"""Benchmarks, and which of them notebook 09 runs."""

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, model_validator

from edge_lib.config.base import Section
from edge_lib.config.registry import one_of

BENCHMARKS = {  # modules of edge_lib.bench, imported only when run
    "align": "the experiment of make align until R@1 0.9, beside sentence-transformers' trainer",
    "chats": "tokenising 665,000 conversations with all cores, and opening them again",
    "download": "8,000 URLs of a local server, beside img2dataset: time, memory by rows",
    "encoders": "extraction beside sentence-transformers, transformers, open_clip; its limit",
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


class BenchConfig(Section):
    """Benchmarks that are run one after the other, each in a process of its own."""

    benchmarks: dict[Annotated[str, one_of(BENCHMARKS)], dict[str, Any] | None] = Field(
        description="name -> arguments of its function; null: not run"
    )
    timeout: PositiveFloat = Field(600, description="seconds of each benchmark")

    @model_validator(mode="after")
    def _some_are_run(self):
        if not self.chosen:
            raise ValueError("benchmarks names none to run")
        return self

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """The benchmarks that are run, with their arguments."""
        return {name: own for name, own in self.benchmarks.items() if own is not None}

"""What /metrics counts, for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The collectors of one app, in a registry of its own, so that a process may hold several."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._add_requests()
        self._add_batches()
        self._add_tokens()

    def _new(self, kind: type, name: str, text: str, *labels: str, **options):
        return kind(f"edge_glass_{name}", text, labels, registry=self.registry, **options)

    def _add_requests(self) -> None:
        new, route = self._new, ("route", "method", "status")
        self.requests = new(Counter, "requests", "Requests that were answered.", *route)
        text = "Seconds to the end of an answer."
        self.latency = new(Histogram, "request_seconds", text, "route", buckets=SECONDS)
        self.running = new(Gauge, "running_requests", "Requests under way.")
        self.ready = new(Gauge, "ready", "1 when the model is loaded.")
        self.refused = new(Counter, "refused", "Pictures or sounds that were refused.", "kind")

    def _add_batches(self) -> None:
        new = self._new
        self.queue = new(Gauge, "queue", "Prompts or items that wait for a batch.", "queue")
        text = "Prompts or items of a batch."
        self.batch_rows = new(Histogram, "batch_rows", text, "queue", buckets=ROWS)

    def _add_tokens(self) -> None:
        new = self._new
        text = "Seconds to the first token."
        self.first_token = new(Histogram, "first_token_seconds", text, buckets=SECONDS)
        self.prompt_tokens = new(Counter, "prompt_tokens", "Tokens of prompts.")
        self.generated_tokens = new(Counter, "generated_tokens", "Tokens of answers.")
        text = "Look-ups of soft tokens: hit or miss."
        self.prefix_cache = new(Counter, "prefix_cache", text, "result")
        self.prefix_cache_bytes = new(Gauge, "prefix_cache_bytes", "Memory of soft tokens.")

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)

"""The model behind the routes: what it can do, loaded from a run, a name or an export."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lib.runs.files import absolute_path
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

if TYPE_CHECKING:  # torch takes seconds to import
    from edge_lib.serving.embedding import EmbedQueue
    from edge_lib.serving.generation.request import Generator
    from edge_lib.serving.index import SearchIndex


@dataclass
class Service:
    """What the routes use. A part that the model does not have is None."""

    name: str
    settings: ServeSettings
    metrics: Metrics
    generator: "Generator | None" = None
    embedder: "EmbedQueue | None" = None
    index: "SearchIndex | None" = None

    def start(self) -> None:
        """Start the queues; called in the event loop."""
        for queue in self._queues():
            queue.start()
        self.metrics.ready.set(1)

    async def stop(self) -> None:
        """Finish what runs."""
        self.metrics.ready.set(0)
        for queue in self._queues():
            await queue.stop()

    def _queues(self) -> list:
        return [queue for queue in (self.generator, self.embedder) if queue]


def load_service(run: str, settings: ServeSettings, metrics: Metrics) -> Service:
    """Load what `run` names: a run, a saved model, an export, or a model that ships or lies on the
    Hub. ConfigError if there is none, or if another model embedded the index.
    """
    service = Service(settings.name or _name(run), settings, metrics)
    if (absolute_path(run) / "onnx").is_dir():
        _add_export(service, absolute_path(run))
    else:
        _add_model(service, run)
    if settings.index:
        _add_index(service, settings.index)
    return service


def _name(run: str) -> str:
    """The last part of a folder or of a name, such as 06_vlm-tiny-1a2b3c4d."""
    path = absolute_path(run)
    return path.resolve().name if path.exists() else run


def _add_export(service: Service, folder: Path) -> None:
    from edge_lib.serving.embedding import EmbedQueue
    from edge_lib.serving.onnx_embedder import OnnxEmbedder

    embedder = OnnxEmbedder(folder)
    service.embedder = EmbedQueue(embedder, service.settings, service.metrics)


def _add_model(service: Service, run: str) -> None:
    from edge_lib.export.loading import load_model
    from edge_lib.models.aligner import Aligner
    from edge_lib.models.qa import QAModel
    from edge_lib.serving.embedding import EmbedQueue, TorchEmbedder
    from edge_lib.serving.generation.qa import QAEngine
    from edge_lib.serving.generation.vlm import VLMEngine
    from edge_lib.training.device import local_device

    model, parts = load_model(run).to(local_device()), (service.settings, service.metrics)
    if isinstance(model, Aligner):
        aligner = model
    elif isinstance(model, QAModel):
        aligner, service.generator = model.aligner, QAEngine(model, *parts)
    else:
        aligner, service.generator = model.prefix_sources.aligner, VLMEngine(model, *parts)
    service.embedder = EmbedQueue(TorchEmbedder(aligner), *parts)


def _add_index(service: Service, path: Path) -> None:
    from edge_lib.serving.index import SearchIndex

    service.index = SearchIndex(path)
    service.index.check_model(service.embedder.model_sha256)

"""The model behind the routes: what it can do, loaded from a run, a name or an export."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_lib.config.vlm import STAGES
from edge_lib.runs.files import absolute_path
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

if TYPE_CHECKING:  # torch takes seconds to import
    from edge_lib.serving.embedding import EmbedQueue
    from edge_lib.serving.generation.request import Generator
    from edge_lib.serving.index import SearchIndex


INSIDE_A_RUN = {*STAGES, "checkpoints", "best"}  # folders whose names tell nothing


@dataclass
class Service:
    """What the routes use. Every model embeds; some generate."""

    name: str
    settings: ServeSettings
    metrics: Metrics
    embedder: "EmbedQueue"
    generator: "Generator | None" = None
    index: "SearchIndex | None" = None

    def start(self) -> None:
        """Start the queues; called in the event loop."""
        self.embedder.start()
        if self.generator:
            self.generator.start()
        self.metrics.ready.set(1)

    async def stop(self) -> None:
        """Finish what runs."""
        self.metrics.ready.set(0)
        if self.generator:
            await self.generator.stop()
        await self.embedder.stop()


def load_service(run: str, settings: ServeSettings, metrics: Metrics) -> Service:
    """Load what `run` names: a run, a saved model, an export, or a model that ships or lies on the
    Hub. ConfigError if there is none, or if another model embedded the index.
    """
    is_export = (absolute_path(run) / "onnx").is_dir()
    embedder, generator = (_load_export if is_export else _load_model)(run, settings, metrics)
    name = settings.name or _name(run)
    service = Service(name, settings, metrics, embedder, generator)
    if settings.index:
        from edge_lib.serving.index import SearchIndex

        index = SearchIndex(settings.index, embedder.dims)
        index.check_model(embedder.model_sha256)
        service.index = index
    return service


def _name(run: str) -> str:
    """That of the run's folder, such as 06_vlm-tiny-1a2b3c4d, or of a model on the Hub."""
    path = absolute_path(run).resolve()
    if not path.exists():
        return run
    return next(p.name for p in (path, *path.parents) if p.name not in INSIDE_A_RUN)


def _load_export(run: str, *parts: ServeSettings | Metrics) -> "tuple[EmbedQueue, None]":
    from edge_lib.serving.embedding import EmbedQueue
    from edge_lib.serving.onnx_embedder import OnnxEmbedder

    return EmbedQueue(OnnxEmbedder(absolute_path(run)), *parts), None


def _load_model(run: str, *parts: ServeSettings | Metrics) -> "tuple[EmbedQueue, Generator | None]":
    from edge_lib.export.loading import aligner_of, load_model
    from edge_lib.models.aligner import Aligner
    from edge_lib.models.qa import QAModel
    from edge_lib.serving.embedding import EmbedQueue, TorchEmbedder
    from edge_lib.serving.generation.qa import QAEngine
    from edge_lib.serving.generation.vlm import VLMEngine
    from edge_lib.training.device import local_device

    model = load_model(run).to(local_device())
    embedder = EmbedQueue(TorchEmbedder(aligner_of(model)), *parts)
    if isinstance(model, Aligner):
        return embedder, None
    return embedder, (QAEngine if isinstance(model, QAModel) else VLMEngine)(model, *parts)

"""A small VLM with random weights, whose answers are long and of any bytes, and its engine."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import torch

from edge_lib.config import ModalityConfig, VLMModelConfig
from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.models import Aligner
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.vlm import VLM
from edge_lib.serving.generation.vlm import VLMEngine
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings


@pytest.fixture(scope="session")
def aligner(tiny_vision, tiny_audio):
    encoders = {"vision": tiny_vision, "audio": tiny_audio}
    modalities = {
        name: ModalityConfig(encoder=str(folder), pooler="perceiver", num_latents=3, width=16)
        for name, folder in encoders.items()
    }
    torch.manual_seed(0)
    return Aligner(modalities, [16, 8], dict.fromkeys(modalities, (16, 16))).eval()


@pytest.fixture(scope="session")
def make_vlm(aligner, language_folder):
    """make_vlm(key=value) -> an untrained VLM, by default of images and clips."""
    single = EncoderOutput(torch.zeros(1, 4, 16), torch.ones(1, 4).bool(), torch.zeros(1, 16))
    fused = MultimodalOutput({"vision": single, "audio": single})

    def make(model=aligner, language=None, **keys):
        language = {"model": str(language_folder)} | (language or {})
        sources = {"prefix_sources": {"image": "vision", "audio": "audio"}}
        config = VLMModelConfig(language=language, **{"max_new_tokens": 12} | sources | keys)
        names = config.prefix_sources.items()
        examples = {name: fused if source == "fused" else single for name, source in names}
        torch.manual_seed(1)
        return VLM.new(PrefixSources(model), config, examples).eval()

    return make


@pytest.fixture(scope="session")
def vlm(make_vlm):
    return make_vlm()


@asynccontextmanager
async def running(engine):
    """An engine that is started, and stopped at the end."""
    engine.start()
    yield engine
    await asyncio.wait_for(engine.stop(), 30)


@pytest.fixture
def serve():
    """serve(make_engine, use) runs the coroutine function `use` on an engine."""

    def serve(engine, use):
        async def main():
            async with running(engine):
                return await use(engine)

        return asyncio.run(asyncio.wait_for(main(), 60))

    return serve


@pytest.fixture
def make_engine(vlm):
    """make_engine(setting=value) -> a VLMEngine."""
    return lambda model=vlm, **settings: VLMEngine(model, ServeSettings(**settings), Metrics())

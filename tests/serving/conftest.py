"""A running server of fakes; a small aligner of three modalities and its exported folder."""

import httpx
import openai
import pytest
import torch
from audio_helpers import encode, sine
from fastapi.testclient import TestClient
from serving.fakes import LOCAL, app_of, fake_service
from serving.live import live_server
from serving.waiting import until

from edge_lib.config import ModalityConfig
from edge_lib.export.folder import export_model
from edge_lib.models import Aligner


@pytest.fixture(scope="session")
def service():
    """Shared: tests read its answers and leave it as it is."""
    return fake_service()


@pytest.fixture(scope="session")
def url(service):
    with live_server(service) as url:
        yield url


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def api(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
        yield api


@pytest.fixture
def open_client():
    """Opens an app; waits until it is ready."""

    def open_app(service=None, **settings):
        client = TestClient(app_of(service, **settings), base_url=LOCAL)
        client.__enter__()
        clients.append(client)
        until(lambda: client.app.state.service)
        return client

    clients = []
    yield open_app
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def clip():
    """A WAV file of a tenth of a second."""
    return encode(sine(0.1, 16000), 16000)


@pytest.fixture(scope="session")
def aligner(tiny_vision, tiny_audio, tiny_text, tmp_path_factory):
    """Saved, so that it has a digest."""
    encoders = {"vision": tiny_vision, "audio": tiny_audio, "text": tiny_text}
    modalities = {
        name: ModalityConfig(
            encoder=str(folder), pooler="tokens" if name == "text" else "attention", width=16
        )
        for name, folder in encoders.items()
    }
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("aligner")
    Aligner(modalities, [16, 8], dict.fromkeys(modalities, (16, 16))).save_pretrained(folder)
    return Aligner.from_pretrained(folder)


@pytest.fixture(scope="session")
def exported(aligner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(aligner, folder)
    return folder

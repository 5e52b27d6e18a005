"""Loading a service: every kind of model, from every place."""

from base64 import b64decode

import numpy as np
import pyarrow as pa
import pytest
import torch
from fastapi.testclient import TestClient
from serving.waiting import until

from edge_lib.__main__ import main
from edge_lib.config import ConfigError, DecoderConfig
from edge_lib.data.image import decode_image
from edge_lib.data.vocabulary import Vocabulary
from edge_lib.experiments.embed import EmbeddingColumns
from edge_lib.models import Aligner, QAModel
from edge_lib.serving.app import create_app
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.schemas.examples import PICTURE
from edge_lib.serving.service import load_service
from edge_lib.serving.settings import ServeSettings

TEXTS = {"texts": ["where is the red three", "a"], "images": PICTURE}


def load(folder, **settings):
    return load_service(str(folder), ServeSettings(**settings), Metrics())


def ask(service, path, body):
    app = create_app(lambda: service, service.settings, service.metrics)
    with TestClient(app, base_url="http://localhost") as client:
        until(lambda: app.state.service)
        response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_aligner_embeds_as_in_python(aligner):
    answer = ask(load(aligner.source), "/embed", TEXTS | {"normalize": False})
    expected = aligner.embed("text", TEXTS["texts"]).tolist()
    np.testing.assert_allclose(answer["texts"], expected, rtol=0, atol=1e-5)


def test_export_embeds_as_the_model_that_it_comes_from(aligner, exported):
    service = load(exported)
    assert type(service.embedder._embedder).__name__ == "OnnxEmbedder"
    answer, expected = (ask(served, "/embed", TEXTS) for served in (service, load(aligner.source)))
    for kind in ("texts", "images"):
        np.testing.assert_allclose(answer[kind], expected[kind], rtol=0, atol=1e-4)


def test_question_answerer_answers_as_in_python(aligner, tmp_path):
    torch.manual_seed(0)
    vocabulary = Vocabulary.learn(["where is the red three?"], 60)
    config = DecoderConfig(width=16, heads=2)
    model = QAModel(aligner, "plain", config, vocabulary).eval()
    torch.nn.init.normal_(model.decoder.head.weight)
    model.save_pretrained(tmp_path / "qa")
    service = load(tmp_path / "qa")
    body = {"prompt": "where is it?", "images": PICTURE}
    [choice] = ask(service, "/generate", body)["choices"]
    image = decode_image(b64decode(PICTURE.partition(",")[2]))
    assert choice["text"] == model.answer(image, "where is it?")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("06_vlm-tiny-1a2b", "06_vlm-tiny-1a2b"),
        ("06_vlm-tiny-1a2b/lora/checkpoints/best", "06_vlm-tiny-1a2b"),
        ("01_align-tiny-1a2b/checkpoints/best", "01_align-tiny-1a2b"),
    ],
    ids=["run", "stage", "checkpoint"],
)
def test_model_is_named_after_its_run(aligner, tmp_path, folder, name):
    saved = tmp_path / folder
    saved = saved if saved.name == "best" else saved / "checkpoints/best"
    aligner.save_pretrained(saved)
    assert load(tmp_path / folder).name == name
    assert load(tmp_path / folder, name="mine").name == "mine"


def write_index(path, aligner):
    """One picture, as `edge-glass embed` writes it."""
    columns = EmbeddingColumns([16], "float16")
    row = {"id": "a", "split": "train", "row": 0, "modality": "vision", "text": None, "path": None}
    with columns.open(path, aligner) as writer:
        arrays = columns.arrays(torch.ones(1, 16))
        values = {name: [value] for name, value in row.items()}
        writer.write_table(pa.table(values | arrays, columns.schema))
    return path


def test_index_of_the_model_is_searched(aligner, tmp_path):
    service = load(aligner.source, index=write_index(tmp_path / "index.parquet", aligner))
    [hit] = ask(service, "/search", {"images": PICTURE, "dim": 8})["hits"]
    assert (hit["row"], hit["modality"]) == (0, "vision")


def test_index_of_another_model_is_refused(aligner, exported, tmp_path):
    other = Aligner.from_pretrained("tiny-align")
    path = write_index(tmp_path / "index.parquet", other)
    for folder in (aligner.source, exported):
        with pytest.raises(ConfigError, match="embedded by another model"):
            load(folder, index=path)


def test_missing_model_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no saved model"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'tiny-align'"):
        load("tiny-algn")


def test_serve_names_packages_to_install(monkeypatch, capsys):
    monkeypatch.setattr("edge_lib.config.packages.find_spec", lambda name: name != "uvicorn")
    assert main(["serve", "tiny-align"]) == 2
    assert capsys.readouterr().err == "serve needs uvicorn; install edge-glass[serve]\n"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--port", "x"], "serve: port: Input should be a valid integer"),
        (["--max-batch", "0"], "serve: max_batch: Input should be greater than 0 (got '0')"),
        (["--api-key", ""], "serve: api_key"),
    ],
    ids=["port", "batch", "key"],
)
def test_wrong_flag_is_one_line(flags, line, capsys):
    assert main(["serve", "tiny-align", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1


def test_key_may_come_from_the_environment(monkeypatch):
    given = []
    serve = lambda run, settings: given.append(settings)  # noqa: E731
    monkeypatch.setattr("edge_lib.serving.server.serve", serve)
    monkeypatch.setenv("EDGE_GLASS_API_KEY", "sesame")
    assert main(["serve", "a"]) == 0
    assert main(["serve", "b", "--api-key", "other"]) == 0
    assert [settings.api_key.get_secret_value() for settings in given] == ["sesame", "other"]
    assert "sesame" not in repr(given)

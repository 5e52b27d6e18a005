"""What the benchmark of the server sends and sums up; its rival."""

import base64
import io

import pytest
from PIL import Image
from starlette.testclient import TestClient

from edge_lib.bench.plain_server import create_app
from edge_lib.bench.serve import Questions, summary


def image_of(body):
    (uri,) = body["images"]
    return base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))


def test_questions_have_a_picture_of_their_own_each():
    questions = Questions()
    files = [image_of(next(questions)) for _ in range(200)]
    assert len({*files}) == 200
    sizes = {Image.open(io.BytesIO(file)).convert("RGB").size for file in files}
    assert sizes == {(256, 256)}


def test_summary_compares_many_clients_with_one():
    spent = {"one": {"ours": [0.3, 0.2], "plain": [0.2]}, "many": {"ours": [0.05], "plain": [0.1]}}
    result = summary(spent, [0.1] * 19 + [0.9], [0.01, 0.03])
    assert (result["gain.ours"], result["gain.plain"]) == pytest.approx((5, 2))
    assert result["seconds.latency.median"] == 0.1
    assert result["latency.p95_by_median"] == pytest.approx(8.6)
    assert result["seconds.health.max"] == 0.03


class Model:
    def generate(self, prompt, images, max_new_tokens):
        return f"{prompt} {[image.size for image in images]} {max_new_tokens}"


def test_plain_server_answers_as_the_model_does():
    body = next(Questions())
    with TestClient(create_app(Model())) as client:
        answer = client.post("/generate", json=body).json()
        assert client.get("/ready").is_success
    assert answer == {"choices": [{"text": "Describe the image. [(256, 256)] 32"}]}

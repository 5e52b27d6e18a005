"""/v1/embeddings, through OpenAI's own client."""

import httpx
import numpy as np
import openai
import pytest

from edge_lib.serving.schemas.examples import PICTURE

PICTURE_PART = {"type": "image_url", "image_url": {"url": PICTURE}}


def test_embeddings_are_the_same_in_both_encodings(api):
    inputs = ["abc", "abcdef"]
    expected = np.array([[3, 1, 2, 3], [6, 1, 2, 3]], np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    numbers = api.embeddings.create(model="tiny", input=inputs, encoding_format="float").data
    default = api.embeddings.create(model="tiny", input=inputs).data
    for data in (numbers, default):
        np.testing.assert_allclose([item.embedding for item in data], expected, rtol=1e-6)
        assert [item.index for item in data] == [0, 1]


def test_embeddings_of_a_size_are_its_first_columns_of_unit_length(api):
    [item] = api.embeddings.create(model="tiny", input="abc", dimensions=2).data
    np.testing.assert_allclose(item.embedding, np.array([3, 1]) / np.sqrt(10), rtol=1e-6)
    with pytest.raises(openai.BadRequestError, match="one of 2, 4, not 3") as caught:
        api.embeddings.create(model="tiny", input="abc", dimensions=3)
    assert caught.value.param == "dimensions"


def test_embeddings_take_pictures_among_texts(url):
    body = {"input": ["abc", PICTURE_PART, "abcdef"], "dimensions": 4}
    data = httpx.post(f"{url}/v1/embeddings", json=body).json()["data"]
    raw = np.array([[3, 1, 2, 3], [220, 30, 30, 1], [6, 1, 2, 3]], float)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose([item["embedding"] for item in data], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "param"),
    [([], "input"), ("", "input.0"), ([" "], "input.0"), ([[1, 2]], "input"), (None, "input")],
    ids=["none", "empty", "blank", "tokens", "null"],
)
def test_embeddings_refuse_other_input(url, value, param):
    response = httpx.post(f"{url}/v1/embeddings", json={"input": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("value", [[1, 2], [[1, 2], [3]]], ids=["one", "several"])
def test_embeddings_say_that_token_ids_are_no_texts(url, value):
    response = httpx.post(f"{url}/v1/embeddings", json={"input": value})
    assert response.status_code == 400
    assert "not token ids" in response.json()["error"]["message"]


def test_embeddings_count_the_tokens_of_texts(api, url):
    usage = api.embeddings.create(model="tiny", input=["a red three", "one"]).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (4, 4)
    body = {"input": [PICTURE_PART, "a red three"]}
    usage = httpx.post(f"{url}/v1/embeddings", json=body).json()["usage"]
    assert usage == {"prompt_tokens": 3, "total_tokens": 3}
    usage = httpx.post(f"{url}/v1/embeddings", json={"input": [PICTURE_PART]}).json()["usage"]
    assert usage == {"prompt_tokens": 0, "total_tokens": 0}

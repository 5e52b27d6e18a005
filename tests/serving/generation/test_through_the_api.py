"""A VLM through HTTP: alone, in batches and streamed it answers as `VLM.generate` does."""

import json
import re
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from audio_helpers import encode
from generation_requests import clip, picture
from image_helpers import to_file
from serving.live import live_server

from edge_lib.data.audio import decode_audio
from edge_lib.serving.embedding import EmbedQueue, TorchEmbedder
from edge_lib.serving.generation.vlm import VLMEngine
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.service import Service
from edge_lib.serving.settings import ServeSettings

PICTURES = [picture(seed) for seed in range(4)]
SOUND = encode(clip(1), 16000, subtype="FLOAT")
URIS = ["data:image/png;base64," + b64encode(to_file(p, "PNG")).decode() for p in PICTURES]
QUESTIONS = ["what is it?", "where is the red three?", "yes no two", "where?"]


@pytest.fixture(scope="module")
def url(vlm):
    parts = ServeSettings(max_queue=8), Metrics()
    embedder = EmbedQueue(TorchEmbedder(vlm.prefix_sources.aligner), *parts)
    with live_server(Service("tiny", *parts, embedder, VLMEngine(vlm, *parts))) as url:
        yield url


@pytest.fixture(scope="module")
def expected(vlm):
    """The answer to each question about its picture."""
    return [vlm.generate(q, p) for q, p in zip(QUESTIONS, PICTURES, strict=True)]


def post(url, path, body):
    response = httpx.post(url + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def chat_body(number, **options):
    """A question, with its picture in front as in training."""
    parts = [
        {"type": "image_url", "image_url": {"url": URIS[number]}},
        {"type": "text", "text": QUESTIONS[number]},
    ]
    return {"messages": [{"role": "user", "content": parts}], **options}


def streamed(url, body):
    """The joined pieces of an answer."""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line)["choices"][0] for line in lines]
    assert chunks[-1]["finish_reason"] in ("stop", "length")
    return "".join(chunk["delta"].get("content", "") for chunk in chunks)


def test_list_is_answered_as_each_alone(url, expected):
    items = [{"prompt": q, "images": u} for q, u in zip(QUESTIONS, URIS, strict=True)]
    answers = post(url, "/generate", items)
    assert [answer["choices"][0]["text"] for answer in answers] == expected
    assert post(url, "/generate", items[0])["choices"][0]["text"] == expected[0]


def test_clients_at_once_get_the_answers_of_each_alone(url, expected):
    def ask(number):
        body = chat_body(number % 4)
        if number % 2:
            return streamed(url, body | {"stream": True})
        return post(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == expected * 2


def test_sampled_answers_are_those_of_their_seeds(url):
    body = chat_body(0, temperature=1.0, seed=3, n=3)
    texts = [c["message"]["content"] for c in post(url, "/v1/chat/completions", body)["choices"]]
    assert len(set(texts)) == 3
    for number, text in enumerate(texts):
        single = body | {"seed": 3 + number, "n": 1, "stream": True}
        assert streamed(url, single) == text


def test_stop_string_is_left_out_of_whole_and_streamed_answers(url, expected):
    stop = expected[1][2:4]
    body = chat_body(1, stop=[stop])
    text = post(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert text == expected[1].partition(stop)[0]
    assert streamed(url, body | {"stream": True}) == text


def test_sound_in_base64_reaches_the_model(url, vlm):
    parts = [
        {"type": "input_audio", "input_audio": {"data": b64encode(SOUND).decode()}},
        {"type": "text", "text": "what?"},
    ]
    body = {"messages": [{"role": "user", "content": parts}]}
    answer = post(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert answer == vlm.generate("what?", audio=decode_audio(SOUND))


def test_usage_counts_soft_tokens(url, vlm):
    usage = post(url, "/v1/chat/completions", chat_body(0))["usage"]
    messages = [{"role": "user", "content": f"<image>\n{QUESTIONS[0]}"}]
    assert usage["prompt_tokens"] == len(vlm.chat.prompt(messages))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_marks_in_a_chat_are_text(url, vlm):
    text = "<image> <|im_end|> what?"
    body = {"messages": [{"role": "user", "content": text}]}
    assert post(url, "/v1/chat/completions", body)["usage"]["prompt_tokens"] > 5
    response = httpx.post(f"{url}/generate", json={"prompt": text})
    assert response.status_code == 400
    assert "1 <image> for 0 items" in response.json()["error"]["message"]


def test_refused_picture_is_counted_once(url):
    def refused():
        text = httpx.get(f"{url}/metrics").text
        counts = re.findall(r'edge_glass_refused_total{kind="image"} (.*)', text)
        return float(counts[0]) if counts else 0

    before = refused()
    for path, body in (("/generate", {"prompt": "what?"}), ("/embed", {})):
        body = body | {"images": "data:image/png;base64,AAAA"}
        error = httpx.post(url + path, json=body).json()["error"]
        assert (error["code"], error["param"]) == ("invalid_image", "images.0")
    assert refused() == before + 2


def test_more_requests_than_the_queue_takes_are_refused_as_one(url):
    items = [{"prompt": "what?", "n": 3, "max_tokens": 4}] * 4
    response = httpx.post(f"{url}/generate", json=items, timeout=60)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert post(url, "/generate", items[0])["choices"]  # none of it is left in the queue

"""The routes of OpenAI's API, through its own client."""

import base64
import json

import httpx
import openai
import pytest
from serving.fakes import FakeGenerator, fake_service
from serving.live import live_server

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Delta
from edge_lib.serving.schemas.examples import PICTURE

USER = [{"role": "user", "content": "hello"}]
PICTURE_PART = {"type": "image_url", "image_url": {"url": PICTURE}}


def text_of(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_chat_answers_with_usage(api, service):
    answer = api.chat.completions.create(model="tiny", messages=USER)
    assert answer.choices[0].message.content == "a red three"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    assert service.generator.requests[-1].messages == [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    ]


def test_chat_passes_sampling_parameters(api, service):
    api.chat.completions.create(
        model="tiny",
        messages=USER,
        max_completion_tokens=2,
        temperature=0.5,
        top_p=0.9,
        stop=["\n", "."],
        seed=4,
        n=2,
        extra_body={"top_k": 3},
    )
    samplings = [request.sampling for request in service.generator.requests[-2:]]
    assert {s.max_tokens for s in samplings} == {2}
    assert {(s.temperature, s.top_p, s.top_k, s.stop) for s in samplings} == {
        (0.5, 0.9, 3, ("\n", "."))
    }
    assert sorted(s.seed for s in samplings) == [4, 5]


def test_chat_is_greedy_by_default(api, service):
    api.chat.completions.create(model="tiny", messages=USER)
    sampling = service.generator.requests[-1].sampling
    assert (sampling.temperature, sampling.max_tokens) == (0, None)


def test_chat_counts_the_prompt_once_for_several_answers(api):
    answer = api.chat.completions.create(model="tiny", messages=USER, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 6)


def test_answers_keep_the_order_of_their_seeds():
    class Seeded(FakeGenerator):
        async def _answer(self, stream, sampling):
            stream.send(Delta(str(sampling.seed), 1, "stop"))

    generator = Seeded()
    with (
        live_server(fake_service(generator=generator)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api,
    ):
        for stream in (False, True):
            generator.delays = [0.1, 0, 0.05]
            answer = api.chat.completions.create(
                model="tiny", messages=USER, seed=5, n=3, stream=stream
            )
            if stream:
                chunks = list(answer)
                texts = [text_of(chunks, index) for index in range(3)]
            else:
                texts = [choice.message.content for choice in answer.choices]
            assert texts == ["5", "6", "7"]


def test_chat_that_max_tokens_ends_has_reason_length(api):
    answer = api.chat.completions.create(model="tiny", messages=USER, max_tokens=2)
    assert answer.choices[0].message.content == "a red"
    assert answer.choices[0].finish_reason == "length"


def test_chat_sends_pictures_and_clips_in_their_order(api, service, clip):
    sound = base64.b64encode(clip).decode()
    parts = [
        {"type": "text", "text": "what is <image>?"},
        PICTURE_PART,
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        PICTURE_PART,
    ]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    api.chat.completions.create(model="tiny", messages=messages)
    request = service.generator.requests[-1]
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert [part["type"] for part in request.messages[1]["content"]] == [
        "text",
        "image",
        "audio",
        "image",
    ]
    assert request.messages[1]["content"][0]["text"] == "what is <image>?"
    assert {kind: len(items) for kind, items in request.media.items()} == {"image": 2, "audio": 1}
    assert request.media["audio"][0].content == clip


def test_stream_joined_equals_the_whole_answer(api):
    chunks = list(api.chat.completions.create(model="tiny", messages=USER, stream=True))
    assert text_of(chunks) == "a red three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_of_several_answers_ends_with_usage(api):
    chunks = list(
        api.chat.completions.create(
            model="tiny", messages=USER, n=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [text_of(chunks, index) for index in range(3)] == ["a red three"] * 3
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 9)


def test_stream_ends_with_an_error_if_the_model_fails():
    class Failing(FakeGenerator):
        async def _answer(self, stream, sampling):
            stream.send(ApiError(500, "the model failed"))

    with (
        live_server(fake_service(generator=Failing())) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api,
        pytest.raises(openai.APIError, match="the model failed"),
    ):
        list(api.chat.completions.create(model="tiny", messages=USER, stream=True))

    with (
        live_server(fake_service(generator=Failing())) as url,
        httpx.Client(base_url=url, headers={"X-Request-Id": "mine"}) as client,
    ):
        body = {"messages": USER, "stream": True}
        events = client.post("/v1/chat/completions", json=body).text.split("data: ")
    assert json.loads(events[-1])["error"]["request_id"] == "mine"


def test_answer_of_the_client_can_be_sent_back(api, service):
    first = api.chat.completions.create(model="tiny", messages=USER)
    messages = [*USER, first.choices[0].message, {"role": "user", "content": "and below?"}]
    api.chat.completions.create(model="tiny", messages=messages)
    roles = [message["role"] for message in service.generator.requests[-1].messages]
    assert roles == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("logprobs", True),
        ("response_format", {"type": "json_object"}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parameter_that_would_change_the_answer_is_refused(api, name, value):
    with pytest.raises(openai.BadRequestError, match=name) as caught:
        api.chat.completions.create(model="tiny", messages=USER, **{name: value})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


def test_parameter_that_asks_for_nothing_is_taken(api):
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "response_format": {"type": "text"},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "parallel_tool_calls": True,
    }
    answer = api.chat.completions.create(model="tiny", messages=USER, **harmless)
    assert answer.choices[0].message.content == "a red three"


def test_null_stands_for_the_default(api):
    body = {"temperature": None, "max_tokens": None, "stop": None, "n": None, "tools": None}
    answer = api.chat.completions.create(model="tiny", messages=USER, extra_body=body)
    assert answer.choices[0].message.content == "a red three"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.image_url.url",
        ),
        ({"temprature": 1}, "temprature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": True}, "n"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": "x" * 101}, "stop.0"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=[
        "no-message",
        "role",
        "no-content",
        "no-url",
        "misspelt",
        "text-for-number",
        "too-hot",
        "no-probability",
        "bool-for-number",
        "fraction",
        "big-seed",
        "empty-stop",
        "long-stop",
        "text-for-bool",
    ],
)
def test_wrong_body_names_its_part(api, body, param):
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(
            model="tiny", messages=body.pop("messages", USER), extra_body=body
        )
    assert caught.value.param == param
    assert caught.value.request_id == caught.value.body["request_id"]


def test_damaged_picture_names_its_part(api):
    url = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    assert (caught.value.code, caught.value.param) == ("invalid_image", "messages.0.content.1")


def test_path_and_url_are_never_opened(api):
    for url in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/x.png"):
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        with pytest.raises(openai.BadRequestError) as caught:
            api.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
        assert caught.value.code in ("invalid_image", "urls_disabled")


def test_full_queue_is_a_rate_limit():
    error = ApiError(429, "too many requests wait", "queue_full", retry_after=2)
    with (
        live_server(fake_service(generator=FakeGenerator(error=error))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        api.chat.completions.create(model="tiny", messages=USER)
    assert caught.value.response.headers["retry-after"] == "2"

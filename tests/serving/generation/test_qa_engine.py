"""The engine of a QA model: answers as `QAModel.answer` gives them, alone and in batches."""

import asyncio

import pytest
import torch
from generation_requests import clip, picture, request

from edge_lib.config import DecoderConfig
from edge_lib.data.vocabulary import EOS, Vocabulary
from edge_lib.models import QAModel
from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.qa import QAEngine
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

TEXTS = ["where is the red three?", "what is it ? a blue two", "yes no top-left bottom"]
QUESTIONS = [
    "where is it?",
    "what is the blue two ? is it a red three ?",
    "no?",
    "yes",
    "Ünknown 🙂",
]
VARIANTS = {"plain": {}, "trm": {"inner_steps": 3}}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request, aligner):
    torch.manual_seed(3)
    config = DecoderConfig(**{"width": 32, "layers": 2, "heads": 2} | VARIANTS[request.param])
    model = QAModel(aligner, request.param, config, Vocabulary.learn(TEXTS, 60)).eval()
    torch.nn.init.normal_(model.decoder.head.weight)  # answers that differ
    return model


@pytest.fixture
def make_engine(model):
    return lambda **settings: QAEngine(model, ServeSettings(**settings), Metrics())


async def collect(engine, *requests):
    async def answer(query):
        return await (await engine.submit(query)).collect()

    return await asyncio.gather(*map(answer, requests))


def requests(**sampling):
    pairs = enumerate(QUESTIONS)
    return [request(question, [picture(n)], **sampling) for n, question in pairs]


def test_answers_equal_those_of_the_model(make_engine, serve, model):
    expected = [model.answer(picture(n), q).strip() for n, q in enumerate(QUESTIONS)]
    assert len(set(expected)) > 2

    async def alone(engine):
        return [(await collect(engine, query))[0] for query in requests()]

    single = serve(make_engine(), alone)
    assert [result.text for result in single] == expected
    assert serve(make_engine(), lambda engine: collect(engine, *requests())) == single


def test_answer_ends_at_its_end_token(make_engine, serve, model):
    with torch.no_grad():
        weight = model.decoder.head.weight
        before, weight[EOS] = weight.clone(), 2 * weight[5:].mean(0)
        try:
            expected = [model.answer(picture(n), q).strip() for n, q in enumerate(QUESTIONS)]
            results = serve(make_engine(), lambda engine: collect(engine, *requests()))
        finally:
            weight.copy_(before)
    assert [result.text for result in results] == expected
    for result in results:
        ended = result.completion_tokens < 16 or result.finish_reason == "stop"
        assert result.finish_reason == ("stop" if ended else "length")


def test_default_length_is_bounded_by_the_server(make_engine, serve):
    queries = requests()
    results = serve(make_engine(max_tokens=2), lambda engine: collect(engine, *queries))
    assert {(result.completion_tokens, result.finish_reason) for result in results} == {
        (2, "length")
    }


def test_sampled_answers_depend_on_their_seed_alone(make_engine, serve):
    drawn = requests(temperature=3.0, seed=5)

    async def alone(engine):
        return [(await collect(engine, query))[0] for query in drawn]

    single = serve(make_engine(), alone)
    greedy = serve(make_engine(), lambda engine: collect(engine, *requests(), *drawn))
    assert greedy[len(drawn) :] == single
    assert greedy[: len(drawn)] != single


def test_questions_wait_for_the_batch_to_end(make_engine, serve):
    """Each asks about another picture; all are answered, whatever the order."""

    async def use(engine):
        first = await engine.submit(request(QUESTIONS[0], [picture(0)], max_tokens=200))
        await anext(aiter(first))
        rest = await collect(engine, *requests(max_tokens=5)[1:])
        first.cancel()
        return rest, await collect(engine, *requests(max_tokens=5)[1:])

    rest, again = serve(make_engine(), use)
    assert rest == again


def test_question_that_fails_leaves_nothing_to_the_next(make_engine, serve, model, monkeypatch):
    read_answer = model.decoder.read_answer

    def fail_after(*args):
        read_answer(*args)
        raise RuntimeError("out of memory at 0x7f00")

    async def use(engine):
        with monkeypatch.context() as patch:
            patch.setattr(model.decoder, "read_answer", fail_after)
            stream = await engine.submit(requests()[0])
            with pytest.raises(ApiError, match="the model failed"):
                await stream.collect()
        return await collect(engine, *requests()[1:3])

    results = serve(make_engine(), use)
    expected = [model.answer(picture(n), QUESTIONS[n]).strip() for n in (1, 2)]
    assert [result.text for result in results] == expected


def turn(role, content):
    return {"role": role, "content": content}


IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    "messages",
    [
        "<image>\nwhere is it?",
        " where is it? ",
        [turn("user", "where is it?")],
        [turn("user", [IMAGE, {"type": "text", "text": "where is it?"}])],
        [turn("user", [{"type": "text", "text": "where is it?"}, IMAGE])],
    ],
    ids=["placeholder", "spaces", "turn", "parts", "picture last"],
)
def test_question_may_have_several_forms(make_engine, serve, messages):
    query = request(messages, [picture(0)])
    one, two = serve(
        make_engine(), lambda e: collect(e, query, request("where is it?", [picture(0)]))
    )
    assert one == two


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (request("where?"), "a question about one image, not 0"),
        (request("where?", [picture(1), picture(2)]), "a question about one image, not 2"),
        (request("where?", [picture(1)], [clip(1)]), "the model takes no audio"),
        (request("<image>\n ", [picture(1)]), "the question is empty"),
        (request([turn("user", [IMAGE])], [picture(1)]), "the question is empty"),
        (request([], [picture(1)]), "one turn of a user"),
        (request([turn("system", "be kind"), turn("user", "?")], [picture(1)]), "one turn"),
        (request([turn("assistant", "where?")], [picture(1)]), "one turn of a user"),
        (request("x" * 5000, [picture(1)]), "a prompt of 5,000 characters, over 4,096"),
        (request("where \ud83d?", [picture(1)]), "a text that is not Unicode"),
    ],
    ids=lambda query: query if isinstance(query, str) else "",
)
def test_questions_that_the_model_cannot_answer_are_refused(make_engine, serve, query, message):
    async def use(engine):
        with pytest.raises(ApiError) as caught:
            await engine.submit(query)
        return caught.value

    error = serve(make_engine(), use)
    assert error.status == 400
    assert message in error.message

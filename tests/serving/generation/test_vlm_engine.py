"""The engine of a VLM: answers as `VLM.generate` gives them, alone and in batches."""

import pytest
import torch
from generation_requests import (
    FakeMedia,
    answer,
    answers,
    clip,
    each_alone,
    picture,
    refusal,
    request,
)

from edge_lib.config import FusionConfig
from edge_lib.data.unusable import UnusableItem
from edge_lib.models import Fuser
from edge_lib.serving.generation.decoding import CausalBatch

PROMPTS = [
    "what is it?",
    "<image>\nwhere is the red three in the image ? yes no",
    "where?",
    "a red three <image> and two <image> what is it?",
    "<audio>\n<image>\nyes?",
    [
        {"role": "user", "content": "<image>\nwhat?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "where is it ?"},
    ],
]
ITEMS = [
    ([picture(1)], []),
    ([picture(2)], []),
    ([], []),
    ([picture(1), picture(3)], []),
    ([picture(4)], [clip(1)]),
    ([picture(5)], []),
]


def requests(**sampling):
    return [request(p, *i, **sampling) for p, i in zip(PROMPTS, ITEMS, strict=True)]


@pytest.fixture(scope="module")
def expected(vlm):
    """The answers of `VLM.generate` to each prompt alone."""
    return [
        vlm.generate(prompt, images or None, clips or None)
        for prompt, (images, clips) in zip(PROMPTS, ITEMS, strict=True)
    ]


@pytest.fixture
def batches(monkeypatch):
    """What was done to batches: ("join" or "advance", rows), in order."""
    events = []

    def record(name):
        method = getattr(CausalBatch, name)

        def recorded(self, rows):
            events.append((name, len(rows)))
            return method(self, rows)

        monkeypatch.setattr(CausalBatch, name, recorded)

    record("join")
    record("advance")
    return events


# --- answers ---------------------------------------------------------------------------------


def test_answers_equal_those_of_generate(make_engine, serve, expected):
    """Alone, and all in a batch."""
    assert len(set(expected)) == len(expected)
    single = serve(make_engine(), lambda engine: each_alone(engine, *requests()))
    assert [result.text for result in single] == expected
    assert serve(make_engine(), lambda engine: answers(engine, *requests())) == single


def test_sampled_answers_depend_on_their_seed_alone(make_engine, serve):
    def drawn(seed):
        return requests(temperature=1.5, top_k=50, top_p=0.95, seed=seed)

    single = serve(make_engine(), lambda engine: each_alone(engine, *drawn(1)))
    mixed = serve(make_engine(), lambda engine: answers(engine, *drawn(1), *drawn(2), *requests()))
    assert mixed[: len(single)] == single
    assert all(a.text != b.text for a, b in zip(mixed[len(single) :], single, strict=False))


def test_pieces_join_to_the_answer(make_engine, serve, expected):
    async def stream(engine):
        streams = [await engine.submit(query) for query in requests()]
        return [[delta async for delta in stream] for stream in streams]

    for deltas, text in zip(serve(make_engine(), stream), expected, strict=True):
        assert "".join(delta.text for delta in deltas) == text
        assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert deltas[-1].finish_reason == "length"
        assert sum(delta.tokens for delta in deltas) == 12
        assert len(deltas) > 3


def test_rows_join_and_leave_a_running_batch(make_engine, serve, batches):
    """Their answers stay those that they get alone."""
    long, second, third = requests(max_tokens=120)[0], *requests(max_tokens=20)[1:3]

    async def staggered(engine):
        first = await engine.submit(long)
        assert (await anext(aiter(first))).tokens
        others = [await engine.submit(second), await engine.submit(third)]
        return [await stream.collect() for stream in others], await first.collect()

    others, first = serve(make_engine(), staggered)
    rows = [count for name, count in batches if name == "advance"]
    assert rows[0] == rows[-1] == 1
    assert max(rows) > 1
    assert batches[0] == ("join", 1)
    batches.clear()
    single = serve(make_engine(), lambda engine: each_alone(engine, long, second, third))
    assert {count for _, count in batches} == {1}
    assert others == single[1:]
    assert single[0].text.endswith(first.text[-40:])


def test_answer_ends_at_an_end_token(make_vlm, make_engine, serve):
    vlm = make_vlm()
    ids, mask = vlm._pad([vlm.chat.prompt([{"role": "user", "content": "where?"}])])
    embedded, mask = vlm.embed(ids, mask, {})
    tokens = vlm.language.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=9)
    fourth = tokens[0, 3].item()
    assert fourth not in tokens[0, :3]
    for ends in ([fourth, 5], fourth):
        vlm.language.generation_config.eos_token_id = ends
        result = serve(make_engine(vlm), lambda engine: answer(engine, request("where?")))
        assert result.text == vlm.chat.tokenizer.decode(tokens[0, :3]).strip()
        assert (result.finish_reason, result.completion_tokens) == ("stop", 4)


def test_answer_ends_after_max_tokens(make_engine, serve, vlm):
    queries = [request("where?", max_tokens=count) for count in (1, 3, None)]
    results = serve(make_engine(), lambda engine: answers(engine, *queries))
    assert [result.completion_tokens for result in results] == [1, 3, 12]
    assert {result.finish_reason for result in results} == {"length"}
    assert [r.text for r in results[:2]] == [
        vlm.generate("where?", max_new_tokens=n) for n in (1, 3)
    ]
    prompt_tokens = len(vlm.chat.prompt([{"role": "user", "content": "where?"}]))
    assert {result.prompt_tokens for result in results} == {prompt_tokens}


def test_answer_ends_at_the_last_position_of_the_model(make_vlm, make_engine, serve):
    vlm, query = make_vlm(), request("where?", max_tokens=99)
    length = len(vlm.chat.prompt([{"role": "user", "content": "where?"}]))
    vlm.language.config.max_position_embeddings = length + 5
    result = serve(make_engine(vlm), lambda engine: answer(engine, query))
    assert (result.completion_tokens, result.finish_reason) == (5, "length")


def test_answer_ends_before_a_stop_string(make_engine, serve, expected):
    text = expected[1]
    stop = text[len(text) // 2 :][:2]
    result = serve(make_engine(), lambda engine: answer(engine, requests(stop=("none", stop))[1]))
    assert result.text == text[: text.index(stop)].rstrip()
    assert result.finish_reason == "stop"
    assert result.completion_tokens < 12


def test_default_is_greedy(make_engine, serve, vlm):
    results = serve(make_engine(), lambda engine: answers(engine, *[request("no?")] * 3))
    assert {result.text for result in results} == {vlm.generate("no?")}


# --- fused images and clips ------------------------------------------------------------------


@pytest.fixture(scope="module")
def fused_vlm(aligner, make_vlm):
    """A VLM whose <image> is an image fused with a clip."""
    torch.manual_seed(0)
    fuser = Fuser(aligner, FusionConfig(strategies=["concat"], width=16))
    return make_vlm(fuser, prefix_sources={"image": "fused"}, fusion="concat")


def test_images_are_fused_with_clips(make_engine, serve, fused_vlm):
    """Parts of both kinds stand for one placeholder."""
    items = [picture(1), picture(2)], [clip(1), clip(2)]
    image, sound = {"type": "image"}, {"type": "audio"}
    content = [image, sound, {"type": "text", "text": "what is it?"}]
    queries = [
        request("what is it?", items[0][:1], items[1][:1]),
        request([{"role": "user", "content": content}], items[0][:1], items[1][:1]),
        request("what is it?", items[0][:1], items[1][1:]),
        request("where?", *items),
        request("no?"),
    ]
    engine = make_engine(fused_vlm)
    results = serve(engine, lambda engine: answers(engine, *queries))
    expected = [
        fused_vlm.generate("what is it?", picture(1), clip(1)),
        fused_vlm.generate("what is it?", picture(1), clip(1)),
        fused_vlm.generate("what is it?", picture(1), clip(2)),
        fused_vlm.generate("where?", *items),
        fused_vlm.generate("no?"),
    ]
    assert [result.text for result in results] == expected
    assert len(engine._encoder._cache) == 3  # pairs, of which one was used three times
    error = serve(make_engine(fused_vlm), lambda e: refusal(e, request("what?", [picture(1)])))
    assert (error.status, error.message) == (400, "1 images to fuse with 0 clips")


def test_bad_clip_of_a_fused_pair_is_named(make_engine, serve, fused_vlm):
    image = FakeMedia("image", picture(1), "images.0")
    query = request("?", [image], [FakeMedia("audio", UnusableItem("no samples"), "audio.0")])
    error = serve(make_engine(fused_vlm), lambda engine: refusal(engine, query))
    assert (error.code, error.param) == ("invalid_audio", "audio.0")


# --- other language models -------------------------------------------------------------------


@pytest.mark.parametrize("language", [{"precision": "bf16"}, {"quantize": "8bit"}], ids=str)
def test_answers_of_models_with_fewer_bits_equal_those_of_generate(
    make_vlm, make_engine, serve, language
):
    vlm, texts = make_vlm(language=language), ["what?", "where is it?"]
    queries = [request(text, [picture(n)]) for n, text in enumerate(texts)]
    results = serve(make_engine(vlm), lambda engine: each_alone(engine, *queries))
    expected = [vlm.generate(text, picture(n)) for n, text in enumerate(texts)]
    assert [result.text for result in results] == expected

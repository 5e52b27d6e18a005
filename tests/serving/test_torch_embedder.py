"""An aligner that embeds what clients send."""

import asyncio

import numpy as np
from audio_helpers import encode, sine
from image_helpers import to_file
from PIL import Image
from serving.test_embedding import refusal, run

from edge_lib.models.saving import model_digest
from edge_lib.serving.embedding import TorchEmbedder
from edge_lib.serving.media import Media


def test_torch_embedder_embeds_as_the_aligner(aligner):
    texts = ["a red three", "a small blue nine at the top", "one"]
    media = {
        "vision": [
            Media("image", to_file(Image.effect_noise((n, 30), 80), "PNG")) for n in (30, 90)
        ],
        "audio": [Media("audio", encode(sine(n, 16000), 16000)) for n in (0.2, 0.5)],
    }

    async def test(queue):
        items = [("text", texts), *media.items()]
        return await asyncio.gather(*(queue.embed(*pair) for pair in items))

    text, *rows = run(test, TorchEmbedder(aligner))
    np.testing.assert_allclose(text, aligner.embed("text", texts), atol=1e-5)
    for row, (name, items) in zip(rows, media.items(), strict=True):
        expected = aligner.embed(name, [item.decode() for item in items])
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_torch_embedder_describes_the_aligner(aligner):
    embedder = TorchEmbedder(aligner)
    assert embedder.modalities == ("vision", "audio", "text")
    assert embedder.dims == [8, 16]
    assert embedder.model_sha256 == model_digest(aligner.source)


def test_torch_embedder_refuses_what_the_model_would_cut(aligner):
    longest = sine(2, 16000)

    async def test(queue):
        error = await refusal(queue, "text", ["word " * 100])
        assert error.message == (
            "the text cannot be used: longer than the 60 tokens that the model reads"
        )
        assert len(await queue.embed("text", ["word " * 50])) == 1
        error = await refusal(queue, "audio", [Media("audio", encode(sine(2.1, 16000), 16000))])
        assert error.message == "the audio cannot be used: longer than the 2 s that the model reads"
        assert len(await queue.embed("audio", [Media("audio", encode(longest, 16000))])) == 1

    run(test, TorchEmbedder(aligner))


def test_torch_embedder_counts_tokens_as_the_tokenizer(aligner):
    texts = ["a red three", "one", "a small blue nine at the top"]
    tokenizer = aligner.encoder("text").model.tokenizer
    expected = sum(len(tokenizer(text).input_ids) for text in texts)

    async def test(queue):
        return await queue.count_tokens(texts)

    assert run(test, TorchEmbedder(aligner)) == expected > 10

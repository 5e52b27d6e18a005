"""Graphs of decoders and of soft tokens against torch."""

import json

import pytest
import torch
from export_helpers import clips, pictures, run

from edge_lib.config import ConfigError, DecoderConfig, FusionConfig, VLMModelConfig
from edge_lib.data.vocabulary import BOS, PAD, Vocabulary
from edge_lib.export.folder import export_model
from edge_lib.export.graphs import _answer_graph
from edge_lib.features.onnx import write_graph
from edge_lib.models import Fuser, QAModel
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.vlm import VLM

QUESTIONS = ["what is it ?", "where is the red three ?"]


def answerer(aligner, name, vision=True, **options):
    torch.manual_seed(0)
    vocabulary = Vocabulary.learn(["what is it ? a red three", "where ? top left"], 60)
    config = DecoderConfig(width=16, heads=2, **options)
    return QAModel(aligner, name, config, vocabulary, vision).eval()


def check_answers(model, graph, prefix, mask, feed):
    """Greedy answers through the graph, token by token, against the decoder's own."""
    rows = [torch.tensor(row) for row in model.vocabulary.encode(QUESTIONS)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    answers = torch.full((2, 1), BOS)
    for _ in range(4):
        feed |= {"question_ids": ids, "decoder_input_ids": answers}
        (logits,) = run(graph, feed)
        answers = torch.cat([answers, logits[:, -1:].argmax(-1)], 1)
    expected = model.decoder.generate(prefix, mask, ids, 4)
    assert torch.equal(answers[:, 1 : 1 + expected.shape[1]].where(expected != PAD, PAD), expected)
    with torch.no_grad():
        expected = model.decoder(prefix, mask, ids, answers[:, 1:])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_decoder_graph_continues_answers_as_torch(aligner, tmp_path):
    model = answerer(aligner, "plain", layers=2)
    export_model(model, tmp_path / "out")
    inputs = aligner.encoder("vision").prepare(pictures(2))
    prefix, mask = run(tmp_path / "out/onnx/encoder_model.onnx", inputs)
    feed = {"encoder_hidden_states": prefix, "encoder_attention_mask": mask}
    check_answers(model, tmp_path / "out/onnx/decoder_model.onnx", prefix, mask, feed)


def test_recursive_decoder_graph_continues_answers_as_torch(aligner, tmp_path):
    """After prefixes of which one is padded."""
    model = answerer(aligner, "trm", layers=1, inner_steps=2)
    mask = torch.ones(2, 3).bool()
    prefix = torch.randn(*mask.shape, aligner.width)
    feed = {"encoder_hidden_states": prefix, "encoder_attention_mask": mask}
    graph = _answer_graph(
        model.decoder, {name: x[:1].expand(3, *x.shape[1:]) for name, x in feed.items()}
    )
    write_graph(graph.module, graph.inputs, graph.axes, graph.outputs, tmp_path / "decoder.onnx")
    mask[0, -1] = False
    check_answers(model, tmp_path / "decoder.onnx", prefix, mask, feed)


def test_decoder_graph_without_vision_continues_answers_as_torch(aligner, tmp_path):
    model = answerer(aligner, "plain", vision=False, layers=1)
    export_model(model, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out/onnx").iterdir()] == ["decoder_model.onnx"]
    prefix, mask = model.prefix(aligner.encode("vision", pictures(2)))
    check_answers(model, tmp_path / "out/onnx/decoder_model.onnx", prefix, mask, {})


def test_fuser_has_no_export(aligner, tmp_path):
    fusion = FusionConfig(strategies=["concat"], modalities=["vision", "audio"], target="text")
    with pytest.raises(ConfigError, match="Fuser has no ONNX export"):
        export_model(Fuser(aligner, fusion), tmp_path / "out")


@pytest.mark.parametrize("kind", ["sequence", "tokens"])
def test_soft_token_graph_equals_torch(aligner, language_folder, kind, tmp_path):
    """Of a vision head with a sequence of one vector, and of two soft tokens for each."""
    projector = {"kind": kind, "tokens": 2}
    config = VLMModelConfig(language={"model": str(language_folder)}, projector=projector)
    images = pictures(3)
    features = {"image": aligner.encode("vision", images)}
    torch.manual_seed(0)
    vlm = VLM.new(PrefixSources(aligner), config, features).eval()
    export_model(vlm, tmp_path / "out")
    inputs = aligner.encoder("vision").prepare(images)
    results = run(tmp_path / "out/onnx/vision_encoder.onnx", inputs)
    with torch.no_grad():
        expected = vlm.soft_tokens("image", features["image"])
    torch.testing.assert_close(tuple(results), expected, rtol=0, atol=1e-5)


def test_graph_of_fused_soft_tokens_equals_torch(aligner, language_folder, tmp_path):
    """Of images and as many clips, in another number than the graph was traced with."""
    torch.manual_seed(0)
    fusion = FusionConfig(
        strategies=["gated"], modalities=["vision", "audio"], target="text", width=16
    )
    sources = PrefixSources(Fuser(aligner, fusion))
    language = {"model": str(language_folder)}
    config = VLMModelConfig(language=language, prefix_sources={"image": "fused"}, fusion="gated")
    both = {"vision": pictures(2), "audio": clips(2)}
    features = {"image": sources.encode("fused", **both)}
    vlm = VLM.new(sources, config, features).eval()
    export_model(vlm, tmp_path / "out")
    folder = tmp_path / "out"
    assert json.loads((folder / "preprocessor_config.json").read_text())["feature_size"] == 20
    inputs = {k: x for n in both for k, x in aligner.encoder(n).prepare(both[n]).items()}
    results = run(folder / "onnx/fused_encoder.onnx", inputs)
    with torch.no_grad():
        expected = vlm.soft_tokens("image", features["image"])
    torch.testing.assert_close(tuple(results), expected, rtol=0, atol=1e-5)

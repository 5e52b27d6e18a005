"""Recall of speech through exported graphs against torch, with the encoder that ships."""

from pathlib import Path

import pytest
import torch
from export_helpers import run

from edge_lib.config import ModalityConfig
from edge_lib.export.folder import export_model
from edge_lib.metrics.recall import retrieval_ranks
from edge_lib.models import Aligner
from edge_lib.nn.losses import info_nce
from edge_lib.sources.scenes.speech import Voice, speak

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PHRASES = [f"{a} {b}" for a in NAMES for b in NAMES]
QUERY = 0.0051  # of two hundred, whose ranks are nearly tied
VNNI = "vnni" in Path("/proc/cpuinfo").read_text()  # else products of 8 bits may saturate
SPEAKERS = Voice("en+m5", 280, 50), Voice("en-us+f4", 280, 50)


@pytest.fixture(scope="module")
def speech():
    """An aligner of speech, and the encoder's inputs for a hundred phrases of each speaker."""
    torch.manual_seed(0)
    config = ModalityConfig(encoder="tiny-whisper", pooler="attention", width=64)
    aligner = Aligner({"audio": config}, [64], {"audio": (128, 128)})
    encoder = aligner.encoder("audio")
    inputs = [encoder.prepare([speak(text, voice)[0] for text in PHRASES]) for voice in SPEAKERS]
    train(aligner, [encoder(**own) for own in inputs])
    return aligner.eval(), inputs


def train(aligner, outputs):
    """So few steps that a part of the phrases is found."""
    optimizer = torch.optim.AdamW(aligner.parameters(), 1e-3)
    for _ in range(10):
        a, b = (aligner({"audio": output})["audio"] for output in outputs)
        optimizer.zero_grad()
        info_nce(a, b, torch.tensor(20.0)).backward()
        optimizer.step()


def recall(a, b):
    """R@1 of one speaker's phrases among the other's, both ways."""
    return sum((retrieval_ranks(*pair) == 0).mean() for pair in ((a, b), (b, a))) / 2


def test_recall_of_speech_through_graphs_is_that_of_torch(speech, tmp_path):
    """Up to a query in float32, and within a point in 8 bits, or three if products saturate."""
    aligner, inputs = speech
    export_model(aligner, tmp_path / "out", int8=True)
    graphs = [tmp_path / f"out/onnx/audio_model{name}.onnx" for name in ("", "_quantized")]
    with torch.no_grad():
        outputs = [aligner.encoder("audio")(**own) for own in inputs]
        expected = recall(*(aligner({"audio": output})["audio"] for output in outputs))
    fp32, int8 = (recall(*(run(graph, own)[0] for own in inputs)) for graph in graphs)
    assert 0.3 < expected < 0.99
    assert fp32 == pytest.approx(expected, abs=QUERY)
    assert int8 == pytest.approx(expected, abs=(2 if VNNI else 6) * QUERY)

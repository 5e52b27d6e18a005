"""What the benchmark of exported graphs computes, on embeddings and files made by hand."""

import pytest
import torch
import torch.nn.functional as F

from edge_lib.bench.export import parity, sizes

BASIS = torch.eye(4)


def test_parity_has_the_recall_of_each_pair_of_modalities_both_ways():
    """In 8 bits the clips of two rows are exchanged, and one caption is nearer to two images."""
    exact = dict.fromkeys(("vision", "audio", "text"), BASIS)
    captions = F.normalize(BASIS + 2 * BASIS[[1, 1, 2, 3]], dim=1)
    coarse = exact | {"audio": BASIS[[1, 0, 2, 3]], "text": captions}
    result = parity({"torch": exact, "onnx": exact, "int8": coarse})
    recall = {key: value for key, value in result.items() if key.startswith("r1.")}
    assert {value for key, value in recall.items() if not key.endswith("int8")} == {1}
    assert len(recall) == 6 * 3
    assert recall["r1.vision_to_audio.int8"] == recall["r1.audio_to_vision.int8"] == 0.5
    assert recall["r1.text_to_vision.int8"] == 0.75
    assert recall["r1.vision_to_text.int8"] == 1


def test_parity_has_the_lowest_and_the_mean_cosine_to_torch():
    turned = torch.stack([F.normalize(BASIS[0] + BASIS[1], dim=0), *BASIS[1:]])
    result = parity({"torch": {"text": BASIS}, "int8": {"text": turned}})
    assert result["cosine.text.torch.min"] == 1
    assert result["cosine.text.int8.min"] == pytest.approx(0.5**0.5)
    assert result["cosine.text.int8.mean"] == pytest.approx((3 + 0.5**0.5) / 4)


def test_sizes_are_those_of_the_files(tmp_path):
    (tmp_path / "audio_model.onnx").write_bytes(bytes(4000))
    (tmp_path / "audio_model_quantized.onnx").write_bytes(bytes(1000))
    assert sizes(tmp_path, "audio") == pytest.approx(
        {"mb.audio.onnx": 0.004, "mb.audio.int8": 0.001, "mb.audio.int8_of_fp32": 0.25}
    )

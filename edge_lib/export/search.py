"""Search pictures by text: python search.py "a red three" pictures/*.png"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
CONFIG = json.loads((FOLDER / "preprocessor_config.json").read_text())
IDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def embed_texts(texts, **dim):  # of unit length; dim=np.array(64): the first 64 dims
    session = InferenceSession(FOLDER / "onnx/text_model.onnx")
    rows = Tokenizer.from_file(str(FOLDER / "tokenizer.json")).encode_batch(texts)
    ids = {i.name: [getattr(row, IDS[i.name]) for row in rows] for i in session.get_inputs()}
    return session.run(None, {name: np.array(value) for name, value in ids.items()} | dim)[0]


def embed_pictures(paths, **dim):  # upright, 8 bits, over white
    session, images = InferenceSession(FOLDER / "onnx/vision_model.onnx"), []
    shape, edge = session.get_inputs()[0].shape[:1:-1], CONFIG["size"].get("shortest_edge")
    for image in (ImageOps.exif_transpose(Image.open(path)) for path in paths):
        grey = image.point(lambda x: x / 257 + 0.5).convert("L") if image.mode[0] == "I" else image
        rgba = Image.alpha_composite(Image.new("RGBA", image.size, "white"), grey.convert("RGBA"))
        size = [int(edge * n / min(image.size)) for n in image.size] if edge else shape
        box = [(n + sign * m) // 2 for sign in (-1, 1) for n, m in zip(size, shape, strict=True)]
        images.append(np.float32(rgba.convert("RGB").resize(size, CONFIG["resample"]).crop(box)))
    x = (np.stack(images) * CONFIG["rescale_factor"] - CONFIG["image_mean"]) / CONFIG["image_std"]
    return session.run(None, {"pixel_values": np.float32(x.transpose(0, 3, 1, 2))} | dim)[0]


if __name__ == "__main__":
    scores = embed_pictures(sys.argv[2:]) @ embed_texts(sys.argv[1:2])[0]
    for score, path in sorted(zip(scores, sys.argv[2:], strict=True), reverse=True):
        print(f"{score:.3f}  {path}")

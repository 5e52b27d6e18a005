"""Search pictures by text: python search.py "a red three" pictures/*.png"""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
CONFIG = json.loads((FOLDER / "preprocessor_config.json").read_text())
IDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
load_session = cache(lambda name: InferenceSession(FOLDER / f"onnx/{name}_model.onnx"))


def embed_texts(texts, **dim):  # of unit length; dim=np.array(64): the first 64 dims
    session = load_session("text")
    rows = Tokenizer.from_file(str(FOLDER / "tokenizer.json")).encode_batch(texts)
    ids = {i.name: [getattr(row, IDS[i.name]) for row in rows] for i in session.get_inputs()}
    return session.run(None, {name: np.array(value) for name, value in ids.items()} | dim)[0]


def load_picture(path):  # upright RGB over white; of 16-bit grey the upper 8 bits
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):
        image = Image.fromarray(np.uint8(np.asarray(image) / 257 + 0.5))
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def embed_pictures(paths, **dim):
    session, images = load_session("vision"), []
    high, wide = session.get_inputs()[0].shape[2:]
    edge = CONFIG["size"].get("shortest_edge")
    for image in map(load_picture, paths):
        size = [int(edge * n / min(image.size)) for n in image.size] if edge else [wide, high]
        left, top = (size[0] - wide) // 2, (size[1] - high) // 2
        box = left, top, left + wide, top + high
        images.append(np.float32(image.resize(size, CONFIG["resample"]).crop(box)))
    x = (np.stack(images) * CONFIG["rescale_factor"] - CONFIG["image_mean"]) / CONFIG["image_std"]
    return session.run(None, {"pixel_values": np.float32(x.transpose(0, 3, 1, 2))} | dim)[0]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    text, scores = embed_texts(sys.argv[1:2])[0], []
    for path in sys.argv[2:]:
        try:
            scores.append((embed_pictures([path])[0] @ text, path))
        except Exception as error:
            print(f"{path} is skipped: {error}", file=sys.stderr)
    for score, path in sorted(scores, reverse=True):
        print(f"{score:.3f}  {path}")

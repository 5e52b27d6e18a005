"""The rival of the `serve` benchmark: FastAPI, and `VLM.generate` under a lock.

`python -m edge_lib.bench.plain_server FOLDER --port PORT` answers /generate and /ready.
"""

import argparse
import base64
import io
from threading import Lock

import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

from edge_lib.models.vlm import VLM


class Question(BaseModel):
    prompt: str
    images: list[str]
    max_tokens: int


def create_app(model: VLM) -> FastAPI:
    """Requests wait for one another."""
    app, lock = FastAPI(), Lock()

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/generate")
    def generate(question: Question) -> dict[str, list]:
        images = [_open(uri) for uri in question.images]
        with lock:
            text = model.generate(question.prompt, images, max_new_tokens=question.max_tokens)
        return {"choices": [{"text": text}]}

    return app


def _open(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    served = create_app(VLM.from_pretrained(options.folder).eval())
    uvicorn.run(served, port=options.port, access_log=False)

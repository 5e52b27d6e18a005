"""The server under load, beside FastAPI that calls `VLM.generate` under a lock (`plain`).

1. Seconds for a request to /generate, with one client and with 32 at a time: each asks about a
   picture that the server has not seen. Both servers run all the time, and are asked in turn.
2. The spread of the times of 32 clients, and the slowest answer of /health in the meantime,
   measured in a process of its own.
3. Seconds to the first token of a streamed answer about a photo of 12 megapixels, and to that of a
   second question about it.
4. Seconds from the start of the process until /ready.

The model is the tiny language model on the aligner that ships, with untrained projectors.
"""

import asyncio
import base64
import gc
import io
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles

import httpx
import numpy as np
import torch
from PIL import Image

from edge_lib.bench.picture_server import make_jpegs
from edge_lib.bench.tools import ratios
from edge_lib.config import LoRAConfig, VLMModelConfig
from edge_lib.models import Aligner
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.vlm import VLM

CLIENTS, TOKENS = 32, 32
REQUESTS = {1: 16, CLIENTS: 128}  # of a round, by the number of clients
QUESTION = "Describe the image."  # the answers have about as many tokens as this allows
COMMANDS = {"ours": ["edge_lib", "serve"], "plain": ["edge_lib.bench.plain_server"]}
MODES = {"one": 1, "many": CLIENTS}


def serve(rounds: int = 3) -> dict[str, float]:
    """Seconds of requests by the number of clients, of first tokens, and until ready."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        build(Path(folder))
        gc.freeze()  # as in `_watch`
        starts = {name: stack.enter_context(running(name, folder)) for name in COMMANDS}
        urls = {name: url for name, (url, _) in starts.items()}
        ready = ratios("seconds.ready", {name: [spent] for name, (_, spent) in starts.items()})
        return under_load(urls, rounds) | first_tokens(urls["ours"], rounds) | ready


def build(folder: Path) -> None:
    """Write a VLM of nine soft tokens for an image."""
    torch.manual_seed(0)
    aligner = Aligner.from_pretrained("tiny-align")
    language = {"model": "tiny-qwen2", "lora": LoRAConfig()}
    config = VLMModelConfig(language=language, projector={"kind": "mlp", "tokens": 9})
    example = aligner.encode("vision", [Image.new("RGB", (8, 8))])
    VLM.new(PrefixSources(aligner), config, {"image": example}).save_pretrained(folder)


@contextmanager
def running(name: str, folder: str) -> Iterator[tuple[str, float]]:
    """The URL of a server in a process of its own, and the seconds that it took to be ready."""
    command = [sys.executable, "-m", *COMMANDS[name], folder, "--port", "0"]
    with tempfile.NamedTemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stderr=log)
        try:
            while not is_ready(url := logged_url(log.name)):
                if process.poll() is not None:
                    *_, reason = Path(log.name).read_text().splitlines() or ["no output"]
                    raise RuntimeError(f"the server {name} ended: {reason}")
                time.sleep(0.02)
            yield url, time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()


def logged_url(log: str) -> str | None:
    """The address in the log of a server, if it listens."""
    match = re.search(r"running on (http://\S+)", Path(log).read_text())
    return match and match[1]


def is_ready(url: str | None) -> bool:
    try:
        return url is not None and httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


def under_load(urls: dict[str, str], rounds: int) -> dict[str, float]:
    """Seconds of a request to each server, with one client and with many."""
    questions = Questions()
    for url in urls.values():
        asyncio.run(ask_all(url, questions, CLIENTS, CLIENTS))
    spent = {mode: {name: [] for name in urls} for mode in MODES}
    latencies = {name: [] for name in urls}
    health = {name: [] for name in urls}
    for _ in range(rounds):
        for mode, clients in MODES.items():
            for name, url in urls.items():
                with watched(url, health[name] if clients > 1 else []):
                    start = time.perf_counter()
                    times = asyncio.run(ask_all(url, questions, clients, REQUESTS[clients]))
                spent[mode][name].append((time.perf_counter() - start) / REQUESTS[clients])
                latencies[name] += times if clients > 1 else []
    result = ratios("seconds.request.one", spent["one"])
    result |= ratios("seconds.request.many", spent["many"])
    return result | summary(spent, latencies["ours"], health["ours"])


def summary(spent: dict, latencies: list[float], health: list[float]) -> dict[str, float]:
    """What 32 clients gain over one, and the spread of their times and of /health."""
    gains = {
        f"gain.{name}": median(spent["one"][name]) / median(spent["many"][name])
        for name in spent["one"]
    }
    p95 = quantiles(latencies, n=20)[-1]
    return gains | {
        "seconds.latency.median": median(latencies),
        "seconds.latency.p95": p95,
        "latency.p95_by_median": p95 / median(latencies),
        "seconds.health.median": median(health),
        "seconds.health.p99": quantiles(health, n=100)[-1],
        "seconds.health.max": max(health),
        "health.requests": float(len(health)),
    }


class Questions:
    """Bodies of requests, each with a picture of its own."""

    def __init__(self):
        self._jpegs, self._count = make_jpegs(), 0

    def __next__(self) -> dict:
        jpeg = self._jpegs[self._count % len(self._jpegs)]
        jpeg = jpeg[:2] + b"\xff\xfe\x00\x0c%010d" % self._count + jpeg[2:]  # a comment
        self._count += 1
        return {"prompt": QUESTION, "images": [data_uri(jpeg)], "max_tokens": TOKENS}


def data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


async def ask_all(url: str, questions: Questions, clients: int, requests: int) -> list[float]:
    """Seconds of each of `requests` requests, which so many clients make."""
    bodies = [next(questions) for _ in range(requests)]
    limits, times = httpx.Limits(max_connections=clients), []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:

        async def ask_in_turn() -> None:
            while bodies:
                body, start = bodies.pop(), time.perf_counter()
                (await client.post("/generate", json=body)).raise_for_status()
                times.append(time.perf_counter() - start)

        await asyncio.gather(*(ask_in_turn() for _ in range(clients)))
    return times


@contextmanager
def watched(url: str, times: list[float]) -> Iterator[None]:
    """Meanwhile another process asks for /health; adds the seconds of each answer to `times`."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_watch, args=(url, theirs))
    process.start()
    theirs.close()  # so that `recv` fails if the process ends
    ours.recv()
    try:
        yield
    finally:
        ours.send("stop")
        times += ours.recv()
        process.join()


def _watch(url: str, pipe: Connection) -> None:
    gc.freeze()  # a search through what torch consists of would count as the server's time
    times = []
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/health")
        pipe.send("started")
        while not pipe.poll(0.02):
            start = time.perf_counter()
            client.get("/health")
            times.append(time.perf_counter() - start)
    pipe.send(times)


def first_tokens(url: str, rounds: int) -> dict[str, float]:
    """Seconds to the first token of a first and of a second question about a photo."""
    photos = [data_uri(make_photo(seed)) for seed in range(rounds + 1)]
    ask = partial(first_token, url)
    pairs = [(ask(photo, QUESTION), ask(photo, "what is it?")) for photo in photos][1:]
    first, second = zip(*pairs, strict=True)
    # `ratios` puts the rival over ours: how many times sooner the second answer begins
    return ratios("seconds.first_token", {"ours": [*second], "ours_unseen": [*first]})


def make_photo(seed: int) -> bytes:
    """A JPEG of 4000 x 3000 pixels, about as large as of a phone."""
    rng = np.random.default_rng(seed)
    colours = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    file = io.BytesIO()
    colours.resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def first_token(url: str, photo: str, question: str) -> float:
    """Seconds until the first event with text."""
    content = [
        {"type": "image_url", "image_url": {"url": photo}},
        {"type": "text", "text": question},
    ]
    body = {"messages": [{"role": "user", "content": content}], "stream": True}
    request = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
    start = time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/chat/completions", timeout=60, **request) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if re.search(r'"content": ?"[^"]', line):
                return time.perf_counter() - start
    raise RuntimeError("the answer is empty")

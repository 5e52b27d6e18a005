"""A campaign of hostile requests against a server, with honest clients in between.

    PYTHONPATH=.:tests python -m serving.hostile RUN [--requests 10000] [--index FILE]

starts `edge-glass serve RUN`, and prints what came back: no 5xx, errors of one shape, nothing of
the machine in them, the same answers to honest clients, no growth of memory.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import httpx
import numpy as np
import psutil
from serving.hostile_requests import hostile_request
from serving.hostile_sockets import hostile_connection
from serving.processes import SERVE, is_ready, wait_for

from edge_lib.serving.schemas.examples import PICTURE

ERROR_KEYS = {"message", "type", "code", "param", "request_id"}
LEAKS = re.compile(
    rb"Traceback|0x7f[0-9a-f]{6}|site-packages|object at 0x|/work/|/usr/lib|root:x:0"
)
NO_HTTP = b"Invalid HTTP request received."  # of uvicorn, before there is a request
LOG = Path("hostile-server.log")
SHARE = {"sockets": 0.08, "schema": 0.12}  # of the requests; the rest are those of httpx
HONEST = [
    ("/generate", {"prompt": "what is it?", "images": [PICTURE], "max_tokens": 8}),
    ("/generate", {"prompt": "where is the red three?", "max_tokens": 8}),
    ("/caption", {"image": PICTURE, "max_tokens": 8}),
    ("/embed", {"texts": ["a red three", "a blue nine"], "images": [PICTURE]}),
]


class Campaign:
    """What came back. failures: one line each. statuses: numbers of answers. rss: bytes of the
    server after each tenth, if its process is known. honest, health: seconds of each answer.
    """

    def __init__(self, url, seed=0, process=None):
        self.url, self.rng, self.process = url, random.Random(seed), process
        self.port = httpx.URL(url).port
        self.failures, self.statuses, self.rss = [], Counter(), []
        self.honest, self.health, self.done = [], [], False
        limits = httpx.Limits(max_connections=None)
        self.client = httpx.AsyncClient(base_url=url, timeout=120, limits=limits)

    async def run(self, count, workers=8):
        """About `count` requests."""
        async with self.client:
            self.expected = [await self._ask(*request) for request in HONEST]
            start = time.monotonic()
            others = [asyncio.create_task(task) for task in (self._honest(), self._health())]
            sockets = max(1, int(count * SHARE["sockets"]))
            left = count - sockets - int(count * SHARE["schema"])
            calls = [self._socket] * sockets + [self._request] * left
            self.rng.shuffle(calls)
            schema = asyncio.to_thread(self._schema, int(count * SHARE["schema"]))
            await asyncio.gather(schema, self._round(calls[::10], workers))
            for number in range(1, 10):
                await self._round(calls[number::10], workers)
            self.done, self.seconds = True, time.monotonic() - start
            await asyncio.gather(*others)

    async def _round(self, calls, workers):
        """A tenth of the requests; then the memory, when none is under way."""
        await asyncio.gather(*(self._work(calls[n::workers]) for n in range(workers)))
        if self.process:
            await asyncio.sleep(1)
            self.rss.append(self.process.memory_info().rss)
            answers, size = sum(self.statuses.values()), self.rss[-1] / 1e6
            print(f"{answers:,} answers, {size:.0f} MB", flush=True)

    async def _work(self, calls):
        for call in calls:
            try:
                await call()
            except Exception as error:  # the campaign goes on
                self.failures.append(f"campaign: {error!r}")

    async def _request(self):
        request = await asyncio.to_thread(hostile_request, self.rng)
        name = f"{request['method']} {request['url'][:80]}"
        try:
            response = await self.client.request(**request)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            self.statuses["closed"] += 1  # a body that is too large is not read to its end
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
            self.statuses["not sent"] += 1
        except httpx.TimeoutException:
            self.failures.append(f"{name}: no answer")
        else:
            self.check(name, response.status_code, response.headers, response.content)

    def check(self, name, status, headers, content):
        """An answer to a hostile request."""
        self.statuses[status] += 1
        if status >= 500:
            self.failures.append(f"{name}: {status} {content[:300]}")
        if leak := LEAKS.search(content):
            self.failures.append(f"{name}: shows {leak[0]}")
        if status < 400 or not content or content == NO_HTTP:
            return
        try:
            error = json.loads(content)["error"]
            shaped = error.keys() == ERROR_KEYS and error["request_id"] == headers["x-request-id"]
        except (ValueError, KeyError, TypeError):
            shaped = False
        if not shaped:
            self.failures.append(f"{name}: {status} of another shape: {content[:200]}")

    async def _socket(self):
        answer = await hostile_connection(self.port, self.rng)
        status = answer.split(b" ")[1:2]
        self.statuses["socket"] += 1
        if status and status[0] >= b"500":
            self.failures.append(f"socket: {answer[:300]}")
        if leak := LEAKS.search(answer):
            self.failures.append(f"socket: shows {leak[0]}")

    def _schema(self, count):
        """Requests that schemathesis makes from the description of the API."""
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, seed, settings

        schema = schemathesis.openapi.from_url(f"{self.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        kinds = [*product(operations, schemathesis.GenerationMode)]
        options = settings(
            max_examples=max(1, count // len(kinds)),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )
        for operation, mode in kinds:
            cases = operation.as_strategy(generation_mode=mode)
            try:
                seed(0)(options(given(cases)(lambda case: self._send_case(case))))()
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__:
                    self.failures.append(f"schema {operation.label}: {error!r}"[:500])

    def _send_case(self, case):
        response = case.call(timeout=120)
        headers = {key: values[0] for key, values in response.headers.items()}
        name = f"schema {case.method} {case.path}"
        self.check(name, response.status_code, headers, response.content)

    async def _ask(self, path, body):
        """The answer to an honest request, without ids."""
        start = time.monotonic()
        response = await self.client.post(path, json=body)
        while response.status_code == 429:  # as Retry-After says
            await asyncio.sleep(int(response.headers["retry-after"]))
            response = await self.client.post(path, json=body)
        self.honest.append(time.monotonic() - start)
        return {k: v for k, v in response.json().items() if k != "id"}

    async def _honest(self):
        while not self.done:
            for request, expected in zip(HONEST, self.expected, strict=True):
                try:
                    answer = await self._ask(*request)
                    if not same(answer, expected):
                        self.failures.append(f"honest {request[0]}: {answer}, not {expected}"[:500])
                except Exception as error:
                    self.failures.append(f"honest {request[0]}: {error!r}")
                await asyncio.sleep(0.1)

    async def _health(self):
        while not self.done:
            start = time.monotonic()
            response = await self.client.get("/health")
            self.health.append(time.monotonic() - start)
            if response.status_code != 200:
                self.failures.append(f"health: {response.status_code}")
            await asyncio.sleep(0.05)

    def summary(self):
        health, honest = (np.array(times) * 1000 for times in (self.health, self.honest))
        return {
            "answers": sum(self.statuses.values()),
            "statuses": {str(k): n for k, n in sorted(self.statuses.items(), key=str)},
            "seconds": round(self.seconds),
            "failures": len(self.failures),
            "honest": len(honest),
            "honest_p50_ms": round(float(np.median(honest))),
            "health_p99_ms": round(float(np.percentile(health, 99))),
            "rss_mb": [round(size / 1e6) for size in self.rss],
        }


def same(answer, expected):
    """Equal, and vectors nearly so: a batch is padded."""
    if isinstance(expected, dict) and isinstance(answer, dict):
        return answer.keys() == expected.keys() and all(
            same(answer[k], expected[k]) for k in expected
        )
    if expected and isinstance(expected, list) and isinstance(expected[0], list):
        return np.allclose(answer, expected, atol=1e-4)
    return answer == expected


@contextmanager
def server_process(run, port, *flags):
    command = [*SERVE, run, "--port", str(port), *flags]
    with open(LOG, "w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_ready(url), process)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(90)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--index")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8177)
    options = parser.parse_args()
    # small caches, which are full when the memory is first measured
    flags = ["--prefix-cache-mb", "8", "--body-timeout", "10"]
    flags += ["--index", options.index] if options.index else []
    with server_process(options.run, options.port, *flags) as (url, process):
        campaign = Campaign(url, options.seed, process)
        asyncio.run(campaign.run(options.requests))
    campaign.failures += re.findall(r"^\S+ failed$", LOG.read_text(), re.M)  # of the middleware
    summary = campaign.summary()
    # the first tenth fills caches and the allocator
    summary["rss_growth"] = round(campaign.rss[-1] / campaign.rss[0] - 1, 3)
    print(*campaign.failures[:100], json.dumps(summary), sep="\n")
    return 1 if campaign.failures or summary["rss_growth"] > 0.05 else 0


if __name__ == "__main__":
    sys.exit(main())

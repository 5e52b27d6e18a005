"""The model's thread: it encodes items, lets requests join the batch, and generates.

One thread runs the model. Requests and items come through a queue; results go to the event loop,
in at most one call a step. Each round

1. encodes the items that wait together, at most `max_batch`;
2. lets requests join in the order in which they came, as many as `max_batch` rows and
   `max_batch_tokens` of their prompts, padded, allow;
3. chooses the next token of each row, sends the new text, and drops the rows that are done;
4. runs the model on the tokens of the others.

A request that comes to an idle model starts at once, unless others are being prepared: those are
waited for, a few milliseconds.
"""

import logging
import queue
import time
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread

import torch

from edge_lib.data.unusable import UnusableItem
from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.prefix_cache import SoftTokens
from edge_lib.serving.generation.rows import Arrivals, Batch, EncodeJob, Row
from edge_lib.serving.generation.sampling import choose_tokens
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

log = logging.getLogger(__name__)
Encode = Callable[[str, list[tuple]], list[SoftTokens]]  # items for a placeholder


class Worker:
    """`put` is called in the event loop, `join` anywhere; the rest runs in the thread.

    ends: the tokens that end an answer.
    """

    def __init__(
        self,
        batch: Batch,
        encode: Encode,
        ends: frozenset[int],
        settings: ServeSettings,
        metrics: Metrics,
    ):
        self.arrivals = Arrivals()
        self._batch, self._encode, self._ends = batch, encode, ends
        self._settings, self._metrics = settings, metrics
        self._inbox: queue.SimpleQueue[Row | EncodeJob | None] = queue.SimpleQueue()
        self._put = self._received = 0  # rows; each written by one thread
        self._waiting: deque[Row] = deque()
        self._jobs: list[EncodeJob] = []
        self._rows: list[Row] = []  # of the batch
        self._events: list[Callable[[], None]] = []  # for the event loop
        self._ended = False
        self._thread = Thread(target=self._run, name="model", daemon=True)

    @property
    def backlog(self) -> int:
        """The number of requests that wait."""
        return self._put - self._received + len(self._waiting)

    def start(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def put(self, work: Row | EncodeJob | None) -> None:
        """Hand over work; None ends the thread once all work before it is done."""
        self._put += isinstance(work, Row)
        self._inbox.put(work)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while self._receive():
            try:
                self._round()
            except Exception:  # such as memory that ran out: the next requests may still succeed
                log.exception("the model failed")
                self._fail(self._rows)
                self._batch.clear()
                self._rows = []
                self._send()

    def _receive(self) -> bool:
        """Take what has come, waiting for it if there is nothing to do. False at the end."""
        if not self._busy and not self._ended:
            self._take(self._inbox.get())
            self._wait_for_arrivals()
        with suppress(queue.Empty):
            while True:
                self._take(self._inbox.get_nowait())
        return self._busy or not self._ended

    @property
    def _busy(self) -> bool:
        return bool(self._rows or self._waiting or self._jobs)

    def _wait_for_arrivals(self) -> None:
        end = time.monotonic() + self._settings.max_wait_ms / 1000
        with suppress(queue.Empty):
            while self.arrivals.count and (left := end - time.monotonic()) > 0:
                self._take(self._inbox.get(timeout=left))

    def _take(self, work: Row | EncodeJob | None) -> None:
        if isinstance(work, Row):
            self._waiting.append(work)
            self._received += 1
        elif work:
            self._jobs.append(work)
        else:
            self._ended = True

    def _round(self) -> None:
        self._encode_jobs()
        self._admit()
        tokens = self._choose()
        self._send()
        if tokens:
            self._batch.advance(tokens)

    def _encode_jobs(self) -> None:
        size, waiting = self._settings.max_batch, [j for j in self._jobs if not j.result.done()]
        jobs, self._jobs = waiting[:size], waiting[size:]
        for name in dict.fromkeys(job.name for job in jobs):
            self._encode_group([job for job in jobs if job.name == name])

    def _encode_group(self, jobs: list[EncodeJob]) -> None:
        """Encode items for one placeholder; each alone if that fails for all together."""
        try:
            soft = self._encode(jobs[0].name, [job.item for job in jobs])
            results = [_checked(tokens) for _, tokens in zip(jobs, soft, strict=True)]
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._encode_group([job])
                return
            results = [_item_error(error)]
        pairs = zip(jobs, results, strict=True)
        self._events += [partial(_resolve, job.result, result) for job, result in pairs]

    def _admit(self) -> None:
        self._waiting = deque(row for row in self._waiting if not row.stream.cancelled)
        if not (rows := self._next_rows()):
            return
        try:
            self._batch.join([row.prompt for row in rows])
        except Exception:
            log.exception("the model failed on prompts")
            return self._fail(rows)
        self._rows += rows
        self._metrics.prompt_tokens.inc(sum(len(row.prompt.ids) for row in rows))

    def _next_rows(self) -> list[Row]:
        """Those that join now, taken from those that wait."""
        rows, longest, limits = [], 0, self._settings
        while self._waiting and self._batch.open and len(self._rows + rows) < limits.max_batch:
            longest = max(longest, len(self._waiting[0].prompt.ids))
            if rows and longest * (len(rows) + 1) > limits.max_batch_tokens:
                break
            rows.append(self._waiting.popleft())
        return rows

    def _choose(self) -> list[int]:
        """Choose each row's next token and drop the rows that are done -> tokens of the others."""
        if not self._rows:
            return []
        tokens = choose_tokens(self._batch.logits, [row.sampler for row in self._rows])
        self._metrics.batch_rows.labels("generate").observe(len(tokens))
        self._metrics.generated_tokens.inc(len(tokens))
        kept = [n for n, row in enumerate(self._rows) if self._accept(row, tokens[n])]
        if len(kept) < len(tokens):
            self._batch.keep(kept)
            self._rows = [self._rows[n] for n in kept]
        return [tokens[n] for n in kept]

    def _accept(self, row: Row, token: int) -> bool:
        """Add a token to an answer -> whether it goes on."""
        if row.stream.cancelled:
            return False
        delta = row.accept(token, token in self._ends)
        if row.count == 1:
            self._metrics.first_token.observe(time.monotonic() - row.began)
        if delta:
            self._events.append(partial(row.stream.send, delta))
        return not (delta and delta.finish_reason)

    def _fail(self, rows: list[Row]) -> None:
        error = ApiError(500, "the model failed", "model_failed")
        self._events += [partial(row.stream.send, error) for row in rows]

    def _send(self) -> None:
        events, self._events = self._events, []
        if events:
            with suppress(RuntimeError):  # the loop was closed, so that nobody waits
                self._loop.call_soon_threadsafe(_call_all, events)


def _call_all(events: list[Callable[[], None]]) -> None:
    for event in events:
        event()


def _resolve(future: Future, result: SoftTokens | ApiError) -> None:
    if future.done():  # all that waited for it have left
        return
    if isinstance(result, ApiError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _checked(soft: SoftTokens) -> SoftTokens | ApiError:
    if soft.tokens.isfinite().all():
        return soft
    return ApiError(400, "the item gives no finite soft tokens", "invalid_item")


def _item_error(error: Exception) -> ApiError:
    """Why an item cannot be encoded, in words of this library."""
    if isinstance(error, UnusableItem):
        return ApiError(400, str(error), "invalid_item")
    log.error("the model failed on an item", exc_info=error)
    return ApiError(500, "the model failed on this item", "model_failed")

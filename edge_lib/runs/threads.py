"""A thread that runs beside a block of code."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def background_thread(function: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `function(ended)` in a thread. When the block ends, set `ended` and wait for it."""
    ended = threading.Event()
    thread = threading.Thread(target=function, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

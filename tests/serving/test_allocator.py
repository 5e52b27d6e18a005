"""How the server's process allocates memory."""

import gc
import platform
import subprocess
import sys
import weakref

import pytest

from edge_lib.serving.allocator import exempt_from_collection

SCRIPT = """
import ctypes, threading
from edge_lib.serving.allocator import return_freed_memory

if {called}:
    return_freed_memory()
barrier = threading.Barrier(4)

def allocate():
    blocks = [bytes(100_000) for _ in range(50)]
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL("libc.so.6").malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize("called", [True, False])
def test_allocator_shares_one_arena_among_threads(called):
    script = SCRIPT.format(called=called)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Arena 0" in result.stderr
    assert ("Arena 1" in result.stderr) is not called


class Cycle:
    def __init__(self):
        self.me = self


@pytest.fixture
def unfrozen():
    yield
    gc.unfreeze()


def test_collection_leaves_out_what_was_loaded(unfrozen):
    with exempt_from_collection():
        assert not gc.isenabled()
        loaded = weakref.ref(Cycle())
    later = weakref.ref(Cycle())
    gc.collect()
    assert gc.isenabled()
    assert (loaded() is None, later() is None) == (False, True)


def test_collection_goes_on_when_loading_fails(unfrozen):
    with pytest.raises(OSError, match="no model"), exempt_from_collection():
        raise OSError("no model")
    assert gc.isenabled()

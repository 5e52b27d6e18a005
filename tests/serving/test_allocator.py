"""How the server's process allocates memory."""

import platform
import subprocess
import sys

import pytest

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

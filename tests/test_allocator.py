"""Memory that a batch has freed serves the next one; in a process of its own, as it is the process's allocator."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

BATCHES = """
import resource
import numpy
from proponent.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        activations = [numpy.ones(1 << 20) for _ in range(8)]
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
assert keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_pages_that_a_batch_has_freed_serve_the_next_one() -> None:
    done = subprocess.run([sys.executable, "-c", BATCHES], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    pages = 8 * (8 << 20) // 4096
    assert given_back > pages
    assert kept < pages / 10

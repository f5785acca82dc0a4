"""What the C library does with memory that is freed.

Activations and gradients of a batch are some megabytes each. By default glibc gives such pages back to the system
whenever the top of its heap is free, and each batch gets them again one by one, zeroed: a tenth of the time that a
ResNet-20's passes take.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_KEPT = 1 << 30
_LARGEST_BLOCK = 32 << 20
"""The most that glibc takes; larger blocks are given back at once."""


def keep_freed_memory() -> bool:
    """Lets this process keep up to 1 GiB of freed memory for its next batch; False where that cannot be asked for."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, _MOST_KEPT))

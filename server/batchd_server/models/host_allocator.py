"""Keeps glibc from returning a batch's freed memory to the kernel, to fault it in again for the next batch."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3
_TRIM_BYTES = 256 * 2**20
_MMAP_BYTES = 32 * 2**20  # the most that glibc takes on 64 bit


def keep_freed_memory() -> bool:
    """Let the C heap keep up to 256 MiB of freed memory; return whether the C library took the setting.

    Measured on one Zen 5 core with all-MiniLM-L6-v2, batches of 512 tokens on the main thread: 226 texts/s without,
    234 with; activations of 3 MB were otherwise mapped, zeroed and unmapped for every layer.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))

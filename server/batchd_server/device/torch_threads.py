"""How many threads torch has for what one thread of this process runs."""

from __future__ import annotations

import threading

import torch

_ASKING = threading.Lock()


def use_torch_threads(number: int) -> None:
    """Have what the calling thread runs use `number` torch threads, whatever other threads are given.

    In torch's OpenMP builds the number is each thread's own, but a thread takes it over late: with its first parallel
    op, or when it first asks for it, and then the one that *any* thread set last. So it is asked for at once. (Measured
    with torch 2.13, as CPU time of the process over that of the thread in matrix products: of two threads that set 2
    and then 1, both use 1 where neither asks; where both ask they use 2.0 and 1.0.)
    """
    with _ASKING:
        torch.set_num_threads(number)
        torch.get_num_threads()

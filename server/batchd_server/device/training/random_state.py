"""torch's random state, which is one for all threads: who seeds it holds the lock, and puts it back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

_OWNED = threading.Lock()


@contextmanager
def seeded(words: Sequence[int], device: torch.device) -> Iterator[None]:
    """Draw random numbers by `words` alone: not by what ran before, here or in a model that is served.

    A network that is made meanwhile on another thread is waited for.
    """
    (seed,) = np.random.SeedSequence(list(words)).generate_state(1, np.uint64).tolist()
    # not torch.manual_seed, which remembers every call for devices that are not there, with a traceback
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    with _OWNED:
        states = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

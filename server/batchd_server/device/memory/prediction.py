"""Predicts what a batch takes without running it: on fake tensors, which have shapes and no data, under the ledger.

A copy of the model runs, so that nothing fake is left behind in the model itself. The batch is collated for real, for
that is done in numpy, and in small. What stands inside one op is seen as little as by the ledger.

The fake tensors are private to torch: where they are gone or different, nothing is predicted.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from batchd_server.device.failures import describe
from batchd_server.device.memory.cpu import without_fused_encoder
from batchd_server.device.memory.ledger import AllocationLedger
from batchd_server.device.work import PlannedBatch, PredictedPeak
from batchd_server.models.protocol import Model

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

log = logging.getLogger(__name__)

CUDA_GRANULE = 512
"""The CUDA allocator rounds every block up to a multiple of this (kMinBlockSize in c10/cuda/CUDACachingAllocator)."""


class Unpredictable(Exception):
    """A model that cannot be followed on fake tensors, and why."""


def predict_peaks(
    name: str, model: Model, device: torch.device, batches: Sequence[PlannedBatch], limit_s: float
) -> tuple[PredictedPeak, ...]:
    """Predict the peaks of `batches`, as many as `limit_s` seconds allow. On failure none, and the log says why."""
    if not batches:
        return ()
    give_up = time.monotonic() + limit_s
    peaks: list[PredictedPeak] = []
    try:
        predictor = PeakPredictor(model, device)
        for batch in batches:
            peak_bytes = predictor.peak_bytes(batch, give_up)
            peaks.append(PredictedPeak(batch_size=len(batch.items), shape=batch.padded_shape, peak_bytes=peak_bytes))
    except _OutOfTime:
        if not peaks:
            log.info("model %s: no memory prediction, it takes longer than %.3g s", name, limit_s)
    except Unpredictable as error:
        log.info("model %s: no memory prediction, %s", name, error)
        return ()
    return tuple(peaks)


class PeakPredictor:
    """A shadow of one model, whose weights have no data. Of the model itself `collate` is called, and nothing else.

    Raises:
        Unpredictable: the model cannot be copied, or its weights cannot be faked.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self._model = model
        self._device_type = device.type
        with _explained("it cannot be copied onto fake tensors"):
            _refuse_torchscript(model)
            self._mode = _fake_tensor_mode()
            self._shadow: Model = self._faked(model)

    def peak_bytes(self, batch: PlannedBatch, give_up: float) -> int:
        """Return the bytes that `batch` takes over what is resident: collation, run and split, as the ledger has it.

        Args:
            batch: what would run.
            give_up: time.monotonic() at which to stop.

        Raises:
            Unpredictable: something in the model needs data.
        """
        granule = CUDA_GRANULE if self._device_type == "cuda" else 1
        ledger = _TimedLedger(give_up, device_type=self._device_type, granule=granule)
        with _explained("it cannot run on fake tensors"), torch.no_grad(), without_fused_encoder(), _uncompiled():
            with ledger:
                real = self._model.collate(batch.items, batch.padded_shape)
                ledger.adopt(real)  # and held until the end, as the executor does
            fake = self._faked(real)
            with self._mode, ledger:  # the ledger on top: it sees each op once, before its fake parts
                outputs = self._shadow.run(fake)
                with _EmptyArrays():
                    self._shadow.split(outputs, batch.items)
        return ledger.peak

    def _faked(self, value: Any) -> Any:
        """Copy `value` with a fake in place of every tensor. Outside the fake mode: inside, weights would stay real."""
        with _FakingCopy(self._mode), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's exported graphs are copied by deprecated means
            return copy.deepcopy(value)


class _OutOfTime(Exception):
    """The prediction takes longer than it is worth."""


class _TimedLedger(AllocationLedger):  # type: ignore[no-untyped-call]  # torch's own class hook
    """A ledger that ends a run that takes too long."""

    def __init__(self, give_up: float, *, device_type: str, granule: int) -> None:
        super().__init__(device_type=device_type, granule=granule)
        self._give_up = give_up

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.monotonic() > self._give_up:
            raise _OutOfTime
        return super().__torch_dispatch__(func, types, args, kwargs)


class _FakingCopy(TorchFunctionMode):
    """Has copy.deepcopy make fakes of tensors. Storages that were shared still are."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Tensors are copied by their __deepcopy__; parameters by cloning their data, which then are fake already.
        if func in (torch.Tensor.__deepcopy__, torch.Tensor.clone):
            (tensor, *_) = args
            if tensor.layout is not torch.strided:  # packed weights have no fakes; the mode takes them as they are
                return tensor
            return self._mode.from_tensor(tensor, static_shapes=True)
        return func(*args, **(kwargs or {}))


class _EmptyArrays(TorchFunctionMode):
    """Gives zeros where fake tensors are turned into numpy arrays, so that `split` can go on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.tolist):
            (tensor, *_) = args
            zeros = np.zeros(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
            return zeros.tolist() if func is torch.Tensor.tolist else zeros
        return func(*args, **(kwargs or {}))


def _fake_tensor_mode() -> FakeTensorMode:
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415 - private to torch: it may go

    return FakeTensorMode(allow_non_fake_inputs=True)


def _refuse_torchscript(model: Model) -> None:
    """TorchScript specialises itself on what it runs, and shares that with its copies."""
    for value in vars(model).values() if hasattr(model, "__dict__") else ():
        if isinstance(value, torch.nn.Module) and any(
            isinstance(part, torch.jit.ScriptModule) for part in value.modules()
        ):
            raise Unpredictable("TorchScript cannot run on fake tensors")


def _uncompiled() -> Any:
    """Run compiled parts as they were written: a prediction must not compile anything."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (Unpredictable, _OutOfTime):
        raise
    except BaseException as error:  # user code: whatever it raises, SystemExit included, the model serves all the same
        raise Unpredictable(f"{what}: {describe(error)}") from error

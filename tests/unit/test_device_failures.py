"""What exceptions mean, told by the texts that torch and CUDA are known to use."""

from __future__ import annotations

import pytest

from batchd_server.device.failures import Failure, FailureKind, classify, describe


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        OutOfMemoryError(""),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_out_of_memory(error: Exception) -> None:
    assert classify(error).kind is FailureKind.OUT_OF_MEMORY
    assert classify(error).to_error().status == 507


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
    ],
)
def test_a_poisoned_device(text: str) -> None:
    assert classify(RuntimeError(text)).kind is FailureKind.DEVICE_LOST


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),  # a model's own words: only runtime errors are the device's
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
        RuntimeError("unknown error"),
        KeyError("x"),
        AssertionError(),
    ],
)
def test_the_models_own_problem(error: Exception) -> None:
    failure = classify(error)
    assert failure.kind is FailureKind.MODEL
    assert failure.to_error().code == "model_failed"


def test_clients_get_the_first_line_without_paths() -> None:
    error = FileNotFoundError("[Errno 2] No such file or directory: '/var/lib/models/w.pt'\n  File x")
    assert describe(error) == "FileNotFoundError: [Errno 2] No such file or directory: '<path>'"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("a/b is 3/4 of tokens/s")) == "ValueError: a/b is 3/4 of tokens/s"
    assert len(describe(ValueError("x" * 10_000))) <= 300


def test_a_failure_carries_no_exception() -> None:
    assert classify(ValueError("no")) == Failure(FailureKind.MODEL, "ValueError: no")

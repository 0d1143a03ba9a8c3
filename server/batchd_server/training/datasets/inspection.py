"""Checks a dataset in a process of its own, with bounded memory and time. A hostile file ends that, and nothing else.

    python -m batchd_server.training.datasets.inspection PATH FORMAT LIMITS

answers with one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.problems import DatasetError, DatasetTooLargeError

_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Each thread, and arrow's own allocator, would reserve address space that is never used."""
_NICE = 10
_WAIT_FACTOR = 4  # a check may have to wait for a processor


@dataclass(frozen=True, slots=True)
class Found:
    """What a dataset turned out to be."""

    format: str
    examples: int


def inspect_in_child(path: Path, said: str | None, limits: Limits) -> Found:
    """Open a dataset as a model would, elsewhere, and return what it is. Belongs in a thread.

    Raises:
        DatasetTooLargeError: it unpacks to more than is allowed, or takes too long.
        DatasetError: it is not what it is said to be, or anything is wrong with it.
    """
    command = [sys.executable, "-P", "-m", __name__, str(path), said or "", json.dumps(asdict(limits))]
    try:
        finished = subprocess.run(  # noqa: S603 - our own interpreter
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={**_without_secrets(), **_QUIET},
            timeout=_WAIT_FACTOR * limits.check_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DatasetTooLargeError("the dataset takes too long to check") from None
    if finished.returncode != 0:  # killed by its limits, or crashed in a decoder
        raise DatasetError("the dataset cannot be read: checking it ended in a crash, or took too much memory or time")
    answer = json.loads(finished.stdout)
    if "too_large" in answer:
        raise DatasetTooLargeError(answer["too_large"])
    if "error" in answer:
        raise DatasetError(answer["error"])
    return Found(**answer)


def _without_secrets() -> dict[str, str]:
    """The environment but for our own variables: a decoder that a hostile file takes over must find no key there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BATCHD_")}


def main() -> None:
    """Check what the command line names."""
    path, said, limits = sys.argv[1:]
    print(json.dumps(_inspect(Path(path), said or None, Limits(**json.loads(limits)))))  # noqa: T201


def _inspect(path: Path, said: str | None, limits: Limits) -> dict[str, object]:
    from batchd_server.training.datasets.opening import read_table  # noqa: PLC0415 - only the child reads

    os.nice(_NICE)  # what is served goes first, and is the last to be killed
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CPU, (limits.check_seconds, limits.check_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (limits.check_bytes, limits.check_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        found, table = read_table(path, said, limits)
    except DatasetTooLargeError as error:
        return {"too_large": str(error)}
    except DatasetError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"too_large": "the dataset takes too much memory to read"}
    except Exception as error:  # noqa: BLE001 - a file that nobody vouches for may raise anything
        return {"error": f"the dataset cannot be read: {type(error).__name__}"}
    return asdict(Found(found, len(table)))


if __name__ == "__main__":
    main()

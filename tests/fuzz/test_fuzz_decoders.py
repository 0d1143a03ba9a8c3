"""The fuzzer finds nothing in a million cases, or in as many as fit into a minute; and it would find something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzz_decoders.py")
SECONDS = 60
ALLOCATES_WHAT_IS_DECLARED = f"""
import math, sys
sys.argv[0] = {str(FUZZER)!r}
sys.path.insert(0, {str(FUZZER.parent)!r})
import fuzz_decoders, numpy
import batchd_server.front.oip.request as request
request.decode_binary = lambda data, datatype, shape, field: numpy.ones(math.prod(shape), dtype="u1").reshape(shape)
fuzz_decoders.main()
"""

pytest.importorskip("atheris", reason="needs the extra [fuzz]")


def fuzz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 5)
def test_no_case_brings_out_anything_but_an_answer(tmp_path: Path) -> None:
    done = fuzz(tmp_path, str(FUZZER), "-runs=1000000", f"-max_total_time={SECONDS}", "-seed=1")
    cases = {path.name: path.read_bytes().hex() for path in tmp_path.iterdir()}
    assert (done.returncode, cases) == (0, {}), done.stderr[-5000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None
    assert int(executed[1]) > 10_000


@pytest.mark.slow
def test_a_decoder_that_allocates_what_a_shape_declares_is_found(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "-c", ALLOCATES_WHAT_IS_DECLARED, "-runs=200000", "-max_total_time=60", "-seed=1")
    assert done.returncode != 0
    assert "MemoryError" in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("crash-")]

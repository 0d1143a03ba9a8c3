"""A front process constructs models without paying for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

DIGITS = "batchd_server.models.digit_lines:DigitLines"
TEXT = "batchd_server.models.text_encoder:TextEncoder"


@pytest.mark.parametrize("entrypoint", [DIGITS, pytest.param(TEXT, marks=pytest.mark.text)])
def test_constructing_a_shipped_model_imports_no_torch(entrypoint: str) -> None:
    program = (
        "import sys\n"
        "from batchd_server.config.settings import ModelSettings\n"
        "from batchd_server.models.loading import construct\n"
        f"model = construct(ModelSettings(entrypoint={entrypoint!r}))\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'sentence_transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr

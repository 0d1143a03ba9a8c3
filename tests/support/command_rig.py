"""The command `batchd` as a user types it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BATCHD = (sys.executable, "-m", "batchd_server.cli.main")
TIMEOUT_S = 120.0


def batchd(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it in `folder` until it ends, whatever its exit code; `environment` is added to this process's."""
    return subprocess.run(
        [*BATCHD, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )

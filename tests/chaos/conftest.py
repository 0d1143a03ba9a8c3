"""What several tests of faults compare with."""

from __future__ import annotations

import pytest
from daemon_rig import daemon
from disk_fault_rig import config, operator, weights


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the job comes to where nothing is in its way."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with daemon(folder, config(folder, folder / "state", learn_s=0.0)) as running, operator(running) as looking:
        job = looking.submit()
        looking.until_status(job, "succeeded")
        return weights(folder / "state", job)

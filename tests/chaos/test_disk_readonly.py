"""The state lies on a disk that cannot be written: the daemon serves all the same, and says why it does not train."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from daemon_rig import daemon
from disk_fault_rig import JOBS, asked_all_the_time, config, lines_of, operator
from small_disk_rig import read_only

from batchd_server.training.places import DATABASE
from batchd_server.training.store import TrainingStore

pytestmark = pytest.mark.slow


def test_a_daemon_serves_from_a_read_only_disk(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    TrainingStore.open(f"sqlite:///{state / DATABASE}").close()  # of a daemon before
    with read_only(state), daemon(tmp_path, config(tmp_path, state)) as running, operator(running) as looking:
        with asked_all_the_time(running) as asker:
            refused = looking.client.post(JOBS, json={"model": "chaos", "dataset": "digit-lines", "max_steps": 3})
            assert refused.status_code == 503
            assert refused.json()["code"] == "disk_read_only"
            assert "the disk is read-only" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) > 0
            while asker.asked < 60:
                time.sleep(0.1)
            assert looking.training()["trouble"] == "the disk is read-only"
        for words in ("training rests", "training cannot be asked for", "arrivals are not recorded"):
            assert len(lines_of(running, words)) == 1, f"{words}: once, not every second"
        running.process.terminate()
        assert running.process.wait(30) == 0

"""The disk of the runtime directory, often that of /tmp, is full: the daemon outlives deaths, and ends in order."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from small_disk_rig import MIB, SmallDisk, small_disk
from supervised_rig import Client, answer, frail_config, until

from batchd_server.cli.child_daemon import child_daemon

pytestmark = pytest.mark.slow


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    # short: the path of a socket has little room
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "run", 4 * MIB) as made:
        yield made


def test_a_daemon_whose_runtime_directory_is_full_outlives_deaths_and_ends_in_order(
    tmp_path: Path, disk: SmallDisk
) -> None:
    config = tmp_path / "batchd.toml"
    config.write_text(frail_config(tmp_path))
    environment = {"OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": str(disk.path)}
    with child_daemon(tmp_path / "log", arguments=["--config", str(config)], environment=environment) as running:
        assert len(list(disk.path.glob("batchd-*"))) == 1
        with closing(Client(running)) as client:
            assert answer(client.total(1.0)) == 1.0
            disk.fill()

            device = client.device()
            device.kill()
            assert answer(client.total(2.0)) == 2.0
            assert client.device() != device

            os.kill(running.process.pid, signal.SIGHUP)
            until(lambda: "the old one stays" in running.log.read_text(), "it is told that nothing is replaced")
            assert answer(client.total(3.0)) == 3.0
        running.process.terminate()
        assert running.process.wait(60) == 0
        said = running.log.read_text()
        assert "Traceback" not in said
        assert "that the daemon stops cannot be noted" not in said, "an empty file needs no room"
    assert not list(disk.path.glob("batchd-*"))

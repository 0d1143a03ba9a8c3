"""Which processes count as being in a crash loop: those that never work, and not those that somebody kills."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import httpx
import psutil
from daemon_rig import daemon
from supervised_rig import HANG, Client, answer, frail_config, until

from batchd_server.supervisor.restarts import CRASH_LOOP

KILLS = 3


def test_a_front_that_is_killed_again_and_again_comes_back_at_once(tmp_path: Path) -> None:
    """Each of them has served: the second death in a row would cost a delay."""
    with daemon(tmp_path, frail_config(tmp_path)) as running:
        killed = set()
        for number in range(KILLS):
            with closing(Client(running)) as client:
                until(lambda client=client: serves(client), "a front process serves")
                assert answer(client.total(number)) == number
                pid = client.status()["front"]["pid"]
            assert pid not in killed
            killed.add(pid)
            psutil.Process(pid).kill()
        with closing(Client(running)) as client:
            until(lambda: serves(client), "there is one again")
        said = running.log.read_text()
        assert said.count("was killed by SIGKILL; starting it again at once") == KILLS


def serves(client: Client) -> bool:
    try:
        return client.is_ready()
    except httpx.TransportError:  # its connection died with the process
        return False


def test_a_device_process_that_hangs_at_every_first_batch_is_in_a_crash_loop(tmp_path: Path) -> None:
    with daemon(tmp_path, frail_config(tmp_path, hang_timeout_s=1.0)) as running, closing(Client(running)) as client:
        codes = []

        def is_told() -> bool:
            codes.append(client.total(HANG, float(len(codes)), timeout_ms=300_000).json()["code"])
            return "crash_loop" in codes

        until(is_told, "it is recognised")
        assert set(codes) <= {"poison", "crash_loop"}
        assert client.ready().json()["state"] == "crash_loop"
        supervision = client.status()["supervision"]
        assert supervision["deaths_in_a_row"] == CRASH_LOOP
        # what else the machine does may keep it silent for so long before it sees by itself that it hangs
        assert any(words in supervision["last_death"] for words in ("hung", "gave no sign of life"))

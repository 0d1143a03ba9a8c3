"""The device process dies, hangs, and dies again: what clients see, and what an operator is told."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from daemon_rig import daemon
from supervised_rig import BROKEN, DIES, HANG, LOST, REFUSE, TOO_LARGE, Client, answer, frail_config, stop, until

from batchd_server.cli.child_daemon import ChildDaemon
from batchd_server.device.failures import EXIT_DEVICE_LOST, EXIT_HUNG

HANG_TIMEOUT_S = 8.0


def has_imported(process: psutil.Process) -> bool:
    try:
        return bool(process.memory_info().rss > 100 * 2**20)
    except psutil.Error:
        return False


def is_spare(process: psutil.Process, device: int) -> bool:
    try:
        return "spare_process" in " ".join(process.cmdline()) and process.pid != device
    except psutil.Error:  # it has just ended
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("supervised")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[ChildDaemon]:
    with daemon(folder, frail_config(folder, fronts=2, hang_timeout_s=HANG_TIMEOUT_S)) as started:
        yield started


@pytest.fixture
def client(running: ChildDaemon) -> Iterator[Client]:
    with closing(Client(running)) as connected:
        until(connected.is_ready, "ready")
        yield connected


def test_a_dead_device_process_is_replaced_again_and_again_and_nobody_waits_in_vain(
    running: ChildDaemon, client: Client
) -> None:
    supervisor = psutil.Process(running.process.pid)
    seen = set()
    deaths = client.status()["supervision"]["deaths"]
    for number in range(4):
        device = client.device()
        seen.add(device.pid)
        assert device.ppid() == supervisor.pid
        device.kill()
        assert answer(client.total(number, 1.0)) == number + 1.0
    assert len(seen) == 4
    supervision = client.status()["supervision"]
    assert supervision["deaths"] == deaths + 4
    assert (supervision["last_exit"], supervision["last_death"]) == (-9, "was killed by SIGKILL")
    until(lambda: client.status()["supervision"]["state"] == "running", "it counts as running")
    assert f"batchd_device_restarts_total {deaths + 4:.1f}" in client._http.get("/metrics").text


def test_a_killed_spare_process_is_replaced_and_counts_as_no_death(running: ChildDaemon, client: Client) -> None:
    def spares() -> list[psutil.Process]:
        device = client.device().pid
        return [child for child in psutil.Process(running.process.pid).children() if is_spare(child, device)]

    def one_that_has_imported() -> bool:
        return any(has_imported(spare) for spare in spares())

    until(one_that_has_imported, "there is a spare process")
    before = client.status()["supervision"]["deaths"]
    (spare,) = spares()
    spare.kill()
    device = client.device()
    until(lambda: [other.pid for other in spares()] not in ([], [spare.pid]), "another spare process")
    assert client.device() == device
    assert client.status()["supervision"]["deaths"] == before
    device.kill()  # while the new spare process still imports
    assert answer(client.total(2.0, 3.0)) == 5.0


def test_a_stopped_device_process_is_replaced(client: Client) -> None:
    device = client.device()
    stop(device)
    until(lambda: not device.is_running(), "it is killed")
    assert answer(client.total(1.0, 2.0)) == 3.0
    supervision = client.status()["supervision"]
    assert supervision["last_pid"] == device.pid
    assert f"no sign of life for {HANG_TIMEOUT_S:g} s" in supervision["last_death"]


def test_a_batch_that_does_not_end_ends_the_process(client: Client) -> None:
    device = client.device()
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(client.total, HANG, timeout_ms=30_000)
        until(lambda: not device.is_running(), "it ends itself")
        assert answer(client.total(4.0, 5.0)) == 9.0
        assert hanging.result().status_code >= 500
    supervision = client.status()["supervision"]
    assert supervision["last_exit"] == EXIT_HUNG
    assert "hung" in supervision["last_death"]


def test_a_lost_device_ends_the_process_and_a_full_memory_does_not(client: Client) -> None:
    device = client.device()
    assert client.total(TOO_LARGE).status_code == 507
    assert client.is_ready()
    assert client.device() == device
    lost = client.total(LOST)
    assert (lost.status_code, lost.json()["code"]) == (500, "poison")
    assert client.device() != device
    supervision = client.status()["supervision"]
    assert supervision["last_exit"] == EXIT_DEVICE_LOST
    assert "lost its device" in supervision["last_death"]


def test_bad_inputs_do_not_take_a_model_out_of_service(client: Client) -> None:
    for _ in range(8):
        assert client.total(REFUSE).status_code == 500
        assert client.is_ready()
    assert answer(client.total(1.0)) == 1.0


def test_a_model_that_only_fails_is_not_ready_until_it_works_again(client: Client, folder: Path) -> None:
    device = client.device()
    (folder / BROKEN).touch()
    try:
        codes = []

        def out_of_service() -> bool:
            codes.append(client.total(1.0).json().get("code"))
            return codes[-1] == "model_failing"

        until(out_of_service, "requests are refused")
        until(lambda: not client.is_ready(), "not ready")
        document = client.ready().json()
        assert "fails its own example" in document["error"]
        assert "the weights have rotted" in document["error"]
    finally:
        (folder / BROKEN).unlink()
    until(client.is_ready, "ready again")
    assert answer(client.total(1.0, 1.0)) == 2.0
    assert client.device() == device, "no new process was needed"


def test_a_front_process_dies_alone(running: ChildDaemon) -> None:
    clients: dict[int, Client] = {}
    all_clients: list[Client] = []

    def enough() -> bool:
        all_clients.append(Client(running))
        clients[all_clients[-1].status()["front"]["pid"]] = all_clients[-1]
        return len(clients) == 2 and len(all_clients) > 2

    until(enough, "a connection to each front process, and one more")
    (doomed, its_client), (other, client) = clients.items()
    bystander = next(each for each in all_clients if each not in (its_client, client))
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(its_client.total, -5.0)
        kept = pool.submit(client.total, -5.0, 7.0)
        until(lambda: bystander.status()["queue"]["open_items"] == 2, "both have reached the device process")
        psutil.Process(doomed).kill()
        assert answer(kept.result()) == 2.0
        assert lost.exception() is not None
    until(lambda: client.status()["queue"]["open_items"] == 0, "what the dead one had asked for is forgotten")
    fronts = {front["pid"] for front in client.status()["fronts"]}
    assert other in fronts
    until(lambda: len({front["pid"] for front in client.status()["fronts"]} - {doomed}) == 2, "there are two again")
    for each in all_clients:
        each.close()


def test_a_crash_loop_is_told_at_once_to_everybody(tmp_path: Path) -> None:
    with daemon(tmp_path, frail_config(tmp_path)) as started, closing(Client(started)) as client:
        assert answer(client.total(1.0)) == 1.0
        device = client.device()
        (tmp_path / DIES).touch()
        device.kill()
        held = client.total(2.0, timeout_ms=300_000)  # held until the loop is recognised
        assert held.status_code == 503
        assert held.json()["code"] == "crash_loop"
        assert 1 <= int(held.headers["retry-after"]) <= 60
        refused = client.total(3.0)
        assert (refused.status_code, refused.json()["code"]) == (503, "crash_loop")
        ready = client.ready()
        assert ready.status_code == 503
        assert ready.json()["state"] == "crash_loop"
        assert "6 times in a row, the last one was killed by SIGSEGV; next start in" in ready.json()["error"]
        assert "retry-after" in ready.headers
        assert client.status()["supervision"]["deaths_in_a_row"] == 6

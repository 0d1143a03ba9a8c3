"""The device process is killed every few seconds, stopped, and made to crash, while requests come and a job trains."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from chaos_rig import BATCH_S, CAPACITY, ITEM_S, MAX_BATCH_SIZE, MODEL, PATIENT_S, Shots, shoot_every
from daemon_rig import daemon

from batchd_server.cli.child_daemon import ChildDaemon

log = logging.getLogger(__name__)

LOAD = 0.6
SHOOTING_S = 65.0
PERIOD_S = 5.0
MARKED_EVERY = 1500
JOB = {
    "model": "chaos",
    "dataset": "digit-lines",  # the rig's model brings its own examples
    "optimizer": {"name": "adamw", "lr": 0.02},
    "batching": {"schedule": {"name": "noise_scale"}, "initial": 16, "min": 8, "max": 64},
    "checkpoint": {"every_steps": 20, "keep": 2},
    "deterministic": True,
    "max_steps": 900,
    "seed": 7,
}


def config(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    support = Path(__file__).parents[1] / "support"
    shutil.copy(support / "trainable_rig.py", folder)
    (folder / "chaos_model.py").write_text(MODEL)
    return f"""
[server]
port = 0
[device]
name = "cpu"
threads = 1
hang_timeout_s = 2.0
[state]
directory = "{folder}/state"
[models.chaos]
entrypoint = "chaos_model:Chaos"
options = {{ learn_s = 0.004 }}
[models.chaos.batching]
slo_ms = 5000
max_batch_size = 16
"""


class Job:
    """The training job, as a client sees it."""

    def __init__(self, url: str, folder: Path) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)
        made = self._client.post("/v1/training/jobs", json=JOB)
        assert made.status_code == 201, made.text
        self._path = f"/v1/training/jobs/{made.json()['id']}"
        self._saved = folder / "state" / "training" / made.json()["id"]

    def get(self, rest: str = "", **query: Any) -> Any:
        return self._client.get(self._path + rest, params=query).raise_for_status().json()

    def steps(self) -> int:
        return int(self.get()["progress"]["step"])

    def weights(self, within_s: float) -> bytes:
        """The last checkpoint's bytes, once the job has succeeded."""
        give_up = time.monotonic() + within_s
        while (found := self.get())["status"] != "succeeded":
            assert found["status"] in ("queued", "running"), found
            assert time.monotonic() < give_up, found
            time.sleep(0.2)
        assert found["progress"]["step"] == JOB["max_steps"]
        return (self._saved / f"step-{found['progress']['step']}" / "model.safetensors").read_bytes()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def status(url: str) -> Any:
    return httpx.get(f"{url}/v1/status", timeout=10).raise_for_status().json()


def device_pid(url: str) -> int | None:
    found = httpx.get(f"{url}/v1/status", timeout=10)
    pid = found.json()["device"].get("pid") if found.status_code == 200 else None
    return None if pid is None else int(pid)


async def under_fire(running: ChildDaemon) -> tuple[Shots, list[signal.Signals]]:
    """Send requests at the chosen load, and every period a signal that no process survives."""
    shots, fired = Shots(running.url), []
    over = time.monotonic() + SHOOTING_S

    async def shoot(number: int) -> None:
        how = signal.SIGSTOP if number % 4 == 3 else signal.SIGKILL
        while time.monotonic() < over:
            pid = await asyncio.to_thread(device_pid, running.url)
            with suppress(ProcessLookupError):  # it has just died of itself: of a marked request
                if pid is not None:
                    os.kill(pid, how)
                    fired.append(how)
                    return
            await asyncio.sleep(0.1)  # until there is one again

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(shots.fire(LOAD * CAPACITY, SHOOTING_S, marked_every=MARKED_EVERY, hurried=0.1, seed=1))
        tasks.create_task(shoot_every(PERIOD_S, over, shoot))
    return shots, fired


@pytest.fixture(autouse=True)
def _quiet_client() -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_wrong_or_twice_while_the_device_process_is_shot_at(tmp_path: Path) -> None:
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    with daemon(disturbed, config(disturbed)) as running, Job(running.url, disturbed) as job:
        shots, fired = asyncio.run(under_fire(running))
        reached = job.steps()
        after = status(running.url)
        trained = job.weights(within_s=240)

    kinds = Counter((each.marked, each.status, each.code) for each in shots.sent)
    unmarked = [each for each in shots.sent if not each.marked]
    patient = [each for each in unmarked if each.timeout_s == PATIENT_S]
    hurried = [each for each in unmarked if each.timeout_s != PATIENT_S]
    slowest_s = max(each.took_s for each in patient)
    log.info("%s; shots %s; job at step %d; slowest %.1f s", kinds, Counter(fired), reached, slowest_s)
    assert len({each.number for each in shots.sent}) == len(shots.sent) > 0.9 * LOAD * CAPACITY * SHOOTING_S
    assert [each for each in shots.sent if each.status == 200 and not each.right] == []
    # whoever has time gets an answer; who has none is told so, and not before
    assert [each for each in patient if not (each.status == 200 or too_late(each))] == []
    assert [each for each in hurried if not (each.status in (200, 429) or too_late(each))] == []
    marked = [each for each in shots.sent if each.marked]
    assert [each for each in marked if not ((each.status, each.code) == (500, "poison") or too_late(each))] == []
    assert any(each.status == 500 for each in marked)
    assert Counter(fired)[signal.SIGKILL] >= 8
    assert Counter(fired)[signal.SIGSTOP] >= 2
    assert 0 < reached < JOB["max_steps"], "it did not train all the while"
    assert after["device"] is not None

    with daemon(calm, config(calm)) as running, Job(running.url, calm) as job:
        undisturbed = job.weights(within_s=240)
    assert trained == undisturbed


def too_late(each: Any) -> bool:
    """Whether it was told that its deadline has passed, or would while its batch runs, when that was so."""
    return each.status == 504 and each.took_s >= each.timeout_s - BATCH_S - ITEM_S * MAX_BATCH_SIZE - 0.05

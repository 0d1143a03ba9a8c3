"""Training jobs that end device processes: every death is written into a job's history, and enough of them end the job.

What counts is whether the job gets ahead: a checkpoint since the last death, and the count begins anew.
"""

from __future__ import annotations

import logging
from pathlib import Path

from batchd_server.device.training.checkpoints import JobFolder
from batchd_server.link.messages import Fallen
from batchd_server.link.suspicions import death_name, ended_itself
from batchd_server.training.job_spec import JobStatus
from batchd_server.training.records import Event
from batchd_server.training.store import TrainingStore

log = logging.getLogger(__name__)

CRASHES = 3
"""Deaths without progress that are the job's doing."""
DEATHS = 10
"""Deaths without progress, whoever's doing they are."""
BUILDING = "building "
"""Before a job's id, in the black box: its data and its network are being made, beside what else runs."""
EVENT = "device_died"
_LOOK_BACK = 500


def note_death(store: TrainingStore, checkpoints: Path, fallen: Fallen) -> None:
    """Write into the histories of the jobs that were at work when a device process died, and end those that go too far.

    May be called again with the same death; it is noted once.

    Raises:
        StoreError: it is not noted.
    """
    building = {what.removeprefix(BUILDING) for what in fallen.beside if what.startswith(BUILDING)}
    at_work = building | ({fallen.job} if fallen.job else set())
    alone = not fallen.running and len(at_work) == 1 and set(fallen.beside) <= {BUILDING + job for job in building}
    for job_id in sorted(at_work):
        try:
            _strike(store, JobFolder(checkpoints / job_id), job_id, fallen, guilty=alone and ended_itself(fallen.exit))
        except KeyError:
            log.warning("job %s is gone from the store", job_id)


def _strike(store: TrainingStore, folder: JobFolder, job_id: str, fallen: Fallen, *, guilty: bool) -> None:
    job = store.job(job_id)
    if job.status.final:
        return
    step = max(folder.steps(), default=0)
    before = _last_death(store, job_id)
    if before is None or before.data.get("incarnation") != fallen.incarnation:
        repeated = before is not None and before.data.get("checkpoint") == step
        counted = before.data if before is not None and repeated else {}
        data = {
            "by": death_name(fallen.exit),
            "checkpoint": step,
            "crashes": counted.get("crashes", 0) + guilty,
            "deaths": counted.get("deaths", 0) + 1,
            "incarnation": fallen.incarnation,
        }
        store.add_event(job_id, EVENT, data)
    else:
        data = dict(before.data)
    if data["crashes"] >= CRASHES or data["deaths"] >= DEATHS:
        times = data["crashes"] if data["crashes"] >= CRASHES else data["deaths"]
        reason = (
            f"the device process died {times} times while this job was at work, last by {data['by']}, "
            "without a checkpoint in between"
        )
        log.error("job %s has failed: %s", job_id, reason)
        with store.together():
            store.add_event(job_id, "failed", {"reason": reason, "step": step})
            store.update(job_id, status=JobStatus.FAILED, reason=reason)


def _last_death(store: TrainingStore, job_id: str) -> Event | None:
    events = store.latest_events(job_id, limit=_LOOK_BACK)
    return next((event for event in events if event.kind == EVENT), None)

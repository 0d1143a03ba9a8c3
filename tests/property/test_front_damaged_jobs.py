"""Whatever a job's JSON holds, it is queued as it came or refused by a field; never an error of ours, never lost."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from training_front_rig import JOB, training_rig

from batchd.schedules import SCHEDULES
from batchd_server.training.job_spec import JobSpec

WHOLE: dict[str, Any] = {
    **JOB,
    "optimizer": {"name": "adamw", "lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8},
    "batching": {
        "schedule": {"name": "linear", "increment": 3},
        "initial": 16,
        "min": 8,
        "max": 64,
        "lr_rule": {"name": "sqrt"},
        "governor": {"multiple": 8},
    },
    "validation": {"fraction": 0.1},
    "checkpoint": {"keep": 2},
    "metadata": {"a": 1},
    "weight": 2.0,
    "seed": 3,
}
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from([*SCHEDULES, "adamw", "sgd", "sqrt", "classifier", "regressor", "lines", "digit-lines"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def places(document: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in document.items():
        found.append((*above, key))
        found += places(value, (*above, key)) if isinstance(value, dict) else []
    return found


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The whole job with up to three places changed, or left out."""
    document = copy.deepcopy(WHOLE)
    for place in draw(st.lists(st.sampled_from(places(WHOLE)), max_size=3)):
        table: Any = document
        for key in place[:-1]:
            table = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict):
            if draw(st.booleans()):
                table[place[-1]] = draw(VALUES)
            else:
                table.pop(place[-1], None)
    return document


@settings(max_examples=15, deadline=None)
@given(st.lists(damaged(), min_size=1, max_size=12))
def test_a_damaged_job_is_queued_as_it_came_or_refused_by_its_field(documents: list[dict[str, Any]]) -> None:
    async def submit() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with training_rig(Path(folder)) as front:
                queued = []
                for document in documents:
                    answer = await front.client.post("/v1/training/jobs", json=document)
                    if answer.status_code == 201:
                        queued.append((answer.json()["id"], document))
                    else:
                        assert answer.status_code == 422, answer.text
                        assert answer.json()["field"]
                assert [job.id for job in front.store.jobs(limit=99)] == [job_id for job_id, _ in queued[::-1]]
                for job_id, document in queued:
                    assert front.store.job(job_id).spec == JobSpec.model_validate(document)

    asyncio.run(submit())

"""docs/training.md and the job's JSON say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel

from batchd.schedules import Task
from batchd_server.training.job_check import check_job
from batchd_server.training.job_spec import (
    BatchingSpec,
    CheckpointSpec,
    JobSpec,
    JobStatus,
    OptimizerSpec,
    ValidationSpec,
)

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
SECTION = PAGE.partition("## What a job says")[2].partition("\n## ")[0]
ROWS = [line.split("|")[1:4] for line in SECTION.splitlines() if line.startswith("| `")]
PARTS: dict[str, type[BaseModel]] = {
    "optimizer": OptimizerSpec,
    "batching": BatchingSpec,
    "validation": ValidationSpec,
    "checkpoint": CheckpointSpec,
}


def documented() -> dict[str, str]:
    """Each key with its default, as the table has them; a name without a dot goes with the table of the one before."""
    found: dict[str, str] = {}
    for names, defaults, _ in ROWS:
        keys = re.findall(r"`([a-z_.]+)`", names)
        table = keys[0].rpartition(".")[0]
        told = re.findall(r"`([^`]+)`", defaults)
        for number, key in enumerate(keys):
            full = key if "." in key or not table else f"{table}.{key}"
            found[full] = told[number] if len(told) == len(keys) else ""
    return found


def test_every_key_is_documented_and_no_other() -> None:
    known = {name for name in JobSpec.model_fields if name not in PARTS}
    known |= {f"{part}.{name}" for part, model in PARTS.items() for name in model.model_fields}
    assert set(documented()) == known


def test_defaults_are_those_in_the_table() -> None:
    wrong = []
    for key, told in documented().items():
        part, _, name = key.rpartition(".")
        if told:
            default = (PARTS[part] if part else JobSpec).model_fields[name].get_default(call_default_factory=True)
            default = default.model_dump() if isinstance(default, BaseModel) else default
            if json.loads(told) != default:
                wrong.append((key, told, default))
    assert wrong == []
    assert sum(bool(told) for told in documented().values()) >= 15


def test_the_example_is_a_job() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)
    check_job(JobSpec.model_validate_json(example), Task(kind="classification", num_classes=10))


def test_every_status_that_ends_a_job_is_named() -> None:
    assert [status.value for status in JobStatus if status.final and f"`{status.value}`" not in PAGE] == []

"""A job's JSON from a file and options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchd_server.cli.train_spec import job_spec
from batchd_server.training.job_spec import JobSpec

NAMED = {"model": "m", "dataset": "d"}


def test_options_that_are_left_out_are_left_to_the_daemon() -> None:
    assert job_spec(None, {**NAMED, "epochs": 3, "optimizer.lr": None, "seed": None}, ()) == {**NAMED, "epochs": 3}


def test_options_go_over_the_file_and_assignments_over_both(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**NAMED, "epochs": 1, "optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.5}}))
    spec = job_spec(file, {"epochs": 2, "optimizer.lr": 0.1}, ["optimizer.momentum=0.9", "epochs=5"])
    assert spec == {**NAMED, "epochs": 5, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}


@pytest.mark.parametrize(
    ("assignment", "place", "value"),
    [
        ("scale=0.5", ("batching", "schedule", "scale"), 0.5),
        ("milestones=[1, 2]", ("batching", "schedule", "milestones"), [1, 2]),
        ("shape=saw", ("batching", "schedule", "shape"), "saw"),
        ("shape=", ("batching", "schedule", "shape"), ""),
        ("statistic=a=b", ("batching", "schedule", "statistic"), "a=b"),
        ("seed=7", ("seed",), 7),
        ("fresh=false", ("fresh",), False),
        ("metadata.note=x y", ("metadata", "note"), "x y"),
        ("batching.governor.cooldown_steps=3", ("batching", "governor", "cooldown_steps"), 3),
    ],
)
def test_an_assignment_is_a_place_or_a_parameter_of_the_schedule(
    assignment: str, place: tuple[str, ...], value: Any
) -> None:
    spec: Any = job_spec(None, {**NAMED, "batching.schedule.name": "noise_scale"}, [assignment])
    for name in place:
        spec = spec[name]
    assert spec == value


def test_another_name_forgets_the_parameters_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**NAMED, "batching": {"schedule": {"name": "linear", "increment": 4}}}))
    assert job_spec(file, {"batching.schedule.name": "linear"}, ())["batching"]["schedule"]["increment"] == 4
    assert job_spec(file, {"batching.schedule.name": "fixed"}, ())["batching"]["schedule"] == {"name": "fixed"}


def test_a_rule_in_its_short_form_takes_parameters() -> None:
    spec = job_spec(None, {**NAMED, "batching.lr_rule": "adascale"}, ["batching.lr_rule.exponent=0.5"])
    assert spec["batching"]["lr_rule"] == {"name": "adascale", "exponent": 0.5}


def test_what_comes_out_is_a_job_of_the_daemon() -> None:
    options = {
        **NAMED,
        "epochs": 3,
        "batching.schedule.name": "noise_scale",
        "batching.initial": 16,
        "batching.min": 16,
        "batching.max": 64,
        "batching.lr_rule": "sqrt",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.003,
        "seed": 1,
        "weight": 2.0,
        "fresh": False,
    }
    spec = JobSpec.model_validate(job_spec(None, options, ["scale=0.5", "metadata.run=a"]))
    assert spec.batching.schedule.parameters == {"scale": 0.5}
    assert (spec.optimizer.lr, spec.fresh, spec.metadata) == (0.003, False, {"run": "a"})


@pytest.mark.parametrize(
    ("options", "assignments", "message"),
    [
        ({"dataset": "d"}, (), "--model is missing"),
        ({"model": "m"}, (), "--dataset is missing"),
        (NAMED, ["scale"], "KEY=VALUE"),
        (NAMED, ["=1"], "KEY=VALUE"),
        (NAMED, ["optimizer.=1"], "KEY=VALUE"),
        (NAMED, ["scale=1"], "--schedule"),
        ({**NAMED, "epochs": 1}, ["epochs.x=1"], "no table"),
    ],
)
def test_what_cannot_be_a_job_is_a_value_error(options: dict[str, Any], assignments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job_spec(None, options, assignments)


@pytest.mark.parametrize("content", ["", "{", "[]", "1", "\ufeff{}"])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "job.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"job\.json"):
        job_spec(file, NAMED, ())

"""What the device process tells of lending the device: `/v1/status` and `/metrics` from the real controller."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchd import Completed, Controller, Failed, ModelPolicy
from batchd.baselines import Fleet
from batchd.decision import RunMicrobatch
from batchd.device_scheduler import DeviceScheduler
from batchd.leasing import Demand, Quantum
from batchd_server.config.policies import scheduler_for
from batchd_server.config.settings import DeviceSettings
from batchd_server.device.device_info import DeviceInfo
from batchd_server.device.questions import Questions
from batchd_server.device.repository import Repository
from batchd_server.device.serving import Serving
from batchd_server.observe.instruments import Instruments
from batchd_server.observe.metrics import Metrics


def questions(controller: DeviceScheduler) -> Questions:
    return Questions(
        incarnation="one",
        device=DeviceInfo(pid=1, name="cpu", kind="cpu", index=None, uuid=None, threads=1, torch="2"),
        policy="adaptive",
        controller=controller,
        repository=Repository([("m", True)]),
        serving=cast("Serving", SimpleNamespace(num_open=0)),
        instruments=Instruments(Metrics(version="1", torch_version="2", device="cpu"), {}),
    )


def training_samples(asked: Questions, now: float) -> dict[tuple[str, str], float]:
    """Value by (family without its prefix, quantum or reason)."""
    return {
        (
            sample.name.removeprefix("batchd_training_"),
            sample.labels.get("quantum") or sample.labels.get("reason") or "",
        ): sample.value
        for family in text_string_to_metric_families(asked.metrics(now))
        for sample in family.samples
        if sample.name.startswith("batchd_training_")
    }


def leases(asked: Questions, now: float) -> dict[str, Any]:
    status = asked.status(now)["leases"]
    assert json.loads(json.dumps(status, allow_nan=False)) == status
    return cast("dict[str, Any]", status)


def lend(controller: Controller, now: float) -> RunMicrobatch:
    decision = controller.next(now)
    assert isinstance(decision, RunMicrobatch)
    return decision


def test_an_operator_sees_who_trains_and_how_much() -> None:
    controller = Controller()
    controller.add_model("m", ModelPolicy(slo_s=1.0))
    asked = questions(controller)
    assert leases(asked, 0.0)["tenants"] == []
    controller.leases.add("job", weight=2.0)
    controller.leases.demand("job", Demand(quantum=Quantum.STEP, expected_s=0.01))
    decision = lend(controller, 0.0)
    assert leases(asked, 0.0) == {
        "tenants": [{"name": "job", "weight": 2.0, "wants": "step", "device_s": 0.0, "rests_s": None}],
        "running": "job",
        "share": 0.0,
        "denied": None,
        "slack_s": pytest.approx(0.9, abs=0.01),
        "bound_by": "m",
        "slack_scale": 1.0,
    }
    controller.report(Completed(batch_id=decision.batch_id, seconds=0.5, peak_bytes=None))
    for _ in range(2):  # asking twice counts nothing twice
        found = training_samples(asked, 0.5)
        assert found["leases_total", "step"] == 1
        assert found["lease_seconds_total", "step"] == 0.5
        assert found["device_share_ratio", ""] == pytest.approx(0.05)
        assert found["slack_scale_ratio", ""] == 1.0
    controller.report(Failed(batch_id=lend(controller, 1.0).batch_id, seconds=0.25))
    assert training_samples(asked, 2.0)["lease_seconds_total", "step"] == 0.75
    assert leases(asked, 1.5)["tenants"][0]["rests_s"] == pytest.approx(0.75)


def test_an_operator_sees_which_model_keeps_training_from_the_device() -> None:
    controller = Controller()
    controller.add_model("patient", ModelPolicy(slo_s=10.0))
    controller.add_model("hasty", ModelPolicy(slo_s=0.005))
    controller.leases.add("job")
    controller.leases.demand("job", Demand(quantum=Quantum.STEP, expected_s=0.02))
    for number in range(3):
        assert not isinstance(controller.next(float(number)), RunMicrobatch)
    asked = questions(controller)
    seen = leases(asked, 3.0)
    assert (seen["denied"], seen["bound_by"]) == ("too_long", "hasty")
    assert seen["slack_s"] < 0.005
    found = training_samples(asked, 3.0)
    assert found["denials_total", "too_long"] == 3
    assert found["slack_seconds", ""] == seen["slack_s"]


def test_without_a_promise_there_is_no_limit_to_show() -> None:
    controller = Controller()
    controller.leases.add("job")
    controller.leases.demand("job", Demand(quantum=Quantum.STEP))
    lend(controller, 0.0)
    asked = questions(controller)
    assert leases(asked, 0.0)["slack_s"] is None
    assert ("slack_seconds", "") not in training_samples(asked, 0.0)


def test_a_classic_policy_never_lends_and_says_nothing_of_it() -> None:
    fleet = scheduler_for(DeviceSettings(policy="window:5:32"))
    assert isinstance(fleet, Fleet)
    asked = questions(fleet)
    assert asked.status(0.0)["leases"] is None
    assert training_samples(asked, 0.0) == {}

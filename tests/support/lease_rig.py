"""Tenants whose law is known, and short ways to lend them the device."""

from __future__ import annotations

from typing import Any

from controller_rig import taught

from batchd import Completed, Controller, ModelPolicy
from batchd.decision import RunMicrobatch
from batchd.leasing import Demand, Quantum, TrainingPolicy
from batchd.leasing.broker import Denial
from batchd.leasing.lease_snapshot import LeaseSnapshot
from batchd.leasing.tenant import Tenant

SLO = 0.1


def law(items: int, *, fixed: float = 0.001, each: float = 0.0005) -> float:
    """Seconds of a microbatch."""
    return fixed + each * items


def trained(name: str = "job", *, fixed: float = 0.001, each: float = 0.0005, largest: int = 256) -> Tenant:
    """A tenant whose law is known."""
    tenant = Tenant(name)
    for size in (1, 2, 4, 8, 16, 32, 64, largest):
        for _ in range(3):
            tenant.completed(Demand(items=size), size, law(size, fixed=fixed, each=each), None)
    return tenant


def lease(made: Controller, now: float) -> RunMicrobatch:
    decision = made.next(now)
    assert isinstance(decision, RunMicrobatch), decision
    return decision


def give_back(made: Controller, decision: RunMicrobatch, seconds: float = 0.001) -> None:
    made.report(Completed(batch_id=decision.batch_id, seconds=seconds, peak_bytes=None))


def alone(**policy: Any) -> Controller:
    """A controller without models, and so without promises."""
    return Controller(training_policy=TrainingPolicy(**policy))


def served(slo_s: float = SLO, policy: TrainingPolicy | None = None, **limits: Any) -> Controller:
    """A controller with one model of 2 ms + 1 ms per element."""
    made = Controller(training_policy=policy)
    made.add_model("m", ModelPolicy(slo_s=slo_s, **limits))
    made.load_state_dict("m", taught().state_dict("m"))
    return made


def works(made: Controller, seconds: float, name: str = "job", *, quantum: Quantum = Quantum.STEP) -> None:
    """Let a tenant in that always wants a quantum of so many seconds."""
    made.leases.add(name)
    made.leases.demand(name, Demand(quantum=quantum, expected_s=seconds))


def standing(made: Controller, now: float = 0.0) -> LeaseSnapshot:
    leases = made.snapshot(now).leases
    assert leases is not None
    return leases


def refusal(made: Controller) -> Denial | None:
    return standing(made).denied

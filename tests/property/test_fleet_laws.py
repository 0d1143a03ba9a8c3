"""The classic rules in the daemon lose nothing either, whatever the interleaving."""

from __future__ import annotations

import pytest
from hypothesis import settings
from scheduler_laws import BUDGET, SchedulerLaws

from batchd import ModelPolicy
from batchd.baselines import Fleet, parse_rule
from batchd.scheduler import Scheduler

SPECS = ("window:300:5", "buckets:16,200:50:3", "aimd", "total-time", "threshold:0.3:0.6:4")


def laws_of(spec: str) -> type[SchedulerLaws]:
    def rule(policy: ModelPolicy) -> Scheduler:
        return parse_rule(spec, slo_s=policy.slo_s, max_batch_size=policy.max_batch_size)()

    class FleetLaws(SchedulerLaws):
        """The fleet waits no longer than a rule's window, and never past a deadline."""

        def make(self) -> Fleet:
            return Fleet(rule, BUDGET)

        def check_wait(self, until: float) -> None:
            assert until <= min(self.items[item_id].deadline for item_id in self.waiting)

    return FleetLaws


@pytest.mark.parametrize("spec", SPECS)
def test_fleet_laws(spec: str) -> None:
    case = laws_of(spec).TestCase
    case.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
    case("runTest").runTest()

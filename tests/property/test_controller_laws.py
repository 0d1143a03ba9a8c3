"""Whatever the interleaving of offers, cancels, outcomes and readings: nothing is lost, doubled or over a bound."""

from __future__ import annotations

from hypothesis import settings
from lease_laws import LeaseLaws
from scheduler_laws import BUDGET, POLICIES, SchedulerLaws

from batchd import Controller, Window


class ControllerLaws(SchedulerLaws):
    """The controller sizes batches by memory, and holds items for nothing but a fixed window."""

    sizes_by_memory = True

    def make(self) -> Controller:
        return Controller(BUDGET)

    def check_wait(self, until: float) -> None:
        for item_id in self.waiting:
            item = self.items[item_id]
            policy = POLICIES[item.model]
            assert policy.window is Window.FIXED, "a free device left items waiting"
            assert until <= item.arrived + policy.fixed_window_s + 1e-9


class LendingControllerLaws(LeaseLaws, ControllerLaws):
    """The same while the device is lent to training, which must change none of it."""


TestControllerLaws = ControllerLaws.TestCase
TestControllerLaws.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)

TestLendingControllerLaws = LendingControllerLaws.TestCase
TestLendingControllerLaws.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)

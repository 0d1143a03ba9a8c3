"""However the device is lent, and whatever fails on the way, a step's examples run once each, part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.device.training.step_plan import FULLNESS, StepPlan, random_parts


@given(st.data())
def test_every_example_runs_once_in_its_part(data: Any) -> None:
    count = data.draw(st.integers(1, 40))
    dimensions = data.draw(st.integers(1, 2))
    sizes = np.array(data.draw(st.lists(st.integers(1, 50), min_size=count * dimensions, max_size=count * dimensions)))
    sizes = sizes.reshape(count, dimensions)
    parts = random_parts(list(range(count)), data.draw(st.integers(1, 5)), seed=1, step=2)
    slice_size = data.draw(st.none() | st.integers(1, 8))
    plan = StepPlan(parts, sizes, slice_size=slice_size)
    ran: list[list[int]] = [[]]
    while not plan.finished:
        units, elements = plan.units, plan.elements
        assert units >= 1
        lent = data.draw(st.integers(1, units))
        for cut in plan.next_cuts(lent):
            assert cut.elements <= lent * elements, "it is no larger than what was lent for"
            assert (np.array(cut.padded_shape) >= sizes[list(cut.ids)]).all()
            if dimensions == 1 and slice_size is None:
                assert sizes[list(cut.ids)].sum() >= FULLNESS * cut.elements
            if data.draw(st.booleans()):
                break  # it did not fit: it comes again, perhaps in finer slices
            plan.done(cut)
            ran[-1] += cut.ids
        if plan.part_complete:
            plan.close_part()
            ran.append([])
        elif slice_size is not None and slice_size > 1 and data.draw(st.booleans()):
            slice_size //= 2
            plan.cut_finer(slice_size)
    assert [sorted(part) for part in ran[:-1]] == [sorted(part) for part in parts if part]

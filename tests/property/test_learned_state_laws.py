"""Whatever a file of learned costs has become: it is refused whole, or what it says can be worked with."""

from __future__ import annotations

import json
import math
from typing import Any

from controller_rig import controller, item, launched, taught
from hypothesis import given
from hypothesis import strategies as st

from batchd import Admitted

SAVED = json.dumps(taught().state_dict("m"))
JUNK = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.text(max_size=3),
    st.lists(st.one_of(st.floats(), st.integers()), max_size=4),
    st.just({}),
)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    return [(node, key) for key in keys] + [place for key in keys for place in places(node[key])]


@given(data=st.data(), damages=st.integers(1, 3))
def test_damaged_state_is_refused_whole_or_can_be_worked_with(data: st.DataObject, damages: int) -> None:
    state = json.loads(SAVED)
    for _ in range(damages):
        found = places(state)
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        container[key] = data.draw(JUNK)
    made = controller()
    untouched = made.state_dict("m")
    try:
        made.load_state_dict("m", state)
    except ValueError:
        assert made.state_dict("m") == untouched
    admission = made.offer(item(1, 64), 0.0)
    assert isinstance(admission, Admitted)
    assert math.isfinite(admission.predicted_finish)
    assert launched(made, 0.0).items == (1,)

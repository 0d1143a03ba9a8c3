"""What clients are told of the controller's refusals."""

from __future__ import annotations

import pytest

from batchd.decision import RefusalReason, Refused
from batchd_server.device.refusals import refusal_error


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        (RefusalReason.QUEUE_FULL, 429, "queue_full"),
        (RefusalReason.DEADLINE_INFEASIBLE, 429, "deadline_infeasible"),
        (RefusalReason.TOO_LARGE, 413, "too_large"),
        (RefusalReason.MEMORY, 507, "insufficient_memory"),
        (RefusalReason.UNKNOWN_MODEL, 503, "model_not_loaded"),
        (RefusalReason.DRAINING, 503, "draining"),
    ],
)
def test_each_reason_has_the_status_that_its_code_has_everywhere(reason: RefusalReason, status: int, code: str) -> None:
    error = refusal_error(Refused(reason, "because", None))
    assert (error.status, error.code, error.message) == (status, code, "because")

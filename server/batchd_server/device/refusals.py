"""From the controller's reasons to what a client is told."""

from __future__ import annotations

from batchd.decision import RefusalReason, Refused
from batchd_server.errors import DeadlineInfeasible, InsufficientMemory, QueueFull, ServingError, TooLarge, Unavailable

NOT_LOADED_RETRY_S = 1.0

_ERRORS: dict[RefusalReason, type[ServingError]] = {
    RefusalReason.QUEUE_FULL: QueueFull,
    RefusalReason.DEADLINE_INFEASIBLE: DeadlineInfeasible,
    RefusalReason.TOO_LARGE: TooLarge,
    RefusalReason.MEMORY: InsufficientMemory,
    RefusalReason.DRAINING: Unavailable,
}


def refusal_error(refused: Refused) -> ServingError:
    """Return the error that says what the controller said; its code is the reason."""
    # Fronts refuse what is not configured, so a model that the controller does not know is only not loaded.
    if refused.reason is RefusalReason.UNKNOWN_MODEL:
        return Unavailable(refused.detail, retry_after_s=NOT_LOADED_RETRY_S, code="model_not_loaded")
    return _ERRORS[refused.reason](refused.detail, retry_after_s=refused.retry_after_s, code=refused.reason.value)

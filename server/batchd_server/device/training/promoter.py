"""Carries out `promote` and `rollback`: files are read in the workshop, weights change hands between two batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from safetensors import SafetensorError

from batchd_server.device.failures import describe
from batchd_server.device.model_lifecycle import Reply
from batchd_server.device.repository import Caller, Repository
from batchd_server.device.training.checkpoints import read_weights
from batchd_server.device.training.promotion import PromotedWeights
from batchd_server.device.training.promotion_work import Adopted, Promotion, PromotionSettled
from batchd_server.device.training.workshop import Workshop
from batchd_server.errors import BadRequest, Conflict, ModelFailed, NotFound, ServingError, Unprocessable
from batchd_server.models.trainable import Trainable
from batchd_server.training.places import Places


class Promoter:
    """Runs on the engine's thread; `deliver` brings its events from other threads."""

    def __init__(
        self,
        places: Places,
        workshop: Workshop,
        repository: Repository,
        submit: Callable[[Promotion], None],
        deliver: Callable[[PromotionSettled], None],
        reply: Reply,
    ) -> None:
        self._places, self._workshop, self._repository = places, workshop, repository
        self._submit, self._deliver, self._reply = submit, deliver, reply
        self._weights = PromotedWeights(places.promoted)

    def promote(self, caller: Caller, model_name: str, job: str, step: int) -> None:
        """Serve a model with the weights of a job's checkpoint; the caller is answered once it is.

        Raises:
            ServingError: the model does not serve now, or cannot take weights.
        """
        model = self._model(model_name)
        checkpoint = self._places.checkpoints / job / f"step-{step}"

        def read() -> Promotion:
            return Promotion(caller, model_name, model, read_weights(checkpoint), job, step)

        self._workshop.submit(lambda: self._try(caller, read, NotFound(f"checkpoint {step} of {job} cannot be read")))

    def roll_back(self, caller: Caller, model_name: str) -> None:
        """Serve a model with the weights that it had before its last promotion.

        Raises:
            ServingError: the model does not serve now, or cannot take weights.
        """
        model = self._model(model_name)

        def read() -> Promotion:
            possible, weights = self._weights.before(model_name)
            if not possible:
                raise Conflict(f"no promotion of model {model_name!r} is left to undo")
            if weights is None:
                weights = model.new_network(fresh=False).state_dict()
            return Promotion(caller, model_name, model, weights, None, None)

        self._workshop.submit(
            lambda: self._try(caller, read, ModelFailed(f"the weights before of {model_name!r} cannot be read"))
        )

    def adopted(self, done: Adopted) -> None:
        """The weights are in place: note it, so that the next start of the device process knows."""
        promotion = done.promotion
        if done.problem is not None:
            message = f"model {promotion.model_name!r} does not take these weights: {done.problem}"
            self._reply(promotion.caller, None, Unprocessable(message))
            return
        self._workshop.submit(lambda: self._note(promotion))

    def settled(self, event: PromotionSettled) -> None:
        """Tell the caller."""
        promotion = event.promotion
        if promotion is None:
            self._reply(event.caller, None, event.error)
        else:
            self._reply(event.caller, {"step": promotion.step} if promotion.job else {}, event.error)

    # ---- the workshop's thread ---------------------------------------------------------------------------------------

    def _try(self, caller: Caller, read: Callable[[], Promotion], unreadable: ServingError) -> None:
        try:
            promotion = read()
        except ServingError as error:
            self._deliver(PromotionSettled(None, caller, error))
        except (OSError, SafetensorError):
            self._deliver(PromotionSettled(None, caller, unreadable))
        except Exception as error:  # noqa: BLE001 - user code makes the network: whatever it raises is the answer
            self._deliver(PromotionSettled(None, caller, ModelFailed(describe(error))))
        else:
            self._submit(promotion)

    def _note(self, promotion: Promotion) -> None:
        error: ServingError | None = None
        try:
            if promotion.job is None:
                self._weights.undo(promotion.model_name)
            else:
                assert promotion.step is not None, "a promotion is of a step"
                place = self._places.checkpoints / promotion.job / f"step-{promotion.step}"
                self._weights.promoted(promotion.model_name, place, promotion.job, promotion.step)
        except OSError as problem:
            error = ModelFailed(
                f"the weights serve, but will not after a restart: {problem.strerror}", code="not_saved"
            )
        self._deliver(PromotionSettled(promotion, promotion.caller, error))

    def _model(self, name: str) -> Trainable:
        if name not in self._repository:
            raise NotFound(f"model {name!r} is not configured")
        loaded = self._repository[name].loaded
        if loaded is None or self._repository[name].state != "READY":
            raise Conflict(f"model {name!r} is not loaded")
        if not isinstance(loaded.model, Trainable):
            raise Unprocessable(f"model {name!r} cannot take other weights")
        return loaded.model


def promotion_call(arguments: Mapping[str, Any]) -> tuple[str, int]:
    """Return the job and the step that a `promote` call names.

    Raises:
        BadRequest: it does not.
    """
    job, step = arguments.get("job"), arguments.get("checkpoint")
    if not isinstance(job, str) or not isinstance(step, int):
        raise BadRequest("a promotion names a job and a checkpoint's step", field="checkpoint")
    return job, step

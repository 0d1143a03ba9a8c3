"""Answers what front processes ask or order besides inference. Every call gets exactly one reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from batchd_server.device.external_leases import ExternalLeases
from batchd_server.device.model_lifecycle import ModelLifecycle, Reply
from batchd_server.device.questions import Questions
from batchd_server.device.repository import Caller
from batchd_server.device.training.training_side import TrainingSide
from batchd_server.errors import BadRequest, ServingError
from batchd_server.link.messages import Control


class Controls:
    """Routes control calls; orders to load and unload are answered once they are carried out."""

    def __init__(
        self,
        questions: Questions,
        lifecycle: ModelLifecycle,
        external: ExternalLeases,
        training: TrainingSide,
        front_pids: Callable[[], tuple[int, ...]],
        reply: Reply,
    ) -> None:
        self._questions = questions
        self._lifecycle = lifecycle
        self._external = external
        self._training = training
        self._front_pids = front_pids
        self._reply = reply

    def take(self, caller: Caller, message: Control, now: float) -> None:
        """Answer one call, now or later."""
        arguments = message.arguments
        try:
            match message.action:
                case "load":
                    self._lifecycle.load(_model(arguments), caller)
                case "unload":
                    self._lifecycle.unload(_model(arguments), caller, now)
                case "status":
                    fronts = [{"pid": pid} for pid in self._front_pids()]
                    self._reply(caller, {**self._questions.status(now), "fronts": fronts}, None)
                case "statistics":
                    self._reply(caller, self._questions.statistics(arguments.get("model")), None)
                case "metrics":
                    self._reply(caller, self._questions.metrics(now, self._training.trouble), None)
                case "decisions":
                    found = self._questions.decisions(arguments.get("limit"), arguments.get("model"))
                    self._reply(caller, found, None)
                case "training" | "promote" | "rollback":
                    self._about_training(caller, message)
                case "lease" | "lease_return" | "lease_drop" | "leases":
                    self._about_leases(caller, message, now)
                case never:
                    assert_never(never)
        except ServingError as error:
            self._reply(caller, None, error)

    def _about_training(self, caller: Caller, message: Control) -> None:
        match message.action:
            case "promote":
                self._training.promote(caller, _model(message.arguments), message.arguments)
            case "rollback":
                self._training.roll_back(caller, _model(message.arguments))
            case _:
                self._training.look(caller)

    def _about_leases(self, caller: Caller, message: Control, now: float) -> None:
        match message.action:
            case "lease":
                self._external.ask(caller, message.arguments, now)
            case "lease_return":
                self._external.give_back(caller, message.arguments, now)
            case "lease_drop":
                self._external.drop(message.arguments, now)
                self._reply(caller, None, None)
            case _:
                self._reply(caller, self._external.overview(now), None)


def _model(arguments: dict[str, Any]) -> str:
    name = arguments.get("model")
    if not isinstance(name, str):
        raise BadRequest("the model's name is missing", field="model")
    return name

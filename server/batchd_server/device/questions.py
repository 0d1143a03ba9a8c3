"""Answers the control calls that only ask: status, statistics, metrics, decisions. JSON-able values throughout."""

from __future__ import annotations

import math
from typing import Any

from batchd.device_scheduler import DeviceScheduler
from batchd.leasing.lease_snapshot import LeaseSnapshot
from batchd.snapshot import ControllerSnapshot
from batchd_server.device.device_info import DeviceInfo
from batchd_server.device.memory.telemetry import Telemetry
from batchd_server.device.repository import Repository
from batchd_server.device.serving import Serving
from batchd_server.device.training.spatial_split import SpatialSplit
from batchd_server.errors import BadRequest, NotFound
from batchd_server.observe.instruments import Instruments

DEFAULT_DECISIONS = 100


class Questions:
    """Looks at the engine's rooms, and changes nothing but the gauges."""

    def __init__(
        self,
        *,
        incarnation: str,
        device: DeviceInfo,
        policy: str,
        controller: DeviceScheduler,
        repository: Repository,
        serving: Serving,
        instruments: Instruments,
        split: SpatialSplit | None = None,
    ) -> None:
        self._incarnation = incarnation
        self._device = device
        self._policy = policy
        self._controller = controller
        self._repository = repository
        self._serving = serving
        self._instruments = instruments
        self._split = split
        self.telemetry = Telemetry()

    def status(self, now: float) -> dict[str, Any]:
        """Return how everything stands."""
        snapshot = self._snapshot(now)
        served = {model.name: model for model in snapshot.models}
        models = []
        for state in self._repository.states():
            model = served.get(state.name)
            models.append(
                {
                    "name": state.name,
                    "state": state.state,
                    "reason": state.reason,
                    "slo_s": state.slo_s or None,
                    "queued": 0 if model is None else model.queued,
                    "oldest_age_s": 0.0 if model is None else model.oldest_age_s,
                    "latency_fixed_s": None if model is None else model.fixed_s,
                    "latency_upper_factor": None if model is None else model.upper_factor,
                    "latency_samples": 0 if model is None else model.num_samples,
                    "ladder_edges": [] if model is None else model.edges,
                }
            )
        memory = self.telemetry.memory
        return {
            "incarnation": self._incarnation,
            "device": self._device.to_json(),
            "policy": self._policy,
            "models": models,
            "queue": {
                "waiting_items": sum(model.queued for model in snapshot.models),
                "open_items": self._serving.num_open,
                "running_batch": snapshot.running,
            },
            "budget": {
                "total_bytes": memory.total,
                "free_bytes": memory.device_free,
                "reserved_bytes": memory.reserved,
                "resident_bytes": memory.allocated,
                "budget_bytes": snapshot.budget_bytes,
                "headroom_bytes": snapshot.headroom_bytes,
            },
            "leases": None if snapshot.leases is None else _leases(snapshot.leases, now),
            "draining": snapshot.draining,
        }

    def statistics(self, model: object = None) -> dict[str, Any]:
        """Return the statistics extension's answer, for one model or all.

        Raises:
            NotFound: no such model is configured.
        """
        known = self._instruments.statistics
        if model is None:
            names = list(known)
        elif isinstance(model, str) and model in known:
            names = [model]
        else:
            raise NotFound(f"model {model!r} is not configured")
        for name in names:
            loaded = self._repository[name].loaded
            known[name].memory_bytes = None if loaded is None else loaded.resident_bytes
        return {"model_stats": [known[name].to_json() for name in names]}

    def decisions(self, limit: object = None, model: object = None) -> list[dict[str, Any]]:
        """Return the latest decisions, newest first.

        Raises:
            BadRequest: `limit` is no count, or `model` no name.
        """
        count = DEFAULT_DECISIONS if limit is None else limit
        if not isinstance(count, int) or count < 0:
            raise BadRequest("limit must be a whole number, 0 or more", field="limit")
        if model is not None and not isinstance(model, str):
            raise BadRequest("model must be a name", field="model")
        return self._instruments.decisions.latest(count, model)

    def metrics(self, now: float, training_trouble: str = "") -> str:
        """Return Prometheus's text, with the gauges as they are now; `training_trouble` is why nothing trains."""
        snapshot = self._snapshot(now)
        metrics = self._instruments.metrics
        served = {model.name: model for model in snapshot.models}
        for state in self._repository.states():
            model = served.get(state.name)
            metrics.queue.depth.labels(state.name).set(0 if model is None else model.queued)
            metrics.queue.oldest.labels(state.name).set(0.0 if model is None else model.oldest_age_s)
            metrics.queue.ready.labels(state.name).set(state.state == "READY")
        metrics.queue.in_flight.set(self._serving.num_open)
        metrics.memory.show(self.telemetry, snapshot.budget_bytes, snapshot.headroom_bytes)
        metrics.leases.show(snapshot.leases)
        metrics.training_paused.clear()
        if training_trouble:
            metrics.training_paused.labels(training_trouble).set(1)
        return metrics.exposition()

    def _snapshot(self, now: float) -> ControllerSnapshot:
        inference = self._controller.snapshot(now)
        return inference if self._split is None else self._split.beside(inference, now)


def _leases(leases: LeaseSnapshot, now: float) -> dict[str, Any]:
    """How lending to training stands; null where nothing limits it."""
    return {
        "tenants": [
            {
                "name": tenant.name,
                "weight": tenant.weight,
                "wants": tenant.wants,
                "device_s": tenant.seconds,
                "rests_s": None if tenant.rests_until is None else tenant.rests_until - now,
            }
            for tenant in leases.tenants
        ],
        "running": leases.running,
        "share": leases.share,
        "denied": leases.denied,
        "slack_s": leases.slack_s if leases.slack_s < math.inf else None,
        "bound_by": leases.bound_by,
        "slack_scale": leases.scale,
    }

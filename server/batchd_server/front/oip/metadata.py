"""What the protocol tells about the server and its models."""

from __future__ import annotations

from typing import Any

from batchd.policy import ModelPolicy, Window
from batchd_server.models.protocol import Model
from batchd_server.models.spec import TensorSpec

PLATFORM = "pytorch_batchd"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)


def server_metadata(release: str) -> dict[str, Any]:
    """Return the answer of `GET /v2`."""
    return {"name": "batchd", "version": release, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, version: str, model: Model) -> dict[str, Any]:
    """Return the answer of `GET /v2/models/NAME`."""
    return {
        "name": name,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
    }


def model_config(name: str, version: str, model: Model, policy: ModelPolicy) -> dict[str, Any]:
    """Return the answer of `GET /v2/models/NAME/config`, in the names of Triton's ModelConfig."""
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "batchd",
        "version_policy": {"specific": {"versions": [int(version)]}},
        "max_batch_size": policy.max_batch_size,
        "input": [_configured(spec) | {"optional": spec.optional} for spec in model.inputs],
        "output": [_configured(spec) for spec in model.outputs],
        "dynamic_batching": {
            "max_queue_delay_microseconds": round(policy.fixed_window_s * 1e6) if policy.window is Window.FIXED else 0,
            "priority_levels": policy.priority_levels,
            "default_priority_level": policy.default_priority,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(policy.slo_s * 1e6),
                "allow_timeout_override": True,
                "max_queue_size": policy.max_queue_size,
            },
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape}


def _configured(spec: TensorSpec) -> dict[str, Any]:
    data_type = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": data_type, "dims": spec.wire_shape[1:]}

"""The protocol's documents as JSON schemas, for the OpenAPI description only: requests are checked by hand."""

from __future__ import annotations

from typing import Any

from batchd_server.models.spec import NUMPY_DTYPES

_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]},
}
_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": "Batch axis first."},
        "datatype": {"type": "string", "enum": list(NUMPY_DTYPES)},
        "parameters": _PARAMETERS,
        "data": {"type": "array", "items": {}, "description": "Row-major, flat or nested; absent for binary tensors."},
    },
}
INFER_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "Comes back in the response."},
        "parameters": {
            "type": "object",
            "properties": {
                "timeout": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "Deadline in microseconds; 0 = none given.",
                },
                "priority": {"type": "integer", "minimum": 0, "description": "1 = highest, 0 = the model's default."},
                "binary_data_output": {"type": "boolean"},
            },
        },
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "binary_data": {"type": "boolean"},
                            "classification": {"type": "integer", "minimum": 0},
                        },
                    },
                },
            },
        },
    },
}
INFER_RESPONSE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "properties": {
                "batch_size": {"type": "integer", "description": "Items of the largest batch that took part."},
                "queue_ms": {"type": "number"},
                "compute_ms": {"type": "number"},
            },
        },
        "outputs": {"type": "array", "items": _TENSOR},
    },
}

"""The protocol's documents as JSON schemas, for the OpenAPI description only: requests are checked by hand."""

from __future__ import annotations

from typing import Any

from batchd_server.front.oip.parameters import LARGEST_INT
from batchd_server.front.oip.request import MOST_AXES
from batchd_server.models.spec import NUMPY_DTYPES

OPTIONAL_FLAG: dict[str, Any] = {"type": ["boolean", "null"]}
_NAME: dict[str, Any] = {"type": "string", "minLength": 1}


def _optional_count(description: str = "") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["integer", "null"], "minimum": 0, "maximum": LARGEST_INT}
    return schema | ({"description": description} if description else {})


def optional_parameters(**known: dict[str, Any]) -> dict[str, Any]:
    """Describe a `parameters` object; what is not known is not looked at."""
    return {"type": ["object", "null"], "properties": known}


_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": _NAME,
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0},
            "minItems": 1,
            "maxItems": MOST_AXES,
            "description": "Batch axis first.",
        },
        "datatype": {"type": "string", "enum": list(NUMPY_DTYPES)},
        "parameters": optional_parameters(binary_data_size=_optional_count("Of this tensor behind the JSON.")),
        "data": {"type": "array", "items": {}, "description": "Row-major, flat or nested; absent for binary tensors."},
    },
}
_OUTPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _NAME,
        "parameters": optional_parameters(
            binary_data=OPTIONAL_FLAG, classification=_optional_count("How many of the highest values; 0 = not asked.")
        ),
    },
}
INFER_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": ["string", "null"], "description": "Comes back in the response."},
        "parameters": optional_parameters(
            timeout=_optional_count("Deadline in microseconds; 0 = none given."),
            priority=_optional_count("1 = highest, 0 = the model's default."),
            binary_data_output=OPTIONAL_FLAG,
        ),
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {"type": ["array", "null"], "items": _OUTPUT},
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

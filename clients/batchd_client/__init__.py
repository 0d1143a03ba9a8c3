"""HTTP clients for batchd and other servers of the Open Inference Protocol v2. Needs httpx and numpy only."""

from batchd_client.async_client import AsyncClient
from batchd_client.client import Client
from batchd_client.errors import (
    BadRequest,
    BatchdError,
    ConnectionFailed,
    DeadlineExceeded,
    DeadlineExceededOnServer,
    Forbidden,
    InsufficientMemory,
    NotFound,
    Overloaded,
    ProtocolError,
    ServerError,
    ServerFailed,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from batchd_client.infer_codec import InferOptions, InferResult, Inputs, ItemOptions, decode_infer, encode_infer
from batchd_client.metadata import ModelMetadata, RepositoryEntry, ServerMetadata, TensorMetadata
from batchd_client.retry import RetryPolicy
from batchd_client.wire import EncodedRequest

__all__ = [
    "AsyncClient",
    "BadRequest",
    "BatchdError",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "DeadlineExceededOnServer",
    "EncodedRequest",
    "Forbidden",
    "InferOptions",
    "InferResult",
    "Inputs",
    "InsufficientMemory",
    "ItemOptions",
    "ModelMetadata",
    "NotFound",
    "Overloaded",
    "ProtocolError",
    "RepositoryEntry",
    "RetryPolicy",
    "ServerError",
    "ServerFailed",
    "ServerMetadata",
    "TensorMetadata",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "decode_infer",
    "encode_infer",
]

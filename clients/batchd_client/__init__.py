"""HTTP clients for batchd and other servers of the Open Inference Protocol v2. Needs httpx and numpy only."""

from batchd_client.async_client import AsyncClient
from batchd_client.borrowing import LeaseExpired, LeaseRecord
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
from batchd_client.lease import AsyncLease, Lease, leased
from batchd_client.metadata import ModelMetadata, RepositoryEntry, ServerMetadata, TensorMetadata
from batchd_client.retry import RetryPolicy
from batchd_client.training import Training
from batchd_client.training_async import AsyncTraining
from batchd_client.training_calls import JobSettings
from batchd_client.training_records import (
    BatchSizeCommit,
    Dataset,
    JobCheckpoint,
    JobEvent,
    TrainingFigures,
    TrainingJob,
    TrainingJobPage,
)
from batchd_client.wire import EncodedRequest

__all__ = [
    "AsyncClient",
    "AsyncLease",
    "AsyncTraining",
    "BadRequest",
    "BatchSizeCommit",
    "BatchdError",
    "Client",
    "ConnectionFailed",
    "Dataset",
    "DeadlineExceeded",
    "DeadlineExceededOnServer",
    "EncodedRequest",
    "Forbidden",
    "InferOptions",
    "InferResult",
    "Inputs",
    "InsufficientMemory",
    "ItemOptions",
    "JobCheckpoint",
    "JobEvent",
    "JobSettings",
    "Lease",
    "LeaseExpired",
    "LeaseRecord",
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
    "Training",
    "TrainingFigures",
    "TrainingJob",
    "TrainingJobPage",
    "Unauthorized",
    "Unavailable",
    "decode_infer",
    "encode_infer",
    "leased",
]

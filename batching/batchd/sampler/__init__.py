"""Training data of varying size: batches through buckets, microbatches, and what padding they cost.

Pure: sizes come in as numbers, and indices go out. torch is not imported; a DataLoader takes the sampler as it is.
"""

from batchd.sampler.batch_limit import BatchLimit, ElementBudget, Oversize
from batchd.sampler.bucket_batch_sampler import BucketBatchSampler
from batchd.sampler.bucketing import BucketRule, BucketsWanted
from batchd.sampler.microbatches import DoesNotFitError, Microbatch, plan_microbatches
from batchd.sampler.padding_report import PaddingReport, Spread, padding_report, padding_table

__all__ = [
    "BatchLimit",
    "BucketBatchSampler",
    "BucketRule",
    "BucketsWanted",
    "DoesNotFitError",
    "ElementBudget",
    "Microbatch",
    "Oversize",
    "PaddingReport",
    "Spread",
    "padding_report",
    "padding_table",
    "plan_microbatches",
]

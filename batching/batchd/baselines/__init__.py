"""The classic rules, for comparison: each a few lines over `queue_and_device`."""

from batchd.baselines.aimd import AdditiveIncrease
from batchd.baselines.fixed_buckets import FixedBuckets
from batchd.baselines.fixed_window import FixedWindow
from batchd.baselines.total_time import TotalTime

__all__ = ["AdditiveIncrease", "FixedBuckets", "FixedWindow", "TotalTime"]

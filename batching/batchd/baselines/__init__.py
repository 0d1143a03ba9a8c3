"""The classic rules, for comparison: each a few lines over `queue_and_device`; `Fleet` puts them into the daemon."""

from batchd.baselines.aimd import AdditiveIncrease
from batchd.baselines.fixed_buckets import FixedBuckets
from batchd.baselines.fixed_window import FixedWindow
from batchd.baselines.fleet import Fleet
from batchd.baselines.notation import ADAPTIVE, POLICIES, parse_rule
from batchd.baselines.threshold import MemoryThreshold
from batchd.baselines.total_time import TotalTime

__all__ = [
    "ADAPTIVE",
    "POLICIES",
    "AdditiveIncrease",
    "FixedBuckets",
    "FixedWindow",
    "Fleet",
    "MemoryThreshold",
    "TotalTime",
    "parse_rule",
]

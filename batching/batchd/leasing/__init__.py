"""Lending the device to training: who wants it, for how long it can be spared, and who is next."""

from batchd.leasing.demand import Demand, Quantum, TrainingPolicy
from batchd.leasing.share import lease_seconds, training_share

__all__ = ["Demand", "Quantum", "TrainingPolicy", "lease_seconds", "training_share"]

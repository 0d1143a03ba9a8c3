"""Schedulers against a virtual clock: the same decisions as in the daemon, without a device and without waiting."""

from batchd.simulator.arrivals import (
    Arrival,
    bimodal_lengths,
    bursty_arrivals,
    diurnal_arrivals,
    lognormal_lengths,
    poisson_arrivals,
)
from batchd.simulator.device_law import DeviceLaw, DeviceRun, Slowdown
from batchd.simulator.device_memory import DeviceMemory, Neighbour
from batchd.simulator.device_specs import calibrate, parse_memory, parse_slowdowns
from batchd.simulator.learned_law import learned_law
from batchd.simulator.simulation import SimulationResult, simulate, simulate_schedulers
from batchd.simulator.specs import parse_cost, parse_lengths, parse_policy, parse_training
from batchd.simulator.training_law import TrainingLaw

__all__ = [
    "Arrival",
    "DeviceLaw",
    "DeviceMemory",
    "DeviceRun",
    "Neighbour",
    "SimulationResult",
    "Slowdown",
    "TrainingLaw",
    "bimodal_lengths",
    "bursty_arrivals",
    "calibrate",
    "diurnal_arrivals",
    "learned_law",
    "lognormal_lengths",
    "parse_cost",
    "parse_lengths",
    "parse_memory",
    "parse_policy",
    "parse_slowdowns",
    "parse_training",
    "poisson_arrivals",
    "simulate",
    "simulate_schedulers",
]

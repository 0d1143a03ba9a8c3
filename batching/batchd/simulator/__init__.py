"""Schedulers against a virtual clock: the same decisions as in the daemon, without a device and without waiting."""

from batchd.simulator.arrivals import (
    Arrival,
    bimodal_lengths,
    bursty_arrivals,
    diurnal_arrivals,
    lognormal_lengths,
    poisson_arrivals,
)
from batchd.simulator.simulation import DeviceLaw, SimulationResult, simulate, simulate_schedulers
from batchd.simulator.specs import parse_cost, parse_lengths, parse_policy

__all__ = [
    "Arrival",
    "DeviceLaw",
    "SimulationResult",
    "bimodal_lengths",
    "bursty_arrivals",
    "diurnal_arrivals",
    "lognormal_lengths",
    "parse_cost",
    "parse_lengths",
    "parse_policy",
    "poisson_arrivals",
    "simulate",
    "simulate_schedulers",
]

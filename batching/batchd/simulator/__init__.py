"""The controller against a virtual clock: the same decisions as in the daemon, without a device and without waiting."""

from batchd.simulator.arrivals import Arrival, lognormal_lengths, poisson_arrivals
from batchd.simulator.simulation import DeviceLaw, SimulationResult, simulate

__all__ = ["Arrival", "DeviceLaw", "SimulationResult", "lognormal_lengths", "poisson_arrivals", "simulate"]

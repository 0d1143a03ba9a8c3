"""How much training a device can carry beside a load: the closed form that the controller's leases are held against.

Serve all that waits in one batch of a + b * n seconds, lend the device for tau, serve again. With u = b * rate the
cycle is (tau + a) / (1 - u) long, and an item that arrives when a batch has just begun is answered after that batch, a
lease and its own batch. Simulated, the share is right to 0.01; the latency needs the safety factor.
"""

from __future__ import annotations


def lease_seconds(
    *, rate: float, slo_s: float, fixed_s: float, per_item_s: float, safety: float = 0.9, switch_s: float = 0.0
) -> float:
    """Return the longest lease tau between two batches that keeps every answer within `safety * slo_s`; may be <= 0.

    tau = (safety * S * (1 - u) - 2 a) / (1 + u) - delta, with `rate` items per second that cost `fixed_s` (a) per batch
    and `per_item_s` (b) each, and `switch_s` (delta) lost per lease.
    """
    busy = per_item_s * rate
    return (safety * slo_s * (1 - busy) - 2 * fixed_s) / (1 + busy) - switch_s


def training_share(
    *, rate: float, slo_s: float, fixed_s: float, per_item_s: float, safety: float = 0.9, switch_s: float = 0.0
) -> float:
    """Return the share of the device's time that such leases give to training: tau (1 - u) / (tau + a + delta)."""
    tau = lease_seconds(
        rate=rate, slo_s=slo_s, fixed_s=fixed_s, per_item_s=per_item_s, safety=safety, switch_s=switch_s
    )
    if tau <= 0:
        return 0.0
    return tau * (1 - per_item_s * rate) / (tau + fixed_s + switch_s)

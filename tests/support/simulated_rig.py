"""A device process on the simulated device, and a model whose memory is known to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from device_process_rig import Device

from batchd_server.config.settings import (
    BatchingSettings,
    DeviceSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    SimulatedDeviceSettings,
)

MIB = 2**20

HUNGRY = '''
import torch
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Hungry(PaddedModel):
    """Takes `per_element` bytes of temporaries per padded element, `per_square` per square of an item's length."""

    inputs = [TensorSpec(name="x", datatype="FP32", shape=("n",))]
    outputs = [TensorSpec(name="y", datatype="FP32", shape=("n",))]

    def __init__(self, per_element=65536, per_square=0, weights=0):
        self.per_element, self.per_square, self.weights = per_element, per_square, max(4, weights)

    def build(self):
        return torch.nn.Linear(1, self.weights // 4, bias=False)

    def forward(self, batch):
        x = batch["x"]
        size, length = x.shape
        wide = torch.empty(size, length, self.per_element // 4)
        square = torch.empty(size, length, length, self.per_square // 4)
        return {"y": x * 2}
'''


def hungry_settings(
    *,
    memory_mib: int = 1024,
    reserve_mib: int = 16,
    cost: str | None = "0.002:0",
    neighbour: Path | None = None,
    slo_ms: float = 120_000.0,
    batching: dict[str, Any] | None = None,
    **options: int,
) -> Settings:
    """Serve `Hungry` as "hungry" on a device of `memory_mib`, of which all but the reserve is the budget."""
    limits = {"max_batch_size": 4096, "max_queue_size": 20_000} | (batching or {})
    return Settings(
        server=ServerSettings(drain_timeout_s=5.0),
        device=DeviceSettings(
            name="simulated",
            threads=1,
            memory_fraction=1.0,
            memory_reserve_bytes=reserve_mib * MIB,
            simulated=SimulatedDeviceSettings(memory_bytes=memory_mib * MIB, cost=cost, neighbour=neighbour),
        ),
        models={
            "hungry": ModelSettings(
                entrypoint="hungry_models:Hungry",
                options=options,
                batching=BatchingSettings(slo_ms=slo_ms, **limits),
            )
        },
    )


def hungry_device(directory: Path, settings: Settings) -> Device:
    """Start the process. It is not ready yet."""
    directory.mkdir(exist_ok=True)
    (directory / "hungry_models.py").write_text(HUNGRY)
    return Device(directory, settings)

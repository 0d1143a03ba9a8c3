"""A daemon whose device is simulated and whose model is next to free, so that the law alone says what it can do."""

MODEL = '''
import torch
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Light(PaddedModel):
    """Doubles its input."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs = (TensorSpec(name="y", datatype="FP32", shape=("n",)),)

    def build(self):
        return torch.nn.Identity()

    def forward(self, batch):
        return {"y": batch["x"] * 2}
'''

CONFIG = """
[device]
name = "simulated"
threads = 1
[device.simulated]
cost = "{fixed}:{per_element}"
[models.light]
entrypoint = "light_models:Light"
[models.light.batching]
slo_ms = {slo_ms}
max_queue_size = {max_queue_size}
"""

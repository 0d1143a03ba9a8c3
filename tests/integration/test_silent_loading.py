"""A model whose loading never lets go of Python's lock may take its time, whenever it is loaded; a batch may not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from daemon_rig import daemon
from supervised_rig import Client, answer, frail_config, until

HANG_TIMEOUT_S, SILENCE_S = 3.0, 9.0
SPELLBOUND = f'''
import ctypes
import torch
from frail_model import Frail


def hold():
    ctypes.PyDLL(None).usleep({SILENCE_S * 1e6:.0f})  # as unpickling does: it keeps the lock


class Slow(Frail):
    """Its weights take long, and nothing else runs meanwhile."""

    def build(self):
        hold()
        return torch.nn.Identity()


class Held(Frail):
    """It keeps the lock as it runs an 8."""

    def forward(self, batch):
        if (batch["x"] == 8.0).any():
            hold()
        return super().forward(batch)
'''
MORE = """
[models.slow]
entrypoint = "spellbound:Slow"
load = false

[models.held]
entrypoint = "spellbound:Held"
"""


def test_silence_while_a_model_is_loaded_is_borne_longer_than_any_other(tmp_path: Path) -> None:
    (tmp_path / "spellbound.py").write_text(SPELLBOUND)
    config = frail_config(tmp_path, hang_timeout_s=HANG_TIMEOUT_S) + MORE
    with daemon(tmp_path, config) as running, closing(Client(running)) as client:
        until(client.is_ready, "ready")
        device = client.device()
        client._http.post("/v2/repository/models/slow/load").raise_for_status()
        assert client.device() == device
        assert client.status()["supervision"]["deaths"] == 0
        assert answer(client.total(1.0, 2.0)) == 3.0
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [8.0]}
        headers = {"X-Request-Timeout-Ms": "3000"}
        client._http.post("/v2/models/held/infer", json={"inputs": [tensor]}, headers=headers)
        until(lambda: not device.is_running(), "it is killed")
        supervision = client.status()["supervision"]
        assert supervision["deaths"] >= 1
        assert f"no sign of life for {HANG_TIMEOUT_S:g} s" in supervision["last_death"]

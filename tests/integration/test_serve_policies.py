"""The daemon under every policy: the same answers, whatever decides; and it says which one does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from daemon_rig import daemon
from device_process_rig import Device

from batchd_client import AsyncClient, InferResult
from batchd_server.config.settings import (
    BatchingSettings,
    DeviceSettings,
    LadderSettings,
    ModelSettings,
    Settings,
)
from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.digit_lines.scans import scan_lines
from batchd_server.models.spec import Tensors

POLICIES = ("adaptive", "window:5:32", "buckets:64,128,256:5:8", "aimd", "total-time", "threshold:0.6:0.8")
CONFIG = """
[device]
policy = "{policy}"

[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"

[models.digit-lines.batching]
slo_ms = 60000
max_batch_size = 16
ladder = "learned"
"""


@pytest.fixture(scope="module")
def images() -> Sequence[np.ndarray]:
    return [image for image, _ in scan_lines(3, 600)][:300]


@pytest.fixture(scope="module")
def expected(images: Sequence[np.ndarray]) -> Sequence[Tensors]:
    model = DigitLines()
    model.load(torch.device("cpu"))
    with torch.no_grad():
        return [
            model.split(model.run(model.collate([item], model.shape(item))), [item])[0]
            for item in ({"image": image} for image in images)
        ]


async def all_at_once(url: str, images: Sequence[np.ndarray]) -> list[InferResult]:
    async with AsyncClient(url) as client:
        return await asyncio.gather(*(client.infer("digit-lines", {"image": image[None]}) for image in images))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_answers_rightly_and_is_told(
    tmp_path: Path, policy: str, images: Sequence[np.ndarray], expected: Sequence[Tensors]
) -> None:
    with daemon(tmp_path, CONFIG.format(policy=policy)) as running:
        answers = asyncio.run(all_at_once(running.url, images))
        status = httpx.get(f"{running.url}/v1/status").json()
        records = httpx.get(f"{running.url}/v1/decisions", params={"limit": 1000}).json()["data"]
    for answer, right in zip(answers, expected, strict=True):
        assert np.array_equal(answer["digits"][0], right["digits"])
    assert status["policy"] == policy
    assert sum(record["batch_size"] for record in records) == len(images)
    assert 1 < max(record["batch_size"] for record in records) <= 16
    (edges,) = status["models"][0]["ladder_edges"] or [[]]
    assert edges == sorted(set(edges))
    assert bool(edges) == (policy == "adaptive"), "the controller learns them, the classic rules learn nothing"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    batching = BatchingSettings(slo_ms=1000.0, max_item_elements=500, ladder=LadderSettings(step=4))
    settings = Settings(
        device=DeviceSettings(policy="window:200:8"),
        models={
            "double": ModelSettings(entrypoint="toy_models:Doubler", options={"limit": 40}, batching=batching),
            "slow": ModelSettings(entrypoint="toy_models:Doubler", options={"sleeper": True}, batching=batching),
        },
    )
    made = Device(tmp_path_factory.mktemp("classic") / "device", settings)
    try:
        made.front.until(made.front.ready)
        yield made
    finally:
        made.close()


def test_a_classic_batch_that_runs_out_of_memory_is_halved_until_it_fits(device: Device) -> None:
    """Eight items of 20 do not fit into 40 elements, two do; 41 never do."""
    front = device.front
    front.offer(1, *[[float(number)] * 20 for number in range(7)], [1.0] * 41)
    front.until(lambda: all((1, index) in front.answers for index in range(8)))
    for number in range(7):
        assert front.output(1, number).tolist() == [2.0 * number] * 20
    assert front.error(1, 7)[:2] == (507, "insufficient_memory")
    records = front.control("decisions", limit=9, model="double").result
    assert [record["batch_size"] for record in reversed(records)] == [8, 4, 2, 2, 4, 2, 2, 1, 1]
    assert [record["outcome"] for record in reversed(records)].count("out_of_memory") == 5


def test_a_classic_rule_refuses_and_expires_as_the_daemon_promises(device: Device) -> None:
    front = device.front
    front.offer(11, [1.0] * 501)
    front.offer(12, [-5.0], model="slow")
    front.until(lambda: (11, 0) in front.answers)
    assert front.error(11)[:2] == (413, "too_large")
    front.until(lambda: front.control("status").result["queue"]["running_batch"] is not None)
    front.offer(13, [2.0], deadline_s=0.3)
    front.until(lambda: {(12, 0), (13, 0)} <= front.answers.keys())
    assert front.error(13)[:2] == (504, "deadline_exceeded")
    assert front.output(12).tolist() == [-10.0]
    assert front.control("status").result["policy"] == "window:200:8"

"""What clients that are slow, or leave, may take of a real daemon: a connection, and nothing of the device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from connection_faults import LARGE_PATH, MODEL, PATH, large_request
from connection_rig import Peer, post, until
from daemon_rig import daemon

CONFIG = """
[device]
hang_timeout_s = 600
[server]
max_body_bytes = 20_000_000
[training]
uploads_max_bytes = 100_000
[models.double]
entrypoint = "double_model:Double"
options = { closed = "CLOSED" }
batching.max_batch_size = 1
[models.large]
entrypoint = "double_model:Double"
[defaults.batching]
slo_ms = 60_000
"""
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}).encode()


class Daemon:
    """A daemon that is served, and what it tells."""

    def __init__(self, url: str, closed: Path) -> None:
        self.url, self.closed = url, closed
        self.address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 0))

    def front(self) -> dict[str, Any]:
        document: dict[str, Any] = httpx.get(self.url + "/v1/status", timeout=30).json()["front"]
        return document

    def inferences(self) -> int:
        """How many items the model has run."""
        statistics = httpx.get(f"{self.url}/v2/models/double/stats", timeout=30).json()
        return int(statistics["model_stats"][0]["inference_count"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    (folder / "double_model.py").write_text(MODEL)
    closed = folder / "closed"
    with daemon(folder, CONFIG.replace("CLOSED", str(closed))) as running:
        yield Daemon(running.url, closed)


@pytest.mark.parametrize("reset", [True, False])
def test_what_a_client_that_leaves_had_queued_never_runs(served: Daemon, reset: bool) -> None:
    before = served.inferences()
    reached = Path(f"{served.closed}.reached")
    reached.unlink(missing_ok=True)
    served.closed.touch()
    peers = [Peer(served.address) for _ in range(12)]
    for peer in peers:
        peer.send(post(PATH, BODY))
    until(lambda: served.front()["pending"] == len(peers) and reached.exists(), "one runs and all others are queued")
    for peer in peers:
        peer.reset() if reset else peer.socket.close()
    until(lambda: served.front()["pending"] == 0, "all are forgotten")
    assert served.inferences() == before  # asked of the device process, behind all that was cancelled there
    served.closed.unlink()
    assert httpx.post(served.url + PATH, content=BODY, timeout=30).status_code == 200
    assert served.inferences() == before + 1 + 1  # the one that ran when the clients left, and the last


def test_slow_senders_hold_nothing_but_their_connection(served: Daemon) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(Peer(served.address)) for _ in range(20)]
        for peer in slow:
            peer.send(post(PATH, BODY)[:-1])
        until(lambda: served.front()["incoming_bytes"] == 20 * (len(BODY) - 1), "all are being received")
        until(lambda: served.front()["connections"] == 21, "they are connected, and who asks")
        assert served.front()["pending"] == 0
        before = served.inferences()
        assert httpx.post(served.url + PATH, content=BODY, timeout=30).status_code == 200
        assert served.inferences() == before + 1
    until(lambda: served.front()["incoming_bytes"] == 0, "they are forgotten")


def test_slow_readers_hold_nothing_but_their_answer(served: Daemon) -> None:
    size = 12 * 2**20
    with ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(Peer(served.address, receive_buffer=4096))
            peer.send(large_request(size))
            until(lambda: served.front()["pending"] == 0, "it is computed")
        assert served.front()["requests"] <= 1 + 4  # a large answer's last part may wait to be written
        assert httpx.post(served.url + LARGE_PATH, content=BODY, timeout=30).status_code == 200
    until(lambda: served.front()["connections"] == 1, "they are forgotten")


def test_what_limits_have_ended_is_in_the_metrics(served: Daemon) -> None:
    with Peer(served.address) as peer:
        peer.send(b"nonsense\r\n\r\n")
        assert peer.answers()[0].status == 400
    wanted = 'batchd_connections_ended_total{limit="malformed"} 1.0'
    until(lambda: wanted in httpx.get(served.url + "/metrics", timeout=30).text, "it is counted")


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_dataset_of_the_limit_is_taken_and_one_byte_more_is_not(served: Daemon, chunked: bool, extra: int) -> None:
    line = b'{"x": [%s], "y": 1}\n' % b", ".join([b"1.00000000000000000000"] * 20)
    data = (line * (100_000 // len(line))).ljust(100_000 + extra, b"\n")
    parts = (data[start : start + 1000] for start in range(0, len(data), 1000))
    name = f"limit-{chunked}-{extra}".lower()
    answer = httpx.post(
        f"{served.url}/v1/datasets", params={"name": name, "format": "jsonl"}, content=parts if chunked else data
    )
    assert answer.status_code == (413 if extra else 201), answer.text

"""The load tester against a small real server that speaks the protocol: real sockets, on a free port."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from batchd_client.loadtest import (
    ClosedLoad,
    OpenLoad,
    Payload,
    Target,
    parse_lengths,
    payload_pool,
    run_closed_loop,
    run_open_loop,
    run_precisely,
    tensor_payloads,
)
from batchd_client.loadtest.command import run_command
from batchd_client.loadtest.options import LoadTestOptions
from batchd_client.loadtest.questions import model_metadata


@dataclass
class Toy:
    """A model that takes images of varying width and answers nothing, at once or after a stall."""

    url: str = ""
    widths: list[int] = field(default_factory=list)
    timeouts: list[int | None] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    inputs: tuple[str, ...] = ("image",)
    refuse: int | None = None
    stall_at: int | None = None
    stall_s: float = 0.0

    async def infer(self, request: Request) -> JSONResponse:
        body = await request.body()
        head = json.loads(body[: int(request.headers["inference-header-content-length"])])
        self.widths.append(head["inputs"][0]["shape"][2])
        self.timeouts.append(head["parameters"].get("timeout"))
        self.keys.add(request.headers.get("authorization"))
        if self.refuse is not None:
            return JSONResponse({"error": "no room", "code": "queue_full"}, status_code=self.refuse)
        if len(self.widths) == self.stall_at:
            await asyncio.sleep(self.stall_s)
        parameters = {"batch_size": 2, "queue_ms": 0.5, "compute_ms": 0.25}
        return JSONResponse({"model_name": "toy", "parameters": parameters, "outputs": []})

    async def metadata(self, request: Request) -> JSONResponse:
        inputs = [{"name": name, "datatype": "FP32", "shape": [-1, 8, -1]} for name in self.inputs]
        return JSONResponse({"name": "toy", "versions": ["1"], "platform": "toy", "inputs": inputs, "outputs": []})

    async def statistics(self, request: Request) -> JSONResponse:
        counts = {"inference_count": len(self.widths), "execution_count": len(self.widths) // 2}
        return JSONResponse({"model_stats": [{"name": "toy", **counts}]})

    async def index(self, request: Request) -> JSONResponse:
        return JSONResponse([{"name": "toy", "version": "1", "state": "READY", "reason": ""}])

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v2/models/toy/infer", self.infer, methods=["POST"]),
                Route("/v2/models/toy", self.metadata),
                Route("/v2/models/toy/stats", self.statistics),
                Route("/v2/repository/index", self.index, methods=["POST"]),
            ]
        )


@pytest.fixture
def toy() -> Iterator[Toy]:
    served = Toy()
    listener = socket.create_server(("127.0.0.1", 0))
    served.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(served.app(), log_level="critical", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield served
    server.should_exit = True
    thread.join(timeout=10)
    listener.close()
    assert not thread.is_alive()


def payloads(toy: Toy, **more: Any) -> tuple[Payload, ...]:
    metadata = run_precisely(model_metadata(Target(url=toy.url), "toy"))
    return payload_pool(
        tensor_payloads(metadata, parse_lengths("uniform:1:64", step=8)), np.random.default_rng(0), count=32, **more
    )


def test_an_open_loop_measures_what_it_planned(toy: Toy) -> None:
    load = OpenLoad(rate=200.0, count=200, warmup_s=0.2)
    report = run_open_loop(Target(url=toy.url, api_key="k"), payloads(toy), load, slo_s=5.0, model="toy")
    assert report.outcomes == {"200": 200}
    assert report.good == report.offered == 200
    assert report.service is not None
    assert report.response is not None
    assert 0 < report.service.p50 <= report.response.p50
    assert set(toy.widths) <= set(range(8, 65, 8))
    assert len(set(toy.widths)) > 3
    assert toy.keys == {"Bearer k"}
    assert report.batches.sizes == {2: 200}
    assert report.statistics is not None
    assert report.statistics.mean_batch_size == pytest.approx(2.0, rel=0.05)
    assert report.statistics.inference_count == len(toy.widths)


def test_a_stall_shows_in_the_response_time_though_the_service_time_hides_it(toy: Toy) -> None:
    toy.stall_at, toy.stall_s = 30, 1.0
    target = Target(url=toy.url, max_connections=1)  # so that one stalled answer holds up what comes after it
    report = run_open_loop(target, payloads(toy), OpenLoad(rate=50.0, count=100))
    assert report.service is not None
    assert report.response is not None
    # one, and those during which this process, which is also the server, was paused for so long
    assert sum(sample.service_s > 0.5 for sample in report.samples) in (1, 2, 3)
    assert sum(sample.response_s > 0.5 for sample in report.samples) > 10
    assert report.response.p90 > report.service.p90 + 0.3


def test_a_closed_loop_keeps_its_users_busy_and_stops_at_its_count(toy: Toy) -> None:
    report = run_closed_loop(Target(url=toy.url), payloads(toy), ClosedLoad(concurrency=4, count=100))
    assert len(toy.widths) == report.succeeded == 100


def test_a_refusal_is_counted_with_its_code_and_never_sent_again(toy: Toy) -> None:
    toy.refuse = 429
    report = run_open_loop(Target(url=toy.url), payloads(toy), OpenLoad(rate=500.0, count=50))
    assert report.outcomes == {"429 queue_full": 50}
    assert report.commonest_failure == "429 queue_full (50 times): no room"
    assert len(toy.widths) == 50


def test_a_silent_server_is_given_up_after_the_timeout(toy: Toy) -> None:
    toy.stall_at, toy.stall_s = 1, 6.0  # so long that no pause of this process, which is also the server, takes part
    report = run_open_loop(Target(url=toy.url, timeout_s=3.0), payloads(toy), OpenLoad(rate=100.0, count=10))
    assert report.outcomes["timeout"] == 1
    assert report.succeeded == 9


def test_a_server_that_is_not_there_is_an_outcome_of_every_request() -> None:
    target = Target(url=f"http://127.0.0.1:{_free_port()}")
    report = run_open_loop(target, [Payload(path="/", body=b"", size=1)], OpenLoad(rate=500.0, count=20))
    assert report.outcomes == {"connect error": 20}
    assert report.answered == 0


def test_the_deadline_goes_to_the_server_with_each_request(toy: Toy) -> None:
    pool = payloads(toy, deadline_s=0.25)
    run_open_loop(Target(url=toy.url), pool, OpenLoad(rate=500.0, count=5, deadline_s=0.25))
    assert set(toy.timeouts) == {250_000}


def test_the_command_replays_a_trace_and_writes_its_report(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, report = tmp_path / "trace.jsonl", tmp_path / "report.json"
    trace.write_text("".join(f'{{"t_s": {index / 200}, "size": {8 * (index % 3 + 1)}}}\n' for index in range(60)))
    options = LoadTestOptions(url=toy.url, trace=trace, slo_s=5.0, json=str(report))
    assert run_command(options) == 0
    document = json.loads(report.read_text())
    assert document["model"] == "toy"
    assert document["runs"][0]["outcomes"] == {"200": 60}
    assert set(toy.widths) == {8, 16, 24}
    assert "goodput" in capsys.readouterr().out


def test_the_command_searches_the_highest_rate_and_prints_every_trial(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    options = LoadTestOptions(
        url=toy.url,
        find_max_rate=True,
        slo_s=20.0,
        rate=300.0,
        max_rate=600.0,
        requests=459,
        duration_s=0.5,
        warmup_s=0.0,
        json=str(report),
    )
    assert run_command(options) == 0
    document = json.loads(report.read_text())
    assert document["max_rate_per_s"] == 600.0
    assert [run["held"] for run in document["runs"]] == [True, True]
    assert capsys.readouterr().out.count("holds") == 2


def test_a_refusal_of_the_first_request_ends_the_command_in_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.refuse = 400
    assert run_command(LoadTestOptions(url=toy.url)) == 1
    captured = capsys.readouterr()
    assert "the first request failed with 400 queue_full: no room" in captured.err
    assert len(toy.widths) == 1


def test_a_server_that_speaks_something_else_is_named(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(LoadTestOptions(url=f"{toy.url}/elsewhere")) == 1
    assert f"batchd loadtest: {toy.url}/elsewhere answered: " in capsys.readouterr().err


def test_a_model_whose_inputs_exclude_each_other_is_met_with_advice(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.refuse, toy.inputs = 400, ("image", "thumbnail")
    assert run_command(LoadTestOptions(url=toy.url)) == 1
    assert "sent were image, thumbnail; --input-name" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_one_line(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    options = LoadTestOptions(url=toy.url, rate=100.0, requests=3, warmup_s=0.0, json="/dev/full")
    assert run_command(options) == 1
    assert "batchd loadtest: [Errno" in capsys.readouterr().err


def test_a_server_that_is_not_there_ends_the_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{_free_port()}"
    assert run_command(LoadTestOptions(url=url)) == 1
    assert capsys.readouterr().err.startswith(f"batchd loadtest: cannot reach {url}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0"], "--rate must be positive"),
        (["--rate", "5", "--concurrency", "2"], "exclude each other"),
        (["--find-max-rate"], "--slo-ms"),
        (["--ramp", "5"], "FROM:TO:STEPS"),
        (["--lengths", "normal:3"], "lengths 'normal:3'"),
        (["--texts", "/nowhere.jsonl"], "no such file"),
        (["--url", "ftp://x"], "ftp://x"),
        (["--duration", "inf"], "--duration must be positive and finite"),
        (["--deadline-ms", "-100"], "got -100"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--find-max-rate", "--slo-ms", "9", "--max-rate", "0"], "--max-rate must be positive"),
        (["--json", "/nowhere/report.json"], "there is no such folder"),
        (["--plot", "/nowhere/plot.png"], "there is no such folder"),
        (["--plot", "plot.txt"], "must end in .png, .svg, .pdf"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_plot_without_matplotlib_is_one_line_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert _cli("--plot", "x.png") == 2
    assert capsys.readouterr().err == "batchd loadtest: --plot needs matplotlib: pip install 'batchd[plot]'\n"


@pytest.mark.parametrize("kind", [["--rate", "100"], ["--ramp", "50:100:2"]])
def test_a_plot_is_a_picture(kind: list[str], toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    limits = ["--requests", "30", "--warmup", "0", "--slo-ms", "100"]
    assert _cli("--url", toy.url, *kind, *limits, "--plot", str(path)) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_load_tester_needs_neither_torch_nor_fastapi() -> None:
    code = (
        "import sys; import batchd_client.loadtest.command, batchd_server.cli.loadtest; "
        "print([m for m in ('torch', 'fastapi', 'pydantic', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_loop_for_load_tests_keeps_time_better_than_a_millisecond() -> None:
    async def best_overshoot() -> float:
        overshoots = []
        for _ in range(20):
            due = time.monotonic() + 0.0004
            await asyncio.sleep(0.0004)
            overshoots.append(time.monotonic() - due)
        return min(overshoots)

    assert run_precisely(best_overshoot()) < 0.0005


def _cli(*arguments: str) -> int:
    """Run the command as the console script does, in this process."""
    import typer

    from batchd_server.cli.loadtest import loadtest

    app = typer.Typer(add_completion=False)
    app.command()(loadtest)
    with pytest.raises(SystemExit) as exit_of:
        app(list(arguments), prog_name="batchd loadtest")
    assert isinstance(exit_of.value.code, int)
    return exit_of.value.code


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

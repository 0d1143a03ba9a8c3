"""`batchd simulate` as a user types it, in a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command_rig import batchd


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return batchd("simulate", *arguments)


def test_the_json_has_the_documented_keys() -> None:
    done = simulate("--rate", "50", "--seconds", "10", "--seed", "7", "--json")
    found = json.loads(done.stdout)
    assert set(found) == {
        "offered_per_s",
        "goodput_per_s",
        "p50_ms",
        "p99_ms",
        "refused",
        "expired",
        "device_busy",
        "training_share",
        "padding_waste",
        "mean_batch",
        "failed",
        "ooms",
        "devices",
    }
    assert found["goodput_per_s"] == pytest.approx(found["offered_per_s"], rel=0.01)
    assert simulate("--rate", "50", "--seconds", "10", "--seed", "7", "--json").stdout == done.stdout


def test_policies_are_compared_in_a_table_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "compared.png"
    done = simulate("--seconds", "5", "--compare", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    for policy in ("adaptive", "window:5:32", "aimd", "total-time"):
        assert policy in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_device_may_run_out_of_memory_have_a_neighbour_and_slow_down() -> None:
    device = ["--memory", "5e8:2e6", "--neighbour", "1e8:2:4", "--slowdown", "2:5", "--know"]
    found = json.loads(simulate("--rate", "30", "--seconds", "8", *device, "--policy", "window:5:32", "--json").stdout)
    assert 0 < found["ooms"] <= found["failed"]
    ours = json.loads(simulate("--rate", "30", "--seconds", "8", *device, "--json").stdout)
    assert ours["failed"] < found["failed"]


def test_capacity_says_how_many_devices_are_needed() -> None:
    done = simulate("--capacity", "--rate", "300", "--seconds", "10", "--json")
    assert json.loads(done.stdout)["devices"] in {3, 4}


def test_a_recorded_trace_is_replayed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"t_s": i / 10, "size": 20, "deadline_ms": 100}) + "\n" for i in range(100)))
    found = json.loads(simulate("--trace", str(trace), "--json").stdout)
    assert found["offered_per_s"] == pytest.approx(100 / 9.9)
    assert found["p50_ms"] == pytest.approx(2 + 20 * 0.24)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "fastest"], "policy 'fastest' is not one of adaptive"),
        (["--lengths", "gamma"], "lengths 'gamma' are not one of lognormal"),
        (["--cost", "cheap"], "cost 'cheap' is not of the form"),
        (["--policy", "aimd", "--policy", "adaptive"], "compared with --compare"),
        (["--trace", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--cost", "learned:nowhere.json"], "nowhere.json"),
        (["--cost", "learned:pyproject.toml"], "pyproject.toml is not JSON"),
        (["--memory", "much"], "memory 'much' is not of the form"),
        (["--neighbour", "1e9:0"], "--neighbour needs --memory"),
        (["--slowdown", "2"], "slowdown '2' is not of the form"),
        (["--plot", "drawn.txt"], "must end in .png"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    done = simulate(*arguments, "--seconds", "1")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

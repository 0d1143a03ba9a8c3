"""`batchd train` against the real front and job store; what a device process would write is played."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_player_rig import REASON, JobFront, figures, job_front
from typer.testing import CliRunner, Result

from batchd_client import AsyncClient, Client, TooLarge
from batchd_server.cli.train import app
from batchd_server.training.job_spec import JobStatus

JOB = re.compile(r"job-[0-9a-f]{16}")
SUBMIT = ("submit", "--model", "learner", "--dataset", "digit-lines", "--epochs", "3")
Train = Callable[..., Result]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobFront]:
    with job_front(tmp_path_factory.mktemp("front")) as running:
        yield running


@pytest.fixture
def train(front: JobFront) -> Train:
    """Return what runs `batchd train` in this process."""

    def run(*arguments: str, url: str = front.url) -> Result:
        done = CliRunner().invoke(app, arguments, env={"BATCHD_URL": url, "COLUMNS": "200", "NO_COLOR": "1"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return run


def submitted(train: Train, *options: str) -> str:
    done = train(*SUBMIT, *options, "--json")
    assert done.exit_code == 0, done.stderr
    job_id: str = json.loads(done.stdout)["id"]
    return job_id


@contextmanager
def playing(front: JobFront, **how: Any) -> Iterator[None]:
    """Play the next job that is submitted while the context is open."""
    before = {job.id for job in front.store.jobs(limit=1000)}

    def play() -> None:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            for job in front.store.unfinished():
                if job.id not in before:
                    front.play(job.id, **how)
                    return
            threading.Event().wait(0.02)

    player = threading.Thread(target=play)
    player.start()
    yield
    player.join(timeout=40)
    assert not player.is_alive()


def one_line(text: str) -> str:
    (line,) = text.strip().splitlines()
    return line


def test_a_job_is_submitted_as_the_options_say(front: JobFront, train: Train) -> None:
    done = train(
        *SUBMIT, "--schedule", "noise_scale", "--set", "scale=0.5", "--lr", "0.003", "--optimizer", "sgd",
        "--initial", "16", "--min", "16", "--max", "64", "--lr-rule", "sqrt", "--seed", "7", "--served",
        "--set", "optimizer.momentum=0.9", "--set", "metadata.run=first",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    job_id = JOB.findall(one_line(done.stdout))[0]
    spec = front.store.job(job_id).spec
    assert (spec.model, spec.dataset, spec.epochs, spec.seed, spec.fresh) == ("learner", "digit-lines", 3, 7, False)
    assert (spec.optimizer.name, spec.optimizer.lr, spec.optimizer.momentum) == ("sgd", 0.003, 0.9)
    batching = spec.batching
    assert (batching.schedule.name, batching.schedule.parameters) == ("noise_scale", {"scale": 0.5})
    assert (batching.initial, batching.min, batching.max, batching.lr_rule) == (16, 16, 64, "sqrt")
    assert spec.metadata == {"run": "first"}


def test_a_file_is_submitted_and_the_same_key_makes_no_second_job(
    front: JobFront, train: Train, tmp_path: Path
) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"model": "learner", "dataset": "digit-lines", "max_steps": 5}))
    arguments = ("submit", "--file", str(file), "--idempotency-key", "k1", "--json")
    first, second = (json.loads(train(*arguments).stdout) for _ in range(2))
    assert first["id"] == second["id"]
    assert front.store.job(first["id"]).spec.max_steps == 5
    other = train(*arguments, "--max-steps", "6")
    assert other.exit_code == 1
    assert "Idempotency-Key" in one_line(other.stderr)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--schedule", "lin"), ("batching.schedule.name", "linear", "noise_scale")),
        (("--min", "64", "--max", "32"), ("min must not be larger than max",)),
        (("--model", "scale"), ("cannot be trained",)),
        (("--model", "nobody"), ("nobody",)),
        (("--dataset", "nothing"), ("no dataset 'nothing'",)),
        (("--set", "optimizer.speed=3"), ("optimizer.speed",)),
        (("--lr", "0"), ("optimizer.lr",)),
        (("--file", "/nowhere/job.json"), ("/nowhere/job.json",)),
    ],
)
def test_a_job_that_cannot_be_is_one_line_and_status_2(
    train: Train, options: tuple[str, ...], said: tuple[str, ...]
) -> None:
    done = train(*SUBMIT, *options)
    assert done.exit_code == 2
    line = one_line(done.stderr)
    assert line.startswith("batchd train: ")
    assert [word for word in said if word not in line] == []


@pytest.mark.parametrize("verb", ["show", "follow", "pause", "resume", "cancel", "promote"])
def test_an_unknown_job_is_one_line_and_status_2(train: Train, verb: str) -> None:
    done = train(verb, "job-0000000000000000")
    assert done.exit_code == 2
    assert "job-0000000000000000" in one_line(done.stderr)


def test_a_daemon_that_is_not_there_is_one_line_and_status_1(train: Train) -> None:
    for arguments in (SUBMIT, ("list",), ("datasets",), ("follow", "job-0000000000000000")):
        done = train(*arguments, url="http://127.0.0.1:9")
        assert done.exit_code == 1
        assert "http://127.0.0.1:9" in one_line(done.stderr)


def test_a_followed_job_ends_with_what_it_has_come_to(front: JobFront, train: Train) -> None:
    with playing(front, steps=60):
        done = train(*SUBMIT, "--follow")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    told = [line.partition(" ")[2] for line in lines[1:-2]]  # behind the time of day
    sizes = [f"batch size {size} after step {step}: {REASON}" for size, step in ((32, 20), (48, 40), (64, 60))]
    saved = [f"checkpoint: step {step}" for step in (20, 40, 60)]
    assert told == ["created", "started", *sum(zip(sizes, saved, strict=True), ()), "succeeded: step 60"]
    assert "succeeded" in lines[-2]
    assert "step 60" in lines[-1]


def test_a_followed_job_in_json_is_a_line_per_event_and_the_job_last(front: JobFront, train: Train) -> None:
    with playing(front, steps=20):
        done = train(*SUBMIT, "--follow", "--json")
    *events, job = (json.loads(line) for line in done.stdout.splitlines())
    assert [event["kind"] for event in events] == ["created", "started", "batch_size", "checkpoint", "succeeded"]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert (job["status"], job["progress"]["step"]) == ("succeeded", 20)
    again = train("follow", job["id"], "--json")
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("end", "reason"), [(JobStatus.FAILED, "the loss is not finite at step 20"), (JobStatus.CANCELLED, None)]
)
def test_a_job_that_does_not_succeed_is_status_1(
    front: JobFront, train: Train, end: JobStatus, reason: str | None
) -> None:
    with playing(front, steps=20, end=end, reason=reason):
        done = train(*SUBMIT, "--follow")
    assert done.exit_code == 1
    assert end.value in done.stdout.splitlines()[-2]
    assert reason is None or reason in done.stdout.splitlines()[-2]


def test_jobs_are_listed_newest_first_and_by_status(front: JobFront, train: Train) -> None:
    first, second = submitted(train), submitted(train)
    front.play(first, steps=5)
    listed = json.loads(train("list", "--limit", "2", "--json").stdout)
    assert [job["id"] for job in listed["data"]] == [second, first]
    assert listed["has_more"]
    done = train("list", "--status", "succeeded", "--limit", "1")
    assert first in done.stdout
    assert second not in done.stdout
    assert "older" in done.stdout
    refused = train("list", "--status", "asleep")
    assert refused.exit_code == 2
    assert "asleep" in one_line(refused.stderr)


def test_a_job_is_shown_with_its_checkpoints_and_sizes(front: JobFront, train: Train) -> None:
    job_id = submitted(train)
    front.play(job_id, steps=40)
    shown = json.loads(train("show", job_id, "--json").stdout)
    assert (shown["id"], shown["status"]) == (job_id, "succeeded")
    assert [saved["step"] for saved in shown["checkpoints"]] == [20, 40]
    assert [commit["size"] for commit in shown["journal"]] == [32, 48]
    text = train("show", job_id).stdout
    for word in (job_id, "succeeded", "step 40", "2 changes in 2 decisions", REASON, "1,280 examples"):
        assert word in text, word


def test_a_job_is_paused_resumed_and_cancelled(front: JobFront, train: Train) -> None:
    job_id = submitted(train)
    for verb, wanted in (("pause", "pause"), ("resume", "run"), ("cancel", "cancel")):
        done = train(verb, job_id)
        assert done.exit_code == 0, done.stderr
        assert job_id in one_line(done.stdout)
        assert front.store.job(job_id).wanted == wanted
    front.store.update(job_id, status=JobStatus.CANCELLED)
    late = train("resume", job_id)
    assert late.exit_code == 1
    assert "cancelled" in one_line(late.stderr)


def test_a_job_is_promoted_and_the_model_rolled_back(front: JobFront, train: Train) -> None:
    job_id = submitted(train)
    assert train("promote", job_id).exit_code == 1  # there is no checkpoint yet
    front.play(job_id, steps=40)
    front.dispatcher.controls.clear()
    assert "step 40" in one_line(train("promote", job_id, "--checkpoint", "last").stdout)
    assert "step 20" in one_line(train("promote", job_id, "--checkpoint", "20").stdout)
    assert train("rollback", "learner").exit_code == 0
    asked = [(action, arguments.get("checkpoint")) for action, arguments in front.dispatcher.controls]
    assert asked == [("promote", 40), ("promote", 20), ("rollback", None)]
    wrong = train("promote", job_id, "--checkpoint", "newest")
    assert wrong.exit_code == 2
    assert "newest" in one_line(wrong.stderr)


def test_datasets_are_sent_listed_and_deleted(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "rows.npz"
    np.savez(file, x=np.arange(12, dtype=np.float32).reshape(6, 2), y=np.arange(6) % 2)
    sent = json.loads(train("datasets", "upload", str(file), "--json").stdout)
    assert (sent["name"], sent["format"], sent["examples"]) == ("rows", "npz", 6)
    listed = json.loads(train("datasets", "--json").stdout)
    assert {"digit-lines", "rows"} <= {entry["name"] for entry in listed["data"]}
    assert sent["id"] in train("datasets").stdout
    assert train("datasets", "delete", sent["id"]).exit_code == 0
    gone = train("datasets", "delete", sent["id"])
    assert gone.exit_code == 2
    assert sent["id"] in one_line(gone.stderr)


def test_an_option_that_would_be_ignored_is_a_usage_error(train: Train) -> None:
    done = train("datasets", "--url", "http://127.0.0.1:9", "delete", "ds-0000000000000000")
    assert done.exit_code == 2
    assert "behind 'delete'" in done.stderr


def test_what_is_no_dataset_is_one_line_and_status_2(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "rows.npz"
    file.write_bytes(b"not a zip")
    for arguments in (("upload", str(file)), ("upload", str(tmp_path / "absent.npz")), ("adopt", "../../etc/passwd")):
        done = train("datasets", *arguments)
        assert done.exit_code == 2, arguments
        assert one_line(done.stderr).startswith("batchd train: ")


def test_a_file_over_the_limit_is_refused_and_one_under_it_taken_piece_by_piece(tmp_path: Path) -> None:
    with job_front(tmp_path, uploads_max_bytes=4_000_000) as small, Client(small.url) as client:
        for rows, fits in ((30_000, True), (100_000, False), (600_000, False)):
            file = tmp_path / f"rows-{rows}.npz"
            np.savez(file, x=np.zeros((rows, 16), dtype=np.float32), y=np.arange(rows) % 2)
            if fits:
                assert client.training.upload_dataset(file).examples == rows
            else:
                with pytest.raises(TooLarge, match="4000000"):
                    client.training.upload_dataset(file)
        assert [entry.name for entry in client.training.datasets() if entry.format != "builtin"] == ["rows-30000"]


def test_the_asyncio_client_uploads_and_follows_over_a_real_connection(front: JobFront, tmp_path: Path) -> None:
    file = tmp_path / "rows-async.npz"
    np.savez(file, x=np.zeros((60_000, 16), dtype=np.float32), y=np.arange(60_000) % 2)

    async def run() -> list[str]:
        async with AsyncClient(front.url) as client:
            dataset = await client.training.upload_dataset(file)
            assert (dataset.examples, dataset.bytes) == (60_000, file.stat().st_size)
            job = await client.training.create("learner", dataset.name, epochs=1)
            front.play(job.id, steps=20)
            kinds = [event.kind async for event in client.training.events(job.id)]
            await client.training.delete_dataset(dataset.id)
            return kinds

    assert asyncio.run(run()) == ["created", "started", "batch_size", "checkpoint", "succeeded"]


def test_a_job_is_drawn(front: JobFront, train: Train, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    job_id = submitted(train)
    early = train("plot", job_id, "--out", str(tmp_path / "early.png"))
    assert early.exit_code == 2
    assert "not made a step" in one_line(early.stderr)
    front.play(job_id, steps=60)
    done = train("plot", job_id, "--out", str(tmp_path / "run.png"), "--json")
    assert json.loads(done.stdout) == {"job": job_id, "file": str(tmp_path / "run.png"), "steps": 60}
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert train("plot", job_id, "--out", str(tmp_path / "run.txt")).exit_code == 2


def test_every_step_is_drawn_however_many_pages_they_fill(
    front: JobFront, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("batchd_server.cli.train.METRICS_PAGE", 20)
    drawn: list[list[int]] = []
    monkeypatch.setattr(
        "batchd_server.cli.train_plot.plot_job", lambda job, steps, commits, out: drawn.append([s.step for s in steps])
    )
    job_id = submitted(train)
    for steps in (60, 5):
        front.play(job_id, steps=steps, end=None, first=1 if steps == 60 else 61)
        assert train("plot", job_id, "--out", str(tmp_path / "run.png")).exit_code == 0
    assert drawn == [list(range(1, 61)), list(range(1, 66))]
    assert figures(3) == figures(3)


@pytest.fixture
def sigint_is_heard() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and a child inherits that: here nobody runs in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_is_heard")
def test_an_interrupt_leaves_the_job_running(front: JobFront, train: Train) -> None:
    job_id = submitted(train)
    command = [sys.executable, "-m", "batchd_server.cli.main", "train", "follow", job_id, "--url", front.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert "created" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        _, said = following.communicate(timeout=30)
    assert following.returncode == 130
    assert one_line(said) == f"{job_id} goes on; batchd train cancel {job_id} ends it"
    assert front.store.job(job_id).wanted == "run"


def test_help_is_there_for_every_subcommand_without_torch_and_fastapi() -> None:
    hide = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'fastapi', 'sqlalchemy', 'zmq', 'matplotlib')));"
        "from batchd_server.cli.main import main; main()"
    )
    for arguments in (("--help",), ("submit", "-h"), ("datasets", "upload", "--help")):
        done = subprocess.run(
            [sys.executable, "-c", hide, "train", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Usage: " in done.stdout

"""The spatial split: who is lent which cores, what each may take of the memory, and what is told of it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lease_rig import give_back, lease, served, works

from batchd import Completed, Controller
from batchd.budget import BudgetPolicy, MemoryReading, budget_bytes, headroom_bytes
from batchd.decision import RunMicrobatch, Wait
from batchd.leasing import Demand, Quantum, TrainingPolicy
from batchd.leasing.broker import Denial
from batchd_server.config.loading import load_settings
from batchd_server.config.policies import budget_policy, scheduler_for, training_controller
from batchd_server.config.problems import ConfigError
from batchd_server.config.settings import DeviceSettings, TrainingSettings
from batchd_server.device.memory.cpu import without_fused_encoder
from batchd_server.device.repository import Repository
from batchd_server.device.selection import select_device
from batchd_server.device.torch_threads import use_torch_threads
from batchd_server.device.training.quantum_work import TrainWork
from batchd_server.device.training.spatial_split import SpatialSplit
from batchd_server.device.training.training_side import TrainingSide, Ways
from batchd_server.training.places import Places

SPACE = TrainingSettings(split="space")


@dataclass
class Cores:
    """Implements `QuantumExecutor`: keeps what it is given."""

    given: list[TrainWork] = field(default_factory=list)
    running: bool = False

    def start(self) -> None:
        self.running = True

    def stop(self, timeout_s: float) -> bool:
        self.running = False
        return True

    def submit(self, work: TrainWork) -> None:
        self.given.append(work)


def wanting(quantum: Quantum = Quantum.STEP, **policy: Any) -> SpatialSplit:
    """A split whose one job, known to take 10 ms, wants to run."""
    controller = Controller(training_policy=TrainingPolicy(**policy))
    controller.leases.add("job")
    controller.leases.demand("job", Demand(quantum=quantum, expected_s=0.01))
    return SpatialSplit(controller, Cores())


def ended(lent: RunMicrobatch, seconds: float = 0.01) -> Completed:
    return Completed(batch_id=lent.batch_id, seconds=seconds, peak_bytes=None, first_of_shape=False)


# ---- decisions -------------------------------------------------------------------------------------------------------


def test_idle_cores_are_lent_and_lent_ones_are_waited_for() -> None:
    split, lent = wanting(), list[RunMicrobatch]()
    now = 0.0
    for number in range(1, 6):
        assert split.decide(now, lent.append) == math.inf
        assert len(lent) == number
        assert split.decide(now + 5.0, lent.append) == math.inf, "one quantum at a time"
        assert len(lent) == number
        now += 0.01
        split.controller.report(ended(lent[-1]))
    split.controller.leases.demand("job", None)
    split.decide(now, lent.append)
    assert len(lent) == 5


def test_the_largest_share_counts_on_cores_of_its_own() -> None:
    split, lent = wanting(share_max=0.1), list[RunMicrobatch]()
    split.decide(0.0, lent.append)
    split.controller.report(ended(lent[0], seconds=2.0))
    until = split.decide(2.0, lent.append)
    assert len(lent) == 1
    assert 2.0 < until < math.inf
    split.decide(until + 1e-6, lent.append)
    assert len(lent) == 2


def test_while_draining_microbatches_are_not_begun_but_checkpoints_are() -> None:
    lent: list[RunMicrobatch] = []
    split = wanting(Quantum.MICROBATCH)
    split.drain()
    split.decide(0.0, lent.append)
    assert not lent
    split.controller.leases.demand("job", Demand(quantum=Quantum.CHECKPOINT))
    split.decide(0.0, lent.append)
    assert [each.quantum for each in lent] == [Quantum.CHECKPOINT]


# ---- wiring ----------------------------------------------------------------------------------------------------------


def side(split: SpatialSplit | None, tmp_path: Path) -> TrainingSide:
    device = SimpleNamespace(torch_device=torch.device("cpu"), peaks=SimpleNamespace(hold=lambda tensors: None))
    places = Places(database=f"sqlite:///{tmp_path}/jobs", directory=tmp_path, data_root=None, lasting=False)
    inference = Controller()
    ignore: Any = lambda *_: None  # noqa: E731
    return TrainingSide(places, cast("Any", device), inference, Repository([]), Ways(ignore, ignore, ignore), split)


def test_the_training_side_passes_on_what_the_split_must_know(tmp_path: Path) -> None:
    cores = Cores()
    split = SpatialSplit(Controller(), cores)
    made = side(split, tmp_path)
    made.start()
    assert cores.running
    made.observe(MemoryReading(total=2**30, device_free=2**30, reserved=0, allocated=0))
    assert split.controller.headroom() is not None
    made.drain()
    assert split.controller.snapshot(0.0).draining
    assert made.decide(0.0) == math.inf
    assert made.stop(10.0)
    assert not cores.running


def test_in_a_time_split_there_is_nothing_to_decide(tmp_path: Path) -> None:
    assert side(None, tmp_path).decide(0.0) == math.inf


# ---- memory ----------------------------------------------------------------------------------------------------------

BYTES = st.none() | st.integers(0, 2**40)


@given(total=BYTES, free=BYTES, reserved=BYTES, allocated=BYTES, fraction=st.floats(0.1, 1.0))
def test_both_together_never_count_on_more_than_there_is(
    total: int | None, free: int | None, reserved: int | None, allocated: int | None, fraction: float
) -> None:
    reading = MemoryReading(total=total, device_free=free, reserved=reserved, allocated=allocated)
    device = DeviceSettings(memory_fraction=fraction)
    inference, training = scheduler_for(device, SPACE), training_controller(device, SPACE)
    inference.observe(reading)
    training.observe(reading)
    one, other = inference.headroom(), training.headroom()
    together = headroom_bytes(reading, budget_policy(device))
    if together is None:
        assert one is other is None
    else:
        assert one is not None
        assert other is not None
        assert together - 2 <= one + other <= together
    assert budget_bytes(reading, budget_policy(device, SPACE)) == budget_bytes(reading, budget_policy(device))


def test_a_share_of_the_headroom_is_a_share() -> None:
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="headroom_share"):
            BudgetPolicy(headroom_share=share)


def test_measuring_on_two_threads_leaves_the_fused_encoder_as_it_was() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    inside, leave = threading.Event(), threading.Event()

    def measure() -> None:
        with without_fused_encoder():
            inside.set()
            leave.wait(10.0)

    with without_fused_encoder():
        other = threading.Thread(target=measure)
        other.start()
        assert inside.wait(10.0)
    assert not torch.backends.mha.get_fastpath_enabled(), "the other one still measures"
    leave.set()
    other.join()
    assert torch.backends.mha.get_fastpath_enabled()


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_every_thread_keeps_the_torch_threads_that_it_was_given() -> None:
    before = torch.get_num_threads()
    wanted = {"one": 1, "three": 3, "two": 2}
    barrier = threading.Barrier(len(wanted))
    kept: dict[str, tuple[int, int]] = {}
    turn = threading.Lock()

    def work(name: str, number: int) -> None:
        use_torch_threads(number)
        barrier.wait(30.0)
        with turn:
            kept[name] = (torch.get_num_threads(), workers())

    threads = [threading.Thread(target=work, args=item) for item in wanted.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(before)
    assert kept == {name: (number, number) for name, number in wanted.items()}


def workers() -> int:
    """How many threads do the calling thread's parallel work: those that take a fair part of its CPU time."""
    values = torch.linspace(-3.0, 3.0, 2**22)  # not a matrix product: MKL never uses more threads than there are cores
    process = psutil.Process()
    before = {thread.id: thread.user_time for thread in process.threads()}
    while True:
        torch.tanh(values, out=values)
        taken = [thread.user_time - before.get(thread.id, 0.0) for thread in process.threads()]
        if max(taken) >= 0.3:  # the kernel counts hundredths
            return sum(seconds > 0.3 * max(taken) for seconds in taken)


def test_what_training_has_to_itself_is_not_inferences() -> None:
    before = torch.get_num_threads()
    cpu = DeviceSettings(name="cpu")
    alone = select_device(cpu).info.threads
    assert select_device(cpu, training_threads=1).info.threads == max(1, alone - 1)
    assert select_device(cpu, training_threads=1000).info.threads == 1
    assert select_device(DeviceSettings(name="cpu", threads=2), training_threads=1).info.threads == 2
    torch.set_num_threads(before)


def test_auto_that_finds_cuda_has_no_cores_to_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r'training\.split "space" divides the cores of a CPU, but .* is CUDA here'):
        select_device(DeviceSettings(name="auto"), training_threads=1)
    torch.set_num_threads(before)


# ---- what is told ----------------------------------------------------------------------------------------------------


def test_the_leases_of_both_are_told_together() -> None:
    inference = served()
    works(inference, 0.02, "external:loop")
    give_back(inference, lease(inference, 0.0), 0.02)
    split, lent = wanting(share_max=0.2), list[RunMicrobatch]()
    split.decide(0.0, lent.append)
    split.controller.report(ended(lent[0], seconds=4.0))
    assert isinstance(split.controller.next(4.0), Wait)

    told = split.beside(inference.snapshot(4.0), 4.0)
    found = told.leases
    assert found is not None
    assert told.models == inference.snapshot(4.0).models
    assert {tenant.name: tenant.seconds for tenant in found.tenants} == {"job": 4.0, "external:loop": 0.02}
    assert found.granted == {Quantum.STEP: 2}
    assert found.seconds[Quantum.STEP] == pytest.approx(4.02)
    assert found.denials == {Denial.SHARE: 1}
    assert found.denied is Denial.SHARE
    assert found.share == split.controller.leases.snapshot(4.0).share
    assert found.slack_s == inference.leases.snapshot(4.0).slack_s < math.inf
    assert found.running is None
    lease(inference, 5.0)
    beside = split.beside(inference.snapshot(5.0), 5.0).leases
    assert beside is not None
    assert beside.running == "external:loop"


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[device]\nname = 'cuda:1'\n[training]\nsplit = 'space'\n",
            'training: split "space" divides the cores of a CPU, but device.name is "cuda:1"',
        ),
        (
            "[device]\nname = 'simulated'\n[training]\nsplit = 'space'\n",
            'training: split "space" divides the cores of a CPU, but device.name is "simulated"',
        ),
        (
            "[device]\npolicy = 'window:5:32'\n[training]\nsplit = 'space'\n",
            'training: split "space" needs device.policy "adaptive": "window:5:32" does not train',
        ),
        ("[training]\nsplit = 'both'\n", "training.split: must be 'time' or 'space', got 'both'"),
        ("[training]\nthreads = 0\n", "training.threads: must be greater than or equal to 1, got 0"),
    ],
)
def test_what_cannot_be_split_is_one_clear_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "batchd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert str(raised.value) == f"{path}: {line}"


def test_threads_are_kept_for_training_in_a_spatial_split_alone() -> None:
    assert TrainingSettings(threads=3).own_threads == 0
    assert TrainingSettings(split="space", threads=3).own_threads == 3

"""The daemon against the same model run offline, and the latency it keeps at 70 % of what it can do.

    python benchmarks/text_saturation.py --out saturation.json

One run, one machine, one torch thread: rounds of (offline one by one, offline size-sorted, daemon saturated) follow
each other so that a slow spell of the machine meets all three; the medians are compared. Then Poisson arrivals at 70 %
of the daemon's median, latency counted from the scheduled arrival. Needs the extras server and text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from batchd.ladder import Multiples
from batchd_client import encode_infer
from batchd_client.loadtest import ClosedLoad, OpenLoad, Payload, Target, run_closed_loop, run_open_loop
from batchd_server.cli.child_daemon import child_daemon
from batchd_server.models.offline import Way, measure_offline
from batchd_server.models.text_encoder import TextEncoder

sys.path.insert(0, str(Path(__file__).parent))
from text_workload import draw_passages

SLO_S = 0.25
CONFIG = """
[device]
name = "cpu"
threads = 1

[models.text-encoder]
entrypoint = "batchd_server.models.text_encoder:TextEncoder"

[models.text-encoder.batching]
slo_ms = 250
"""


def payloads(texts: list[str], deadline_s: float | None) -> list[Payload]:
    """One pre-encoded request per text."""
    encoded = [
        encode_infer("text-encoder", {"text": np.array([text.encode()], dtype=object)}, timeout_s=deadline_s)
        for text in texts
    ]
    return [Payload(path=e.path, headers=e.headers, body=e.body, size=1, items=1) for e in encoded]


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1500, help="texts offline, and requests per saturated round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=40.0, help="of the open loop")
    parser.add_argument("--share", type=float, default=0.7, help="of the saturated rate in the open loop")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    texts = [passage.text for passage in draw_passages(arguments.count, arguments.seed)]
    model = TextEncoder()
    items = [model.preprocess({"text": np.array(text.encode(), dtype=object)}) for text in texts]
    model.load(torch.device("cpu"))

    offline: dict[str, list[float]] = {}
    saturated: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "batchd.toml"
        config.write_text(CONFIG)
        log = Path(folder) / "daemon.log"
        with child_daemon(log, arguments=["--config", str(config)], environment={"OMP_NUM_THREADS": "1"}) as daemon:
            target = Target(url=daemon.url, timeout_s=120.0)
            patient = payloads(texts, deadline_s=60.0)
            load = ClosedLoad(concurrency=arguments.concurrency, count=arguments.count, warmup_s=3.0)
            for number in range(arguments.rounds):
                for result in measure_offline(
                    model,
                    items,
                    ladder=Multiples(1),
                    budget=512,
                    repeats=1,
                    device=torch.device("cpu"),
                    ways=[Way.ONE_BY_ONE, Way.SIZE_SORTED],
                ):
                    offline.setdefault(result.way, []).append(result.items_per_s)
                report = run_closed_loop(target, patient, load, model="text-encoder")
                saturated.append(report.completed_rate)
                print(f"round {number + 1}: daemon {saturated[-1]:.1f}/s, outcomes {dict(report.outcomes)}", flush=True)
                print("   offline " + ", ".join(f"{name} {runs[-1]:.1f}/s" for name, runs in offline.items()))
            rate = arguments.share * statistics.median(saturated)
            open_load = OpenLoad(rate=rate, duration_s=arguments.seconds, warmup_s=3.0, seed=arguments.seed)
            report = run_open_loop(
                target, payloads(texts, deadline_s=None), open_load, slo_s=SLO_S, model="text-encoder"
            )
    best = statistics.median(offline[Way.SIZE_SORTED])
    found = {
        "texts": arguments.count,
        "offline_per_s": {name: statistics.median(runs) for name, runs in offline.items()},
        "saturated_per_s": statistics.median(saturated),
        "saturated_over_offline": statistics.median(saturated) / best,
        "open_loop": report.to_dict(),
    }
    response = report.response
    assert response is not None, "nothing was answered"
    print(f"\nsaturated / offline size-sorted: {found['saturated_over_offline']:.3f}")
    print(
        f"at {rate:.1f}/s ({arguments.share:.0%}): p50 {response.p50 * 1e3:.0f} ms, p99 {response.p99 * 1e3:.0f} ms, "
        f"goodput {report.goodput:.1f}/s, outcomes {dict(report.outcomes)}"
    )
    for warning in report.warnings:
        print(f"warning: {warning}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

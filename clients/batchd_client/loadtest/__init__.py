"""A load generator that does not flatter the server: latency counts from when a request was due; nothing is retried.

target = Target(url="http://127.0.0.1:8080")
report = run_open_loop(target, payloads, OpenLoad(rate=200, duration_s=30), slo_s=0.1)
print(report.response.p99, report.goodput)
"""

from batchd_client.loadtest.arrivals import Arrivals, arrival_times, parse_arrivals
from batchd_client.loadtest.connections import Connections
from batchd_client.loadtest.lengths import Lengths, parse_lengths
from batchd_client.loadtest.load import ClosedLoad, OpenLoad
from batchd_client.loadtest.max_rate import (
    MaxRateReport,
    RateTrial,
    TrialPlan,
    probe_capacity,
    search_max_rate,
)
from batchd_client.loadtest.measurement import run_closed_loop, run_open_loop, run_plan
from batchd_client.loadtest.payload import Payload, PayloadFactory, PlannedRequest, payload_pool, plan_requests
from batchd_client.loadtest.precise_loop import run_precisely
from batchd_client.loadtest.quantiles import Quantiles
from batchd_client.loadtest.rate_search import RateSearch
from batchd_client.loadtest.report import LoadReport
from batchd_client.loadtest.sample import Exchange, Sample
from batchd_client.loadtest.target import Target
from batchd_client.loadtest.tensor_payloads import TensorPayloads, tensor_payloads
from batchd_client.loadtest.text_payloads import TextPayloads

__all__ = [
    "Arrivals",
    "ClosedLoad",
    "Connections",
    "Exchange",
    "Lengths",
    "LoadReport",
    "MaxRateReport",
    "OpenLoad",
    "Payload",
    "PayloadFactory",
    "PlannedRequest",
    "Quantiles",
    "RateSearch",
    "RateTrial",
    "Sample",
    "Target",
    "TensorPayloads",
    "TextPayloads",
    "TrialPlan",
    "arrival_times",
    "parse_arrivals",
    "parse_lengths",
    "payload_pool",
    "plan_requests",
    "probe_capacity",
    "run_closed_loop",
    "run_open_loop",
    "run_plan",
    "run_precisely",
    "search_max_rate",
    "tensor_payloads",
]

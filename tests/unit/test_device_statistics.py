"""The statistics extension of the Open Inference Protocol: its arithmetic and its JSON shape."""

from __future__ import annotations

from batchd_server.observe.model_statistics import ModelStatistics


def statistics() -> ModelStatistics:
    return ModelStatistics(name="m", version="3", memory_type="GPU", memory_id=1)


def test_counts_divide_into_the_mean_batch_size() -> None:
    stats = statistics()
    for size in (4, 4, 2):
        stats.count_batch(size, 0.001, 0.010, 0.002)
    assert stats.inference_count / stats.execution_count == 10 / 3
    answer = stats.to_json()
    assert answer["inference_stats"]["compute_infer"] == {"count": 10, "ns": 100_000_000}
    assert answer["batch_stats"] == [
        {
            "batch_size": size,
            "compute_input": {"count": batches, "ns": batches * 1_000_000},
            "compute_infer": {"count": batches, "ns": batches * 10_000_000},
            "compute_output": {"count": batches, "ns": batches * 2_000_000},
        }
        for size, batches in ((2, 1), (4, 2))
    ]
    assert answer["last_inference"] > 1_600_000_000_000, "milliseconds of the Unix epoch"


def test_a_model_that_has_done_nothing_has_every_key() -> None:
    stats = statistics()
    nothing = {"count": 0, "ns": 0}
    assert stats.to_json() == {
        "name": "m",
        "version": "3",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": dict.fromkeys(
            (
                *("success", "fail", "queue", "compute_input", "compute_infer"),
                *("compute_output", "cache_hit", "cache_miss"),
            ),
            nothing,
        ),
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }
    stats.memory_bytes = 77
    assert stats.to_json()["memory_usage"] == [{"type": "GPU", "id": 1, "byte_size": 77}]

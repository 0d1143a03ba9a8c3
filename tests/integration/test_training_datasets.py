"""From an upload to a model that has learned from it, in a real daemon; what is no dataset disturbs nobody."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from daemon_rig import daemon
from dataset_files import npy, npy_of, png_that_declares, zipped

from batchd_client import Client
from batchd_server.models.digit_lines.scans import scan_lines, split_scans

LIMIT = 3_000_000


def config(folder: Path) -> str:
    return (
        f'[server]\nport = 0\n[state]\ndirectory = "{folder}/state"\n'
        f'[training]\ndata_root = "{folder}/data"\nuploads_max_bytes = {LIMIT}\n'
        "[defaults.batching]\nslo_ms = 60000\n"
    )


def lines(count: int) -> bytes:
    """Lines of training scans, as somebody might bring them."""
    training = split_scans()[0]
    rng = np.random.default_rng(0)
    lengths = np.clip(np.rint(rng.lognormal(1.2, 0.6, count)), 1, 12).astype(int)
    made = [training.line(rng.integers(len(training.labels), size=length)) for length in lengths]
    file = BytesIO()
    np.savez(
        file,
        image_values=np.concatenate([image.reshape(-1) for image, _ in made]),
        image_shapes=np.array([image.shape for image, _ in made]),
        digits_values=np.concatenate([digits for _, digits in made]),
        digits_offsets=np.cumsum([0, *lengths]),
    )
    return file.getvalue()


def hostile(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What is sent, and the answer's status."""
    bomb = zipped(folder / "bomb", {"a/1.png": b"\0" * (2 * LIMIT - 1000)}).read_bytes()
    assert len(bomb) < LIMIT / 100
    huge = zipped(folder / "huge", {"x.npy": npy_of("<f8", "(1000000000000,)")}).read_bytes()
    return {
        "nothing": (b"", 422),
        "pickle": (pickle.dumps({"x": 1}), 422),
        "pickle within": (zipped(folder / "objects", {"x.npy": npy(np.array([{}], dtype=object))}).read_bytes(), 422),
        "cut off": (lines(5)[:-40], 422),
        "unequal": (zipped(folder / "unequal", {"x.npy": npy(np.ones(3)), "y.npy": npy(np.ones(2))}).read_bytes(), 422),
        "NaN": (zipped(folder / "nan", {"x.npy": npy(np.array([np.nan]))}).read_bytes(), 422),
        "a way out": (zipped(folder / "out", {"../../x.npy": npy(np.ones(3))}).read_bytes(), 422),
        "bomb": (bomb, 413),
        "header of a terabyte": (huge, 422),
        "pixels": (zipped(folder / "pixels", {"a/1.png": png_that_declares(90_000, 90_000)}).read_bytes(), 413),
        "too long": (bytes(LIMIT + 1), 413),
    }


@pytest.mark.slow
def test_what_is_uploaded_is_learned_and_what_is_hostile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to(tmp_path / "batchd.toml")
    image, digits = scan_lines(seed=2, count=1)[0]
    with daemon(tmp_path, config(tmp_path)) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        before = client.get("/v1/status").json()["device"]["pid"]

        def served() -> int:
            with Client(running.url) as inference:
                answer = inference.infer("digit-lines", {"image": image[None]})
            return int((answer["digits"][0] == digits).sum())

        right = served()
        for name, (content, status) in hostile(tmp_path).items():
            answer = client.post("/v1/datasets", params={"name": "bad"}, content=content)
            assert answer.status_code == status, (name, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert str(tmp_path) not in answer.text, name
            assert served() == right, name
        for path in ("../batchd.toml", "out", "/etc/passwd"):
            answer = client.post("/v1/datasets", json={"path": path, "name": "bad"})
            assert answer.status_code == 422, (path, answer.text)
        assert [entry["name"] for entry in client.get("/v1/datasets").json()["data"]] == ["digit-lines"]
        assert list((tmp_path / "state" / "datasets").iterdir()) == []
        assert client.get("/v1/status").json()["device"]["pid"] == before

        made = client.post("/v1/datasets", params={"name": "mine", "format": "npz"}, content=lines(400))
        assert made.status_code == 201, made.text
        assert made.json()["examples"] == 400
        job = {
            "model": "digit-lines",
            "dataset": "mine",
            "epochs": 5,
            "optimizer": {"name": "adamw", "lr": 0.004},
            "batching": {"initial": 16, "min": 8, "max": 64},
        }
        submitted = client.post("/v1/training/jobs", json=job)
        assert submitted.status_code == 201, submitted.text
        place = f"/v1/training/jobs/{submitted.json()['id']}"
        assert client.delete(f"/v1/datasets/{made.json()['id']}").status_code == 409
        with client.stream("GET", f"{place}/events") as events:
            assert any(line == "event: succeeded" for line in events.iter_lines())
        ended = client.get(place).json()
        assert ended["status"] == "succeeded", ended
        assert ended["progress"]["validation_accuracy"] > 0.7, "a guess is right one time in ten"
        assert client.delete(f"/v1/datasets/{made.json()['id']}").status_code == 204
        assert list((tmp_path / "state" / "datasets").iterdir()) == []

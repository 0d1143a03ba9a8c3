"""The embedded model: what it reads, and what its model card claims."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from batchd_server.models.digit_lines import DigitLines, train
from batchd_server.models.digit_lines.model import WEIGHTS_FILE
from batchd_server.models.digit_lines.scans import scan_lines, split_scans
from batchd_server.models.digit_lines.train import CARD_FILE, accuracy
from batchd_server.models.spec import Tensors


@pytest.fixture(scope="module")
def model() -> DigitLines:
    model = DigitLines()
    model.load(torch.device("cpu"))
    return model


def test_the_shipped_weights_are_as_accurate_as_their_card_says(model: DigitLines) -> None:
    card = json.loads(CARD_FILE.read_text(encoding="utf-8"))
    training, held_out = split_scans()
    assert card["held_out_scans"] == len(held_out.labels)
    assert card["training_scans"] == len(training.labels)
    assert accuracy(model.network, held_out) == pytest.approx(card["held_out_accuracy"], abs=1.5 / len(held_out.labels))
    assert card["held_out_accuracy"] >= 0.97
    assert WEIGHTS_FILE.stat().st_size < 200_000


def test_training_writes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = WEIGHTS_FILE.read_bytes()
    threads = torch.get_num_threads()
    monkeypatch.setattr(train, "STEPS", 3)
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path)])
    train.main()
    torch.set_num_threads(threads)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS_FILE.name, CARD_FILE.name}
    assert before == WEIGHTS_FILE.read_bytes()


def test_the_scans_are_those_that_scikit_learn_hands_out() -> None:
    bundle = load_digits()
    parts = [(part.images, part.labels) for part in split_scans()]
    expected = [((bundle.images / 16).astype(np.float32), bundle.target)]
    ours, theirs = (
        sorted((image.tobytes(), int(label)) for scans in halves for image, label in zip(*scans, strict=True))
        for halves in (parts, expected)
    )
    assert ours == theirs


def test_a_job_that_opens_the_scans_does_not_wait_for_scikit_learn() -> None:
    program = "import sys; from batchd_server.models.digit_lines.scans import scan_lines; scan_lines(0, 1)"
    done = subprocess.run([sys.executable, "-c", f"{program}; sys.exit('sklearn' in sys.modules)"], check=False)
    assert done.returncode == 0


def test_no_held_out_scan_is_a_training_scan() -> None:
    training, held_out = split_scans()
    seen = {image.tobytes() for image in training.images}
    assert not [image for image in held_out.images if image.tobytes() in seen]


def test_lines_are_read_through_one_batch(model: DigitLines) -> None:
    lines = scan_lines(seed=5, count=40)
    items: list[Tensors] = [model.preprocess({"image": image}) for image, _ in lines]
    with torch.no_grad():
        answers = model.split(model.run(model.collate(items, (256,))), items)
    right = sum(int((answer["digits"] == labels).sum()) for answer, (_, labels) in zip(answers, lines, strict=True))
    total = sum(len(labels) for _, labels in lines)
    assert right / total > 0.95
    for answer, (_, labels) in zip(answers, lines, strict=True):
        assert answer["digits"].dtype == np.int64
        assert answer["scores"].shape == (len(labels), 10)
        np.testing.assert_allclose(np.exp(answer["scores"].astype(np.float64)).sum(axis=1), 1, rtol=1e-5)


def test_the_same_seed_gives_the_same_lines() -> None:
    for (image, labels), (again, labels_again) in zip(scan_lines(3, 5), scan_lines(3, 5), strict=True):
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(labels, labels_again)
    lengths = {len(labels) for _, labels in scan_lines(0, 400)}
    assert lengths == set(range(1, 33))
    image, labels = scan_lines(1, 1, max_digits=1)[0]
    assert image.shape == (8, 8)
    assert labels.shape == (1,)
    assert 0 <= image.min() < image.max() <= 1

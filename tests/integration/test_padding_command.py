"""`batchd padding` as a user types it, in a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_rig import batchd

from batchd.sampler import BucketRule, ElementBudget, padding_report

SIZES = [3, 40, 12, 7, 25, 31, 8, 8, 19, 2]
SHAPES = [[3, 4], [8, 2], [5, 5], [7, 1]]


def padding(*arguments: str) -> subprocess.CompletedProcess[str]:
    return batchd("padding", *arguments)


def written(path: Path, sizes: list[Any]) -> str:
    match path.suffix:
        case ".npy":
            np.save(path, np.array(sizes))
        case ".jsonl":
            path.write_text("".join(json.dumps(size) + "\n" for size in sizes))
        case _:
            rows = [size if isinstance(size, list) else [size] for size in sizes]
            path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", ["sizes.npy", "sizes.jsonl", "sizes.csv"])
@pytest.mark.parametrize("sizes", [SIZES, SHAPES])
def test_a_file_is_reported_on_as_the_library_does(tmp_path: Path, name: str, sizes: list[Any]) -> None:
    source = written(tmp_path / name, sizes)
    done = padding(source, "--batch-size", "2,3", "--buckets", "1,2", "--seed", "4", "--multiple", "2", "--json")
    found = json.loads(done.stdout)
    expected = [padding_report(sizes, size, number, seed=4, multiple=2) for number in (1, 2) for size in (2, 3)]
    assert [row["waste_percent"] for row in found] == [report.waste_percent for report in expected]
    assert [row["per_batch"]["variance"] for row in found] == [report.per_batch.variance for report in expected]
    assert [row["batches"] for row in found] == [report.num_batches for report in expected]


def test_fields_and_columns_have_names(tmp_path: Path) -> None:
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"id": index, "tokens": size}) + "\n" for index, size in enumerate(SIZES)))
    rows = tmp_path / "texts.csv"
    rows.write_text("id,tokens,label\n" + "".join(f"{index},{size},x\n" for index, size in enumerate(SIZES)))
    options = ("--field", "tokens", "--json")
    assert padding(str(lines), *options).stdout == padding(str(rows), *options).stdout != ""
    wrong = padding(str(rows), "--json")
    assert (wrong.returncode, "no column 'size'" in wrong.stderr) == (2, True)
    rows.write_text("id,tokens\n1,5\n2\n")
    short = padding(str(rows), *options)
    assert (short.returncode, "a row has no column 'tokens'" in short.stderr) == (2, True)


def test_an_element_budget_and_the_other_rule_reach_the_library(tmp_path: Path) -> None:
    source = written(tmp_path / "sizes.npy", SIZES)
    budget = json.loads(padding(source, "--elements", "80", "--batch-size", "3", "--buckets", "2", "--json").stdout)
    expected = padding_report(SIZES, ElementBudget(elements=80, max_items=3), 2)
    assert budget[0]["waste_percent"] == expected.waste_percent
    assert (budget[0]["element_budget"], budget[0]["batch_size"]) == (80, 3)
    equal = padding(source, "--rule", "equal-count", "--pad-to-bucket", "--batch-size", "3", "--buckets", "2", "--json")
    report = padding_report(SIZES, 3, 2, rule=BucketRule.EQUAL_COUNT, pad_to_bucket=True)
    assert json.loads(equal.stdout)[0]["waste_percent"] == report.waste_percent


def test_made_up_sizes_come_out_as_a_table_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "padding.png"
    options = ("lognormal:24:1.0:2:256", "--count", "500", "--buckets", "1,8", "--batch-size", "16")
    done = padding(*options, "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:] if line.strip()]
    assert [row[0] for row in rows] == ["1", "8"]
    assert float(rows[0][3]) > 2 * float(rows[1][3]) > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert padding(*options).stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.npy"], "nowhere.npy"),
        (["sizes.txt"], "neither a file ending in"),
        (["gamma:1:2"], "are not one of lognormal"),
        (["fixed:8", "--batch-size", "few"], "--batch-size takes whole numbers"),
        (["fixed:8", "--buckets", "0"], "number of buckets"),
        (["fixed:8", "--rule", "guess"], "guess"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    done = padding(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

"""A configuration that cannot be used: one clear line per problem, exit code 2, and nothing has been started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_rig import batchd


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nprot = 1\n", ["batchd.toml", "server.prot", "did you mean port?"]),
        ("[server]\nfronts = 0\n", ["batchd.toml", "server.fronts", "greater than or equal to 1", "got 0"]),
        ("[server]\nport 70000\n", ["batchd.toml:2:6", "not valid TOML"]),
        ('[models.m]\nentrypoint = "nowhere:Model"\n', ["batchd.toml", "models.m", "nowhere"]),
        ('[models.m]\nentrypoint = "model:Absent"\n', ["batchd.toml", "models.m", "Absent", "Model"]),
        (
            '[models.m]\nentrypoint = "model:Model"\noptions = { colour = 1 }\n',
            ["batchd.toml", "models.m", "'colour'", "path"],
        ),
        (
            '[models.m]\nentrypoint = "model:Model"\noptions = { path = "absent.safetensors" }\n',
            ["batchd.toml", "models.m", "absent.safetensors"],
        ),
        (
            '[models.m]\nentrypoint = "model:Model"\n[models.m.batching]\npriority_levels = 2\ndefault_priority = 3\n',
            ["batchd.toml", "models.m.batching", "default_priority must be in 1..2"],
        ),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path: Path, text: str, expected: Sequence[str]) -> None:
    (tmp_path / "batchd.toml").write_text(text)
    (tmp_path / "model.py").write_text(
        "from pathlib import Path\n"
        "from batchd_server.models.padded import PaddedModel\n"
        "from batchd_server.models.spec import TensorSpec\n"
        "class Model(PaddedModel):\n"
        "    inputs = outputs = (TensorSpec(name='x', datatype='FP32', shape=('n',)),)\n"
        "    def __init__(self, path='model.py'):\n"
        "        if not Path(path).is_file():\n"
        "            raise ValueError(f'option path: no file {path}')\n"
        "    def build(self): ...\n"
        "    def forward(self, batch): ...\n"
    )
    finished = batchd("serve", "--config", "batchd.toml", "--port", "0", folder=tmp_path)

    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1, finished.stderr
    for words in expected:
        assert words in finished.stderr


def test_a_missing_file_and_a_bad_variable_are_named(tmp_path: Path) -> None:
    missing = batchd("serve", "--config", "absent.toml", folder=tmp_path)
    assert (missing.returncode, missing.stderr) == (2, "absent.toml: configuration file: no such file or directory\n")

    bad = batchd("serve", BATCHD_SERVER__LOG_LEVEL="loud", folder=tmp_path)
    assert bad.returncode == 2
    assert bad.stderr.startswith("BATCHD_SERVER__LOG_LEVEL: server.log_level: must be 'debug', 'info'")


def test_a_device_that_this_machine_has_not_is_named(tmp_path: Path) -> None:
    finished = batchd("serve", "--port", "0", "--device", "cuda:63", folder=tmp_path)

    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("default configuration: device.name: ")
    assert finished.stderr.count("\n") == 1


def test_check_config_prints_what_is_in_effect(tmp_path: Path) -> None:
    (tmp_path / "batchd.toml").write_text("[server]\nport = 1\nfronts = 3\n")

    finished = batchd(
        "check-config", "--config", "batchd.toml", "--no-models", BATCHD_SERVER__PORT="2", folder=tmp_path
    )

    assert finished.returncode == 0, finished.stderr
    server = json.loads(finished.stdout)["server"]
    assert (server["port"], server["fronts"]) == (2, 3)

"""Where settings come from, and what is said about those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchd_server.config.loading import Override, load_settings
from batchd_server.config.problems import ConfigError


def _write(directory: Path, text: str) -> Path:
    path = directory / "batchd.toml"
    path.write_text(text)
    return path


def _problems(path: Path | None, *overrides: Override) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_settings(path, overrides)
    return str(raised.value).splitlines()


def test_with_nothing_said_the_embedded_model_is_served() -> None:
    settings = load_settings()
    assert list(settings.models) == ["digit-lines"]
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)


def test_the_command_line_beats_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, "[server]\nport = 1\nfronts = 2\nhost = 'a'\n")
    monkeypatch.setenv("BATCHD_SERVER__PORT", "3")
    monkeypatch.setenv("BATCHD_SERVER__FRONTS", "4")

    server = load_settings(
        path, [Override("--port", "server.port", 5), Override("--fronts", "server.fronts", None)]
    ).server

    assert (server.port, server.fronts, server.host) == (5, 4, "a")


def test_variables_reach_into_the_table_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, "[models.text]\nentrypoint = 'a:B'\n[models.text.batching]\nslo_ms = 1\nmax_wait_ms = 2\n")
    monkeypatch.setenv("BATCHD_MODELS__TEXT__BATCHING__SLO_MS", "50")
    monkeypatch.setenv("BATCHD_MODELS__TEXT__OPTIONS__FOLDER", "/weights")

    model = load_settings(path).models["text"]

    assert (model.batching.slo_ms, model.batching.max_wait_ms) == (50, 2)
    assert model.options == {"folder": "/weights"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[servr]\n",
            "servr: unknown key; did you mean server? "
            "allowed: defaults, device, models, security, server, state, training",
        ),
        (
            "[device]\nname = 'gpu'\n",
            "device.name: must be auto, cpu, cuda, cuda:N for device N, or simulated, got 'gpu'",
        ),
        (
            "[device.simulated]\nmemory_bytes = 0\n",
            "device.simulated.memory_bytes: must be greater than 0, got 0",
        ),
        (
            "[device.simulated]\ncost = '1'\n",
            "device.simulated.cost: cost '1' is not of the form "
            "FIXED_S:PER_TOKEN_S[:SQUARE_LENGTH[:TOKENS_CHARGED_AT_LEAST]], got '1'",
        ),
        ("[device.simulated]\nnoise = 0.1\n", "device.simulated: noise needs a cost to vary"),
        ("[device.simulated]\nneighbour = ''\n", "device.simulated.neighbour: must be a path, got ''"),
        (
            "[device]\nname = 'simulated'\n[device.simulated]\nmemory_bytes = 1000\n",
            "device: memory_reserve_bytes (67108864) leaves nothing of the simulated device's "
            "1000 bytes x memory_fraction (0.85)",
        ),
        ("[server]\nport = -1\n", "server.port: must be greater than or equal to 0, got -1"),
        ("[models.a]\n", "models.a.entrypoint: is missing"),
        ("[server]\nport = true\n", "server.port: must not be a truth value, got True"),
        ("[server]\ndrain_timeout_s = inf\n", "server.drain_timeout_s: must be a finite number, got inf"),
        ("[defaults.batching]\nslo_ms = 1e400\n", "defaults.batching.slo_ms: must be a finite number, got inf"),
        ("[device]\nthreads = 1000000\n", "device.threads: must be less than or equal to 1024, got 1000000"),
        ("[state]\ndirectory = ''\n", "state.directory: must be a path, got ''"),
        ("[models.a]\nentrypoint = 'a'\n", "models.a.entrypoint: must be of the form package.module:Class, got 'a'"),
        ("models = 3\n", "models: must be a table, got 3"),
        ("[defaults]\nbatching = 3\n", "defaults.batching: must be a table, got 3"),
        (
            "[defaults.batching.ladder]\nstep = 1\nedges = [1]\n",
            "defaults.batching.ladder: give only one of parts, step, edges and learned; step may stand beside learned",
        ),
    ],
)
def test_a_problem_names_file_key_and_what_is_allowed(tmp_path: Path, text: str, line: str) -> None:
    path = _write(tmp_path, text)
    assert _problems(path) == [f"{path}: {line}"]


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path, "[server]\nport = 'x'\nlog_level = 'loud'\n[models.'b c']\nentrypoint = 'a:B'\n")
    assert len(_problems(path)) == 3


def test_syntax_errors_have_line_and_column(tmp_path: Path) -> None:
    path = _write(tmp_path, "[server]\nport = = 1\n")
    assert _problems(path) == [f"{path}:2:8: not valid TOML: Invalid value"]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert _problems(tmp_path / "no.toml") == [f"{tmp_path / 'no.toml'}: configuration file: no such file or directory"]
    assert _problems(tmp_path) == [f"{tmp_path}: configuration file: is a directory"]
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    assert "not UTF-8" in _problems(tmp_path / "latin.toml")[0]


def test_a_bad_variable_is_named_instead_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, "[server]\nport = 1\n")
    monkeypatch.setenv("BATCHD_SERVER__PORT", "seven")
    assert _problems(path)[0].startswith("BATCHD_SERVER__PORT: server.port: must be a valid integer")


def test_an_unknown_variable_is_an_error_but_other_programs_variables_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHD_URL", "http://127.0.0.1:8080")
    load_settings()
    monkeypatch.setenv("BATCHD_SERVER__PRT", "1")
    assert _problems(None)[0].startswith("BATCHD_SERVER__PRT: server.prt: unknown key; did you mean port?")
    monkeypatch.delenv("BATCHD_SERVER__PRT")
    monkeypatch.setenv("BATCHD_SERVR__PORT", "1")
    assert _problems(None)[0].startswith("BATCHD_SERVR__PORT: servr: unknown key; did you mean server?")


def test_a_table_in_a_variable_must_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHD_SERVER", "{port")
    assert _problems(None) == ["BATCHD_SERVER: must be JSON for a whole table or list"]


def test_a_bad_option_is_named() -> None:
    assert _problems(None, Override("--port", "server.port", 99999)) == [
        "--port: server.port: must be less than or equal to 65535, got 99999"
    ]
    assert _problems(None, Override("--device", "device.name", "gpu"))[0].startswith(
        "--device: device.name: must be auto"
    )


SECRET = "batchd_what-must-not-be-repeated"


@pytest.mark.parametrize(
    "text",
    [
        f'[[security.keys]]\nname = "ci"\nsha256 = "{SECRET}"\nscopes = ["infer"]\n',
        f'[[security.keys]]\nname = "ci"\nkey = "{SECRET}"\nscopes = ["infer"]\n',
        f'[[security.keys]]\nname = "{SECRET} "\nsha256 = "{"0" * 64}"\nscopes = ["{SECRET}"]\n',
        f'[security]\nkeys = ["{SECRET}"]\n',
        f'security = "{SECRET}"\n',
        f'[training]\ndatabase = "{SECRET}"\n',
        f'[training]\ndatabase = ["{SECRET}"]\n',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path, text)
    problems = _problems(path)
    assert problems
    assert SECRET not in "".join(problems)


def test_two_keys_are_told_apart(tmp_path: Path) -> None:
    def keys(*pairs: tuple[str, str]) -> str:
        return "".join(
            f'[[security.keys]]\nname = "{name}"\nsha256 = "{digit * 64}"\nscopes = ["infer"]\n'
            for name, digit in pairs
        )

    path = _write(tmp_path, keys(("a", "0"), ("b", "1")))
    assert [key.name for key in load_settings(path).security.keys] == ["a", "b"]
    for pairs in ((("a", "0"), ("a", "1")), (("a", "0"), ("b", "0"))):
        path = _write(tmp_path, keys(*pairs))
        assert _problems(path) == [f"{path}: security.keys: two keys have the same name or the same sha256"]

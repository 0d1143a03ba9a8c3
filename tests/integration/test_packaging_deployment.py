"""The container files say what they must; the docker client, where there is one, agrees."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True, timeout=60, check=False).returncode == 0:
            return command
    return None


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_docker_client_accepts_the_compose_file(profile: str) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    done = subprocess.run(
        [*command, "--profile", profile, "config", "--services"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"cpu": {"batchd", "prometheus"}, "gpu": {"batchd-gpu", "prometheus"}}[profile]


def test_each_profile_runs_one_daemon_and_prometheus(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for profile, daemon in {"cpu": "batchd", "gpu": "batchd-gpu"}.items():
        assert {name for name, service in services.items() if profile in service["profiles"]} == {daemon, "prometheus"}


def test_only_the_gpu_profile_reserves_a_gpu(compose: dict[str, Any]) -> None:
    (device,) = compose["services"]["batchd-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in compose["services"]["batchd"]


def test_the_daemons_get_time_to_drain_and_keep_their_state(compose: dict[str, Any]) -> None:
    from batchd_server.config.settings import ServerSettings
    from batchd_server.supervisor.stopping import END_GRACE_S, save_limit_s

    server = ServerSettings()
    longest_s = save_limit_s(server.drain_delay_s, server.drain_timeout_s) + END_GRACE_S
    for name in ("batchd", "batchd-gpu"):
        service = compose["services"][name]
        assert int(service["stop_grace_period"].removesuffix("s")) > longest_s
        assert "state:/var/lib/batchd" in service["volumes"]
    assert set(compose["volumes"]) == {"state", "metrics"}


def test_ports_are_published_on_this_machine_only_unless_asked_otherwise(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for port in service["ports"]:
            assert re.fullmatch(r"\$\{[A-Z_]+:-127\.0\.0\.1:\d+\}:\d+", port)


def test_prometheus_scrapes_the_daemon_under_the_name_and_port_it_has(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    ((target,),) = [entry["targets"] for entry in job["static_configs"]]
    host, _, port = target.partition(":")
    for name in ("batchd", "batchd-gpu"):
        service = compose["services"][name]
        assert host in service["networks"]["default"]["aliases"]
        assert [published.rpartition(":")[2] for published in service["ports"]] == [port]
    mounts = [volume.split(":")[0] for volume in compose["services"]["prometheus"]["volumes"]]
    assert "./deploy/prometheus/prometheus.yml" in mounts


def test_the_image_listens_to_the_outside_as_an_ordinary_user_and_tells_its_health(dockerfile: str) -> None:
    assert "BATCHD_SERVER__HOST=0.0.0.0" in dockerfile
    assert "EXPOSE 8080" in dockerfile
    assert re.search(r"^HEALTHCHECK .*\n.*/v2/health/ready", dockerfile, re.MULTILINE)
    last_stage = dockerfile[dockerfile.rindex("\nFROM ") :]
    assert re.search(r"^USER batchd$", last_stage, re.MULTILINE)
    assert '["batchd"]' in last_stage


def test_the_image_takes_its_torch_from_the_constraints(dockerfile: str) -> None:
    assert "grep '^torch==' constraints.txt" in dockerfile
    assert not re.search(r"torch==\d", dockerfile)


def test_the_image_settings_are_settings_that_exist(
    dockerfile: str, compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchd_server.config.loading import load_settings

    variables = dict(re.findall(r"\b(BATCHD_[A-Z_]+)=(\S+)", dockerfile))
    for name in ("batchd", "batchd-gpu"):
        environment = {**variables, **compose["services"][name]["environment"]}
        for key, value in environment.items():
            monkeypatch.setenv(key, re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value))  # as compose fills in the defaults
        settings = load_settings()
        assert settings.server.insecure, "or it would not start, on that address and without keys"
        assert (settings.server.host, settings.server.port) == ("0.0.0.0", 8080)
        assert str(settings.state.directory) == "/var/lib/batchd"


def test_everything_that_the_image_copies_exists_and_is_not_ignored(dockerfile: str) -> None:
    build_stage = dockerfile[: dockerfile.rindex("\nFROM ")]
    copied = [name for line in re.findall(r"^COPY (.+)$", build_stage, re.MULTILINE) for name in line.split()[:-1]]
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name in kept

"""The container files keep their promises, and the parts they start work together, here without containers."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from histotune.tuning.ray_cluster import MARK, kill_leftovers

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TOKEN = "another-token-of-thirty-two-characters"


def test_only_mlflow_publishes_a_port_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert COMPOSE["networks"]["cluster"]["internal"] is True


@pytest.mark.parametrize("name", ["head", "worker", "search"])
def test_ray_nodes_ask_for_a_token_and_serve_no_dashboard(name: str) -> None:
    service = SERVICES[name]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert "ray_token" in service["secrets"]
    if name == "head":
        assert "--include-dashboard=false" in service["entrypoint"]


def test_everything_named_is_defined() -> None:
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        assert set(service["networks"]) <= COMPOSE["networks"].keys()
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[needed]
        named = {str(volume).partition(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in named if name.isidentifier()} <= COMPOSE["volumes"].keys()


def test_no_secret_stands_in_a_file_that_is_kept() -> None:
    ignored = (DOCKER.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    for secret in COMPOSE["secrets"].values():
        assert f"docker/{Path(secret['file']).name}" in ignored


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_images_pin_their_base_and_do_not_run_as_root(name: str) -> None:
    lines = (DOCKER / name).read_text(encoding="utf-8").splitlines()
    base = next(line for line in lines if line.startswith("FROM ")).split()[1]
    assert base.partition(":")[2].count(".") >= 2
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000:1000"
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    allowed = (DOCKER.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert all((DOCKER.parent / source).exists() and f"!{source}" in allowed for source in copied)


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for as long as the context lasts; it and its children end with it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **how)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def listens(number: int) -> bool:
    with socket.create_connection(("127.0.0.1", number), 1):
        return True


def healthy(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        return bool(answer.status == 200)


def wait_for(answers: Any, what: str, log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError):
            if answers():
                return
        time.sleep(0.5)
    pytest.fail(f"{what} did not start:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on loopback as a user who is not root; yields the URI of a database."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL's initdb and postgres are not on PATH")
    pytest.importorskip("psycopg2")
    how: dict[str, Any] = {}
    if os.getuid() == 0:  # which PostgreSQL refuses to run as
        nobody = pwd.getpwnam("nobody")
        how = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    number, log = port(), folder / "postgres.log"
    data = str(folder / "data")
    subprocess.run([initdb, "-D", data, "-U", "mlflow", "--auth=trust"], check=True, capture_output=True, **how)
    command = [server, "-D", data, "-p", str(number), "-h", "127.0.0.1", "-k", ""]
    with running(command, log, **how):
        wait_for(lambda: listens(number), "PostgreSQL", log)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{number}/postgres"


@pytest.mark.slow
def test_the_parts_work_together_without_containers(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    number, gcs = port(), port()
    place, ours = tmp_path / "postgres", tmp_path / "runs"
    place.mkdir()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    environment = os.environ | quiet | token | {"RAY_raylet_start_wait_time_s": "150", MARK: f"test-{gcs}"}
    ray, head = [str(scripts / "ray"), "start", "--block", "--disable-usage-stats"], tmp_path / "head.log"
    with ExitStack() as stack:
        stack.callback(kill_leftovers, f"test-{gcs}")  # what Ray started in sessions of their own
        uri = stack.enter_context(postgres(place))
        server = [str(scripts / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(number), "--workers", "1"]
        server += ["--backend-store-uri", uri, "--serve-artifacts", "--artifacts-destination", str(tmp_path / "models")]
        stack.enter_context(running(server, tmp_path / "mlflow.log", env=environment))
        first = [*ray, "--head", f"--port={gcs}", "--include-dashboard=false", "--num-cpus=1"]
        stack.enter_context(running(first, head, env=environment))
        wait_for(lambda: b"Ray runtime started" in head.read_bytes(), "Ray", head)
        address = head.read_text().partition("--address='")[2].partition("'")[0]
        health = [str(scripts / "ray"), "health-check", "--address", address]
        subprocess.run(health, env=environment, check=True, capture_output=True, timeout=60)
        more = tmp_path / "worker.log"
        stack.enter_context(running([*ray, f"--address={address}", "--num-cpus=1"], more, env=environment))
        wait_for(lambda: b"Ray runtime started" in more.read_bytes(), "the second node", more)
        url = f"http://127.0.0.1:{number}"
        wait_for(lambda: healthy(url), "MLflow", tmp_path / "mlflow.log")
        code = "from histotune.cli.app import main; main()"
        line = [sys.executable, "-c", code, "search", "demo", "--trials", "3", "--quiet", "--runs", str(ours)]
        line += ["--fix", "epochs=2", "--tracking-uri", url, "--ray-address", address]
        text = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400)
        assert text.returncode == 0, text.stderr
        assert "cannot be written" not in text.stderr, text.stderr
        line = [
            sys.executable,
            "-c",
            code,
            "ensemble",
            "demo",
            "--top",
            "2",
            "--runs",
            str(ours),
            "--tracking-uri",
            url,
        ]
        joined = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=200)
        assert (joined.returncode, "cannot be written" in joined.stderr) == (0, False), joined.stderr
        check = (
            "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]); client = mlflow.MlflowClient();"
            "models = client.search_registered_models(); assert models;"
            "[mlflow.pyfunc.load_model(f'models:/{m.name}/1') for m in models]; print(len(models))"
        )
        loaded = subprocess.run([sys.executable, "-c", check, url], env=environment, capture_output=True, text=True)
        assert loaded.returncode == 0, loaded.stderr
    assert not (ours / "mlflow.db").exists()

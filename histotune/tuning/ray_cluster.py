"""A private Ray on this machine, on loopback, of which nothing is left behind; or a cluster that already runs."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from histotune.core import runtime
from histotune.core.provenance import short_digest
from histotune.errors import StudyError

MARK = "HISTOTUNE_STUDY"  # environment variable of every process that a search starts, with the study's mark
OBJECT_STORE = 128 * 2**20  # bytes; results are small and the images travel by memory-map
LONGEST = 30  # characters of the temporary folder: Ray's sockets below it must stay under 107

_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that asked for no GPU sees none
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray keep a loopback address, on Linux, too
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),  # Ray's own snapshots, which are not read
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

_PRIVATE = ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
_SETTINGS_JOINED = {name: value for name, value in _SETTINGS.items() if name not in _PRIVATE} | {
    "TUNE_MAX_PENDING_TRIALS_PG": "1000"  # the controller assigns no more trials than fit
}
_WORKER = {
    name: _SETTINGS[name] for name in ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS")
}
PATIENCE = 5.0  # seconds in which a cluster takes a connection; its first answer may take twice as long


@contextlib.contextmanager
def private_ray(owner: Path, *, cpus: float, gpus: float, at_once: int) -> Iterator[Path]:
    """Start Ray for one owner; yields its temporary folder; in the end all its processes and files go, however it ends.

    What a killed driver of the same owner left, processes and files, goes first: the caller holds the owner's lock,
    so that nobody needs them.

    Args:
        owner: folder of what is done: a study for its search, a folder in it for what else trains there.

    Raises:
        StudyError: this process runs a Ray of its own, the temporary folder belongs to another user, or Ray does not
            start.
    """
    mark = _mark(owner)
    folder = _folder(mark)
    runtime.disable_telemetry()
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # in memory: Ray's token file is readable by others
    kill_leftovers(mark)
    _fresh(folder)
    with _environment(_SETTINGS | {"TUNE_MAX_PENDING_TRIALS_PG": str(at_once)}):
        import ray

        if ray.is_initialized():
            raise StudyError("Ray already runs in this process; call ray.shutdown() before a search")
        try:
            with _kept_to_itself():
                with _environment({MARK: mark}):  # workers inherit it from Ray; what a listener starts is not marked
                    _start(ray, folder, cpus, gpus)
                yield folder
        finally:
            ray.shutdown()
            kill_leftovers(mark)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def joined_ray(address: str, owner: Path) -> Iterator[Path]:
    """Join a cluster that runs; yields a temporary folder of this machine. In the end only our own workers go.

    Args:
        address: `auto` or `HOST:PORT`.
        owner: as in `private_ray`.

    Raises:
        StudyError: nothing answers there, or the cluster asks for another token.
    """
    mark = _mark(owner)
    runtime.disable_telemetry()
    kill_leftovers(mark)  # Ray ends the workers of a dead driver by itself, but only after a while
    with _environment(_SETTINGS_JOINED):
        import ray

        if ray.is_initialized():
            raise StudyError("Ray already runs in this process; call ray.shutdown() before a search")
        with tempfile.TemporaryDirectory(prefix="ht-") as scratch, _quiet():
            try:
                _join(ray, address, {MARK: mark} | _WORKER)
                yield Path(scratch)
            finally:
                ray.shutdown()
                kill_leftovers(mark)


def capacity() -> list[tuple[float, float]]:
    """Return (CPUs, GPUs) of every living node of the cluster that this process joined."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(float(has.get("CPU", 0)), float(has.get("GPU", 0))) for has in alive]


def head_of(address: str) -> str:
    """Return HOST:PORT of a cluster's head, which answered within seconds and took our token.

    Args:
        address: `auto` or `HOST:PORT`.

    Raises:
        StudyError: no cluster answers there, or it asks for another token.
    """
    runtime.disable_telemetry()
    with _environment(_SETTINGS_JOINED), _refusals_in_words(address):
        from ray._private import services
        from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]

        try:
            if address.startswith(":"):
                raise ValueError("no host")  # of which Ray would log a traceback
            result = services.canonicalize_bootstrap_address(address)
            if result is None:
                raise StudyError(f"no Ray runs on this machine ({address=}); start one by `ray start --head`")
            host, _, port = result.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        except (OSError, ValueError) as error:
            raise StudyError(
                f"no Ray cluster answers at {address!r} ({error}): give `auto` or HOST:PORT of its head, as "
                "`ray start` printed it"
            ) from error
        if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
        GcsClient(address=result).get_all_node_info(timeout=2 * PATIENCE)
    return str(result)


def _join(ray: Any, address: str, variables: dict[str, str]) -> None:
    """Connect, within seconds or not at all: what Ray tries for minutes is asked beforehand."""
    result = head_of(address)
    with _refusals_in_words(address):
        ray.init(
            address=result,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": variables},
        )


@contextlib.contextmanager
def _refusals_in_words(address: str) -> Iterator[None]:
    """Turn what Ray raises where a cluster cannot be joined into a `StudyError` that says why."""
    import ray

    try:
        yield
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        refused = isinstance(error, ray.exceptions.AuthenticationError) or "nauthenticated" in str(error)
        help_ = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to its file"
        why = f"the cluster refused the token: {help_}" if refused else f"{error}"
        raise StudyError(f"cannot join the Ray cluster at {address!r}: {why}") from error


def temporary_folder(owner: Path) -> Path:
    """Return where Ray keeps its files while it works for this owner."""
    return _folder(_mark(owner))


def kill_leftovers(mark: str, *, patience: float = 5.0) -> int:
    """Kill every process that a search with this mark started, and return how many there were."""
    result = _marked(mark)
    for process in result:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and _marked(mark):
        time.sleep(0.02)
    return len(result)


def _start(ray: Any, folder: Path, cpus: float, gpus: float) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        )
    except Exception as error:  # a node that is slow to start is no narrower kind
        raise StudyError(
            f"Ray did not start on this machine: {error} Is there memory, disk under {folder}, or is the machine too "
            "busy? Run the same command again to continue."
        ) from error


@contextlib.contextmanager
def _kept_to_itself() -> Iterator[None]:
    """Make Ray listen on loopback only, ask for the token, and print nothing to our standard output.

    Ray reads the first two from the environment when it is imported, which may have been long ago; for the third,
    its message that a worker died, it has no setting, and the trial's record says the same.
    """
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # else "127.0.0.1" is resolved to an address that others reach
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        with _quiet():
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from ray._private import worker

    before = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, ignore_prefix: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _mark(owner: Path) -> str:
    return short_digest(str(owner.resolve()))


def _folder(mark: str) -> Path:
    base = tempfile.gettempdir()
    return Path(base if len(base) + len(mark) + 4 <= LONGEST else "/tmp") / f"ht-{mark}"


def _fresh(folder: Path) -> None:
    """Make the folder anew, for this user alone."""
    if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.getuid()):
        raise StudyError(f"{folder} belongs to another user; remove it, or set TMPDIR to a short path of your own")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _marked(mark: str) -> list[int]:
    """Return the ids of living processes of this user whose environment holds the mark, this process left out."""
    wanted = f"{MARK}={mark}".encode()
    result = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or it belongs to another user
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                result.append(int(entry.name))
    return result


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
